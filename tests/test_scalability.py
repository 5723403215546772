"""The scalability experiment on a tiny cohort, from a checkpoint to its table and plot."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console

from bingo_pl import BingoError, config
from bingo_pl.config import Config
from bingo_pl.data_modules import GroupDataModule
from bingo_pl.evaluation import metrics
from bingo_pl.methods.bingo import Bingo
from bingo_pl.models.checkpoints import PROVENANCE
from bingo_pl.streaming.stream import StreamedRegistration, register_stream
from bingo_pl.studies import scalability
from bingo_pl.studies.merged_groups import MergedGroups, Unit, draw_units
from bingo_pl.training import experiment

from .conftest import write_cohort
from .test_experiment import SETTINGS


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    (tmp_path / "cohort").mkdir()
    places = (f"data.root={write_cohort(tmp_path / 'cohort')}", f"data.cache_dir={tmp_path / 'cache'}")
    return config.load("manifest", [*SETTINGS, *places])


@pytest.fixture
def data(settings: Config) -> GroupDataModule:
    module = experiment.build_data(settings, Console(quiet=True))
    module.setup("test")
    return module


def write_checkpoint(settings: Config, path: Path) -> Path:
    task = experiment.build_task(settings)
    provenance = {"config": config.to_tree(settings), "data": ""}
    torch.save({"state_dict": task.state_dict(), PROVENANCE: provenance}, path)
    return path


@pytest.fixture
def checkpoint(settings: Config, tmp_path: Path) -> Path:
    return write_checkpoint(settings, tmp_path / "a.ckpt")


def test_groups_of_every_size_are_registered_and_measured(settings: Config, checkpoint: Path, tmp_path: Path) -> None:
    folder = scalability.run(settings, checkpoint, 8, 10**8, tmp_path / "out", Console(quiet=True))
    table = pd.read_csv(folder / scalability.CSV)
    assert list(table["images"]) == [2, 2, 2, 2, 4, 4, 8]
    assert table.drop(columns="peak_memory_mb").notna().all(axis=None)
    untrained = table["gwi_before"] - table["gwi_after"]
    assert untrained.abs().max() < 1e-5, "an untrained network does not move images"
    assert (folder / scalability.PLOT).stat().st_size > 1000


def test_a_killed_experiment_goes_on_with_the_next_group(
    settings: Config, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered = []

    def killed_at_the_fourth(
        bingo: Bingo, merged: MergedGroups, memory: int, folder: Path, chunk: None
    ) -> StreamedRegistration:
        registered.append(len(merged))
        if len(registered) == 4:
            raise KeyboardInterrupt
        return register_stream(bingo, merged, memory, folder, chunk)

    monkeypatch.setattr("bingo_pl.streaming.estimate.register_stream", killed_at_the_fourth)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        scalability.run(settings, checkpoint, 8, 10**8, out, Console(quiet=True))
    begun = pd.read_csv(out / scalability.CSV)
    assert list(begun["images"]) == [2, 2]
    scalability.run(settings, checkpoint, 8, 10**8, out, Console(quiet=True))
    table = pd.read_csv(out / scalability.CSV)
    assert registered == [2, 2, 2, 2, 2, 2, 2, 4, 4, 8], "the first of each run prepares the device"
    pd.testing.assert_frame_equal(table.iloc[:2], begun)
    with pytest.raises(BingoError, match=r"(?s)seed 0 -> .*seed 1.*remove that folder"):
        scalability.run(config.override(settings, ["seed=1"]), checkpoint, 8, 10**8, out, Console(quiet=True))


def test_a_merged_group_holds_the_images_of_the_test(data: GroupDataModule) -> None:
    group = data.groups["test"][1]
    merged = MergedGroups(data, [Unit(data.groups["test"][0], 0), Unit(group, 0)], (1, 0))
    (tested,) = [batch for batch in data.test_dataloader() if batch.names[0] == f"{group.name}#0"]
    tested = data.misalign_for_evaluation(tested, "test")
    assert torch.equal(torch.stack([merged[member].image for member in (2, 3)]), tested.images[0])
    assert [merged[member].modality for member in (2, 3)] == [1, 0], "as the network numbers them"
    references = [merged.reference(member) for member in (2, 3)]
    assert tested.truth is not None
    assert torch.equal(torch.stack([reference.truth for reference in references]), tested.truth[0])
    assert {reference.anatomy for reference in references} == {group.name}


def test_what_could_not_be_measured_leaves_the_plot_to_be_drawn(tmp_path: Path) -> None:
    measured = {field.name: [1.0, 2.0] for field in fields(scalability.SizeScores)}
    table = pd.DataFrame({**measured, "images": [3, 6], "peak_memory_mb": [math.nan] * 2})
    scalability.draw(table, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 0


def test_misalignments_of_a_group_differ_and_each_is_drawn_once(data: GroupDataModule) -> None:
    units = draw_units(data, 12)
    assert len(set(units)) == len(units) == 6
    assert {unit.draw for unit in units} == {0, 1, 2}
    again = MergedGroups(data, [unit for unit in units if unit.group == units[0].group], (0, 1))
    assert (
        metrics.warping_residual(
            torch.zeros(1, 2, 2, 16, 16), torch.stack([again.reference(member).truth for member in (0, 2)])[None]
        )
        .abs()
        .max()
        > 0.1
    )


def test_only_bingo_can_be_streamed(settings: Config, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(config.override(settings, ["method=ape"]), tmp_path / "ape.ckpt")
    with pytest.raises(BingoError, match="cannot register a group in parts"):
        scalability.run(settings, checkpoint, 8, 10**8, tmp_path / "out", Console(quiet=True))
