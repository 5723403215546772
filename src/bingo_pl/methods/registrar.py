"""What every registration method is: a module that turns a batch of groups into displacements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bingo_pl.batch import GroupBatch


@dataclass(frozen=True, eq=False)
class Registration:
    """The result of registering a batch of groups."""

    displacement: Tensor
    """(B, N, D, *S) from the common space to each image: warping image m by it registers it."""
    inverse: Tensor
    """(B, N, D, *S) from each image to the common space: warping the template by it gives its view of image m."""


class Registrar(nn.Module, ABC):
    """A groupwise registration method."""

    @abstractmethod
    def forward(self, batch: GroupBatch, generator: torch.Generator | None = None) -> Registration:
        """Register.

        Args:
            batch: the groups; neither labels nor truth are looked at.
            generator: draws the random numbers of training; None gives the deterministic result.
        """

    @abstractmethod
    def loss(
        self, batch: GroupBatch, result: Registration, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The terms to minimise, by name, unweighted scalars."""

    def parameters_by_role(self) -> dict[str, list[nn.Parameter]]:
        """Every parameter once, by what it does; roles can learn at rates of their own."""
        return {"network": list(self.parameters())}

    def explain(self, batch: GroupBatch, result: Registration) -> dict[str, Tensor]:
        """Pictures of what the method saw, by title: (B, N, C, *s) per image or (B, 1, C, *s) per group."""
        return {}
