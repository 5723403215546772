"""Laws of the forecast of a registration; its error is measured by benchmarks/estimate.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bingo_pl import api, register
from bingo_pl.alignment import cascade
from bingo_pl.alignment.cascade import Plan
from bingo_pl.alignment.optimisation import Level, optimise
from bingo_pl.registration.forecast import Forecast
from bingo_pl.streaming.estimate import Estimate


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Path]]:
    """Three images of a disc of 64 x 64 voxels, in other contrasts."""
    folder = tmp_path_factory.mktemp("slices")
    y, x = np.mgrid[:64, :64] - 31.5
    disc = (np.hypot(y, x) < 22) * (1 + 0.3 * np.sin(x / 3) * np.cos(y / 4))
    for number in range(3):
        voxels = (disc ** (1 + number) + (disc > 0) * number).astype(np.float32)[..., None]
        nib.save(nib.Nifti1Image(voxels, np.diag([2, 2, 5, 1])), folder / f"{number}.nii.gz")
    return [(f"t{number}", folder / f"{number}.nii.gz") for number in range(3)]


@pytest.mark.parametrize("clearly", [False, True])
def test_the_plan_names_the_passes_that_are_optimised(
    clearly: bool, slices: Sequence[tuple[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Level] = []
    plans: list[Plan] = []
    planned = Plan.of

    def kept(*given: Any) -> Plan:
        plans.append(planned(*given))
        return plans[-1]

    def spied(sight: Any, maps: Any, level: Level, *others: Any) -> Any:
        done.append(level)
        return optimise(sight, maps, replace(level, steps=1), *others)

    monkeypatch.setattr(cascade, "optimise", spied)
    monkeypatch.setattr(cascade, "CLEAR", -1.0 if clearly else 1e9)
    monkeypatch.setattr(cascade.Cascade, "_found", lambda self, *maps: clearly)
    monkeypatch.setattr(Plan, "of", kept)
    register(dict(slices), device="cpu")
    assert done == plans[0].passes(clearly)


@pytest.fixture(scope="module")
def few(slices: Sequence[tuple[str, Path]]) -> Forecast | Estimate:
    return api.estimate(slices, device="cpu")


def test_every_piece_of_a_registration_grows_with_the_group(slices: Sequence[tuple[str, Path]], few: Forecast) -> None:
    many = api.estimate([slices[number % 3] for number in range(300)], device="cpu")
    assert isinstance(many, Forecast)
    for small, large in ((few.least, many.least), (few.most, many.most)):
        assert all(cost.processor > 0 for cost in small.costs.values())
        assert large.costs["optimising"].processor > 10 * small.costs["optimising"].processor
        assert 10**8 < small.memory_bytes < large.memory_bytes
    assert many.disk_bytes == pytest.approx(100 * few.disk_bytes, rel=0.05)


def test_files_are_registered_in_memory_unless_a_budget_is_named(
    slices: Sequence[tuple[str, Path]], few: Forecast | Estimate
) -> None:
    assert isinstance(few, Forecast)
    assert isinstance(api.estimate(slices, memory="1GB", device="cpu"), Estimate)
