"""The LightningModule: trains and tests any registration method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torchmetrics import MeanMetric

from bingo_pl import seeding
from bingo_pl.batch import GroupBatch
from bingo_pl.config import Config
from bingo_pl.errors import DivergenceError
from bingo_pl.evaluation import metrics
from bingo_pl.evaluation.scoring import score_group
from bingo_pl.evaluation.tables import GroupScores
from bingo_pl.evaluation.uncertainty import has_posterior, negative_log_likelihood
from bingo_pl.methods.batch_norm import has_companions
from bingo_pl.methods.recomputation import recompute_activations, recomputed
from bingo_pl.methods.registrar import Registrar, Registration
from bingo_pl.models.registry import read_trained

SMALLEST_RESIDUAL = 1e-2
"""In voxels; below it the slope of the ground truth term falls to zero."""


@dataclass(frozen=True)
class Optimisation:
    """Adam, optionally with a linear warm-up and a cosine decay."""

    learning_rate: float
    """Peak."""
    warm_up: float
    """Share of the steps over which the rate rises from a twenty-fifth of its peak."""
    decay: bool
    """Fall to zero by a cosine after the warm-up."""
    rates: Mapping[str, float]
    """Factor on the learning rate of a role's parameters, see `Registrar.parameters_by_role`; 1 if not named."""

    def schedule(self, steps: int) -> Callable[[int], float]:
        """The factor on the learning rate at each of ``steps`` steps."""
        warm = round(self.warm_up * steps)

        def factor(step: int) -> float:
            if step < warm:
                return 0.04 + 0.96 * step / warm
            phase = torch.pi * (step - warm) / max(steps - warm, 1)
            return 0.5 * (1 + torch.cos(torch.tensor(phase)).item()) if self.decay else 1.0

        return factor


