"""Laws of an atlas: it is of nobody in particular, and every voxel is made of those images that show it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console
from scipy.linalg import logm

from bingo_pl import BingoError
from bingo_pl.alignment.means import centred_affines
from bingo_pl.atlases import template as atlas
from bingo_pl.cli import main
from bingo_pl.images.grids import Grid
from bingo_pl.images.members import Member

from .conftest import smooth
from .test_affine import GRIDS, image, move
from .test_register import SPACING, make_checkpoint

SAME = 1e-5
"""Of the intensity range: positions are float32."""
PLENTY = 10**9
PEOPLE = ((0.0, 0.0, 1.0), (4.0, 5.0, 1.0), (-3.0, -4.0, 1.05), (2.0, -6.0, 0.95))
"""How each is moved: mm, degrees, and in 3D a scale."""


@dataclass(frozen=True)
class Atlas:
    """An atlas as it was written."""

    folder: Path

    @property
    def record(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / "atlas.json").read_text())
        return content

    def __getitem__(self, name: str) -> NDArray:
        return np.asarray(nib.load(self.folder / f"{name}.nii.gz").dataobj)


def save(voxels: NDArray, grid: Grid, path: Path) -> Path:
    nib.save(nib.Nifti1Image(voxels, grid.affine), path)
    return path


def person(folder: Path, dims: int, number: int, contrast: str) -> Member:
    """A head, moved, and its label map: the half that is brighter in contrast a is 7, the rest 3."""
    grid = GRIDS[dims]
    voxels, bright = (
        image(grid, which, move(grid, *PEOPLE[number]))[0].astype(np.float32) for which in (contrast, "a")
    )
    labels = np.where(bright > 0, 3, 0) + 4 * (bright > np.median(bright[bright > 0]))
    stem = f"{number}{contrast}"
    return Member(
        contrast,
        save(voxels, grid, folder / f"{stem}.nii.gz"),
        save(labels.astype(np.uint8), grid, folder / f"{stem}_label.nii.gz"),
    )


def make(members: Sequence[Member], folder: Path, dims: int = 2, affine: str = "never", name: str = "atlas") -> Atlas:
    model = folder / "model.ckpt"
    if not model.exists():
        make_checkpoint(model, dims)
    return Atlas(atlas.build(members, model, folder / name, affine, PLENTY, Console(quiet=True)))


@dataclass(frozen=True)
class Heads:
    folder: Path
    members: list[Member]
    atlas: Atlas
    dims: int
    affine: str


@pytest.fixture(scope="module", params=[(2, "always"), (3, "never")], ids=["2D", "3D"])  # in 3D it takes long
def heads(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Heads:
    """Four moved heads in two contrasts, one of them without a label map."""
    folder, (dims, affine) = tmp_path_factory.mktemp("heads"), request.param
    members = [person(folder, dims, number, "abab"[number]) for number in range(len(PEOPLE))]
    members[1] = Member(members[1].modality, members[1].image)
    return Heads(folder, members, make(members, folder, dims, affine), dims, affine)


def test_the_order_of_the_manifest_changes_nothing(heads: Heads) -> None:
    turned = [heads.members[i] for i in (2, 0, 3, 1)]
    other = make(turned, heads.folder, heads.dims, heads.affine, "turned")
    for name in ("template/mean", "template/a", "template/b", "coverage", "label_prior"):
        np.testing.assert_allclose(other[name], heads.atlas[name], atol=SAME)
    paths, others = ([Path(one["path"]) for one in made.record["images"]] for made in (heads.atlas, other))
    assert paths == [member.image.resolve() for member in heads.members]
    assert others == [member.image.resolve() for member in turned]


def test_the_group_does_not_move_on_average(heads: Heads) -> None:
    found = heads.atlas.record["mean_displacement_mm"]
    assert found["network_alone"]["max"] > 1e-3, "there is something to take out"
    assert found["atlas"]["max"] < 1e-5, "rounding of float32, in mm"
    assert heads.atlas.record["displacement_mm"] > 0.01
    assert heads.atlas["mean_displacement"].max() < 1e-5


def test_the_probabilities_of_the_labels_add_up_to_one(heads: Heads) -> None:
    prior = heads.atlas["label_prior"]
    table = pd.read_csv(heads.atlas.folder / "label_prior.csv")
    assert table.to_dict("list") == {"volume": [0, 1, 2], "label": [0, 3, 7]}
    np.testing.assert_allclose(prior.sum(-1), 1, atol=SAME)
    assert prior.min() >= 0
    assert prior.max((0, 1, 2)).min() > 0.9, "every label is certain somewhere"
    np.testing.assert_array_equal(heads.atlas["labels"], np.array([0, 3, 7])[prior.argmax(-1)])


def test_only_images_with_labels_vote_on_them(heads: Heads) -> None:
    """Of four images one has none, and all reach everywhere in the middle of the grid."""
    middle = tuple(size // 2 for size in heads.atlas["coverage"].shape)
    assert heads.atlas["coverage"][middle] == pytest.approx(4)
    assert heads.atlas["label_coverage"][middle] == pytest.approx(3)


def test_moved_heads_agree_again(heads: Heads) -> None:
    assert heads.atlas.record["dice_after"] > 0.8
    scores = [one["dice_after"] for one in heads.atlas.record["images"]]
    assert [score is None for score in scores] == [member.label is None for member in heads.members]


def test_equal_images_give_that_image_back(tmp_path: Path) -> None:
    """On voxels of the image's own size, so that nothing has to be interpolated."""
    grid = Grid((32, 48, 1), np.diag([SPACING[2], SPACING[2], 5, 1]))
    voxels = 1 + smooth((32, 48), "one").numpy()[..., None]
    labels = (voxels > 1.5).astype(np.uint8)
    one, label = save(voxels, grid, tmp_path / "one.nii.gz"), save(labels, grid, tmp_path / "label.nii.gz")
    made = make([Member("a", one, label)] * 3, tmp_path, affine="always")
    low, high = np.percentile(voxels, (0.5, 99.5))
    np.testing.assert_allclose(made["template/mean"], ((voxels - low) / (high - low)).clip(0, 1), atol=1e-3)
    np.testing.assert_array_equal(made["labels"], labels)
    np.testing.assert_allclose(made["coverage"], 3, atol=SAME)
    assert made.record["dice_after"] == 1


