"""Settings: differences, overrides, and errors that name what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from bingo_pl import BingoError, config
from bingo_pl.methods.bingo import Bingo


def test_every_experiment_loads_and_its_grid_fits_its_network() -> None:
    for name in config.experiments():
        settings = config.load(name)
        stride = 2 ** (len(settings.model.channels) - 1)
        assert all(size % stride == 0 for size in settings.data.roi), name
        assert max(settings.model.velocity_scales) < len(settings.model.channels), name


def test_the_paper_is_the_default() -> None:
    settings = config.load("mscmr_paper")
    assert settings == config.Config(data=settings.data)
    assert (settings.trainer.learning_rate, settings.data.batch_size, settings.data.roi) == (1e-3, 20, [160, 160])
    assert (config.load("brats_paper").data.batch_size, config.load("brats").data.roi) == (1, [80, 96, 80])
    assert settings.weights.truth == 0, "the paper is unsupervised"


def test_a_file_differs_from_its_base(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("base: brats\ntrainer:\n  epochs: 7\n")
    changed = config.differences(config.load("brats"), config.load(str(file)))
    assert changed == ["trainer.epochs: 100 -> 7"]


def test_overrides_win_and_survive_the_way_through_a_checkpoint() -> None:
    settings = config.load("brats", ["data.splits=[1,0,1]", "data.root=/a b/ü=1", "data.images_per_step=2"])
    assert (settings.data.splits, settings.data.root, settings.data.images_per_step) == ([1, 0, 1], "/a b/ü=1", 2)
    assert config.from_tree(config.to_tree(settings)) == settings
    assert config.override(settings, ["data.images_per_step=null"]).data.images_per_step is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.epoch=3", r"unknown setting trainer 'epoch'. Did you mean 'epochs'"),
        ("dta.root=3", r"unknown setting 'dta'. Did you mean 'data'"),
        ("trainer.epochs=many", r"trainer\.epochs: .*'many'.*Integer"),
        ("epochs", r"'epochs' is not a setting. Write key=value"),
        ("data.root=${oc.env:HOME}", r"references .* are refused"),
    ],
)
def test_a_wrong_override_is_named(override: str, message: str) -> None:
    with pytest.raises(BingoError, match=message):
        config.load("mscmr", [override])


def test_an_unknown_experiment_names_the_nearest() -> None:
    with pytest.raises(BingoError, match="Did you mean 'mscmr'"):
        config.load("mscrm")


def test_yaml_tags_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "evil.yaml"
    file.write_text("name: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(BingoError, match="tags are refused"):
        config.load(str(file))


def test_strict_three_levels_is_a_setting() -> None:
    settings = config.load("mscmr_strict")
    model = settings.model
    assert len(model.channels) == len(model.velocity_scales) == 3
    Bingo(2, 3, model.channels, model.velocity_scales)
