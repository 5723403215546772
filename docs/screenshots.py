"""Pictures of pages in README and docs, made anew: ``make screenshots CKPT=runs/mscmr/checkpoints/best.ckpt``.

Three synthetic cardiac sequences of one patient and one of another, each deformed, are registered; two of each of some
people make an atlas. The pages are photographed in headless Chromium.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from PIL import Image
from rich.console import Console

from bingo_pl import atlas, register
from bingo_pl.errors import BingoError
from bingo_pl.images.members import Member
from bingo_pl.misalign import draw_displacements
from bingo_pl.phantoms.cohorts import write_cohort
from bingo_pl.seeding import generator
from bingo_pl.spatial import warp, warp_labels

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SEQUENCES = ("C0", "LGE", "T2")
PEOPLE = 9
CONTROL_SPACING, SHARE = 16, 0.25
"""Voxels between the control points of the deformations, and how far they move at most, as a share of that."""


def find_browser() -> str | None:
    """The path of Chromium, or of Chrome; None where neither is installed."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def photograph(page: Path, picture: Path, width: int = 1280, height: int = 1900) -> None:
    """Write the top of a page as PNG.

    Raises:
        BingoError: there is no browser, or it fails.
    """
    browser = find_browser()
    if browser is None:
        raise BingoError(f"no browser: none of {', '.join(BROWSERS)} is in PATH. Install Chromium")
    command = [browser, "--headless", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},{height}"]
    if os.geteuid() == 0:
        command.append("--no-sandbox")  # Chromium refuses to run as root with it
    run = subprocess.run(
        [*command, f"--screenshot={picture.absolute()}", page.absolute().as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if run.returncode or not picture.is_file():
        raise BingoError(f"{browser} took no picture of {page}: {run.stderr[-500:]}")
    with Image.open(picture) as image:
        opaque = image.convert("RGB")
    opaque.save(picture, optimize=True)


def make_group(root: Path) -> tuple[list[tuple[str, Path]], dict[str, Path]]:
    """Write a group of 2D images and label maps; (modality, image) pairs, and label maps by the images' names."""
    write_cohort("manifest", root / "cohort", subjects=6, seed=0)
    rows = pd.read_csv(root / "cohort" / "manifest.csv")
    complete = rows.groupby("group").filter(lambda group: sorted(group["modality"]) == sorted(SEQUENCES))
    subjects = complete["subject"].unique()
    group = complete[complete["group"] == complete.loc[complete["subject"] == subjects[0], "group"].iloc[0]]
    stranger = complete[(complete["subject"] == subjects[-1]) & (complete["modality"] == "T2")].head(1)
    chosen = pd.concat([group, stranger])
    affine = nib.load(root / "cohort" / group["image"].iloc[0]).affine
    pairs, labels = [], {}
    for number, (name, row) in enumerate(zip([*group["modality"], "T2_2"], chosen.itertuples(), strict=True)):
        files = {}
        for kind, move in (("image", warp), ("label", warp_labels)):
            array = np.asarray(nib.load(root / "cohort" / getattr(row, kind)).dataobj)
            voxels = torch.from_numpy(array.astype(np.float32)).reshape(1, 1, *array.shape[:2])
            field = draw_displacements(
                1, tuple(array.shape[:2]), (CONTROL_SPACING,), SHARE, generator("screenshot", number)
            )
            files[kind] = root / f"{name}_{kind}.nii.gz"
            moved = move(voxels, field)[0, 0, ..., None].numpy().astype(array.dtype)
            nib.save(nib.Nifti1Image(moved, affine), files[kind])
        pairs.append((str(row.modality), files["image"]))
        labels[name] = files["label"]
    return pairs, labels


def make_people(root: Path) -> list[Member]:
    """Write a slice of each of some people in two sequences, with labels; the last person's are upside down."""
    write_cohort("manifest", root / "cohort", subjects=PEOPLE, seed=1)
    rows = pd.read_csv(root / "cohort" / "manifest.csv")
    rows = rows[rows["modality"].isin(SEQUENCES[::2])]
    members = []
    for subject, own in rows.groupby("subject"):
        groups = list(own.groupby("group"))
        _, middle = groups[len(groups) // 2]
        for row in middle.drop_duplicates("modality").itertuples():
            files = [root / "cohort" / row.image, root / "cohort" / row.label]
            if subject == rows["subject"].max():
                for file in files:
                    voxels = nib.load(file)
                    nib.save(nib.Nifti1Image(np.asarray(voxels.dataobj)[:, ::-1].copy(), voxels.affine), file)
            members.append(Member(str(row.modality), files[0], files[1], None, str(subject)))
    return members


def main(checkpoint: Path, report: Path, page: Path) -> None:
    """Register the group with a model that knows `SEQUENCES`, make the atlas, and photograph both pages."""
    with tempfile.TemporaryDirectory() as folder:
        made = atlas(make_people(Path(folder) / "people"), Path(folder) / "atlas", device="cpu", console=Console())
        photograph(made / "report.html", page, width=1400, height=1800)
        images, labels = make_group(Path(folder))
        group = register(images, checkpoint, labels=labels, device="cpu", console=Console())
        photograph(group.write(Path(folder) / "out") / "report.html", report)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(Path(__file__).with_name(name) for name in ("report.png", "atlas.png")))
