import dataclasses
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from bingo_pl import UNLABELLED, BingoError, GroupBatch
from bingo_pl.methods.registrar import Registration
from bingo_pl.spatial import invert
from bingo_pl.studies import figure as comparison_figure
from bingo_pl.studies.figure import draw_comparison
from tests.conftest import GroupMaker

MODALITIES = ["t1", "t2", "flair"]


def true_registration(batch: GroupBatch) -> Registration:
    assert batch.truth is not None
    return Registration(displacement=invert(batch.truth[0])[None], inverse=batch.truth)


def unlabelled(batch: GroupBatch) -> GroupBatch:
    return dataclasses.replace(batch, labels=torch.full_like(batch.labels, UNLABELLED))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that `draw_comparison` would have saved."""
    collected: list[Figure] = []
    monkeypatch.setattr(comparison_figure, "save", lambda figure, path: collected.append(figure))
    return collected


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for box in figure.legends for text in box.get_texts()]


@pytest.mark.parametrize("shape", [(24, 32), (12, 16, 20)])
def test_group_is_one_file(shape: tuple[int, ...], make_group: GroupMaker, tmp_path: Path) -> None:
    batch = make_group(shape=shape, groups=1)
    path = draw_comparison(batch, {"bingo": true_registration(batch)}, MODALITIES, [1], tmp_path / "figures")
    assert path == tmp_path / "figures" / "group0_methods.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_every_method_has_its_row_below_the_unregistered_images(
    make_group: GroupMaker, drawn: list[Figure], tmp_path: Path
) -> None:
    batch = make_group(groups=1)
    result = true_registration(batch)
    draw_comparison(batch, {"ape": result, "bingo": result}, MODALITIES, [1], tmp_path)
    (figure,) = drawn
    assert [text for text in texts(figure) if text in ("none", "ape", "bingo")] == ["none", "ape", "bingo"]
    assert len(figure.axes) == 3 * (batch.size + 2)  # the mean and a deformation
    assert all(ax.images for ax in figure.axes)
    assert len(figure.axes[0].collections) == batch.size  # one outline for each image
    assert legend(figure) == ["label 1", "this image", "the others"]


def test_registration_shows_in_the_scores(make_group: GroupMaker, drawn: list[Figure], tmp_path: Path) -> None:
    batch = make_group(groups=1)
    draw_comparison(batch, {"bingo": true_registration(batch)}, MODALITIES, [1], tmp_path)
    before, after = (text.split() for text in texts(drawn[0]) if text.startswith("Dice"))
    assert float(before[1]) < float(after[1])  # Dice
    assert float(before[3]) > float(after[3])  # gWI


def test_unknown_scores_and_labels_are_left_out(make_group: GroupMaker, drawn: list[Figure], tmp_path: Path) -> None:
    batch = make_group(groups=1)
    blind = dataclasses.replace(unlabelled(batch), truth=None)
    draw_comparison(blind, {"bingo": true_registration(batch)}, MODALITIES, [1], tmp_path)
    assert not [text for text in texts(drawn[0]) if "Dice" in text or "gWI" in text]
    assert legend(drawn[0]) == []


def test_row_titles_lie_within_the_figure(make_group: GroupMaker, drawn: list[Figure], tmp_path: Path) -> None:
    batch = make_group(groups=1)
    draw_comparison(batch, {"a_rather_long_method_name": true_registration(batch)}, MODALITIES, [1], tmp_path)
    figure = drawn[0]
    figure.canvas.draw()
    for text in (text for ax in figure.axes for text in ax.texts):
        assert text.get_window_extent().x0 >= 0


def test_displacement_that_is_not_finite_is_refused_by_method(make_group: GroupMaker, tmp_path: Path) -> None:
    batch = make_group(groups=1)
    field = torch.full_like(true_registration(batch).displacement, torch.nan)
    with pytest.raises(BingoError, match="its ape displacement holds NaN"):
        draw_comparison(batch, {"ape": Registration(field, field)}, MODALITIES, [1], tmp_path)
    assert not list(tmp_path.iterdir())


def test_name_that_leaves_the_folder_is_refused(make_group: GroupMaker, tmp_path: Path) -> None:
    batch = dataclasses.replace(make_group(groups=1), names=("../a",))
    with pytest.raises(BingoError, match="cannot name a file"):
        draw_comparison(batch, {}, MODALITIES, [1], tmp_path)
