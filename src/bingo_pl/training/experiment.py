"""From settings to a finished run: build the data, the task and the trainer; train, resume, evaluate."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console
from rich.markup import escape

from bingo_pl import config as settings
from bingo_pl.config import Config
from bingo_pl.data_modules import data_module
from bingo_pl.data_modules.base import GroupDataModule
from bingo_pl.errors import FileError, InputError
from bingo_pl.evaluation.tables import summary, write_test_csv
from bingo_pl.figures.curves import draw_curves
from bingo_pl.messages import warn
from bingo_pl.models import registry
from bingo_pl.models.checkpoints import PROVENANCE, read_config, read_weights, read_whole
from bingo_pl.models.transfer import start_from
from bingo_pl.models.weights import check_resumable, fill
from bingo_pl.phantoms.cohorts import ensure_cohort
from bingo_pl.signals import Stopped
from bingo_pl.storage.atomic import check_place, replacing
from bingo_pl.storage.locking import InUseError, held
from bingo_pl.storage.names import check_file_name
from bingo_pl.training.callbacks import AmidEpochs, Provenance, TestFigures, TrainingProgress
from bingo_pl.training.divergence import explained
from bingo_pl.training.history import History
from bingo_pl.training.lightning import check_device, keep_checkpoint, make_trainer, wandb_loggers
from bingo_pl.training.processes import agreed, check_processes, held_by_first, leave
from bingo_pl.training.resumption import case_keys, refuse_edited, refuse_other_data, refuse_other_processes
from bingo_pl.training.stopping import StopRequest
from bingo_pl.training.task import RegistrationTask

FIXED_BY_NETWORK = ("method", "model.", "own.", "data.modalities")
FIXED_BY_RUN = (
    "name",
    "runs",
    "trainer.start",
    "trainer.learning_rate",
    "trainer.motion_rate",
    "trainer.appearance_rate",
)
"""Settings that a checkpoint has stored in its own way, so that changing them would do nothing."""
RUN_FOLDER, COHORT, DATA = "BINGO_RUN_FOLDER", "BINGO_COHORT", "BINGO_DATA"
"""Environment variables by which the processes of one run agree on its folder, the phantom's, and whether the data are
prepared."""


def train(config: Config, console: Console, folder: Path | None = None) -> Path:
    """Train, test the best checkpoint, write tables and figures. A method with nothing to train is only tested.

    Args:
        config: the settings.
        console: where progress is shown.
        folder: of the run; None for a new one, ``config.runs/config.name``, numbered if taken.

    Returns:
        The run's folder.

    Raises:
        BingoError: bad settings or data; the run's folder has not been made then.
    """
    check_file_name(config.name, "run")
    check_place(Path(config.runs) / config.name)
    check_device(config)
    if config.data.root:  # a resume may come from another folder
        root = os.path.realpath(os.path.expanduser(config.data.root))  # pathlib's raise for ~nobody and links in a ring
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=root))
    task = build_task(config)
    if config.trainer.start:
        start_from(task.registrar, config.trainer.start)
    check_processes(config.trainer.devices)
    data = build_data(config, console)
    learns = registry.trainable(task.registrar)
    registry.refined(task.registrar, config)  # refused before the training, not after it
    if learns and config.weights.truth and not data.truth_known:
        raise InputError(
            f"weights.truth={config.weights.truth:g}, but nobody knows how the images of {config.data.dataset} truly "
            "map to each other",
            "Set weights.truth=0, or data.copies=2 to learn from copies",
        )
    if learns and config.data.copies > 1 and not config.weights.truth:
        raise InputError(
            f"data.copies={config.data.copies} without weights.truth: copies look like no real image, only their "
            "ground truth teaches",
            "Set weights.truth, or data.copies=1",
        )
    data.setup("fit" if learns else "test")
    with _claimed(Path(config.runs), config.name, folder) as run:
        if learns:
            return _fit(config, data, task, run, console, checkpoint=None, repeatable=folder is not None)
        console.print(
            f"method {escape(config.method)} has nothing to train; testing it. Results: {escape(str(run))}",
            soft_wrap=True,
        )
        _write_config(config, run)
        _test(config, data, task, run, console, wandb_loggers(config, run))
        return run


def resume(
    checkpoint: Path,
    overrides: Sequence[str],
    allow_changed_data: bool,
    console: Console,
    allow_changed_processes: bool = False,
) -> Path:
    """Resume where a checkpoint stopped; the settings come from the checkpoint.

    Raises:
        BingoError: not a checkpoint of this project; or, with what differs, the run's `config.yaml` was edited, or the
            data or the number of processes have changed and that was not allowed.
    """
    content = read_whole(checkpoint)
    provenance = content[PROVENANCE]
    old = settings.from_tree(provenance["config"])
    config = settings.override(old, overrides)
    _refuse_changes(old, config, (*FIXED_BY_NETWORK, *FIXED_BY_RUN))
    task = build_task(config)
    check_resumable(task, task.optimiser(), content, checkpoint)
    if checkpoint.resolve().parent.name != "checkpoints":
        raise FileError(
            f"{checkpoint} is not in the checkpoints folder of a run, where the run would resume",
            "Put it back, or use bingo evaluate, which takes a checkpoint from any place",
        )
    run = checkpoint.resolve().parent.parent
    with held_by_first(run):
        refuse_edited(run, old, config)
        processes = make_trainer(config, [], [], run).world_size
        if not allow_changed_processes:
            # Checkpoints of earlier versions say neither their processes nor their cases.
            refuse_other_processes(checkpoint, provenance.get("processes", old.trainer.devices), processes)
        for line in settings.differences(old, config):
            console.print(f"[yellow]changed on resume[/] {escape(line)}")
        check_processes(config.trainer.devices)
        data = build_data(config, console)
        if not allow_changed_data:
            refuse_other_data(checkpoint, provenance, data)
        return _fit(config, data, build_task(config), run, console, checkpoint, repeatable=True)


def evaluate(checkpoint: Path, overrides: Sequence[str], console: Console) -> Path:
    """Test a checkpoint, on the data it was trained for or on others of the same modalities.

    Returns:
        The folder of the results.

    Raises:
        BingoError: not a checkpoint of this project, or settings that do not fit it.
    """
    old = read_config(checkpoint)
    config = settings.override(old, overrides)
    _refuse_changes(old, config, FIXED_BY_NETWORK)
    check_file_name(old.name, "run")
    check_place(Path(config.runs) / old.name)
    check_processes(devices=1)
    check_device(config)
    data = build_data(config, console)
    task = trained_task(config, checkpoint)
    folder = new_folder(Path(config.runs), f"{old.name}-evaluation")
    _write_config(config, folder)
    _test(config, data, task, folder, console, loggers=[])
    return folder


def _refuse_changes(old: Config, new: Config, fixed: Sequence[str]) -> None:
    changes = [line for line in settings.differences(old, new) if line.startswith(tuple(fixed))]
    if changes:
        raise InputError(f"a trained network cannot be changed so: {'; '.join(changes)}", "Leave these settings out")


def build_data(config: Config, console: Console) -> GroupDataModule:
    """The data module, its files read, checked and preprocessed by the first process."""
    data = config.data
    make = data_module(data.dataset)
    root = data.root
    if not root:
        warn(
            "No data given (data.root is empty): using the embedded PHANTOM cohort. Its images are synthetic; results "
            "say nothing about patients",
            console,
        )
        root = agreed(
            COHORT, lambda: str(ensure_cohort(data.dataset, subjects=data.phantom_subjects, seed=config.seed))
        )
    module = make(
        root=root,
        modalities=data.modalities,
        label_ids=data.label_ids,
        spacing_mm=data.spacing_mm,
        roi=data.roi,
        splits=data.splits,
        seed=config.seed,
        batch_size=data.batch_size,
        images_per_step=data.images_per_step,
        ffd_spacings=data.ffd_spacings,
        ffd_strength=data.ffd_strength,
        linear_strength=data.linear_strength,
        copies=data.copies,
        draws_per_test_group=data.draws_per_test_group,
        workers=data.workers,
        cache_dir=data.cache_dir,
        fill_nonfinite=data.fill_nonfinite,
    )

    def prepare() -> str:
        module.prepare_data()
        return "prepared"

    agreed(DATA, prepare)
    return module


def build_task(config: Config) -> RegistrationTask:
    """The network with its seeded first weights, and how it is trained."""
    pl.seed_everything(config.seed, verbose=False)
    trainer = config.trainer
    if trainer.gradient_checkpointing and config.method != "bingo":
        raise InputError(f"trainer.gradient_checkpointing is for method bingo, not for {config.method}", "Leave it out")
    return RegistrationTask.of(registry.build(config), config)


def trained_task(config: Config, checkpoint: Path) -> RegistrationTask:
    """`build_task` with the weights of a checkpoint; raises as `load_weights`."""
    task = build_task(config)
    load_weights(task, checkpoint, config)
    return task


def new_folder(parent: Path, name: str) -> Path:
    """Make ``parent/name``, or ``parent/name-2`` and so on where that is taken.

    Raises:
        BingoError: the name is no plain folder name, or the folder cannot be made.
    """
    return Path(agreed(RUN_FOLDER, lambda: str(_new_folder(parent, name))))


@contextmanager
def _claimed(parent: Path, name: str, folder: Path | None) -> Iterator[Path]:
    """The folder of a run that begins, held by the first process: a new one or ``folder``; removed if left empty."""
    with ExitStack() as lock:
        run = Path(agreed(RUN_FOLDER, lambda: str(_claim(parent, name, folder, lock))))
        try:
            yield run
        except BaseException:
            with suppress(OSError):  # it is not empty
                run.rmdir()
            raise


def _claim(parent: Path, name: str, folder: Path | None, lock: ExitStack) -> Path:
    if folder is not None:
        lock.enter_context(held(folder))
        folder.mkdir(exist_ok=True)
        return folder
    while True:
        run = _new_folder(parent, name)
        with suppress(InUseError):
            lock.enter_context(held(run))
            if not any(run.iterdir()):  # else a run of this name began elsewhere just now
                return run


def _new_folder(parent: Path, name: str) -> Path:
    check_file_name(name, "run")
    for number in itertools.count(1):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise FileError(
                f"cannot make {folder}: {error.strerror}", "Set runs= to a folder you may write to"
            ) from error
    raise AssertionError("unreachable")


def _fit(
    config: Config,
    data: GroupDataModule,
    task: RegistrationTask,
    run: Path,
    console: Console,
    checkpoint: Path | None,
    repeatable: bool,
) -> Path:
    config = dataclasses.replace(config, name=run.name, runs=str(run.parent))
    history = History(run / "metrics.csv")
    if checkpoint:
        history.resume(read_whole(checkpoint)["global_step"])
    _write_config(config, run)
    loggers = [history, *wandb_loggers(config, run)]
    # Not save_last=True, which leaves "last" behind whenever an epoch is not the best.
    checkpoints = [
        keep_checkpoint(run, "best", "val/gwi" if data.of_one_anatomy else "val/dice", config.trainer.validate_every),
        keep_checkpoint(run, "last", None, 1),
    ]
    request = StopRequest(repeatable)
    callbacks = [
        *checkpoints,
        Provenance(config, data.fingerprint(), case_keys(data)),
        AmidEpochs(run, config.trainer.checkpoint_minutes, request),
        TrainingProgress(console),
    ]
    trainer = make_trainer(config, loggers, callbacks, run)
    if trainer.is_global_zero:
        parameters = sum(parameter.numel() for parameter in task.parameters()) / 1e6
        shown, device = escape(str(run)), escape(str(trainer.strategy.root_device))
        console.print(f"{parameters:.3f} M parameters, training on {device}. Results: {shown}", soft_wrap=True)
        console.print(f"If interrupted: bingo resume {shown}/checkpoints/last.ckpt", soft_wrap=True)
    try:
        with explained(trainer, config.trainer, run):
            trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
    except Exception as error:
        if request.number:  # it came to a loader's process too, which died of it
            raise Stopped(request.number, f"The newest checkpoint, if any, is in {run / 'checkpoints'}") from error
        raise
    leave()
    if not trainer.is_global_zero:
        return run  # the first process tests alone
    load_weights(task, run / "checkpoints" / "best.ckpt", config)
    if history.path.is_file():  # deleted, it is not written again where there is nothing left to train
        draw_curves(history.path, run / "figures" / "curves.png")
    _test(config, data, task, run, console, loggers)  # last: a run with its test.csv is done
    return run


def load_weights(task: RegistrationTask, checkpoint: Path, config: Config) -> Config:
    """Fill a task with the weights of a checkpoint of the same network.

    Returns:
        The settings that it was trained with.

    Raises:
        BingoError: not a checkpoint of this project, or damaged, or of another network than that of ``config``.
    """
    trained_with, weights = read_weights(checkpoint)
    _refuse_changes(trained_with, config, FIXED_BY_NETWORK)
    fill(task, weights, checkpoint)
    return trained_with


def _test(
    config: Config,
    data: GroupDataModule,
    task: RegistrationTask,
    folder: Path,
    console: Console,
    loggers: list[Logger],
) -> None:
    task.registrar = registry.refined(task.registrar, config)
    figures = TestFigures(config, folder / "figures")
    one_device = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, devices=1))
    make_trainer(one_device, [], [figures], folder).test(task, data, verbose=False)
    write_test_csv(task.test_scores, folder / "test.csv")
    console.print(summary(task.test_scores))
    shown = escape(str(folder))
    console.print(f"written: {shown}/test.csv and {len(figures.paths)} figures in {shown}/figures", soft_wrap=True)
    means = {
        f"test/{name}": torch.tensor([getattr(scores, name) for scores in task.test_scores]).nanmean().item()
        for name in ("dice_before", "dice_after", "gwi_before", "gwi_after", "folding_percent", "seconds")
    }
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_metrics(means)
            if config.log.wandb_images:
                logger.log_image("test", [str(path) for path in figures.paths])


@rank_zero_only
def _write_config(config: Config, folder: Path) -> None:
    with replacing(folder / "config.yaml") as temporary:
        temporary.write_text(settings.to_yaml(config))
