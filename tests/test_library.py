"""The face of the library: what one imports, what goes in and comes out, and what it leaves alone."""

from __future__ import annotations

import ast
import inspect
import logging
import os
import random
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import pytorch_lightning as pl
import SimpleITK as sitk
import torch
import torchio as tio
from monai.data import MetaTensor
from torch.utils.data import DataLoader

import bingo_pl
from bingo_pl import BingoError, BingoWarning, GroupBatch, Model, RegistrationTask, api, register
from bingo_pl.images.grids import LPS
from bingo_pl.images.in_memory import voxels_of
from bingo_pl.images.scans import read_scan
from bingo_pl.images.series import unfold

from .conftest import smooth
from .test_register import OBLIQUE, make_batch, make_checkpoint

SHAPE = (40, 36)


def slices(*contrasts: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Slices of one anatomy, (X, Y) arrays with their affine."""
    anatomy = smooth(SHAPE, "own", *SHAPE).numpy()
    return {name: (np.abs(anatomy - contrast), OBLIQUE) for name, contrast in zip("abc", contrasts, strict=False)}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "model.ckpt", 2)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Model:
    return Model.load(checkpoint, device="cpu")


def process_state() -> dict[str, Any]:
    """What belongs to the process rather than to a library."""
    backends, loggers = torch.backends, [logging.root, *map(logging.getLogger, logging.root.manager.loggerDict)]
    return {
        "random": random.getstate(),
        "numpy": repr(np.random.get_state()),
        "torch": torch.get_rng_state().numpy().tobytes(),
        "cudnn": (backends.cudnn.allow_tf32, backends.cudnn.benchmark, backends.cudnn.deterministic),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "threads": (torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()),
        "gradients": torch.is_grad_enabled(),
        "default type": torch.get_default_dtype(),
        "filters": list(warnings.filters),
        "loggers": {one.name: (one.level, list(one.handlers), one.propagate, one.disabled) for one in loggers},
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "environment": {**os.environ},
        "numpy's errors": np.geterr(),
    }


def no_trainer(*_: object, **__: object) -> None:
    pytest.fail("a Trainer was built")


def test_loading_registering_and_predicting_change_nothing_of_the_process(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pl.Trainer, "__init__", no_trainer)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    images = slices(0.0, 0.4)
    register(images, checkpoint, refine=1, device="cpu")  # torch imports more of itself, once
    np.random.default_rng(0).random()
    before = process_state()
    Model.load(device="cpu")
    model = Model.load(checkpoint, device="cpu")
    RegistrationTask.load_from_checkpoint(checkpoint)
    model.predict(make_batch(2))
    for options in ({"refine": 1}, {"transform": "rigid"}):
        group = model.register(images, **options)
    group.write(tmp_path / "out")
    after = process_state()
    loggers = before["loggers"]
    after["loggers"] = {name: after["loggers"][name] for name in loggers}  # a logger of one's own is no change
    assert [name for name in before if before[name] != after[name]] == []


def test_importing_and_first_use_change_nothing_of_the_process(checkpoint: Path) -> None:
    """The libraries that are imported from the start change things: they are imported before."""
    code = f"""
import logging, os, random, signal, sys, warnings
import nibabel, numpy as np, omegaconf, safetensors.torch, scipy.ndimage, SimpleITK as sitk, torch, torchio
from typing import Any
{inspect.getsource(process_state)}
before = process_state()
from bingo_pl import Model, apply, atlas, check, estimate, register, train
image = np.add.outer(np.arange(24) % 7, np.arange(24) % 5) + 1.0, np.eye(4)
Model.load(sys.argv[1], device="cpu").register(dict(a=image, b=image), transform="rigid")
after = process_state()
after["loggers"] = {{name: after["loggers"][name] for name in before["loggers"]}}
for state in (before, after):
    state["environment"].pop("TORCHINDUCTOR_CACHE_DIR", None)  # which torch sets when it first optimises
print([name for name in before if before[name] != after[name]])
"""
    done = subprocess.run([sys.executable, "-c", code, str(checkpoint)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_package_shows_what_it_offers() -> None:
    wanted = {"Model", "apply", "atlas", "check", "estimate", "register", "train", "RegistrationTask", "GroupBatch"}
    assert wanted <= set(dir(bingo_pl))
    assert all(getattr(bingo_pl, name).__doc__ for name in wanted)


def in_nanometres(data: np.ndarray) -> nib.Nifti1Image:
    """An image whose header counts in micrometres."""
    image = nib.Nifti1Image(data, np.diag([1e3, 1e3, 1e3, 1]) @ OBLIQUE)
    image.header.set_xyzt_units("micron")
    return image


def itk(data: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(data.swapaxes(0, 2))
    affine = LPS @ OBLIQUE
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "array": lambda data: (data, OBLIQUE),
    "lists": lambda data: (data.tolist(), OBLIQUE.tolist()),
    "tensor": lambda data: (torch.from_numpy(data).requires_grad_(), torch.from_numpy(OBLIQUE)),
    "TorchIO": lambda data: tio.ScalarImage(tensor=torch.from_numpy(data)[None], affine=OBLIQUE),
    "nibabel": lambda data: nib.Nifti1Image(data, OBLIQUE),
    "nibabel, one volume": lambda data: nib.Nifti1Image(data[..., None, None], OBLIQUE),
    "nibabel, micrometres": in_nanometres,
    "FreeSurfer": lambda data: nib.MGHImage(data, OBLIQUE),
    "SimpleITK": itk,
    "MONAI": lambda data: MetaTensor(torch.from_numpy(data)[None], affine=torch.from_numpy(OBLIQUE)),
    "MONAI without channel": lambda data: MetaTensor(torch.from_numpy(data), affine=torch.from_numpy(OBLIQUE)),
    "MONAI, LPS": lambda data: MetaTensor(
        torch.from_numpy(data)[None], affine=torch.from_numpy(LPS @ OBLIQUE), meta={"space": "LPS"}
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_every_library_are_the_same_image(kind: str) -> None:
    data = np.random.default_rng(0).random((5, 6, 7), np.float32)
    voxels, affine = voxels_of(KINDS[kind](data), "a")
    np.testing.assert_allclose(voxels, data)
    np.testing.assert_allclose(affine, OBLIQUE, atol=1e-6)


def test_a_series_of_nibabel_is_one_as_its_array_is() -> None:
    data = np.random.default_rng(0).random((5, 6, 7, 3), np.float32)
    for image in ((data, OBLIQUE), nib.Nifti1Image(data, OBLIQUE)):
        series, pairs = unfold([("a", image)])
        assert series is not None
        for number, (_, volume) in enumerate(pairs):
            voxels, affine = voxels_of(volume, "a")
            np.testing.assert_array_equal(voxels, data[..., number])
            np.testing.assert_allclose(affine, OBLIQUE, atol=1e-6)


def test_a_slice_is_one_in_every_library(tmp_path: Path) -> None:
    data = slices(0.0)["a"][0]
    nib.save(nib.Nifti1Image(data[..., None], OBLIQUE), tmp_path / "a.nii.gz")
    affine = torch.from_numpy(OBLIQUE)
    for image in (
        tmp_path / "a.nii.gz",
        nib.load(tmp_path / "a.nii.gz"),
        sitk.ReadImage(str(tmp_path / "a.nii.gz")),
        MetaTensor(torch.from_numpy(data)[None], affine=affine),
        (data, OBLIQUE),
    ):
        scan = read_scan("a", "a", image, None, None)
        assert scan.grid.shape == (*SHAPE, 1)
        np.testing.assert_allclose(scan.grid.affine, OBLIQUE, atol=1e-5)
        np.testing.assert_allclose(scan.image.numpy()[0, ..., 0], data, atol=1e-6)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (object(), "a: type object. Wanted: a path, an image of TorchIO, nibabel or SimpleITK"),
        (np.zeros((3, 3)), "a: type ndarray"),
        (torch.zeros(3, 3), "a: type Tensor"),
        (MetaTensor(torch.zeros(2, 4, 4, 4)), "a: has 2 channels, wanted 1"),
        (sitk.Image([4, 4], sitk.sitkVectorUInt8, 3), "2 dimensions and 3 components, wanted 2 or 3 and 1"),
        (nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.float32), np.eye(4)), "is an array of .4, 4, 4, 2."),
        (nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), None), "an affine of ()"),
        ((np.zeros((3, 3), "U1"), np.eye(4)), "real numbers"),
    ],
)
def test_what_is_no_image_is_refused_with_what_is_wanted(image: Any, message: str) -> None:
    with pytest.raises(BingoError, match=message):
        voxels_of(image, "a")


@pytest.mark.parametrize("images", [None, 5, {"a": 5}, [5]])
def test_what_is_no_group_is_refused(images: Any, tmp_path: Path) -> None:
    with pytest.raises(BingoError, match=r"say what they are|type int"):
        register(images)
    if images not in (None, 5):
        with pytest.raises(BingoError, match="no files"):
            api.atlas(images, tmp_path / "out")


def test_images_without_modality_are_refused(model: Model) -> None:
    with pytest.raises(BingoError, match="do not say what they are"):
        model.register([(np.zeros((3, 3, 3)), np.eye(4))])  # type: ignore[list-item]


def test_what_comes_out_prints_in_ten_lines(model: Model, tmp_path: Path) -> None:
    names = [("a", "b")[number % 2] for number in range(12)]
    image = slices(0.0)["a"]
    group = model.register([(name, image) for name in names], refine=0)
    nib.save(nib.Nifti1Image(image[0][..., None], OBLIQUE), tmp_path / "a.nii.gz")
    for number in range(12):
        (tmp_path / f"{number}.nii.gz").write_bytes(b"")
    for result in (group, group["a"], model, model.predict(make_batch(2)), api.check(tmp_path)):
        assert len(repr(result).splitlines()) <= 10
        assert len(repr(result)) < 2000
    assert "12 images" in repr(group)
    assert "and 4 more" in repr(group)


def test_warnings_reach_python_and_progress_reaches_its_listener(model: Model) -> None:
    heard: list[tuple[str, float]] = []
    with pytest.warns(BingoWarning, match="is the only image"):
        model.register(slices(0.0), refine=0, progress=lambda what, share: heard.append((what, share)))
    assert {"reading", "aligning", "registering", "resampling"} <= {what for what, _ in heard}
    assert all(0 <= share <= 1 for _, share in heard)
    for what in {what for what, _ in heard}:
        shares = [share for name, share in heard if name == what]
        assert shares == sorted(shares)
        assert shares[-1] == 1
    count = len(heard)
    with pytest.warns(BingoWarning):
        model.register(slices(0.0), refine=0)
    assert len(heard) == count, "a listener is forgotten with its call"


def test_the_verdict_is_an_attribute() -> None:
    group = register(slices(0.0, 0.3), transform="rigid", device="cpu")
    assert group.verdict is not None
    assert group.verdict.level in ("pass", "warn", "fail")
    assert group.verdict.level.upper() in repr(group)


def test_prediction_is_the_network_s_result_from_a_batch_and_from_its_images(model: Model, checkpoint: Path) -> None:
    batch = make_batch(2)
    wanted = RegistrationTask.load_from_checkpoint(checkpoint).registrar(batch).displacement
    for result in (model.predict(batch), model.predict(batch.images, ["a", "b"])):
        torch.testing.assert_close(result.displacement, wanted, rtol=0, atol=0)
        assert not result.displacement.requires_grad
    assert wanted.abs().max() > 0.5


def test_the_ready_model_predicts_both_dimensions() -> None:
    model = Model.load(device="cpu")
    for shape in ((32, 32), (16, 16, 16)):
        images = torch.stack([smooth(shape, "x", number) for number in range(2)])[None]
        assert model.predict(images).displacement.shape == (1, 2, len(shape), *shape)


@pytest.mark.parametrize(
    ("images", "modalities", "message"),
    [
        (torch.zeros(1, 2, 32, 32), None, "0 modalities for groups of 2"),
        (torch.zeros(1, 2, 32, 32), ["a", "x"], "does not know the modality 'x'"),
        (torch.zeros(2, 32, 32, dtype=torch.int16), ["a", "b"], "floating-point"),
        (torch.zeros(1, 2, 1, 32, 31), ["a", "b"], "32, 31"),
        (torch.zeros(1, 0, 32, 32), None, "B groups of N images"),
        (torch.full((1, 2, 32, 32), torch.nan), ["a", "b"], "2048 of 2048 intensities are NaN or Inf"),
        (np.zeros((1, 2, 32, 32)), ["a", "b"], "a batch of type ndarray"),
    ],
)
def test_a_batch_that_the_network_cannot_take_is_refused(
    model: Model, images: torch.Tensor, modalities: list[str] | None, message: str
) -> None:
    with pytest.raises(BingoError, match=message):
        model.predict(images, modalities)


def test_lightning_predicts_as_the_model_does(model: Model, checkpoint: Path, tmp_path: Path) -> None:
    task = RegistrationTask.load_from_checkpoint(checkpoint)
    loader: DataLoader[GroupBatch] = DataLoader([make_batch(2)], batch_size=None)  # type: ignore[arg-type]
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    (result,) = trainer.predict(task, loader)  # type: ignore[misc]
    wanted = model.predict(make_batch(2))
    torch.testing.assert_close(result.displacement, wanted.displacement, rtol=0, atol=0)  # type: ignore[union-attr]


SHARED = ("registration", "images", "streaming", "alignment", "methods", "models", "report", "atlases", "api.py")
"""Packages that are used from Python as from the command line."""


def test_messages_name_no_option_of_the_command_line() -> None:
    """But for those of a command that is named before."""
    home, seen = Path(bingo_pl.__file__).parent, 0
    paths = [path for name in SHARED for path in ((home / name).rglob("*.py") if "." not in name else [home / name])]
    for path in paths:
        if path.name == "viewer.py":
            continue  # scripts and styles of a page
        nodes = [*ast.walk(ast.parse(path.read_text()))]
        documented = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented:
                text = re.sub(r"bingo \w+ --[a-z]+", "", node.value)
                assert not re.search(r"(?<![\w-])--[a-z]", text), f"{path}: {text}"
                seen += 1
    assert seen > 1000


def test_an_unusable_checkpoint_is_refused_by_all_that_load_one(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(b"no checkpoint")
    for load in (Model.load, RegistrationTask.load_from_checkpoint):
        with pytest.raises(BingoError, match="not a checkpoint"):
            load(tmp_path / "x.ckpt")


def test_settings_are_text_or_a_mapping(tmp_path: Path) -> None:
    given = {
        "trainer.epochs": 3,
        "data.images_per_step": None,
        "data.modalities": ["a", "b"],
        "data.root": str(tmp_path),
    }
    config = api.settings_of("manifest", given)
    assert (config.trainer.epochs, config.data.images_per_step, config.data.modalities) == (3, None, ["a", "b"])
    assert config.name == "manifest"
    assert config == api.settings_of("manifest", ["trainer.epochs=3", "data.modalities=[a,b]", f"data.root={tmp_path}"])
