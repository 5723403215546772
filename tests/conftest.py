"""Small groups made in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from bingo_pl import GroupBatch
from bingo_pl.misalign import draw_displacements, misalign
from bingo_pl.seeding import generator

torch.set_num_threads(1)  # the suite runs one process a core

GroupMaker = Callable[..., GroupBatch]
knows_peak_memory = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is known under Linux only"
)


def smooth(shape: tuple[int, ...], *key: int | str) -> torch.Tensor:
    """A smooth random image (*S) in [0, 1]."""
    noise = torch.rand(1, 1, *[max(size // 4, 2) for size in shape], generator=generator(*key))
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    return torch.nn.functional.interpolate(noise, size=shape, mode=mode)[0, 0]


def write_cohort(root: Path) -> Path:
    """Four training, one validation and two test groups of 16x16 images."""
    rows = []
    for number, split in enumerate(["train"] * 4 + ["val"] + ["test"] * 2):
        anatomy = smooth((16, 16), "cohort", number).numpy()
        nib.save(nib.Nifti1Image((anatomy > 0.5).astype(np.uint8), np.eye(4)), root / f"{number}_label.nii.gz")
        for contrast, modality in enumerate("ab"):
            image = np.abs(anatomy - 0.4 * contrast).astype(np.float32)
            nib.save(nib.Nifti1Image(image, np.eye(4)), root / f"{number}_{modality}.nii.gz")
            name = f"group{number}"
            rows.append((split, name, name, modality, f"{number}_{modality}.nii.gz", f"{number}_label.nii.gz"))
    columns = ["split", "group", "subject", "modality", "image", "label"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "manifest.csv", index=False)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place for runs, with a cohort of files."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "cohort").mkdir()
    write_cohort(folder / "cohort")
    return folder


def one_group(batch: GroupBatch, group: int) -> GroupBatch:
    """One group of a batch, by itself."""
    part = slice(group, group + 1)
    return GroupBatch(
        images=batch.images[part],
        modalities=batch.modalities[part],
        masks=batch.masks[part],
        labels=batch.labels[part],
        spacing=batch.spacing[part],
        names=batch.names[part],
        truth=None if batch.truth is None else batch.truth[part],
        anatomies=None if batch.anatomies is None else batch.anatomies[part],
    )


@pytest.fixture(autouse=True)
def parameters_repeat() -> None:
    """Networks made without a seed of their own are the same in every run and beside any other tests."""
    torch.manual_seed(0)


@pytest.fixture
def make_group() -> GroupMaker:
    """Makes misaligned groups of images that share an anatomy and differ in contrast."""

    def make(
        modalities: tuple[int, ...] = (0, 1, 2), shape: tuple[int, ...] = (32, 32), groups: int = 2, seed: int = 0
    ) -> GroupBatch:
        batches = torch.stack([smooth(shape, "anatomy", seed, group) for group in range(groups)])
        anatomy = batches[:, None, None].expand(groups, len(modalities), 1, *shape)
        contrast = torch.tensor(modalities).reshape(1, -1, *[1] * (1 + len(shape)))
        batch = GroupBatch(
            images=(anatomy - 0.3 * contrast).abs().clamp(0, 1),
            modalities=torch.tensor(modalities).expand(groups, -1),
            masks=torch.ones(anatomy.shape, dtype=torch.bool),
            labels=(anatomy > 0.5).to(torch.int16),
            spacing=torch.ones(groups, len(shape)),
            names=tuple(f"group{group}" for group in range(groups)),
        )
        draws = [
            draw_displacements(len(modalities), shape, (8,), 0.3, generator("fields", seed, group))
            for group in range(groups)
        ]
        return misalign(batch, torch.stack(draws))

    return make
