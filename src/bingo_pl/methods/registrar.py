"""What every registration method is: a module that turns a batch of groups into displacements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

import torch
from torch import Tensor, nn

from bingo_pl.batch import GroupBatch


@dataclass(frozen=True, eq=False, repr=False)
class Registration:
    """The result of registering a batch of groups."""

    displacement: Tensor
    """(B, N, D, *S) from the common space to each image: warping image m by it registers it."""
    inverse: Tensor
    """(B, N, D, *S) from each image to the common space: warping the template by it gives its view of image m."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same result on another device (Lightning calls this)."""
        return cast("Self", _moved(self, device, non_blocking))

    def __repr__(self) -> str:
        return f"{type(self).__name__} of (B, N, D, *S) = {tuple(self.displacement.shape)}, in voxels"


def _moved(value: Any, device: torch.device | str, non_blocking: bool) -> Any:
    """All tensors of dataclasses, lists and tuples on a device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=non_blocking)
    if isinstance(value, (list, tuple)):
        make = getattr(value, "_make", type(value))  # a named tuple takes its parts one by one
        return make(_moved(one, device, non_blocking) for one in value)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    parts = {field.name: _moved(getattr(value, field.name), device, non_blocking) for field in fields(value)}
    return replace(value, **parts)


Result = TypeVar("Result", bound=Registration)
"""What a method makes of a batch: a `Registration`, which may hold more than displacements."""


class Registrar(nn.Module, ABC, Generic[Result]):
    """A groupwise registration method."""

    own_terms: ClassVar[tuple[str, ...]] = ()
    """Terms of its loss that no method of ours has; each has the weight ``weights.<name>``, 0 where it is not set."""

    @abstractmethod
    def forward(self, batch: GroupBatch, generator: torch.Generator | None = None) -> Result:
        """Register.

        Args:
            batch: the groups; neither labels nor ground truth are looked at.
            generator: draws the random numbers of training; None gives the deterministic result.
        """

    @abstractmethod
    def loss(self, batch: GroupBatch, result: Result, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The terms to minimise, by name, unweighted scalars."""

    def parameters_by_role(self) -> dict[str, list[nn.Parameter]]:
        """Every parameter once, by what it does; roles can learn at rates of their own."""
        return {"network": list(self.parameters())}

    def explain(self, batch: GroupBatch, result: Result) -> dict[str, Tensor]:
        """Pictures of what the method saw, by title: (B, N, C, *s) per image or (B, 1, C, *s) per group."""
        return {}
