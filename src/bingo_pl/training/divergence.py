"""What a person reads when a training diverges."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl

from bingo_pl.config import TrainerConfig
from bingo_pl.errors import DivergenceError


@contextmanager
def explained(trainer: pl.Trainer, settings: TrainerConfig, run: Path) -> Iterator[None]:
    """Raise a `DivergenceError` again with where the training was, what is left of it and what to try."""
    try:
        yield
    except DivergenceError as error:
        rates = sorted({group["lr"] for optimiser in trainer.optimizers for group in optimiser.param_groups})
        raise DivergenceError(
            f"the training diverged in epoch {trainer.current_epoch + 1}, step {trainer.global_step + 1}, at "
            f"trainer.learning_rate={settings.learning_rate:g} (just then "
            f"{' and '.join(f'{rate:.3g}' for rate in rates)}): {error}",
            f"{_left(run)} Try {_remedies(settings)}, and a new name for the run",
        ) from error


def _left(run: Path) -> str:
    last = run / "checkpoints" / "last.ckpt"
    if last.exists():
        return f"{last} was written before and is kept, and so is best.ckpt if there is one."
    return "It had not come to its first checkpoint."


def _remedies(settings: TrainerConfig) -> str:
    """The likeliest first."""
    remedies = [f"trainer.learning_rate={settings.learning_rate / 3:.1g}"]
    if not settings.warm_up:
        remedies.append("trainer.warm_up=0.1")
    if not settings.clip_gradient_norm:
        remedies.append("trainer.clip_gradient_norm=1")
    if settings.precision == "16-mixed":
        remedies.append("trainer.precision=32-true")
    return " or ".join(remedies)
