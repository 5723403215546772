"""What `register` writes takes the memory of one image, and reads each original once."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import torchio as tio
from numpy.typing import NDArray

from bingo_pl import register
from bingo_pl.alignment import volume
from bingo_pl.alignment.volume import Picture
from bingo_pl.images import scans
from bingo_pl.images.intensity import PERCENTILES, Window, foreground
from bingo_pl.images.transforms import write_image
from bingo_pl.registration import registered
from bingo_pl.report import display, page

from .conftest import smooth
from .test_affine import image, move
from .test_transforms import make_grid

GRID = make_grid((40, 44, 1), (1.5, 1.5, 2))


def write_group(folder: Path, count: int) -> list[tuple[str, Path]]:
    """Slices of one head, each moved a little, as files."""
    paths = []
    for number in range(count):
        array, affine = image(GRID, "ab"[number % 2], move(GRID, 0.5 * number, 0))
        paths.append(folder / f"{number}.nii.gz")
        nib.save(nib.Nifti1Image((1000 * array).astype(np.int16), affine), paths[-1])
    return [("ab"[number % 2], path) for number, path in enumerate(paths)]


def test_registered_images_are_written_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When an image's voxels go to disk, those of the images before it are gone."""
    alive: list[weakref.ref[NDArray]] = []
    most = 0

    def watched(array: NDArray, grid: Any, path: Path) -> None:
        nonlocal most
        if path.parent.name == "registered":
            alive.append(weakref.ref(array))
            most = max(most, sum(one() is not None for one in alive))
        write_image(array, grid, path)

    group = register(write_group(tmp_path, 3), transform="rigid")
    monkeypatch.setattr(registered, "write_image", watched)
    monkeypatch.setattr(page, "write_report", lambda folder, scans: None)
    group.write(tmp_path / "out")
    assert (len(alive), most) == (3, 1)


def test_each_original_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By registration, writing and the report together."""
    files = write_group(tmp_path, 2)
    read: list[Path] = []
    for module in (scans, display):
        really = module.read_voxels

        def counted(path: Path, really: Any = really) -> Any:
            read.append(path)
            return really(path)

        monkeypatch.setattr(module, "read_voxels", counted)
    register(files, transform="rigid").write(tmp_path / "out")
    assert [read.count(path) for _, path in files] == [1, 1]
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize("background", [0.0, 300.0])
def test_a_window_does_what_torchio_does(background: float) -> None:
    """To single precision, also where the background is no least value."""
    values = (1000 * smooth((12, 14, 10), "window")).abs()[None]
    values[:, :, :5] = background
    shown = foreground(values)
    theirs = tio.RescaleIntensity(percentiles=PERCENTILES, masking_method=lambda x: shown)(
        tio.ScalarImage(tensor=values)
    )
    ours = Window.of(values, Path("x.nii")).unit(values)
    torch.testing.assert_close(ours, theirs.data * shown, rtol=0, atol=1e-6)


def test_a_large_image_is_thinned_without_moving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read at points in mm, the small copy of a ramp shows the ramp: averages and lines between them are exact."""
    slopes = np.array([0.4, 0.3, 0.2]) / 66
    values = np.tensordot(slopes, np.indices((60, 72, 66)), axes=1).astype(np.float32)
    whole = Picture(values, None, np.diag([2.0, 2.0, 2.0, 1.0])[:3])  # half a mm a voxel
    assert whole.thinned(20) is whole
    monkeypatch.setattr(volume, "LARGE", 10_000)
    small = whole.thinned(20)
    assert small.unit.size < values.size / 8
    assert small.voxel_mm == pytest.approx(0.5)
    points = 8 + 14 * torch.rand(500, 3, generator=torch.Generator().manual_seed(0))  # of 30 to 36 mm
    expected = 2 * points @ torch.from_numpy(slopes).float()[:, None]
    for picture in (small, whole):
        torch.testing.assert_close(picture.smoothed(2.0).at(points)[0], expected, rtol=0, atol=1e-5)
