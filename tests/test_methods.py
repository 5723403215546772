"""Settings to methods."""

from __future__ import annotations

import pytest

from bingo_pl import BingoError, config
from bingo_pl.methods.baselines import Iterative, Refined
from bingo_pl.methods.population import IterativePopulation
from bingo_pl.models import registry

LEARNING = {"bingo", "ape_attresunet", "cte_attresunet"}


def load(*overrides: str) -> config.Config:
    return config.load("mscmr_phantom", ["data.modalities=[a,b]", *overrides])


@pytest.mark.parametrize("name", registry.METHODS)
def test_every_method_is_built_from_settings(name: str) -> None:
    assert registry.trainable(registry.build(load(f"method={name}"))) == (name in LEARNING)


def test_an_iterative_method_takes_its_settings() -> None:
    method = registry.build(load("method=cte", "weights.bending=7", "iterative.steps=3", "iterative.levels=2"))
    assert isinstance(method, Iterative)
    assert (method.stiffness, method.descent.steps, method.levels) == (7, 3, 2)


def test_populations_are_registered_by_linear_and_free_form_stages() -> None:
    method = registry.build(load("method=ape", "iterative.transform=linear_ffd", "iterative.control_spacing=4"))
    assert isinstance(method, IterativePopulation)
    assert method.spacing == 4


def test_refinement_wraps_a_trained_method_where_it_is_asked_for() -> None:
    plain = registry.build(load())
    assert registry.refined(plain, load()) is plain
    refined = registry.refined(plain, load("refine.steps=5", "refine.bending=2", "refine.stride=3"))
    assert isinstance(refined, Refined)
    assert (refined.start, refined.descent.steps, refined.stiffness, refined.stride) == (plain, 5, 2, 3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=bnigo"], "Did you mean 'bingo'"),
        (["method=ape", "iterative.transform=velocty"], "Did you mean 'velocity'"),
        (["method=ape", "refine.steps=3"], "optimises already"),
        (["refine.steps=3", "refine.similarity=mi"], "unknown refine.similarity 'mi'"),
        (["model.similarity=mi"], "unknown model.similarity 'mi'"),
        (["refine.steps=-3"], "refine.steps=-3 is invalid, wanted at least 0"),
        (["refine.stride=0"], "refine.stride=0 is invalid, wanted at least 1"),
        (["method=ape", "iterative.levels=0"], "iterative.levels=0 is invalid, wanted at least one"),
        (["method=ape", "iterative.learning_rate=-1"], "iterative.learning_rate=-1.0 is invalid, wanted a positive"),
        (["method=ape", "weights.bending=-5"], "weights.bending=-5.0 is invalid, wanted at least 0"),
    ],
)
def test_bad_settings_are_explained(overrides: list[str], message: str) -> None:
    def build() -> None:
        settings = load(*overrides)
        registry.refined(registry.build(settings), settings)

    with pytest.raises(BingoError, match=message):
        build()
