"""What is written appears whole or not at all; what a killed process leaves is removed by the next one."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from bingo_pl import BingoError
from bingo_pl.images.written import check_output
from bingo_pl.storage.atomic import replacing
from bingo_pl.storage.folders import OLD, recover, replacing_folder
from bingo_pl.storage.locking import InUseError


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


def die_writing(folder: Path, overwrite: bool, moment: str) -> None:
    """Another process is killed while it writes a folder: in the block, or between the two renames that end it."""

    def work() -> None:
        with replacing_folder(folder, overwrite) as temporary:
            (temporary / "part.txt").write_text("hal")
            if moment == "renames":
                folder.replace(temporary.with_name(OLD))
            os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def visible(folder: Path) -> set[str]:
    """All but the lock that a killed process leaves."""
    return {path.name for path in folder.iterdir() if not path.name.endswith((".lock", ".holder.json"))}


def test_what_a_killed_process_left_of_a_folder_is_removed_by_the_next_one(tmp_path: Path) -> None:
    die_writing(tmp_path / "out", False, "block")
    assert len(visible(tmp_path)) == 1
    check_output(tmp_path / "out", False, "record.json")
    assert visible(tmp_path) == set()


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_was_being_replaced_comes_back(tmp_path: Path, overwrite: bool) -> None:
    with replacing_folder(tmp_path / "out") as temporary:
        (temporary / "mine.txt").write_text("whole")
    die_writing(tmp_path / "out", True, "renames")
    assert not (tmp_path / "out").exists()
    with pytest.raises(BingoError, match="no record.json in it" if overwrite else "in use"):
        check_output(tmp_path / "out", overwrite, "record.json")
    assert (tmp_path / "out" / "mine.txt").read_text() == "whole"
    assert visible(tmp_path) == {"out"}


def test_only_what_is_ours_and_dead_is_removed(tmp_path: Path) -> None:
    person = tmp_path / ".out.17.tmp"
    person.mkdir()
    (person / "thesis.tex").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".bingo_pl").touch()
    (tmp_path / ".out.18.tmp").symlink_to(tmp_path / "elsewhere")
    die_writing(tmp_path / "other", False, "block")
    recover(tmp_path / "out")
    assert {"elsewhere", ".out.17.tmp", ".out.18.tmp"} < visible(tmp_path)
    assert len(visible(tmp_path)) == 4

    def refused() -> None:
        try:
            recover(tmp_path / "other")
        except InUseError:
            os._exit(7)

    with replacing_folder(tmp_path / "other"):
        process = multiprocessing.get_context("fork").Process(target=refused)
        process.start()
        process.join()
    assert process.exitcode == 7


def test_a_file_that_a_killed_process_was_writing_into_a_result_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "registration.json").write_text('{"files": {}}')
    (tmp_path / "out" / ".report.html.77.tmp").touch()
    check_output(tmp_path / "out", True, "registration.json")
    (tmp_path / "out" / ".notes.txt.77.tmp").touch()
    with pytest.raises(BingoError, match="was not written by this command"):
        check_output(tmp_path / "out", True, "registration.json")
