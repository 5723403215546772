"""Outside references: the groups of the comparison registered by elastix and by ANTs. See README.md."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import os
from abc import abstractmethod
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from rich.console import Console
from torch import Tensor

from bingo_pl import cli
from bingo_pl import config as settings
from bingo_pl.batch import GroupBatch
from bingo_pl.errors import BingoError
from bingo_pl.evaluation.scoring import Scores, score, score_unregistered
from bingo_pl.methods.registrar import Registrar, Registration
from bingo_pl.spatial import invert
from bingo_pl.storage.atomic import replacing
from bingo_pl.training import experiment

console = Console()


class Reference(Registrar):
    """A tool that registers one group at a time, on the CPU.

    It sees voxels of size 1, as every method of the comparison, so that its fields are in voxels.
    """

    def forward(self, batch: GroupBatch, generator: torch.Generator | None = None) -> Registration:
        """Register. See `Registrar.forward`; the tools draw from seeds of their own, always the same."""
        fields = [self.register_group(images.squeeze(1).float().cpu().numpy()) for images in batch.images]
        displacement, inverse = (torch.stack(field).to(batch.images) for field in zip(*fields, strict=True))
        return Registration(displacement, inverse)

    def loss(
        self, batch: GroupBatch, result: Registration, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """No terms: there is nothing to train."""
        return {}

    @abstractmethod
    def register_group(self, images: np.ndarray) -> tuple[Tensor, Tensor]:
        """Displacement and inverse (N, D, *S), as in `Registration`, of the images (N, *S) of one group."""


class ElastixGroupwise(Reference):
    """All images at once: PCAMetric2 of Huizinga (2016), cubic B-splines whose mean over the group is zero.

    The metric has no penalty on the deformation beside it, so the control points and few, short steps keep it smooth.

    Args:
        spacing: of the control points, in voxels.
        iterations: of adaptive stochastic gradient descent.
        step: the longest, in voxels.
    """

    def __init__(self, spacing: float = 16.0, iterations: int = 25, step: float = 0.2) -> None:
        super().__init__()
        self.itk = tool("itk")
        self.spacing = spacing
        self.iterations = iterations
        self.step = step

    def register_group(self, images: np.ndarray) -> tuple[Tensor, Tensor]:
        stack = self.itk.image_view_from_array(images)
        displacement = self.displacement(stack, self.optimise(stack))
        return displacement, invert(displacement)

    def optimise(self, stack: Any) -> Any:
        """The transform, as elastix's own parameters, of an ITK image whose last axis counts the images of a group."""
        parameters = self._parameter_object(dims=stack.GetImageDimension() - 1)
        _, transform = self.itk.elastix_registration_method(stack, stack, parameter_object=parameters)
        return transform

    def displacement(self, stack: Any, transform: Any) -> Tensor:
        """What a result of `optimise` does to its stack, (N, D, *S)."""
        with TemporaryDirectory() as folder:  # transformix also writes the field to disk
            field = self.itk.transformix_deformation_field(stack, transform, output_directory=folder)
            return from_elastix(self.itk.array_from_image(field))

    def _parameter_object(self, dims: int) -> Any:
        """elastix's own for groups, and what its model zoo (Par0039) has for this metric."""
        values = {
            "Metric": ["PCAMetric2"],
            "SubtractMean": ["true"],
            "MovingImageDerivativeScales": [*["1"] * dims, "0"],
            "ImagePyramidSchedule": [*["1"] * dims, "0"],
            "GridSpacingSchedule": ["1"],
            "FinalGridSpacingInPhysicalUnits": [str(self.spacing)],
            "MaximumNumberOfIterations": [str(self.iterations)],
            "MaximumStepLength": [str(self.step)],
            "WriteResultImage": ["false"],
        }
        parameters = self.itk.ParameterObject.New()
        defaults = parameters.GetDefaultParameterMap("groupwise", 1)
        for name, value in values.items():
            defaults[name] = value
        parameters.AddParameterMap(defaults)
        return parameters


