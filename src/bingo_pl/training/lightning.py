"""Lightning set up from an experiment's settings: the trainer, its checkpoints and its loggers."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import wandb
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.strategies import DDPStrategy, Strategy

from bingo_pl import config as settings
from bingo_pl.config import Config
from bingo_pl.errors import BingoError, InputError
from bingo_pl.models.checkpoints import read_whole
from bingo_pl.storage import sealed
from bingo_pl.storage.atomic import replacing


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints beside their place, with a digest, and renames them; checks the digest of those it loads.

    Lightning's own writes them to the system's temporary folder and moves them. Where that is another file system the
    move is a copy, and a process killed meanwhile has destroyed the checkpoint that the run would resume from.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with replacing(Path(path)) as temporary, temporary.open("w+b") as file:
            sealed.write(checkpoint, file)

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        return read_whole(Path(path))


class MovableCheckpoint(ModelCheckpoint):
    """Lightning's, which forgets the best score, and would overwrite the best checkpoint, when its run was moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def moved(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        paths = {key: moved(state_dict[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
        best = {moved(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})


def make_trainer(config: Config, loggers: list[Logger], callbacks: list[Callback], folder: Path) -> pl.Trainer:
    """Lightning's trainer, without a progress bar of its own.

    Raises:
        BingoError: this machine does not have the device.
    """
    # Our own lines say what these would: how many parameters, which device, how far.
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*exists and is not empty.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning 2.6 with torch 2.13
    trainer = config.trainer
    # PyTorch lets GPUs round the inputs of convolutions to ten bits unless asked not to. Displacements then depend on
    # how many images are registered at a time, by up to a third of a voxel.
    torch.backends.cudnn.allow_tf32 = False
    try:
        return pl.Trainer(
            strategy=_strategy(config),
            accelerator=trainer.accelerator,
            devices=trainer.devices,
            precision=trainer.precision,  # type: ignore[arg-type]  # Lightning checks the name
            max_epochs=trainer.epochs,
            gradient_clip_val=trainer.clip_gradient_norm,
            accumulate_grad_batches=trainer.accumulate_grad_batches,
            check_val_every_n_epoch=trainer.validate_every,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            use_distributed_sampler=False,
            logger=loggers,
            callbacks=callbacks,
            plugins=[WholeCheckpoints()],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
            default_root_dir=folder,
        )
    except BingoError:
        raise
    except (MisconfigurationException, ValueError, ImportError) as error:
        raise InputError(
            f"device '{trainer.accelerator}' cannot be used, or not {trainer.devices} of it ({error})",
            "Wanted: auto, cpu, gpu or mps (trainer.accelerator), as far as this machine has it",
        ) from error


def check_device(config: Config) -> None:
    """Raises `BingoError` where this machine does not have the device that the settings name."""
    make_trainer(config, [], [], Path(config.runs))


def _strategy(config: Config) -> Strategy | str:
    if config.trainer.devices == 1:
        return "auto"
    weights = config.weights.by_term()
    truth_alone = bool(weights.pop("truth")) and not any(weights.values())
    # The ground truth alone leaves the decoder without gradients. The norms see to it that their buffers are everywhere
    # the same; and sending them would hold up validation, of which processes do not make equally many steps.
    return DDPStrategy(find_unused_parameters=truth_alone, broadcast_buffers=False)


def keep_checkpoint(run: Path, name: str, monitor: str | None, epochs: int) -> ModelCheckpoint:
    """Keeps ``checkpoints/<name>.ckpt``: the newest, or that of the best ``monitor``, looked at every few epochs.

    The best is the least, or the largest of ``val/dice``.
    """
    return MovableCheckpoint(
        run / "checkpoints",
        filename=name,
        monitor=monitor,
        mode="max" if monitor == "val/dice" else "min",
        every_n_epochs=epochs,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )


def wandb_loggers(config: Config, run: Path) -> list[Logger]:
    """W&B's logger, or none where it is disabled."""
    mode = config.log.wandb
    if mode == "disabled":
        return []
    if mode == "auto":
        os.environ.setdefault("WANDB_SILENT", "true")
        mode = "online" if wandb.login(prompt=False) else "offline"
    logger = WandbLogger(
        name=run.name,
        save_dir=run,
        project="bingo_pl",
        mode=mode,
        config=settings.to_tree(config),
        settings=wandb.Settings(silent=mode == "offline"),
    )
    return [logger]
