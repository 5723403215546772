"""Pictures of README and docs: ``make screenshots``.

The scans of ``bingo example`` are registered; the pages of results that pass, ask for a look and fail, and that of an
atlas, are photographed in headless Chromium.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import matplotlib
import nibabel as nib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from nibabel.processing import resample_from_to
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from scipy.ndimage import gaussian_filter

from bingo_pl import atlas, example, register
from bingo_pl.errors import BingoError
from bingo_pl.images.members import Member
from bingo_pl.phantoms.cohorts import write_cohort
from bingo_pl.phantoms.example import CONTRASTS
from bingo_pl.registration.registered import RegisteredGroup

DOCS = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PEOPLE = 9
STRUCTURES = {"fluid": "#56b4e9", "tumour": "#e69f00"}
"""What is outlined, in colours for all eyes (Okabe and Ito)."""
FLUID, TUMOUR = 5, 6
"""Label ids of the example."""
SMOOTH_MM = 1.5
"""Of the outlines, so that furrows do not tangle them."""


def find_browser() -> str | None:
    """The path of Chromium, or of Chrome; None where neither is installed."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def photograph(page: Path, picture: Path, width: int = 1280, height: int = 1500) -> None:
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


def draw_group(group: RegisteredGroup, scans: Path, picture: Path) -> None:
    """Each contrast before and after in one axial plane, T1's structures drawn over all of them."""
    grid = nib.Nifti1Image(np.zeros(group.grid.shape, np.uint8), group.grid.affine)
    labels = nib.load(scans / "labels" / "t1.nii.gz")
    before = {
        name: resample_from_to(nib.load(scans / "head" / f"{name}.nii.gz"), grid, order=1).get_fdata()
        for name in CONTRASTS
    }
    moments = {
        "before": (before, resample_from_to(labels, grid, order=0).get_fdata()),
        "after": ({name: group[name].image for name in CONTRASTS}, group["t1"].label),
    }
    assert moments["after"][1] is not None
    tumour = np.argwhere(moments["after"][1] == TUMOUR).mean(axis=0).round().astype(int)
    up = int(np.abs(group.grid.affine[2, :3]).argmax())
    figure = Figure((9.6, 5.6), facecolor="black")
    panels = figure.subplots(2, len(CONTRASTS), gridspec_kw={"wspace": 0.02, "hspace": 0.02})
    figure.subplots_adjust(0, 0, 1, 1)
    whole = _axial(moments["after"][0]["flair"], group.grid.affine, up, tumour[up])
    rows, columns = np.nonzero(whole > 0.08 * whole.max())
    for ax, (moment, name) in zip(panels.flat, [(m, n) for m in moments for n in CONTRASTS], strict=True):
        images, ids = moments[moment]
        assert ids is not None
        shown, structures = (_axial(volume, group.grid.affine, up, tumour[up]) for volume in (images[name], ids))
        ax.imshow(shown, cmap="gray", vmin=0, vmax=np.percentile(shown, 98))
        outlined = {"fluid": structures == FLUID, "tumour": structures == TUMOUR}
        for structure, inside in outlined.items():
            smooth = gaussian_filter(inside.astype(float), SMOOTH_MM / group.grid.spacing.min())
            ax.contour(smooth, [0.5], colors=STRUCTURES[structure], linewidths=1)
        ax.set(xlim=(columns.min() - 8, columns.max() + 8), ylim=(rows.max() + 8, rows.min() - 8))
        ax.text(0.03, 0.97, f"{name}, {moment}", color="white", fontsize=10, va="top", transform=ax.transAxes)
        ax.axis("off")
    with matplotlib.rc_context({"savefig.facecolor": "black"}):
        figure.savefig(picture, dpi=110)
    with Image.open(picture) as image:
        image.convert("RGB").quantize(128).save(picture, optimize=True)


def _axial(volume: NDArray, affine: NDArray, up: int, place: int) -> NDArray:
    """A plane in radiological convention: the patient's right is left, the front is up."""
    plane = np.moveaxis(volume, up, -1)[..., place]
    left = int(np.abs(np.delete(affine[0, :3], up)).argmax())
    plane = plane.T if left == 0 else plane
    across, along = (np.delete(affine[row, :3], up) for row in (0, 1))
    plane = plane[:, ::-1] if across[left] > 0 else plane
    return plane[::-1] if along[1 - left] > 0 else plane


def turned(file: Path, target: Path) -> Path:
    """A copy whose header says that the patient lies the other way round."""
    image = nib.load(file)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine), target)
    return target


def make_people(root: Path) -> list[Member]:
    """Write a slice of each of some people in two sequences, with labels; the last person's are upside down."""
    write_cohort("manifest", root / "cohort", subjects=PEOPLE, seed=1)
    rows = pd.read_csv(root / "cohort" / "manifest.csv")
    rows = rows[rows["modality"].isin(["C0", "T2"])]
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


def main() -> None:
    """Make all pictures."""
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        scans = example(root / "scans")
        head = scans / "head"
        names = [head / f"{name}.nii.gz" for name in CONTRASTS]
        labels = {name: scans / "labels" / f"{name}.nii.gz" for name in CONTRASTS}
        group = register(names, labels=labels, device="cpu", console=console)
        draw_group(group, scans, DOCS / "head.png")
        photograph(group.write(root / "out") / "report.html", DOCS / "report.png")
        doubtful = {"t1": head / "t1.nii.gz", "flair": turned(head / "flair.nii.gz", root / "flair.nii.gz")}
        photograph(
            register(doubtful, device="cpu", console=console).write(root / "warn") / "report.html",
            DOCS / "report_warn.png",
            height=1000,
        )
        heart = nib.load(scans / "series" / "molli.nii.gz")
        wrong = {
            "t1": head / "t1.nii.gz",
            "flair": head / "flair.nii.gz",
            "t2": (heart.get_fdata()[..., 7], heart.affine),
        }
        photograph(
            register(wrong, device="cpu", console=console).write(root / "fail") / "report.html",
            DOCS / "report_fail.png",
            height=1000,
        )
        made = atlas(make_people(root / "people"), root / "atlas", device="cpu", console=console)
        photograph(made / "report.html", DOCS / "atlas.png", width=1400, height=1800)


if __name__ == "__main__":
    main()
