"""Lightning callbacks: what a person sees while a model trains, and what its files keep."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bingo_pl import config as settings
from bingo_pl.batch import GroupBatch
from bingo_pl.config import Config
from bingo_pl.data_modules.sampling import ResumableLoader
from bingo_pl.figures.group import draw_group
from bingo_pl.models.checkpoints import PROVENANCE
from bingo_pl.models.weights import check_before_saving
from bingo_pl.training.history import History
from bingo_pl.training.stopping import StopRequest
from bingo_pl.training.task import RegistrationTask

POSITION = "bingo_pl_position"
"""That of `ResumableLoader` in its epoch."""


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

    A checkpoint of weights that are not finite is not written, so that the one before it stays.

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
        check_before_saving(checkpoint)
        checkpoint[PROVENANCE] = {**self.provenance, "processes": trainer.world_size}
        for logger in trainer.loggers:
            if isinstance(logger, History):
                logger.write()  # before the checkpoint, so that a resume from it finds every row


class AmidEpochs(Callback):
    """Writes the newest checkpoint every few minutes, so that a killed run loses no more than these of a long epoch.

    And resumes within it. Lightning stores the loader's state and would load it, but here it makes the loader before it
    reads the checkpoint: the learning rate's schedule asks for the number of steps.

    Only between two steps of the optimiser, since no checkpoint holds the gradients of half a step, and not after the
    last one of an epoch, whose own checkpoint follows.

    Args:
        run: the run's folder.
        minutes: at least so many between two checkpoints.
        request: to stop. It is fulfilled behind the next step, once that is saved.
    """

    def __init__(self, run: Path, minutes: float, request: StopRequest) -> None:
        self.request = request
        self.path = run / "checkpoints" / "last.ckpt"
        self.seconds = 60 * minutes
        self.saved = time.monotonic()
        self.step = 0
        self.position: dict[str, int] | None = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        loader = cast(ResumableLoader, trainer.train_dataloader)
        checkpoint[POSITION] = loader.state_dict()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.position = checkpoint.get(POSITION)  # versions that wrote none did so at the end of epochs

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.request.listen()
        self.saved = time.monotonic()
        self.step = trainer.global_step
        if self.position and self.position["given"] < self.position["of"]:
            cast(ResumableLoader, trainer.train_dataloader).load_state_dict(self.position)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.saved = time.monotonic()  # the epoch before has left its checkpoint
        self._stop(trainer, trainer.strategy.broadcast(self.request.number))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop(trainer, trainer.strategy.broadcast(self.request.number))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped = trainer.global_step > self.step
        self.step = trainer.global_step
        if not stepped or batch_idx + 1 == trainer.num_training_batches:
            return
        # The processes' clocks differ, and all of them have to take part.
        due = time.monotonic() - self.saved >= self.seconds
        due, number = trainer.strategy.broadcast((due, self.request.number))
        if due or number:
            self._log_step(trainer)
            trainer.save_checkpoint(self.path)
            self.saved = time.monotonic()
        self._stop(trainer, number)

    def _stop(self, trainer: pl.Trainer, number: int) -> None:
        """End the training where a signal asks for it; the newest checkpoint is of just now."""
        if number:
            saved = self.path if trainer.global_step else None
            if trainer.is_global_zero and saved:
                self.request.requeue(number)
            raise self.request.stop(number, saved, told=not trainer.is_global_zero)

    @staticmethod
    def _log_step(trainer: pl.Trainer) -> None:
        """Lightning logs a step after this hook: too late for what resumes from the checkpoint."""
        numbers = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("train/")}
        for logger in trainer.loggers:
            if isinstance(logger, History):
                logger.log_metrics({**numbers, "epoch": trainer.current_epoch}, trainer.global_step - 1)


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
