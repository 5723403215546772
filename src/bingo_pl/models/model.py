"""A trained model on the device where it registers: of a run's checkpoint, of a model file, or the ready one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bingo_pl import config as settings
from bingo_pl.config import Config
from bingo_pl.device import device_of
from bingo_pl.errors import InputError
from bingo_pl.methods.bingo import Bingo
from bingo_pl.methods.registrar import Registrar
from bingo_pl.models import ready_model, registry


@dataclass(frozen=True, eq=False)
class Model:
    """A trained method and what has to be known to register with it."""

    registrar: Registrar
    """In evaluation mode, on `device`."""
    config: Config
    path: Path
    """Its file."""
    device: torch.device

    @classmethod
    def load(cls, path: Path | None, dims: int = 2, overrides: Sequence[str] = ()) -> Model:
        """Load a model, to register by its network alone, whatever its settings say of refinement; see `refining`.

        Args:
            path: a checkpoint of a run or a ``.safetensors`` model file; None for the ready model.
            dims: D of the ready model.
            overrides: of its settings, e.g. ``trainer.accelerator=cpu``.

        Raises:
            BingoError: no such file, not one of this project, or a device that this machine does not have.
        """
        path = ready_model.location(dims) if path is None else path
        if path == ready_model.location(dims):
            registrar, config = ready_model.load(dims)
        elif path.suffix.lower() == ".safetensors":
            registrar, config = ready_model.read(path)
        else:
            registrar, config = registry.read_trained(path)
        config = settings.override(config, [*overrides, "refine.steps=0", "intrinsic.steps=0"])
        device = device_of(config.trainer.accelerator)
        return cls(registrar.to(device).eval(), config, path, device)

    def refining(self, steps: int) -> Model:
        """The model whose results are refined by so many steps, see `bingo_pl.methods.baselines.Refined`."""
        assert not self.config.refine.steps, "refined already"
        config = settings.override(self.config, [f"refine.steps={steps}"])
        return replace(self, registrar=registry.refined(self.registrar, config).eval(), config=config)

    @property
    def dims(self) -> int:
        return len(self.config.data.roi)

    @property
    def stride(self) -> int:
        """What sizes are divisible by: the network's, and that of an attention residual U-Net."""
        return max(2 ** (len(self.config.model.channels) - 1), 16)

    @property
    def bingo(self) -> Bingo:
        """The network, through which a group can be streamed if the method is BInGo without refinement.

        Raises:
            BingoError: another method, which needs the whole group at once.
        """
        if not isinstance(self.registrar, Bingo):
            raise InputError(
                f"method={self.config.method} with refine.steps={self.config.refine.steps} cannot register a group in "
                "parts; wanted method=bingo without refinement",
                "Register the group in memory, or take a BInGo model",
            )
        return self.registrar

    def index(self, modality: str) -> int:
        """The number of a modality.

        Raises:
            BingoError: the model does not know it.
        """
        known = self.config.data.modalities
        if ready_model.takes_any(self.config):
            return 0
        if modality not in known:
            raise InputError(
                f"the model does not know the modality '{modality}'",
                f"It was trained on {', '.join(known)}: name one of "
                "them if the image is like it, train a model with this modality, or take the ready model, which "
                "registers any (no checkpoint)",
            )
        return known.index(modality)
