"""How well the uncertainty of the velocity posterior tells the true error of a trained model.

``python benchmarks/uncertainty.py runs/mscmr/checkpoints/best.ckpt``. See docs/uncertainty.md.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from scipy.stats import spearmanr
from torch import Tensor

from bingo_pl import cli
from bingo_pl import config as settings
from bingo_pl.batch import GroupBatch
from bingo_pl.data_modules.base import GroupDataModule
from bingo_pl.errors import BingoError
from bingo_pl.evaluation import metrics
from bingo_pl.evaluation.uncertainty import displacement_uncertainty, negative_log_likelihood
from bingo_pl.methods.bingo import Bingo
from bingo_pl.methods.networks import VelocityHead
from bingo_pl.models import ready_model
from bingo_pl.models.model import Model
from bingo_pl.seeding import generator
from bingo_pl.training import experiment

BINS = 5
TEACHING_RATE = 2.5e-3
console = Console(soft_wrap=True)


@dataclasses.dataclass(frozen=True, eq=False)
class Image:
    """What was expected and what came of one registered image, in mm at each voxel, and where its foreground is."""

    uncertainty: Tensor
    error: Tensor
    foreground: Tensor


def main(
    checkpoint: Annotated[Path, typer.Argument(help="Of a trained BInGo")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings")] = None,
    samples: Annotated[int, typer.Option(help="Draws from the posterior")] = 32,
    teach: Annotated[int, typer.Option(help="Steps that teach the variances alone on the training groups first")] = 0,
    groups: Annotated[int, typer.Option(help="Test groups, evenly chosen. 0: all")] = 0,
    name: Annotated[
        str, typer.Option("--experiment", help="Whose test groups and settings of them. Empty: the model's")
    ] = "",
) -> None:
    """Rank correlation and calibration of the uncertainty on the test groups, whose misalignment is known."""
    loaded, data = load(checkpoint, overrides or [], name)
    model, device = loaded.bingo, loaded.device
    if teach:
        teach_variances(model, data, device, teach)
    batches = list(data.test_dataloader())
    step = max(1, len(batches) // groups) if groups else 1
    images: list[Image] = []
    if model.taught is not None:  # also where nothing did
        model.taught = dataclasses.replace(model.taught, reach=math.inf)
    for batch in batches[::step]:
        group = data.misalign_for_evaluation(batch.to(device), "test")
        if ready_model.takes_any(loaded.config):
            group = dataclasses.replace(group, modalities=torch.zeros_like(group.modalities))
        images += measure(model, group, samples)
    report("foreground", images)
    report("all voxels", [dataclasses.replace(image, foreground=image.foreground | True) for image in images])


def load(checkpoint: Path, overrides: list[str], experiment_name: str = "") -> tuple[Model, GroupDataModule]:
    """A trained BInGo and the data of its experiment, or of another one, whose settings the overrides are then."""
    model = Model.load(checkpoint, overrides=[] if experiment_name else overrides)
    if not isinstance(model.registrar, Bingo):
        raise BingoError(f"{checkpoint}: method {model.config.method} has no posterior. Give a checkpoint of bingo")
    config = settings.load(experiment_name, overrides) if experiment_name else model.config
    data = experiment.build_data(config, console)
    data.setup("fit")
    return model, data


def teach_variances(model: Bingo, data: GroupDataModule, device: torch.device, steps: int) -> None:
    """Minimise the likelihood of what is left of new misalignments over the variances' last convolutions."""
    if model.velocity_noise:
        raise BingoError("--teach: in a model with model.velocity_noise the variances cannot be taught alone")
    last = [head.velocity for head in model.heads if isinstance(head, VelocityHead)]
    optimiser = torch.optim.Adam([parameter for conv in last for parameter in conv.parameters()], TEACHING_RATE)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    epochs = ((epoch, batch) for epoch in itertools.count() for batch in data.train_dataloader())
    for epoch, batch in itertools.islice(epochs, steps):
        misaligned = data.misalign_for_training(batch.to(device), epoch)
        optimiser.zero_grad()
        negative_log_likelihood(misaligned, model(misaligned)).backward()
        optimiser.step()
        decay.step()


@torch.no_grad()
def measure(model: Bingo, batch: GroupBatch, samples: int) -> list[Image]:
    """Register groups whose misalignment is known: one `Image` for each of their images."""
    assert batch.truth is not None
    result = model(batch)
    draws = generator("draws", *batch.names, device=batch.images.device)
    uncertainty = displacement_uncertainty(model, batch, result, samples, draws)
    assert uncertainty is not None
    spacing = batch.spacing.reshape(batch.groups, 1, -1, *[1] * len(batch.shape))
    error = (metrics.warping_residual(result.displacement, batch.truth) * spacing).norm(dim=2, keepdim=True)
    foreground = metrics.warp_group_labels(batch.masks, result.displacement)
    parts = (x.flatten(0, 1).flatten(1).cpu() for x in (uncertainty, error, foreground))
    return [Image(*part) for part in zip(*parts, strict=True)]


def report(region: str, images: list[Image]) -> None:
    """Spearman's rho within images and pooled, and the RMS error of each fifth of the voxels by expected error."""
    within = [spearman(image.uncertainty[image.foreground], image.error[image.foreground]) for image in images]
    expected = torch.cat([image.uncertainty[image.foreground] for image in images])
    observed = torch.cat([image.error[image.foreground] for image in images])
    console.print(f"{region}: expected {rms(expected):.2f} mm, observed {rms(observed):.2f} mm (RMS), ", end="")
    console.print(f"{expected.median():.2f} mm and {observed.median():.2f} mm (median)")
    console.print(f"  Spearman {np.nanmean(within):.3f} within the {len(images)} images, ", end="")
    console.print(f"{spearman(expected, observed):.3f} pooled")
    for share in expected.argsort().tensor_split(BINS):
        console.print(f"  expected {rms(expected[share]):.2f} mm, observed {rms(observed[share]):.2f} mm")


def spearman(first: Tensor, second: Tensor) -> float:
    return float(spearmanr(first.numpy(), second.numpy()).statistic)


def rms(values: Tensor) -> float:
    return math.sqrt((values.double() ** 2).mean().item())


if __name__ == "__main__":
    cli.run(lambda: typer.run(main))
