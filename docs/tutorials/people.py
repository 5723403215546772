# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
# ---
# %% [markdown]
# # An atlas of people
#
# The template of six heads, where each structure probably is, and who stands out. About a minute on one CPU core.

# %%
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from bingo_pl import apply, atlas, example

scans = Path("scans") if Path("scans").exists() else example("scans")
print((scans / "people" / "people.csv").read_text())

# %%
folder = atlas(scans / "people" / "people.csv", "atlas", spacing_mm=4)
print(sorted(path.name for path in folder.iterdir()))

# %% [markdown]
# Overlap of the label maps, which the registration never saw, and other figures of each person:

# %%
people = pd.read_csv(folder / "images.tsv", sep="\t")
print(people.round(2).to_string())

# %% [markdown]
# The probabilities of the labels add up to one everywhere, the background first.

# %%
prior = np.asarray(nib.load(folder / "label_prior.nii.gz").dataobj)
print(prior.shape)
assert np.allclose(prior.sum(axis=-1), 1, atol=1e-3)

# %% [markdown]
# Through the atlas anybody's labels go to anybody else.

# %%
first, second = people["name"][:2]
apply(folder, first, second, scans / "people" / "person1_t1_seg.nii.gz", "moved.nii.gz", labels=True)
