"""Lightning callbacks: what a person sees while a model trains, and what its files keep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bingo_pl import config as settings
from bingo_pl.batch import GroupBatch
from bingo_pl.config import Config
from bingo_pl.figures.group import draw_group
from bingo_pl.training.history import History
from bingo_pl.training.task import RegistrationTask

PROVENANCE = "bingo_pl"
"""The checkpoint's entry that says how it was made."""


class TrainingProgress(Callback):
    """One bar for the whole training, with the newest loss; a line for each validated epoch stays."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
            TextColumn("elapsed,"),
            TimeRemainingColumn(),
            TextColumn("left, loss {task.fields[loss]}"),
            console=console,
            transient=True,
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            steps = int(trainer.estimated_stepping_batches)
            self.bar = self.progress.add_task("training", total=steps, completed=trainer.global_step, loss="-")
            self.progress.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_global_zero:
            loss = f"{trainer.callback_metrics['train/total']:.3g}"
            self.progress.update(self.bar, completed=trainer.global_step, loss=loss)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            line = f"{epoch}: {_numbers(trainer, 'train/')} | validation {_numbers(trainer, 'val/')}"
            self.progress.console.print(line, soft_wrap=True, highlight=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.progress.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.progress.stop()


class Provenance(Callback):
    """Writes what a resume must find unchanged into every checkpoint, as plain values, and the metrics to disk.

    Args:
        config: the run's settings.
        data: fingerprint of the data.
        cases: a hash of each case, by name.
    """

    def __init__(self, config: Config, data: str, cases: Mapping[str, str]) -> None:
        self.provenance = {"config": settings.to_tree(config), "data": data, "cases": dict(cases)}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[PROVENANCE] = {**self.provenance, "processes": trainer.world_size}
        for logger in trainer.loggers:
            if isinstance(logger, History):
                logger.write()  # before the checkpoint, so that a resume from it finds every row


class TestFigures(Callback):
    """Draws the first test groups."""

    def __init__(self, config: Config, directory: Path) -> None:
        self.config = config
        self.directory = directory
        self.paths: list[Path] = []

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: GroupBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert isinstance(pl_module, RegistrationTask)
        if batch_idx < self.config.log.figure_groups:
            result = pl_module.registrar(batch)
            pictures = pl_module.registrar.explain(batch, result)
            data = self.config.data
            self.paths += draw_group(batch, result, pictures, data.modalities, data.label_ids, self.directory)


def _numbers(trainer: pl.Trainer, prefix: str) -> str:
    """The logged numbers of a stage, by name."""
    numbers = {k.removeprefix(prefix): v for k, v in trainer.callback_metrics.items() if k.startswith(prefix)}
    return ", ".join(f"{name} {value:.3g}" for name, value in numbers.items())