def test_half_an_image_neither_darkens_nor_blurs_its_edge(tmp_path: Path) -> None:
    """The same image twice and half of it once, unmoved: every voxel is as in the whole image."""
    grid = Grid((32, 48, 1), np.diag([SPACING[2], SPACING[2], 5, 1]))
    voxels = 1 + smooth((32, 48), "one").numpy()[..., None]
    whole = Member("a", save(voxels, grid, tmp_path / "whole.nii.gz"))
    seen = np.zeros(grid.shape, np.uint8)
    seen[:, :24] = 1
    hidden = np.where(seen, voxels, voxels.min())  # what a scanner writes where it saw nothing
    half = Member("a", save(hidden, grid, tmp_path / "half.nii.gz"), mask=save(seen, grid, tmp_path / "mask.nii.gz"))
    model = make_checkpoint(tmp_path / "model.ckpt", 2)
    _still(model)
    made = make([whole, whole, half], tmp_path)
    expected = make([whole], tmp_path, name="expected")
    np.testing.assert_allclose(made["template/mean"], expected["template/mean"], atol=0.01)  # percentiles of a half
    np.testing.assert_allclose(made["coverage"][:, :24], 3, atol=SAME)
    np.testing.assert_allclose(made["coverage"][:, 24:], 2, atol=SAME)


def test_affine_maps_are_centred_and_keep_their_differences() -> None:
    affines = [move(GRIDS[3], *how) for how in ((0, 0, 1), (20, 12, 1.1), (-5, -30, 0.8), (9, 3, 1.2))]
    result = centred_affines(affines)
    np.testing.assert_allclose(np.mean([logm(affine) for affine in result], axis=0), 0, atol=1e-8)
    for one, other in zip(affines, result, strict=True):
        np.testing.assert_allclose(other @ np.linalg.inv(result[0]), one @ np.linalg.inv(affines[0]), atol=1e-9)


def test_maps_without_a_mean_are_refused() -> None:
    with pytest.raises(BingoError, match="turned by half a turn or mirrored"):
        centred_affines([np.eye(4), np.diag([-1.0, 1, 1, 1])])


def test_an_unknown_affine_stage_leaves_nothing_behind(tmp_path: Path) -> None:
    members = [person(tmp_path, 2, 0, "a")]
    with pytest.raises(BingoError, match="Did you mean 'never'"):
        make(members, tmp_path, affine="nevr")
    assert not (tmp_path / "atlas.work").exists()


def test_an_image_in_place_of_a_label_map_is_named(tmp_path: Path) -> None:
    grid = GRIDS[2]
    noise = np.random.default_rng(0).integers(1, 5000, grid.shape).astype(np.int16)
    path = save(noise, grid, tmp_path / "noise.nii.gz")
    with pytest.raises(BingoError, match=r"ids, .*noise\.nii\.gz the most of them"):
        make([Member("a", path, path)] * 2, tmp_path)
    assert not (tmp_path / "atlas").exists()


def test_the_command_goes_on_after_a_failure(
    heads: Heads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a killed run has found is used, and gone in the end; the result is that of an undisturbed one."""
    lines = ["modality,image,label", *(f"{one.modality},{one.image},{one.label or ''}" for one in heads.members)]
    (tmp_path / "people.csv").write_text("\n".join(lines))
    choices = ["--output", str(tmp_path / "out"), "--affine", heads.affine]
    model = ["--checkpoint", str(heads.folder / "model.ckpt")]
    monkeypatch.setattr(sys, "argv", ["bingo", "atlas", str(tmp_path / "people.csv"), *choices, *model])
    with monkeypatch.context() as patch:
        patch.setattr(atlas, "sharpness", _interrupt)
        with pytest.raises(SystemExit):
            main()
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.work").is_dir()
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "mean displacement of the group" in capsys.readouterr().out
    assert not (tmp_path / "out.work").exists()
    np.testing.assert_array_equal(Atlas(tmp_path / "out")["template/mean"], heads.atlas["template/mean"])


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "atlas.work").mkdir()
    (tmp_path / "atlas.work" / "thesis.txt").write_text("precious")
    with pytest.raises(BingoError, match="in use by something else"):
        make([person(tmp_path, 2, 0, "a")], tmp_path)
    assert (tmp_path / "atlas.work" / "thesis.txt").read_text() == "precious"


def _interrupt(*_: object) -> float:
    raise KeyboardInterrupt


def _still(checkpoint: Path) -> None:
    """Make a model's velocities zero."""
    content = torch.load(checkpoint, weights_only=True)
    for name, weight in content["state_dict"].items():
        if "heads" in name and "velocity" in name:
            weight.zero_()
    torch.save(content, checkpoint)
