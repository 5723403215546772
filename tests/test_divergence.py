"""A method that diverges stops with what a person needs to know, and leaves nothing that is not finite.

No test gives a library coordinates that are not finite: the guards fire before, or nothing is sampled.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from rich.console import Console
from torch import Tensor

from bingo_pl import BingoError, GroupBatch, cli, spatial
from bingo_pl.data_modules.cache import CachedGroup, load_group, save_group
from bingo_pl.errors import DivergenceError
from bingo_pl.evaluation import metrics
from bingo_pl.methods.baselines import Descent
from bingo_pl.studies.table import _best
from bingo_pl.training import experiment
from bingo_pl.training.callbacks import TrainingProgress
from bingo_pl.training.task import RegistrationTask

from .conftest import GroupMaker, one_group
from .test_experiment import settings, weights

QUIET = Console(quiet=True)


def check_left(run: Path) -> None:
    """The checkpoint of the first epoch, and no test of what came after."""
    last = run / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["epoch"] == 0
    assert all(tensor.isfinite().all() for tensor in weights(last).values())
    assert not (run / "test.csv").exists()


def test_a_loss_that_is_not_finite_stops_the_training(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The term is a constant, so no gradient carries it into the weights even if nobody looks."""
    terms = RegistrationTask._terms

    def spoilt(self: RegistrationTask, batch: GroupBatch, generator: torch.Generator) -> dict[str, Tensor]:
        found = terms(self, batch, generator)
        return {**found, "kl_structure": torch.tensor(math.nan)} if self.global_step == 3 else found

    monkeypatch.setattr(RegistrationTask, "_terms", spoilt)
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda: experiment.train(settings(folder, "loss", "trainer.learning_rate=0.003"), QUIET))
    assert stop.value.code == 2
    message = capsys.readouterr().err
    run = folder / "runs" / "loss"
    for part in (
        "epoch 2, step 4",
        "kl_structure is nan, total is nan",
        "trainer.learning_rate=0.003 (just then 0.0015 and 0.015)",
        "Try trainer.learning_rate=0.001 or trainer.clip_gradient_norm=1",
        str(run / "checkpoints" / "last.ckpt"),
    ):
        assert part in message, message
    check_left(run)


def test_weights_that_are_not_finite_are_never_saved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the decoder, which validation does not ask."""
    batch_end = TrainingProgress.on_train_batch_end

    def spoil(self: TrainingProgress, trainer: Any, module: Any, *rest: Any) -> None:
        batch_end(self, trainer, module, *rest)
        if trainer.global_step == 4:
            module.registrar.decoder.image.bias.data.fill_(math.inf)

    monkeypatch.setattr(TrainingProgress, "on_train_batch_end", spoil)
    with pytest.raises(BingoError, match=r"diverged in epoch 2.*not finite: registrar.decoder.image.bias"):
        experiment.train(settings(folder, "saved", "trainer.epochs=2"), QUIET)
    check_left(folder / "runs" / "saved")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e7])
def test_nothing_is_sampled_where_velocities_lead_nowhere(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def sampled(*_: Any, **__: Any) -> None:
        raise AssertionError("the library was reached")

    monkeypatch.setattr("torch.nn.functional.grid_sample", sampled)
    velocity = torch.zeros(2, 2, 8, 8)
    velocity[1, 0, 3, 4] = value
    with pytest.raises(DivergenceError, match="not finite"):
        spatial.integrate(velocity)
    with pytest.raises(DivergenceError, match="not finite"):
        spatial.integrate_all([torch.zeros(2, 2, 4, 4), velocity], (8, 8))


def test_an_optimisation_that_diverges_says_so() -> None:
    with pytest.raises(DivergenceError, match=r"energy is nan.*learning_rate; here 0\.5"):
        Descent(0.5, 3).minimise(lambda velocity: (velocity * math.nan).sum(), torch.zeros(1, 2, 2, 4, 4))


def test_what_is_no_number_counts_as_folded() -> None:
    displacement = torch.zeros(1, 2, 2, 8, 8)
    assert metrics.folding_percent(displacement).item() == 0
    displacement[0, 0] = math.nan
    assert metrics.folding_percent(displacement).item() == 50


def test_no_mean_hides_a_metric_that_is_no_number(folder: Path) -> None:
    task = experiment.build_task(settings(folder, "task"))
    for mean in (task.gwi, task.folding_percent):
        mean.update(torch.tensor([1.0, math.nan]))
        assert mean.compute().isnan()
    task.dice.update(torch.tensor([0.5, math.nan]))  # a group without labels
    assert task.dice.compute() == 0.5


def test_no_method_is_among_the_best_by_leaving_groups_out() -> None:
    gwi = {"good": [1.0, 3.0], "left out": [0.5, math.nan], "poor": [2.0, 4.0], "none": [9.0, 9.0]}
    scores = {name: pd.DataFrame({"gwi": values}, index=["a", "b"]) for name, values in gwi.items()}
    assert _best(scores, "gwi") == {"good", "poor"}
    for rows in scores.values():
        rows.loc["b", "gwi"] = math.nan  # whose ground truth nobody knows
    assert _best(scores, "gwi") == {"good", "left out"}


def test_a_cached_group_that_is_not_finite_is_refused(make_group: GroupMaker, tmp_path: Path) -> None:
    batch = one_group(make_group(), 0)
    path = tmp_path / "case" / "0.pt"
    path.parent.mkdir()
    object.__setattr__(batch, "truth", None)
    save_group(batch, path)
    group = CachedGroup(path, "case", 3)
    assert torch.equal(load_group(group).images, batch.images)
    batch.images[0, 1, 0, 3, 3] = math.nan
    save_group(batch, path)
    with pytest.raises(BingoError, match=r"not finite.*Delete .*case"):
        load_group(group)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BingoError, match=r"Delete .*case"):
        load_group(group)
