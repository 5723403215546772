# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
# ---
# %% [markdown]
# # Train and compare
#
# BInGo starts from the ready model, learns two epochs of synthetic cardiac MR, and is compared with an iterative method
# on the same test groups. With eight people it takes a minute on one CPU core: this shows how it is done, not how good
# it gets.

# %%
import pandas as pd

from bingo_pl import train

settings = {
    "data.phantom_subjects": 8,
    "data.batch_size": 4,
    "trainer.epochs": 2,
    "log.wandb": "disabled",
}
run = train("manifest_phantom", settings | {"name": "bingo", "trainer.start": "ready_2d"})
print(sorted(path.name for path in run.iterdir()))

# %% [markdown]
# Loss, Dice and gWI of each epoch; then each test group before and after.

# %%
print(pd.read_csv(run / "metrics.csv").round(3).to_string())
print(pd.read_csv(run / "test.csv").round(3).head().to_string())

# %% [markdown]
# The iterative APE (settings of `experiments/tables/default.yaml`) has nothing to train: it registers the same test
# groups under the same misalignments.

# %%
tuned = {"similarity.bins": 16, "weights.bending": 100, "iterative.steps": 100, "iterative.learning_rate": 0.2}
other = train("manifest_phantom", settings | tuned | {"name": "ape", "method": "ape", "weights.truth": 0})
for name, folder in (("BInGo, 2 epochs", run), ("APE", other)):
    groups = pd.read_csv(folder / "test.csv")
    print(f"{name}: gWI {groups['gwi_before'].mean():.2f} -> {groups['gwi_after'].mean():.2f} voxels")

# %% [markdown]
# `bingo table mscmr_phantom` trains and compares all methods, with tests of significance.
