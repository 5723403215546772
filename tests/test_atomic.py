from pathlib import Path

import pytest

from bingo_pl import BingoError
from bingo_pl.storage.atomic import replacing, replacing_folder


def test_file_appears_with_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.txt"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    path.write_text("old")

    def fail_half_way() -> None:
        with replacing(path) as temporary:
            temporary.write_text("hal")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "result.txt"
    with pytest.raises(BingoError, match=r"cannot write .*result\.txt"), replacing(path):
        pass


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    with replacing_folder(folder) as temporary:
        (temporary / "part.txt").write_text("whole")
        assert not folder.exists()
    assert (folder / "part.txt").read_text() == "whole"
    assert list(folder.parent.iterdir()) == [folder]


def test_a_failure_leaves_no_folder(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with replacing_folder(tmp_path / "out") as temporary:
            (temporary / "part.txt").write_text("hal")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_taken_and_one_in_use_is_not(tmp_path: Path) -> None:
    for _ in range(2):
        (tmp_path / "out").mkdir(exist_ok=True)
        with replacing_folder(tmp_path / "out") as temporary:
            (temporary / "mine.txt").touch()
        with pytest.raises(BingoError, match="in use"), replacing_folder(tmp_path / "out"):
            pass
        (tmp_path / "out" / "mine.txt").unlink()
