"""Painted anatomies: what stays the same between images, epochs and machines, and what must not."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from bingo_pl.data_modules.anatomies import SIZES, AnatomiesDataModule
from bingo_pl.phantoms import anatomy as phantom_anatomy
from bingo_pl.phantoms.painting import paint
from bingo_pl.seeding import generator


def blocks(shape: tuple[int, ...]) -> torch.Tensor:
    """A label map (*S): 1 and 2 in halves of a box in background 0."""
    labels = torch.zeros(shape, dtype=torch.int16)
    labels[(slice(4, -4),) * len(shape)] = 1
    labels[(slice(4, shape[0] // 2), *(slice(4, -4),) * (len(shape) - 1))] = 2
    return labels


@pytest.mark.parametrize("shape", [(24, 32), (16, 20, 24)])
def test_images_are_scaled_and_a_function_of_the_generator(shape: tuple[int, ...]) -> None:
    images = paint(blocks(shape), 3, generator("paint", 0))
    assert images.shape == (3, 1, *shape)
    assert images.amin() == 0
    assert images.amax() == 1
    assert torch.equal(images, paint(blocks(shape), 3, generator("paint", 0)))
    assert not torch.equal(images, paint(blocks(shape), 3, generator("paint", 1)))


def test_contrasts_between_tissues_have_either_sign_and_edges_stay_in_place() -> None:
    labels = blocks((32, 32))
    images = torch.cat([paint(labels, 4, generator("paint", seed)) for seed in range(20)])[:, 0]
    inside = {label: images[:, labels == label].mean(1) for label in (1, 2)}
    brighter = (inside[1] > inside[2]).float().mean()
    assert 0.3 < brighter < 0.7  # 80 fair coins stay within this but once in 3,000 times
    middle = images[:, 13:19, 8:-8].mean(2).diff(dim=1).abs().mean(0)
    assert middle.argmax() == 2  # from row 15 to 16


def test_the_background_is_dark_in_all_images_of_a_group_or_painted() -> None:
    labels = blocks((32, 32))
    kinds = set()
    for seed in range(20):
        dark = [(image[0, labels == 0] == 0).all().item() for image in paint(labels, 3, generator("paint", seed))]
        assert len(set(dark)) == 1
        kinds.add(dark[0])
    assert kinds == {True, False}


def test_one_tissue_alone_can_be_painted() -> None:
    assert paint(torch.zeros(16, 16, dtype=torch.int16), 2, generator("paint")).isfinite().all()
    assert paint(torch.ones(16, 16, dtype=torch.int16), 2, generator("paint")).isfinite().all()


@pytest.mark.parametrize("subject", range(4))
def test_an_anatomy_is_a_function_of_the_draws(subject: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phantom_anatomy, "SHAPE", (32, 32, 24))
    labels, again, other = (
        phantom_anatomy.draw(subject, 6.0, np.random.default_rng(seed)) for seed in (subject, subject, 9)
    )
    assert labels.shape == (32, 32, 24)
    assert labels.dtype == np.uint8
    assert 3 < len(np.unique(labels)) <= phantom_anatomy.LABELS + 1
    assert labels.max() <= phantom_anatomy.LABELS
    assert np.array_equal(labels, again)
    assert not np.array_equal(labels, other)


def cohort(root: Path, roi: tuple[int, ...]) -> AnatomiesDataModule:
    """Five boxes on files."""
    (root / "cohort").mkdir()
    for number in range(5):
        voxels = blocks((20, 24, 28)).numpy().astype(np.uint16)
        nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2, 2, 1])), root / "cohort" / f"box{number}.nii.gz")
    module = AnatomiesDataModule(
        root=str(root / "cohort"),
        modalities=["any"],
        label_ids=[1, 2],
        spacing_mm=2.0,
        roi=roi,
        splits=[3, 1, 1],
        seed=0,
        batch_size=2,
        images_per_step=None,
        ffd_spacings=[5.0],
        ffd_strength=0.3,
        linear_strength=0.0,
        copies=1,
        draws_per_test_group=1,
        workers=0,
        cache_dir=str(root / "cache"),
        fill_nonfinite=None,
    )
    module.prepare_data()
    module.setup("fit")
    return module


@pytest.mark.parametrize("roi", [(16, 32), (16, 32, 24)])
def test_groups_show_one_anatomy_in_contrasts_that_are_new_in_every_epoch(roi: tuple[int, ...], tmp_path: Path) -> None:
    data = cohort(tmp_path, roi)
    assert len(data.groups["train"]) == 3 * (9 if len(roi) == 2 else 1)
    assert {group.size for split in data.groups.values() for group in split} == set(SIZES)
    batch = next(iter(data.train_dataloader()))
    assert batch.shape == roi
    assert (batch.modalities == 0).all()
    assert (batch.labels == batch.labels[:, :1]).all()
    assert (batch.masks == (batch.labels > 0)).all()
    first, again, second = (data.misalign_for_training(batch, epoch) for epoch in (0, 0, 1))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, second.images)
    assert not torch.equal(first.images[:, 0], first.images[:, 1])
    fixed = [data.misalign_for_evaluation(batch, "test").images for _ in range(2)]
    assert torch.equal(*fixed)
