"""Trains the models that come with the package again: ``make model``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from bingo_pl import __version__
from bingo_pl import config as settings
from bingo_pl.errors import BingoError
from bingo_pl.models.checkpoints import read_config
from bingo_pl.models.ready_model import location, save
from bingo_pl.training import experiment

CARD = """\
BInGo, groupwise registration of {dims}D images of any modality. bingo_pl {version}, Apache-2.0.
Trained on synthetic anatomies (brains, chests, random shapes) in random contrasts, {shape} voxels, misaligned by random
free-form deformations with control points {spacings} voxels apart; guided by the known misalignment alone.
No image of a person was used. Settings: experiment {experiment}.
Intended for research: groups of images that show one anatomy and roughly lie over each other. Its decoder was not
trained; its uncertainty was taught on synthetic groups. Not a medical device. Measured accuracy: docs/ready_model.md.
"""


def pack(checkpoint: Path, path: Path) -> None:
    """Make a model file of a checkpoint of a training run.

    Raises:
        BingoError: not a checkpoint of this project, or the file cannot be written.
    """
    config = read_config(checkpoint)
    task = experiment.trained_task(config, checkpoint)
    card = CARD.format(
        dims=len(config.data.roi),
        version=__version__,
        shape=" x ".join(map(str, config.data.roi)),
        spacings=f"{min(config.data.ffd_spacings):g} to {max(config.data.ffd_spacings):g}",
        experiment=path.stem,
    )
    save(task.registrar, config, path, card)


def make(dims: int, overrides: Sequence[str], console: Console) -> Path:
    """Train the ready model again and put it into the package: ``make model``.

    Returns:
        Its file.

    Raises:
        BingoError: bad settings.
    """
    name = location(dims).stem
    config = settings.load(name, overrides)
    run = experiment.train(dataclasses.replace(config, name=config.name or name), console)
    pack(run / "checkpoints" / "best.ckpt", location(dims))
    console.print(f"written: {escape(str(location(dims)))}", soft_wrap=True)
    return location(dims)


if __name__ == "__main__":
    try:
        make(int(sys.argv[1]), sys.argv[2:], Console())
    except BingoError as error:
        sys.exit(f"error: {error}")
