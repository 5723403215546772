"""Methods, data sets and similarities of other packages: by name, checked, and as docs/plugins.md shows them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from bingo_pl import BingoError, Model, config, plugins
from bingo_pl.data_modules import DATA_MODULES, data_module
from bingo_pl.data_modules.base import GroupDataModule
from bingo_pl.methods.losses import Similarity
from bingo_pl.methods.registrar import Registrar, Registration
from bingo_pl.models import registry
from bingo_pl.models.checkpoints import PROVENANCE
from bingo_pl.training.task import RegistrationTask

from .conftest import smooth
from .test_experiment import SETTINGS

HERE = __name__
DOC = Path(__file__).parent.parent / "docs" / "plugins.md"


class Still(Registrar):
    """Moves nothing."""

    own_terms = ("mine",)

    def __init__(self, settings: config.Config) -> None:
        super().__init__()
        self.width = settings.own.get("width")

    def forward(self, batch: Any, generator: Any = None) -> Registration:
        raise NotImplementedError

    def loss(self, batch: Any, result: Any, generator: Any = None) -> dict[str, torch.Tensor]:
        raise NotImplementedError


def spread(images: torch.Tensor, mask: torch.Tensor, bins: int, generator: Any) -> torch.Tensor:
    return (images.var(1, keepdim=True) * mask).flatten(1).mean(1)


def test_our_names_are_where_they_are_said_to_be() -> None:
    assert set(config.METHODS) == set(registry.METHODS)
    assert all(issubclass(data_module(name), GroupDataModule) for name in DATA_MODULES)


def test_a_method_is_named_by_its_place() -> None:
    settings = config.load("manifest", [f"method={HERE}:Still", "own.width=16", "weights.mine=0.5"])
    registrar = registry.build(settings)
    assert isinstance(registrar, Still)
    assert registrar.width == 16
    assert RegistrationTask.of(registrar, settings).weights["mine"] == 0.5
    again = config.from_tree(config.to_tree(settings))
    assert again == settings
    assert config.differences(settings, config.override(again, ["weights.mine=1"])) == ["weights.own.mine: 0.5 -> 1.0"]


def test_a_name_of_an_entry_point_is_known_and_ours_win(monkeypatch: pytest.MonkeyPatch) -> None:
    def entries(group: str) -> list[EntryPoint]:
        names = {plugins.METHODS: ("still", "ape"), plugins.SIMILARITIES: ("spread",)}.get(group, ())
        return [EntryPoint(name, f"{HERE}:{'spread' if name == 'spread' else 'Still'}", group) for name in names]

    monkeypatch.setattr(plugins, "entry_points", entries)
    assert isinstance(registry.build(config.load("manifest", ["method=still"])), Still)
    assert not isinstance(registry.build(config.load("manifest", ["method=ape"])), Still)
    assert config.load("manifest", ["model.similarity=spread"]).model.similarity == "spread"
    with pytest.raises(BingoError, match="Did you mean 'still'"):
        registry.build(config.load("manifest", ["method=stil"]))


def test_a_similarity_of_one_s_own_is_minimised() -> None:
    images, mask = torch.rand(2, 3, 1, 8, 8), torch.ones(2, 1, 1, 8, 8)
    similarity = Similarity(f"{HERE}:spread")
    torch.testing.assert_close(similarity(images, mask), spread(images, mask, 0, None))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=no_such_package:Class"], "no_such_package:Class' cannot be imported"),
        ([f"method={HERE}:NoClass"], "NoClass' cannot be imported"),
        (["method=:x"], "cannot be imported"),
        (["method=builtins:str"], "makes a str, wanted"),
        ([f"method={HERE}:Still", "weights.mien=1"], "unknown setting weights 'mien'. Did you mean 'mine'"),
        (["weights.mine=1"], "unknown setting weights 'mine'"),
        ([f"method={HERE}:Still", "weights.mine=-1"], "at least 0"),
        (["model.similarity=no_such_package:f"], "no_such_package:f' cannot be imported"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_remedy(overrides: list[str], message: str) -> None:
    with pytest.raises(BingoError, match=message):
        registry.build(config.load("manifest", overrides))


@pytest.mark.parametrize("setting", ["method", "data.dataset", "model.similarity", "refine.similarity"])
def test_a_file_cannot_have_code_imported_that_nobody_trusts(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "untrusted.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    tree = config.to_tree(config.load("manifest", [f"{setting}=untrusted:x"]))
    torch.save({"state_dict": {"x": torch.zeros(1)}, PROVENANCE: {"config": tree}}, tmp_path / "x.ckpt")
    with pytest.raises(BingoError, match=r"untrusted:x, which would be run\. If you trust it: BINGO_PLUGINS=untrusted"):
        Model.load(tmp_path / "x.ckpt")
    assert not (tmp_path / "ran").exists()
    monkeypatch.setenv(plugins.TRUSTED, "other, untrusted")
    plugins.check_trusted(tree, "x.ckpt")


def write_cases(root: Path) -> None:
    for number in range(8):
        anatomy = smooth((16, 16), "plug-in", number).numpy()
        (root / f"case{number}").mkdir(parents=True)
        images = {"a": anatomy, "b": np.abs(anatomy - 0.4), "label": (anatomy > 0.5).astype(np.uint8)}
        for name, image in images.items():
            values = image if name == "label" else image.astype(np.float32)
            nib.save(nib.Nifti1Image(values, np.eye(4)), root / f"case{number}" / f"{name}.nii.gz")


RUN = """
import sys
from bingo_pl import cli
common, commands = sys.argv[1].split(), [line.split() for line in sys.argv[2].splitlines()]
for command in commands:
    sys.argv = ["bingo", *command, *(common if command[0] != "register" else [])]
    try:
        cli.main()
    except SystemExit as stop:
        if stop.code not in (0, None) and not (command[0] == "register" and stop.code == 1):
            raise
"""


def test_the_worked_example_trains_stands_in_a_table_and_registers_from_a_package_of_its_own(tmp_path: Path) -> None:
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", DOC.read_text(), re.DOTALL))
    package = tmp_path / "package"
    package.mkdir()
    (package / "pyproject.toml").write_text(blocks["toml"])
    (package / "gentle.py").write_text(blocks["python"])
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", tmp_path / "site", package], check=True, capture_output=True)
    write_cases(tmp_path / "cases")
    case = tmp_path / "cases" / "case0"
    commands = [line.removeprefix("bingo ") for line in blocks["sh"].splitlines()]
    commands[2] = commands[2].replace("t1=", f"a={case}/").replace("t2=", f"b={case}/") + " --refine 0"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}
    settings = " ".join([*SETTINGS, f"data.cache_dir={tmp_path / 'cache'}", "data.splits=[4,2,2]"])
    subprocess.run(
        [sys.executable, "-c", RUN, settings, "\n".join(commands)], cwd=tmp_path, env=environment, check=True
    )
    assert "length" in (tmp_path / "runs" / "manifest" / "metrics.csv").read_text().splitlines()[0]
    assert "gentle" in (tmp_path / "runs" / "tables" / "manifest" / "groups.csv").read_text()
    assert (tmp_path / "out" / "registration.json").is_file()
