# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
# ---
# %% [markdown]
# # Register one patient
#
# Two contrasts of a head, which moved between them: align them, ask how well, and bring a label map and landmarks
# across. Less than a minute on one CPU core.

# %%
from pathlib import Path

import nibabel as nib
import numpy as np

from bingo_pl import apply, example, register

scans = Path("scans") if Path("scans").exists() else example("scans")

# %% [markdown]
# Each has a grid of its own, and they are stored in different directions.

# %%
for name in ("t1", "flair"):
    image = nib.load(scans / "head" / f"{name}.nii.gz")
    print(name, image.shape, image.header.get_zooms(), nib.aff2axcodes(image.affine))

# %% [markdown]
# The names of the files say the modality. Nothing is a reference: both move to their middle.

# %%
group = register([scans / "head" / "t1.nii.gz", scans / "head" / "flair.nii.gz"])
print(group)
print("kept:", group.way.kept, "because:", [stage.why for stage in group.way.stages if stage.kept])
print("verdict:", group.verdict.level, group.verdict.reasons)
print("predicted error in mm:", {name: round(member.error_mm, 2) for name, member in group.members.items()})

# %% [markdown]
# A registered image is an array on `group.grid`. Written, there is a report to open in a browser.

# %%
print(group["flair"].image.shape, group.grid)
group.write("one_patient")

# %% [markdown]
# Now the landmarks of T1 go to FLAIR. These scans are synthetic, so where the landmarks really are is known.

# %%
apply("one_patient", "t1", "flair", scans / "landmarks" / "t1.csv", "flair_landmarks.csv")


def points(file):
    return np.genfromtxt(file, delimiter=",", skip_header=1, usecols=(1, 2, 3))


truth = points(scans / "landmarks" / "flair.csv")
before = np.linalg.norm(points(scans / "landmarks" / "t1.csv") - truth, axis=1).mean()
after = np.linalg.norm(points("flair_landmarks.csv") - truth, axis=1).mean()
print(f"landmarks: {before:.1f} mm apart before, {after:.2f} mm after")
assert after < 0.5 < 3 < before

# %% [markdown]
# And its label map to FLAIR's own grid; ids stay whole numbers.

# %%
apply("one_patient", "t1", "flair", scans / "labels" / "t1.nii.gz", "flair_labels.nii.gz", labels=True)
moved, drawn = (
    np.asarray(nib.load(file).dataobj) for file in ("flair_labels.nii.gz", scans / "labels" / "flair.nii.gz")
)
for label in np.unique(drawn)[1:]:
    dice = 2 * ((moved == label) & (drawn == label)).sum() / ((moved == label).sum() + (drawn == label).sum())
    print(f"label {label}: Dice {dice:.2f}")
