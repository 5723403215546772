"""What all cohorts share: settings, the cache, batches of equally large groups, known misalignment.

A data module lists its cases by split and reads one case; see `bingo_pl.data_modules.brats` for the shortest example.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import platformdirs
import pytorch_lightning as pl
import torch
from monai.data import CacheDataset
from monai.transforms import Lambda
from pytorch_lightning.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset, Sampler

from bingo_pl.batch import GroupBatch, collate
from bingo_pl.config import DataConfig
from bingo_pl.data_modules.cache import CachedGroup, GroupCache, load_group
from bingo_pl.data_modules.cases import SPLITS, Case, Preprocessing, Split
from bingo_pl.data_modules.copies import copy_each, disguise
from bingo_pl.data_modules.sampling import EqualSizeSampler, Repeated, ResumableLoader
from bingo_pl.errors import BingoError, BingoWarning, InputError, some
from bingo_pl.misalign import draw_displacements, misalign
from bingo_pl.seeding import generator
from bingo_pl.storage.regular import exists, is_file

MEMORY_BYTES = 4 * 2**30
"""Groups of a split that are kept in memory; the rest is read from the cache each time."""

log = logging.getLogger(__name__)


class GroupDataModule(pl.LightningDataModule, ABC):
    """A cohort of image groups.

    Groups are cached as the files have them; each batch is misaligned by random deformations on the device.
    Use with ``Trainer(use_distributed_sampler=False)``: the ranks share training and validation here, while the test
    runs on all groups on every rank.
    """

    layout: ClassVar[str]
    """The expected files and where they are to be had; shown when none are found."""
    dimensions: ClassVar[tuple[int, ...]]
    """Allowed lengths of ``roi``."""
    may_keep_grid: ClassVar[bool] = False
    """Whether ``spacing_mm`` <= 0 is allowed and keeps the files' grid."""

    of_one_anatomy: ClassVar[bool] = True
    """Whether the images of a group lie over each other before they are misaligned. Where they do not, copies alone
    have a ground truth."""

    def __init__(
        self,
        *,
        root: str,
        modalities: Sequence[str],
        label_ids: Sequence[int],
        spacing_mm: float,
        roi: Sequence[int],
        splits: Sequence[int],
        seed: int,
        batch_size: int,
        images_per_step: int | None,
        ffd_spacings: Sequence[float],
        ffd_strength: float,
        linear_strength: float,
        copies: int,
        draws_per_test_group: int,
        workers: int,
        cache_dir: str | None,
        fill_nonfinite: float | None,
    ) -> None:
        """
        Args:
            root: folder of the cohort.
            modalities: the modalities to use; a batch's ``modalities`` are positions in this list.
            label_ids: foreground ids that may occur in label maps.
            spacing_mm: isotropic in 3D, in-plane in 2D.
            roi: *S, shape of the groups in voxels.
            splits: subjects for training, validation and test.
            seed: of the order, the members and the misalignment. The splits do not depend on it.
            batch_size: groups in a training or validation batch.
            images_per_step: partial learning, a training step draws this many images of each group; None takes all.
            ffd_spacings: control point spacings of the misalignment, in voxels; one is drawn for each group.
            ffd_strength: largest control point displacement over the spacing.
            linear_strength: standard deviation of the misalignment's linear part, in voxels; 0: none.
            copies: of each training image, see `bingo_pl.data_modules.copies`; more than one only where people differ.
                In every other epoch they are a group of their own.
            draws_per_test_group: misalignments of each test group.
            workers: loader processes, and cases that are preprocessed at once.
            cache_dir: folder of preprocessed groups; None is the user's cache folder.
            fill_nonfinite: what NaN and Inf voxels become; None makes them an error.

        Raises:
            BingoError: a setting is out of its range.
        """
        super().__init__()
        self.root = Path(os.path.expanduser(root))  # which takes ~nobody as it is
        self.modalities = tuple(modalities)
        self.label_ids = tuple(label_ids)
        self.preprocessing = Preprocessing(
            self.modalities, self.label_ids, spacing_mm, tuple(roi), fill_nonfinite, self.relabel
        )
        self.splits = tuple(splits)
        self.seed = seed
        self.batch_size = batch_size
        self.images_per_step = images_per_step
        self.ffd_spacings = tuple(ffd_spacings)
        self.ffd_strength = ffd_strength
        self.linear_strength = linear_strength
        self.copies = copies
        self.draws_per_test_group = draws_per_test_group
        self.workers = workers
        cache = Path(os.path.expanduser(cache_dir or platformdirs.user_cache_path("bingo_pl") / "preprocessed"))
        below = self.root.parent if is_file(self.root) else self.root
        self.cache = GroupCache(cache, type(self).__name__, below, self.preprocessing)
        self.groups: dict[Split, list[CachedGroup]] = {}
        self._datasets: dict[Split, CacheDataset] = {}
        self._check_settings()

    @abstractmethod
    def list_cases(self) -> dict[Split, list[Case]]:
        """The cases of each split. Raises `BingoError` where the cohort is missing or too small."""

    @abstractmethod
    def read_case(self, case: Case) -> list[GroupBatch]:
        """Preprocess one case to batches of one group, named uniquely, without ground truth."""

    @property
    def truth_known(self) -> bool:
        """Whether training batches carry a ground truth."""
        return self.of_one_anatomy or self.copies > 1

    @property
    def relabel(self) -> dict[int, int]:
        """Label ids that are replaced while reading, old to new; 0 ignores a label."""
        return {}

    @cached_property
    def cases(self) -> dict[Split, list[Case]]:
        """The cases of each split, listed once."""
        return self.list_cases()

    def fingerprint(self) -> str:
        """Hash of the preprocessing settings, the splits, and each input file's name, size and modification time."""
        keys = {split: [(case.name, self.cache.key(case)) for case in cases] for split, cases in self.cases.items()}
        return hashlib.blake2b(json.dumps(keys).encode(), digest_size=16).hexdigest()

    def prepare_data(self) -> None:
        """Read and check the whole cohort once and write it to the cache (Lightning calls this on one process)."""
        cases = [case for split in SPLITS for case in self.cases[split]]
        self.cache.prepare(cases, self.read_case, threads=max(1, self.workers))

    def setup(self, stage: str) -> None:
        """Find the preprocessed groups of each split and check that the stage has what it needs.

        Lightning calls this on every process. Calling it again costs nothing; the loaders read the images.

        Raises:
            BingoError: a case is not preprocessed, or a split or a modality that is needed is empty.
        """
        if not self.groups:
            self.groups = self._find_groups()
        if stage != "test":
            self._check_modalities()
        needed: list[Split] = ["test"] if stage == "test" else ["train", "test"]
        for split in needed:
            if not self.groups[split]:
                raise InputError(
                    f"{self.root}: the {split} split has no group",
                    f"Give it subjects (data.splits, now {[*self.splits]}; a manifest's column split)",
                )
        if stage != "test" and not self.groups["val"]:
            rank_zero_warn(
                "the validation split is empty: the TRAINING groups under a fixed misalignment serve as validation, "
                "so its figures do not show how the model generalises. Give it subjects (data.splits) if there are any",
                category=BingoWarning,
            )
            self.groups["val"] = self.groups["train"]

    def train_dataloader(self) -> DataLoader[GroupBatch]:
        """Shuffled batches of groups with equal N, each group once an epoch."""
        return ResumableLoader(self._dataset("train"), self._sampler("train", self.seed, *_rank()), self.workers)

    def val_dataloader(self) -> DataLoader[GroupBatch]:
        """Batches of groups with equal N in a fixed order. Ranks take them in turn; where they are fewer, each all."""
        batches = list(self._sampler("val", None))
        rank, world_size = _rank()
        return self._loader(self._dataset("val"), batches[rank::world_size] if len(batches) >= world_size else batches)

    def test_dataloader(self) -> DataLoader[GroupBatch]:
        """Each group ``draws_per_test_group`` times, alone in its batch, named ``name#k``."""
        dataset = Repeated(self._dataset("test"), len(self.groups["test"]), self.draws_per_test_group)
        return self._loader(dataset, EqualSizeSampler([1] * len(dataset), 1, None))

    def on_after_batch_transfer(self, batch: GroupBatch, dataloader_idx: int) -> GroupBatch:
        """Misalign a batch (Lightning calls this on the device). Without a trainer: as in the first epoch."""
        if self.trainer is None:
            return self.misalign_for_training(batch, epoch=0)
        if self.trainer.training:
            return self.misalign_for_training(batch, self.trainer.current_epoch)
        return self.misalign_for_evaluation(
            batch, "val" if self.trainer.validating or self.trainer.sanity_checking else "test"
        )

    def misalign_for_training(self, batch: GroupBatch, epoch: int) -> GroupBatch:
        """New members, or copies, and a new misalignment: functions of the seed, the epoch and each group's name alone.

        So they depend neither on the batching nor on the number of processes, and a resumed run repeats them. In every
        other epoch the copies of each image are a group of their own, so that small groups are learned too.
        """
        if self.images_per_step is not None:
            draws = [generator(self.seed, "members", epoch, name) for name in batch.names]
            chosen = [
                torch.randperm(batch.size, generator=draw)[: self.images_per_step].sort().values for draw in draws
            ]
            batch = batch.select(torch.stack(chosen))
        draws = [generator(self.seed, "misalign", epoch, name) for name in batch.names]
        if self.copies > 1:
            copied = self._misalign(copy_each(batch, self.copies), draws)
            disguised = disguise(copied, self.copies, len(self.modalities), draws)
            return disguised.parted(self.copies) if epoch % 2 else disguised
        misaligned = self._misalign(batch, draws)
        return misaligned if self.of_one_anatomy else replace(misaligned, truth=None)

    def misalign_for_evaluation(self, batch: GroupBatch, split: Split) -> GroupBatch:
        """The misalignment that is fixed by the seed, the split and each group's name."""
        return self._misalign(batch, [generator(self.seed, "misalign", split, name) for name in batch.names])

    def split_by_name(self, cases: Sequence[Case]) -> dict[Split, list[Case]]:
        """Deal cases to the splits in the order of their names' hashes: arbitrary, yet always the same, for every seed.

        Raises:
            BingoError: fewer cases than the splits ask for.
        """
        if len(cases) < sum(self.splits):
            suggestion = [max(1, len(cases) - 2 * (len(cases) // 4)), len(cases) // 4, len(cases) // 4]
            raise InputError(
                f"{self.root}: found {len(cases)} usable subjects, but data.splits={[*self.splits]} asks for "
                f"{sum(self.splits)}",
                f"Set fewer for training, validation and test, e.g. data.splits={suggestion}",
            )
        if len(cases) > sum(self.splits):
            log.info("%d of %d subjects are in no split", len(cases) - sum(self.splits), len(cases))
        order = iter(sorted(cases, key=lambda case: hashlib.blake2b(os.fsencode(case.name)).digest()))
        return {split: [next(order) for _ in range(count)] for split, count in zip(SPLITS, self.splits, strict=True)}

    def _check_modalities(self) -> None:
        """A modality without an image cannot be learned; a trained network may well meet fewer than it knows."""
        used = {member.modality for split in SPLITS for case in self.cases[split] for member in case.members}
        if unused := [modality for modality in self.modalities if modality not in used]:
            raise InputError(
                f"{self.root}: no image of modality {', '.join(unused)} in any case that is used",
                f"Correct data.modalities (now {', '.join(self.modalities)}) or add the files",
            )

    def not_found(self) -> BingoError:
        """The error for a root without the expected files."""
        state = "holds no usable case" if exists(self.root) else "does not exist"
        return InputError(f"data.root={self.root} {state}", self.layout)

    def _find_groups(self) -> dict[Split, list[CachedGroup]]:
        groups = {split: [group for case in self.cases[split] for group in self.cache.groups(case)] for split in SPLITS}
        if self.images_per_step is not None:
            groups["train"] = self._large_enough(groups["train"], self.images_per_step)
        return groups

    def _dataset(self, split: Split) -> Dataset[GroupBatch]:
        """The groups of a split, read into memory when they are first asked for."""
        if self.groups[split] is self.groups["train"]:  # they may stand in for validation
            split = "train"
        if split not in self._datasets:
            self._datasets[split] = _in_memory(self.groups[split])
        return self._datasets[split]

    def _misalign(self, batch: GroupBatch, draws: Sequence[torch.Generator]) -> GroupBatch:
        fields = [
            draw_displacements(
                batch.size,
                batch.shape,
                self.ffd_spacings,
                self.ffd_strength,
                draw,
                batch.images.device,
                self.linear_strength,
            )
            for draw in draws
        ]
        return misalign(batch, torch.stack(fields))

    def _sampler(
        self, split: Split, shuffle_seed: int | None, rank: int = 0, world_size: int = 1
    ) -> Sampler[list[Any]]:
        sizes = [group.size for group in self.groups[split]]
        return EqualSizeSampler(sizes, self.batch_size, shuffle_seed, rank, world_size)

    def _loader(self, dataset: Dataset[GroupBatch], sampler: Iterable[list[Any]]) -> DataLoader[GroupBatch]:
        return DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )

    def _large_enough(self, groups: list[CachedGroup], images: int) -> list[CachedGroup]:
        small = [group.name for group in groups if group.size < images]
        if small:
            rank_zero_warn(
                f"{len(small)} groups have fewer than data.images_per_step={images} images and are left out: "
                f"{some(small)}",
                category=BingoWarning,
            )
        return [group for group in groups if group.size >= images]

    def _check_settings(self) -> None:
        """What `DataConfig` asks of every cohort, and what this one does."""
        chosen = self.preprocessing
        settings = DataConfig(
            modalities=[*self.modalities],
            label_ids=[*self.label_ids],
            spacing_mm=chosen.spacing_mm,
            roi=[*chosen.roi],
            splits=[*self.splits],
            batch_size=self.batch_size,
            images_per_step=self.images_per_step,
            ffd_spacings=[*self.ffd_spacings],
            ffd_strength=self.ffd_strength,
            linear_strength=self.linear_strength,
            copies=self.copies,
            draws_per_test_group=self.draws_per_test_group,
            fill_nonfinite=chosen.fill_nonfinite,
            workers=self.workers,
        )
        dimensions = " or ".join(map(str, self.dimensions))
        one = "1 where the images of a group show one anatomy"
        settings.check(
            {
                "spacing_mm": (chosen.spacing_mm > 0 or self.may_keep_grid, "positive"),
                "roi": (len(chosen.roi) in self.dimensions, f"{dimensions} positive sizes"),
                "copies": (self.copies == 1 or not self.of_one_anatomy, one),
            }
        )


def visible(paths: Iterable[Path]) -> list[Path]:
    """Files in order, without hidden ones: macOS leaves ``._x.nii.gz`` beside ``x.nii.gz``."""
    return sorted(path for path in paths if not path.name.startswith("."))


def _in_memory(groups: list[CachedGroup]) -> CacheDataset:
    """A dataset of the groups, as many of them in memory as `MEMORY_BYTES` hold."""
    used = 0
    count = 0
    for group in groups:
        used += group.path.stat().st_size
        count += used <= MEMORY_BYTES
    # MONAI keeps what its own transforms return; a bare function it would call each time
    return _Groups(groups, Lambda(load_group), cache_num=count, progress=False, copy_cache=False)


class _Groups(CacheDataset):
    """MONAI's, whose transforms hide the error of a damaged file behind one of their own."""

    def _load_cache_item(self, idx: int) -> Any:
        with _plain_errors():
            return super()._load_cache_item(idx)

    def _transform(self, index: int) -> Any:
        with _plain_errors():
            return super()._transform(index)


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, BingoError):
            cause = cause.__cause__
        raise cause or error from None


def _rank() -> tuple[int, int]:
    """This process's rank and the number of processes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
