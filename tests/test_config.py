"""Settings: differences, overrides, and errors that name what was meant."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from bingo_pl import BingoError, config
from bingo_pl.methods.bingo import Bingo
from bingo_pl.sweeps import trials as sweeps


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


@pytest.mark.parametrize(
    "override",
    [
        *("seed=-1", "seed=4294967296"),
        *("data.modalities=[]", "data.modalities=[a,a]", "data.modalities=[a,'']", "data.label_ids=[0]"),
        *("data.label_ids=[1,1]", "data.spacing_mm=nan", "data.spacing_mm=-1", "data.roi=[]", "data.roi=[8]"),
        *("data.roi=[8,0]", "data.splits=[1,2]", "data.splits=[1,1,-1]", "data.batch_size=0", "data.images_per_step=1"),
        *("data.ffd_spacings=[]", "data.ffd_spacings=[5,nan]", "data.ffd_strength=-1", "data.linear_strength=inf"),
        *(
            "data.copies=0",
            "data.draws_per_test_group=0",
            "data.phantom_subjects=0",
            "data.workers=-1",
            "data.workers=500000",
        ),
        *("data.fill_nonfinite=nan", "model.channels=[]", "model.channels=[3]", "model.channels=[-2,4]"),
        *("model.velocity_scales=[]", "model.velocity_scales=[0,1]", "model.velocity_scales=[9]"),
        *("model.head_depth=-1", "model.squarings=-1", "model.squarings=99", "model.smoothness=0"),
        *("model.cross_reconstruction=1.5", "weights.reconstruction=-1", "weights.kl_velocity=nan"),
        *("weights.kl_structure=-1", "weights.similarity=-1", "weights.bending=-1", "weights.truth=-1"),
        *("similarity.bins=1", "iterative.control_spacing=0", "iterative.learning_rate=0", "iterative.levels=0"),
        *("iterative.steps=-1", "refine.steps=-1", "refine.bending=-1", "refine.stride=0", "refine.learning_rate=-1"),
        *("trainer.epochs=0", "trainer.epochs=2", "trainer.learning_rate=-1", "trainer.learning_rate=nan"),
        *("trainer.warm_up=5", "trainer.warm_up=-0.1", "trainer.motion_rate=-1", "trainer.appearance_rate=-1"),
        *("trainer.clip_gradient_norm=0", "trainer.devices=0", "trainer.accumulate_grad_batches=0"),
        *("trainer.checkpoint_minutes=-1", "trainer.validate_every=0", "log.figure_groups=-1"),
    ],
)
def test_every_setting_is_checked_where_it_is_defined(override: str) -> None:
    name = re.escape(override.partition("=")[0])
    overrides = ["trainer.validate_every=3"] if override == "trainer.epochs=2" else []
    with pytest.raises(BingoError, match=rf"^{name}=.* is invalid, wanted "):
        config.load("mscmr", [*overrides, override])


@pytest.mark.parametrize(
    ("override", "known"),
    [
        ("model.similarity=ncc", "cte"),
        ("refine.similarity=ncc", "cte"),
        ("iterative.transform=spline", "linear_ffd"),
        ("trainer.precision=64", "bf16-mixed"),
        ("log.wandb=maybe", "offline"),
    ],
)
def test_every_choice_is_checked_where_it_is_defined(override: str, known: str) -> None:
    with pytest.raises(BingoError, match=rf"unknown {re.escape(override.partition('=')[0])} .* Known: .*{known}"):
        config.load("mscmr", [override])


def test_settings_made_in_python_are_checked_too() -> None:
    with pytest.raises(BingoError, match=r"trainer\.warm_up=5 is invalid"):
        config.TrainerConfig(warm_up=5)
    with pytest.raises(BingoError, match=r"data\.roi=\[\] is invalid"):
        dataclasses.replace(config.DataConfig(), roi=[])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.roi=[1,", "cannot be read"),
        ("data.roi={a: 1}", "wrong kind of value"),
        ("trainer=3", "setting"),
        ("trainer.epochs.x=3", r"trainer\.epochs"),
        ("data=null", "setting data"),
    ],
)
def test_a_value_of_the_wrong_kind_is_explained(override: str, message: str) -> None:
    with pytest.raises(BingoError, match=message):
        config.load("mscmr", [override])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"base: FILE", r"its base leads back to itself: FILE -> FILE\."),
        (b"base: [mscmr, brats]", r"base must be one name.*got \['mscmr', 'brats'\]"),
        (b"base: {a: 1}", "base must be one name"),
        (b"base: ../../secret", "unknown experiment"),
        ("name: Müller".encode("latin-1"), "is not text in UTF-8.*Save it as UTF-8"),
        (b"\xff\xfen\x00a\x00", "is not text in UTF-8"),
        (b"name: a\x00b", "is not plain YAML"),
        (b"data: {root: 2020-13-45}", "is not plain YAML"),
        (b"data: {root: 2020-01-05}", "setting"),
        (b"- a", "must hold `key: value` settings, got list"),
        (b"1: 2", "must hold `key: value`"),
        (b"a: [1", "is not plain YAML"),
    ],
)
def test_a_file_that_holds_no_settings_is_explained(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content.replace(b"FILE", str(file).encode()))
    with pytest.raises(BingoError, match=message.replace("FILE", re.escape(str(file)))):
        config.load(str(file))
    if b"base" not in content and b"root" not in content:
        with pytest.raises(BingoError, match=message):
            sweeps.load(str(file))


def test_bases_in_a_circle_are_explained(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(f"base: {two}\n")
    two.write_text(f"base: {one}\n")
    for load in (config.load, config.load_table):
        with pytest.raises(BingoError, match="leads back to itself"):
            load(str(one))


def test_a_folder_named_like_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").mkdir()
    with pytest.raises(BingoError, match="no experiment file"):
        config.load(str(tmp_path / "mine.yaml"))
