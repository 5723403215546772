from pathlib import Path

import pytest
from matplotlib.figure import Figure

from bingo_pl import BingoError
from bingo_pl.figures import curves
from bingo_pl.figures.curves import draw_curves, read_metrics


@pytest.fixture
def metrics_csv(tmp_path: Path) -> Path:
    lines = ["val/dice,epoch,step,train/total,val/gwi"]
    for step in range(120):
        lines.append(f",{step // 40},{step},{1 / (step + 1)},")
        if step % 40 == 39:
            lines.append(f"{0.7 + step / 1000},{step // 40},{step},,")
    path = tmp_path / "metrics.csv"
    path.write_text("\n".join(lines))
    return path


def test_sparse_rows_become_one_curve_per_quantity(metrics_csv: Path) -> None:
    metrics = read_metrics(metrics_csv)
    assert list(metrics.columns) == ["train/total", "val/dice", "val/gwi"]
    assert metrics["val/dice"].dropna().to_dict() == pytest.approx({39: 0.739, 79: 0.779, 119: 0.819})
    assert len(metrics["train/total"].dropna()) == 120


def test_each_quantity_has_its_panel(metrics_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(curves, "save", lambda figure, path: drawn.append(figure))
    draw_curves(metrics_csv, tmp_path / "curves.png")
    total, dice, gwi = drawn[0].axes
    assert [len(ax.lines) for ax in (total, dice, gwi)] == [2, 1, 0]  # values and median, values, nothing
    assert total.get_yscale() == "log"
    assert gwi.get_title() == "val/gwi: no values"


def test_curves_are_a_png(metrics_csv: Path, tmp_path: Path) -> None:
    draw_curves(metrics_csv, tmp_path / "out" / "curves.png")
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "epoch,step\n0,1\n"])
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(BingoError, match=r"metrics\.csv"):
        read_metrics(tmp_path / "metrics.csv")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BingoError, match="cannot read"):
        read_metrics(tmp_path / "metrics.csv")
