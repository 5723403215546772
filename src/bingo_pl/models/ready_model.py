"""The models that come with the package, for images of any modality, with no training of one's own.

They are trained on synthetic anatomies in random contrasts (`bingo_pl.data_modules.anatomies`); docs/ready_model.md
says how well they do on real images. A model is one safetensors file; its header holds the settings, a card and a
digest of the weights, so nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from bingo_pl import config as settings
from bingo_pl.config import Config
from bingo_pl.errors import FileError
from bingo_pl.methods.registrar import Registrar
from bingo_pl.models import registry
from bingo_pl.plugins import check_trusted
from bingo_pl.storage.atomic import replacing
from bingo_pl.storage.regular import check_regular

ANY = "any"
"""The one modality of a model that takes images of every modality."""
FOLDER = Path(__file__).parent
"""Where the package keeps its models."""
HEADER = "bingo_pl"
"""The file's one entry of metadata, JSON; several would be written in an order of chance."""
REMEDY = "Copy it again, or make it: `make model`"


def takes_any(config: Config) -> bool:
    """Whether a model registers images whatever their modality's name, all as its only modality, number 0."""
    return config.data.modalities == [ANY]


def reconstructs(config: Config) -> bool:
    """Whether the model has learned to draw registered images from what they have in common.

    One that does not know modalities cannot tell in which contrast to draw.
    """
    return config.method == "bingo" and config.weights.reconstruction > 0


def location(dims: int) -> Path:
    """Where the ready model for D = ``dims`` is, if it was made."""
    return FOLDER / f"ready_{dims}d.safetensors"


def load(dims: int) -> tuple[Registrar, Config]:
    """The ready model in evaluation mode, on the CPU, and the settings it was trained with.

    Args:
        dims: D.

    Raises:
        BingoError: there is none, or its file is damaged.
    """
    path = location(dims)
    if not path.is_file():
        raise FileError(
            f"there is no ready {dims}D model at {path}",
            "Name a model that was trained on images like yours: "
            "runs/<name>/checkpoints/best.ckpt, or make one: "
            f"`python -m bingo_pl.training.make_model {dims}`",
        )
    return read(path)


def read(path: Path) -> tuple[Registrar, Config]:
    """What `save` wrote; see `load`."""
    try:
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            header = dict(json.loads((file.metadata() or {}).get(HEADER, "{}")))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise FileError(f"{path} is no model, or damaged ({error})", REMEDY) from error
    if header.keys() != {"config", "card", "sha256"} or header.get("sha256") != digest(weights):
        raise FileError(
            f"{path} is not as bingo_pl wrote it: settings are missing or the weights do not have the SHA-256 of the "
            "header",
            REMEDY,
        )
    check_trusted(header["config"], path)
    config = settings.from_tree(header["config"])
    return registry.restored(config, weights, path), config


def save(registrar: Registrar, config: Config, path: Path, card: str) -> None:
    """Write a model as one safetensors file.

    Args:
        registrar: the trained method.
        config: the settings it was trained with. Folders of this machine are left out.
        path: the file.
        card: what the model is, for people; text.

    Raises:
        BingoError: the file cannot be written.
    """
    defaults = Config()
    data = dataclasses.replace(config.data, root=defaults.data.root, cache_dir=defaults.data.cache_dir)
    portable = dataclasses.replace(config, data=data, name=defaults.name, runs=defaults.runs)
    weights = {name: tensor.cpu().contiguous() for name, tensor in registrar.state_dict().items()}
    header = {"card": card, "sha256": digest(weights), "config": settings.to_tree(portable)}
    with replacing(path) as temporary:
        temporary.write_bytes(to_bytes(weights, {HEADER: json.dumps(header)}))


def digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 (hexadecimal) of tensors: their names, types, shapes and bytes."""
    total = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