class AntsToMean(Reference):
    """Each image to the mean of the group by SyN on mutual information; the registered images make the next mean.

    Args:
        rounds: means.
        iterations: of SyN at each level, coarsest first.
        step: of SyN, in voxels.
        smoothing: variances of the Gaussians that smooth an update and the whole field, in voxels^2.
    """

    def __init__(
        self,
        rounds: int = 3,
        iterations: tuple[int, ...] = (40, 20, 10),
        step: float = 0.2,
        smoothing: tuple[float, float] = (16.0, 1.0),
    ) -> None:
        super().__init__()
        self.ants = tool("ants")
        self.rounds = rounds
        self.iterations = iterations
        self.step = step
        self.smoothing = smoothing

    def register_group(self, images: np.ndarray) -> tuple[Tensor, Tensor]:
        members = [self.ants.from_numpy(image) for image in images]
        registered = images
        with TemporaryDirectory() as folder:
            for _ in range(self.rounds):
                mean = self.ants.from_numpy(registered.mean(0))
                results = [self._to_mean(mean, image, f"{folder}/{m}-") for m, image in enumerate(members)]
                registered = np.stack([result["warpedmovout"].numpy() for result in results])
            forward = [self._field(mean, result["fwdtransforms"], f"{folder}/") for result in results]
            inverse = [self._field(mean, result["invtransforms"], f"{folder}/") for result in results]
        return torch.stack(forward), torch.stack(inverse)

    def _to_mean(self, mean: Any, image: Any, prefix: str) -> dict[str, Any]:
        update, total = self.smoothing
        result: dict[str, Any] = self.ants.registration(
            mean,
            image,
            type_of_transform="SyNOnly",
            outprefix=prefix,
            syn_metric="mattes",
            reg_iterations=self.iterations,
            grad_step=self.step,
            flow_sigma=update,
            total_sigma=total,
            random_seed=1,
        )
        return result

    def _field(self, mean: Any, transforms: list[str], prefix: str) -> Tensor:
        """The displacement (D, *S) that a chain of transforms makes on the grid of the mean."""
        path = self.ants.apply_transforms(mean, mean, transforms, compose=prefix)
        return from_ants(self.ants.image_read(path).numpy())


def from_elastix(field: np.ndarray) -> Tensor:
    """The displacement (N, D, *S) in a deformation field of a stack of images.

    Args:
        field: (N, *S, D + 1). ITK counts axes from the last of the array, so the components are in reverse order, with
            that along the stack, which is zero, at the end.
    """
    return torch.from_numpy(field[..., -2::-1].copy()).movedim(-1, 1)


def from_ants(field: np.ndarray) -> Tensor:
    """The displacement (D, *S) in a field (*S, D) read by ANTsPy, which keeps ITK's order of axes in its arrays."""
    return torch.from_numpy(field.copy()).movedim(-1, 0)


def tool(package: str) -> ModuleType:
    """Import a package that only the benchmarks need.

    Raises:
        BingoError: it cannot be imported.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise BingoError(
            f"cannot import {package} ({error}), which the benchmarks need. Install benchmarks/requirements.txt in an "
            "environment of its own, as benchmarks/README.md says"
        ) from error


def main(
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An experiment's name or a YAML file")],
    output: Annotated[Path, typer.Option(help="CSV file of the scores, e.g. runs/tables/NAME/references.csv")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that win")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many test groups")] = None,
) -> None:
    """Register the test groups of EXPERIMENT, misaligned as in `bingo table`, by elastix and by ANTs.

    Without data.root, the groups are those of EXPERIMENT's phantom preset.
    """
    # Both tools read it when they first work: as many threads as the methods that they are compared with.
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(torch.get_num_threads())
    registrars = {"elastix_groupwise": ElastixGroupwise().eval(), "ants_syn_to_mean": AntsToMean().eval()}
    config = settings.load(settings.with_data(name, overrides or ()), overrides or ())
    data = experiment.build_data(config, console)
    data.setup("test")
    groups = [data.misalign_for_evaluation(batch, "test") for batch in itertools.islice(data.test_dataloader(), limit)]
    for registrar in registrars.values():
        registrar(groups[0])  # the first call also loads the tool
    rows = []
    for group in groups:
        rows.append(score_unregistered(group, config.data.label_ids))
        rows += [score(method, registrar, group, config.data.label_ids)[0] for method, registrar in registrars.items()]
        console.print(", ".join(f"{row.method} {row.gwi:.3f}" for row in rows[-3:]), f"(gWI of {group.names[0]})")
    _write(rows, output)


def _write(rows: list[Scores], output: Path) -> None:
    frame = pd.DataFrame([dataclasses.asdict(row) for row in rows])
    with replacing(output) as temporary:
        frame.to_csv(temporary, index=False, na_rep="nan")
    means = frame.groupby("method", sort=False)[["dice", "gwi", "folding_percent", "seconds"]].mean()
    console.print(means.round(3).to_string())
    console.print(f"written: {output}")


if __name__ == "__main__":
    cli.run(lambda: typer.run(main))
