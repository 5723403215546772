from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from bingo_pl import UNLABELLED, BingoError, GroupBatch
from bingo_pl.figures import group as figures
from bingo_pl.figures.group import draw_group
from bingo_pl.methods.registrar import Registration
from bingo_pl.misalign import draw_displacements, misalign
from bingo_pl.spatial import identity, invert

MODALITIES = ["t1", "t2"]
LABELS = [1, 2]


def registered(
    shape: tuple[int, ...], size: int, name: str = "case", labelled: bool = True
) -> tuple[GroupBatch, Registration]:
    """Misaligned copies of two nested, textured ellipsoids, and their true registration."""
    grid = identity(shape, torch.zeros(1))
    extent = torch.tensor(shape).reshape(-1, *[1] * len(shape))
    radius = ((grid - (extent - 1) / 2) / (0.4 * extent)).norm(dim=0)
    labels = (radius < 1).to(torch.int16) + (radius < 0.5).to(torch.int16)
    image = (0.4 * labels + 0.1 * torch.sin(grid.sum(dim=0) / 2)) * (labels > 0)
    whole = (1, size, 1, *shape)
    batch = GroupBatch(
        images=image.expand(whole),
        modalities=torch.arange(size)[None] % 2,
        masks=(labels > 0).expand(whole),
        labels=labels.expand(whole) if labelled else torch.full(whole, UNLABELLED, dtype=torch.int16),
        spacing=torch.ones(1, len(shape)),
        names=(name,),
    )
    truth = draw_displacements(size, shape, [10.0], 0.3, torch.Generator().manual_seed(0))
    return misalign(batch, truth[None]), Registration(displacement=invert(truth)[None], inverse=truth[None])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that `draw_group` would have saved."""
    collected: list[Figure] = []
    monkeypatch.setattr(figures, "save", lambda figure, path: collected.append(figure))
    return collected


def panels(figure: Figure) -> int:
    return sum(bool(ax.images) for ax in figure.axes)


def outlines(figure: Figure) -> int:
    """Contour collections in the first panel, image 1 before registration."""
    return len(figure.axes[0].collections)


def test_2d_group_is_two_files(tmp_path: Path) -> None:
    batch, result = registered((32, 40), 3)
    pictures = {"reconstruction": batch.images, "z level 1": torch.rand(1, 1, 5, 8, 10)}
    paths = draw_group(batch, result, pictures, MODALITIES, LABELS, tmp_path / "figures")
    assert [path.name for path in paths] == ["case_registration.png", "case_structure.png"]
    assert sorted((tmp_path / "figures").iterdir()) == paths
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size < 1.5e6


def test_3d_group_is_a_file_for_each_plane(tmp_path: Path) -> None:
    batch, result = registered((16, 20, 24), 2)
    paths = draw_group(batch, result, {}, MODALITIES, LABELS, tmp_path)
    assert [path.name for path in paths] == [f"case_registration_axis{axis}.png" for axis in (2, 1, 0)]
    assert all(path.exists() for path in paths)


@pytest.mark.parametrize("size", [1, 3])
def test_every_image_has_its_column(size: int, drawn: list[Figure], tmp_path: Path) -> None:
    draw_group(*registered((32, 40), size), {}, MODALITIES, LABELS, tmp_path)
    assert panels(drawn[0]) == 4 * size + 4  # four kinds each; the mean and a checkerboard, before and after
    assert outlines(drawn[0]) == len(LABELS) * size
    assert drawn[0].axes[0].get_title() == "1: t1"


def test_large_group_shows_six_and_says_so(drawn: list[Figure], tmp_path: Path) -> None:
    draw_group(*registered((32, 40), 12), {}, MODALITIES, LABELS, tmp_path)
    assert panels(drawn[0]) == 4 * 6 + 4
    assert "6 of 12 images shown" in drawn[0].get_suptitle()


@pytest.mark.parametrize("label_ids", [LABELS, []])
def test_unlabelled_group_has_no_outlines_and_says_so(
    label_ids: list[int], drawn: list[Figure], tmp_path: Path
) -> None:
    draw_group(*registered((32, 40), 2, labelled=False), {}, MODALITIES, label_ids, tmp_path)
    paths = [path for collection in drawn[0].axes[0].collections for path in collection.get_paths()]
    assert not paths
    legends = [legend for ax in drawn[0].axes if (legend := ax.get_legend())]
    assert [legend.get_title().get_text() for legend in legends] == ["no labels"]


def test_structure_has_a_row_for_each_picture(drawn: list[Figure], tmp_path: Path) -> None:
    batch, result = registered((32, 40), 3)
    pictures = {
        "reconstruction": batch.images,  # 3 panels
        "own features": torch.rand(1, 3, 4, 16, 20),  # 3
        "template": torch.rand(1, 1, 1, 32, 40),  # 1
        "z": torch.rand(1, 1, 2, 2, 3),  # colours and 2 channels
        "z wide": torch.rand(1, 1, 30, 2, 3),  # colours and the first 6 of 30 channels
    }
    draw_group(batch, result, pictures, MODALITIES, LABELS, tmp_path)
    assert panels(drawn[1]) == 3 + 3 + 3 + 1 + 3 + 7
    assert {ax.get_ylabel() for ax in drawn[1].axes} == {"", "registered", *pictures}


def test_result_that_is_not_finite_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    batch, result = registered((32, 40), 2)
    pictures = {"z": torch.full((1, 1, 2, 4, 4), torch.nan)}
    with pytest.raises(BingoError, match="its z holds NaN"):
        draw_group(batch, result, pictures, MODALITIES, LABELS, tmp_path)
    assert not list(tmp_path.iterdir())


def test_name_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BingoError, match="cannot name a file"):
        draw_group(*registered((32, 40), 2, name="../case"), {}, MODALITIES, LABELS, tmp_path)