class RegistrationTask(pl.LightningModule):
    """Training, validation and test of a `Registrar`.

    Args:
        registrar: the method.
        weights: weight of each term of the registrar's loss, and of ``truth``: the gWI (voxels) against the
            misalignment that was synthesised, which no image shows, and, of a method with a velocity posterior, with
            the same weight the likelihood of what is left of it. A weight of 0 leaves it out. Where the ground truth
            alone has a weight, the registrar's loss is not computed, which saves half of the time.
        optimisation: the optimiser's settings.
        label_ids: foreground classes of the Dice overlap.
        seed: of the noise in training.
        gradient_checkpointing: compute activations of the network again in the backward pass instead of keeping them.
    """

    def __init__(
        self,
        registrar: Registrar,
        weights: Mapping[str, float],
        optimisation: Optimisation,
        label_ids: Sequence[int],
        seed: int,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.registrar = registrar
        self.weights = dict(weights)
        self.optimisation = optimisation
        self.label_ids = tuple(label_ids)
        self.seed = seed
        self.gradient_checkpointing = gradient_checkpointing
        self.dice = MeanMetric(nan_strategy="ignore")
        # Without ground truth no group has a gWI. Where one group's is NaN beside numbers, so must the mean be.
        self.gwi = MeanMetric(nan_strategy="disable")
        self.folding_percent = MeanMetric(nan_strategy="disable")
        self.test_scores: list[GroupScores] = []

    @classmethod
    def of(cls, registrar: Registrar, config: Config) -> Self:
        """The task of an experiment."""
        trainer = config.trainer
        rates = {"motion": trainer.motion_rate, "appearance": trainer.appearance_rate}
        return cls(
            registrar,
            weights={**dict.fromkeys(registrar.own_terms, 0.0), **config.weights.by_term()},
            optimisation=Optimisation(trainer.learning_rate, trainer.warm_up, trainer.decay, rates),
            label_ids=config.data.label_ids,
            seed=config.seed,
            gradient_checkpointing=trainer.gradient_checkpointing,
        )

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # what it takes of Lightning's arguments is enough
        cls, checkpoint_path: str | Path, map_location: torch.device | str | None = None, **_: Any
    ) -> Self:
        """The trained task, in evaluation mode, as Lightning's method of this name; all else is in the checkpoint.

        Raises:
            BingoError: not a checkpoint of this project, or damaged.
        """
        registrar, config = read_trained(Path(checkpoint_path))
        return cls.of(registrar, config).to(map_location or "cpu").eval()

    def predict_step(self, batch: GroupBatch, batch_index: int) -> Registration:
        """The deterministic result, for ``Trainer.predict``."""
        result: Registration = self.registrar(batch)
        return result

    def training_step(self, batch: GroupBatch, batch_index: int) -> Tensor:
        """The weighted sum of the loss terms, each logged by name as a mean over the groups of all processes.

        Raises:
            DivergenceError: a term is not finite. It is on all processes at once, since they look at the mean.
        """
        key = (self.seed, "noise", self.current_epoch, batch_index, self.global_rank)
        terms = self._terms(batch, seeding.generator(*key, device=self.device))
        weights = {**self.weights, "uncertainty": self.weights["truth"]}
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        share = self._share(batch.groups)
        logged = self._mean(share * torch.stack([*terms.values(), total]).detach())
        values = dict(zip((*terms, "total"), logged.unbind(), strict=True))
        if not logged.isfinite().all():  # before a backward pass puts it into the weights
            bad = [f"{name} is {value:g}" for name, value in values.items() if not value.isfinite()]
            raise DivergenceError(f"the loss is not finite: {', '.join(bad)}")
        self.log_dict({f"train/{name}": value for name, value in values.items()}, on_step=True, on_epoch=False)
        return share * total

    def _terms(self, batch: GroupBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The unweighted terms of the loss; not the registrar's where the ground truth alone has a weight."""
        alone = self.weights["truth"] and not any(weight for name, weight in self.weights.items() if name != "truth")
        with recompute_activations(self.gradient_checkpointing):
            result = self.registrar(batch, generator)
            terms = {} if alone else self.registrar.loss(batch, result, generator)
            if self.weights["truth"]:
                with torch.autocast(self.device.type, enabled=False):
                    terms["truth"] = recomputed(truth_loss, batch, result)
                    if has_posterior(result):
                        terms["uncertainty"] = recomputed(negative_log_likelihood, batch, result)
        return terms

    def _share(self, groups: int) -> Tensor:
        """This process's groups over the mean of all processes', which DDP weighs alike however many they have."""
        own = torch.tensor(float(groups), device=self.device)
        return own / self._mean(own)

    def _mean(self, values: Tensor) -> Tensor:
        """Over the processes, if there are several."""
        if not has_companions():
            return values
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total / torch.distributed.get_world_size()

    def validation_step(self, batch: GroupBatch, batch_index: int) -> None:
        """Metrics of each group, averaged over the groups at the end of the epoch."""
        result = self.registrar(batch)
        with torch.autocast(self.device.type, enabled=False):
            values = metrics.evaluate(batch, result.displacement, self.label_ids)
        averages = {"dice": self.dice, "gwi": self.gwi, "folding_percent": self.folding_percent}
        for name, average in averages.items():
            average.update(values[name])
            self.log(f"val/{name}", average, on_epoch=True, batch_size=batch.groups)

    def test_step(self, batch: GroupBatch, batch_index: int) -> None:
        """Appends a row to `test_scores` for the group, before and after registration."""
        if not self.test_scores:
            self.registrar(batch)  # the first call on a device also loads and tunes its kernels
        self.test_scores.append(score_group(self.registrar, batch, self.label_ids))

    def optimiser(self) -> torch.optim.Adam:
        """A new one, of all parameters."""
        rate, factors = self.optimisation.learning_rate, self.optimisation.rates
        roles = self.registrar.parameters_by_role()
        groups = [{"params": params, "lr": rate * factors.get(role, 1.0)} for role, params in roles.items()]
        return torch.optim.Adam(groups)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.optimiser()
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.optimisation.schedule(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def truth_loss(batch: GroupBatch, result: Registration) -> Tensor:
    """The gWI, in voxels: RMS residual over the registered foreground of an image, averaged over images and groups.

    Not its square, by which the groups that are misaligned most would count most. The map that a group, or each of its
    anatomies, has in common is left to the method, since nothing in the images tells it.
    """
    assert batch.truth is not None, "the ground truth is known only of a synthetic misalignment"
    residual = metrics.warping_residual(result.displacement, batch.truth, batch.anatomies)
    masks = metrics.warp_group_labels(batch.masks, result.displacement.detach())
    squares = metrics.squared_length_over(residual, masks)
    return (squares + SMALLEST_RESIDUAL**2).sqrt().mean()
