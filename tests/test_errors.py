"""Laws of the errors that are meant for people: what is wrong, what to do, and Python's own kind."""

import ast
import pickle
import re
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

import bingo_pl
from bingo_pl import register
from bingo_pl.config.loading import load
from bingo_pl.errors import (
    BingoError,
    DivergenceError,
    FileError,
    InputError,
    UnknownNameError,
    unknown_name,
)
from bingo_pl.images.problems import Problem
from bingo_pl.storage.atomic import replacing
from bingo_pl.storage.resumable import understood

SOURCES = [path for path in Path(bingo_pl.__file__).parent.rglob("*.py") if path.name != "errors.py"]
SENTENCE = re.compile(r"(?<!e\.g)\. [A-Z]")
KINDS = {InputError: ValueError, FileError: OSError, UnknownNameError: KeyError, DivergenceError: ArithmeticError}


@pytest.mark.parametrize("kind", [BingoError, *KINDS])
def test_an_error_says_what_is_wrong_and_what_to_do(kind: type[BingoError]) -> None:
    error = kind("a.nii: is empty", "Copy it again")
    assert (error.what, error.remedy) == ("a.nii: is empty", "Copy it again")
    assert str(error) == "a.nii: is empty. Copy it again"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.what, again.remedy, str(again)) == (kind, error.what, error.remedy, str(error))


@pytest.mark.parametrize(("kind", "own"), KINDS.items())
def test_an_error_is_one_of_pythons_kinds_too(kind: type[BingoError], own: type[Exception]) -> None:
    with pytest.raises(own, match=r"^it is wrong$"):
        raise kind("it is wrong")


def test_one_text_is_enough() -> None:
    assert (str(BingoError("everything")), BingoError("everything").remedy, str(BingoError())) == ("everything", "", "")


def test_a_remedy_stands_below_a_list() -> None:
    assert str(BingoError("differs:\n  a\n  b", "Restore it")) == "differs:\n  a\n  b\nRestore it"


def test_an_unknown_name_comes_with_the_nearest() -> None:
    error = unknown_name("setting", "epoch", ["epochs", "seed"])
    assert (error.what, error.remedy) == ("unknown setting 'epoch'", "Did you mean 'epochs'? Known: epochs, seed")


def test_a_remedy_of_two_sentences_stays_whole() -> None:
    error = InputError("a.csv: has no columns. Got: none", "Name them. Then check the file")
    problem = Problem.refused(error, Path("a.csv"), "they are needed")
    assert (problem.what, problem.remedy) == ("has no columns. Got: none", error.remedy)
    assert str(problem.error(Path("a.csv"))) == str(error)


def test_callers_catch_pythons_kinds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wanted a number above 0"):
        register([("t1", tmp_path / "a.nii"), ("t2", tmp_path / "b.nii")], tmp_path / "out", spacing_mm=-1.0)
    with pytest.raises(OSError, match="no experiment file"):
        load(str(tmp_path / "none.yaml"))
    with pytest.raises(KeyError, match="epochs"):
        load("mscmr_phantom", ["trainer.epoch=1"])


def test_an_error_within_a_block_is_not_taken_for_one_of_the_block(tmp_path: Path) -> None:
    inner = FileError("another file is missing", "Copy it")
    with pytest.raises(FileError) as found, replacing(tmp_path / "a"):
        raise inner
    assert found.value is inner
    with pytest.raises(InputError) as other, understood(tmp_path / "a"):
        raise InputError("a setting is wrong")
    assert other.value.what == "a setting is wrong"


class _Bad:
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise FileError("a.pt is damaged", "Copy it again")


def test_an_error_of_a_loaders_process_keeps_its_kind_and_text() -> None:
    with pytest.raises(OSError, match=r"^a\.pt is damaged\. Copy it again$"):
        next(iter(DataLoader(_Bad(), num_workers=1)))  # type: ignore[arg-type]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(Path(bingo_pl.__file__).parent)))
def test_a_remedy_is_an_argument_of_its_own(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("Error"):
            texts = [str(part.value) for part in ast.walk(node) if isinstance(part, ast.Constant)]
            assert len(node.args) != 1 or not any(map(SENTENCE.search, texts)), f"{path}:{node.lineno}: {texts}"
