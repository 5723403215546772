"""The command: bad input ends with one message and exit status 2, never with a traceback."""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import platformdirs
import pytest

from bingo_pl import BingoWarning, cli
from bingo_pl.cli import main
from bingo_pl.registration import apply as application
from bingo_pl.report import page
from bingo_pl.signals import Stopped


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bingo", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "mscrm"], "Did you mean 'mscmr'"),
        (["train", "mscmr", "trainer.epoch=1"], "Did you mean 'epochs'"),
        (["train", "mscmr", "data.root=/no/such/folder"], "patient<N>_<sequence>.nii.gz"),
        (["train", "brats", "data.root=/no/such/folder"], "BraTS"),
        (["train", "manifest", "data.root=/no/such/folder"], "split,group,subject,modality,image,label"),
        (["resume", "no.ckpt"], "no checkpoint at no.ckpt"),
        (["evaluate", "no.ckpt"], "no checkpoint at no.ckpt"),
        (["estimate", "no.ckpt", "--images", "9"], "no checkpoint at no.ckpt"),
        (["estimate", "--manifest", "no.csv", "--shape", "8x8"], "--shape 8x8 goes with --images"),
        (["sweep", "mscmr", "--seed", "0"], "--seed and --output go with --local"),
        (["sweep", "mscmr", "--output", "x"], "--seed and --output go with --local"),
        (["scalability", "mscmr", "model.squarings=5", "--checkpoint", "no.ckpt"], "model.squarings=5: the method is"),
        (["register", "--output", "x", "--refine", "-3", "t1=a.nii"], "Invalid value for '--refine'"),
        (
            ["register", "--output", "x", "--refine", "3", "--memory", "1GB", "t1=a.nii"],
            "--refine optimises all images",
        ),
        (["register", "--output", "x", "--memory", "much", "t1=a.nii"], "'much' is no size of memory"),
        (["register", "--output", "x", "t1:a.nii"], "'t1:a.nii' is not MODALITY=FILE"),
    ],
)
def test_bad_input_is_explained(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert message in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_help_names_the_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    assert all(command in text for command in ("train", "resume", "evaluate"))


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_shows_its_options(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in cli.COMMANDS:
        assert run(monkeypatch, command.__name__, option) == 0
        assert "Usage: bingo" in capsys.readouterr().out


def test_the_version_is_that_of_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"{version('bingo_pl')}\n"


@pytest.mark.parametrize(
    ("command", "choices"),
    [
        ("register", "auto|rigid|affine|deformable|network"),
        ("register", "auto|always|never"),
        ("register", "auto|cpu|gpu|mps"),
        ("estimate", "auto|cpu|gpu|mps"),
        ("atlas", "auto|always|never"),
        ("atlas", "rigid|affine|deformable"),
        ("apply", "RAS|LPS"),
    ],
)
def test_help_shows_what_an_option_can_be(
    command: str, choices: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, command, "-h") == 0
    assert f"<{choices}>" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("bingo reg", {"register"}),
        ("bingo train mscmr_ph", {"mscmr_phantom", "mscmr_phantom_unsupervised"}),
        ("bingo table [", set()),
        ("bingo register --transform r", {"rigid"}),
        ("bingo estimate --device ", {"auto", "cpu", "gpu", "mps"}),
        ("bingo atlas --out", {"--output"}),
    ],
)
def test_a_shell_completes(
    line: str, completed: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"_BINGO_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    for name, value in words.items():
        monkeypatch.setenv(name, value)
    run(monkeypatch)
    assert set(capsys.readouterr().out.split()) == completed


UNUSABLE = {
    "example": ["/dev/null/folder"],
    "train": ["mscmr", "data.root=/no/such/folder"],
    "resume": ["no.ckpt"],
    "evaluate": ["no.ckpt"],
    "table": ["no_experiment"],
    "sweep": ["no_sweep", "--local"],
    "scalability": ["mscmr", "--checkpoint", "no.ckpt"],
    "estimate": ["no.ckpt", "--images", "3"],
    "check": ["no_folder"],
    "register": ["t1=no.nii", "-o", "out"],
    "atlas": ["no.csv", "-o", "out"],
    "apply": ["no.nii", "--registration", "no", "--from", "a", "--to", "b", "-o", "out.nii.gz"],
    "convert": ["no", "--from", "a", "--to", "b", "-o", "out.mat"],
    "report": ["no_folder"],
}
"""Input that each command cannot use."""


def test_every_command_ends_with_2_where_its_input_or_options_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert UNUSABLE.keys() == {command.__name__ for command in cli.COMMANDS}
    monkeypatch.chdir(tmp_path)
    for command, arguments in UNUSABLE.items():
        for wrong in (arguments, [*arguments, "--no-such-option"]):
            assert run(monkeypatch, command, *wrong) == 2, command
            assert "Traceback" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def closed() -> None:
    """As typer ends where nobody reads the output."""
    try:
        raise BrokenPipeError
    except BrokenPipeError:
        sys.exit(1)


def stopped(number: signal.Signals) -> None:
    raise Stopped(number)


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (lambda: sys.exit(0), 0),
        (lambda: sys.exit(1), 1),
        (lambda: stopped(signal.SIGINT), 130),
        (lambda: os.kill(os.getpid(), signal.SIGINT), 130),
        (closed, 141),
        (lambda: stopped(signal.SIGTERM), 143),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), 143),
    ],
)
def test_the_exit_status_says_how_a_command_ended(command: Callable[[], None], status: int) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.run(command)
    assert stop.value.code == status


def test_the_documentation_lists_the_exit_statuses_that_the_program_has() -> None:
    text = (Path(__file__).parent.parent / "docs" / "command_line.md").read_text()
    listed = re.findall(r"^\| (\d+) \|", text, re.MULTILINE)
    assert (
        listed
        == re.findall(r"^    (\d+)  ", str(cli.run.__doc__), re.MULTILINE)
        == ["0", "1", "2", "70", "130", "141", "143"]
    )


def unforeseen(*arguments: object) -> None:
    raise RuntimeError("the [wheel] came off\nand more")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 12.7 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096098304 bytes"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_too_little_memory_is_no_error_of_the_program(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise error

    with pytest.raises(SystemExit, match="2"):
        cli.run(command)
    assert capsys.readouterr().err.startswith("error: there is not enough memory. Take fewer")


def test_a_warning_is_one_line_and_those_of_libraries_are_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        warnings.simplefilter("default")
        for _ in range(3):
            warnings.warn("[a] is odd", BingoWarning, stacklevel=2)
        warnings.warn("old", DeprecationWarning, stacklevel=2)

    with pytest.warns(DeprecationWarning, match="old") as others:
        cli.run(command)
    assert capsys.readouterr().err == "warning: [a] is odd\n"
    assert len(others) == 1


def test_an_error_that_nobody_foresaw_is_one_line_and_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(platformdirs, "user_log_path", lambda name: tmp_path / name)
    monkeypatch.setattr(application, "apply", unforeseen)
    assert run(monkeypatch, "apply", "ü.nii", "--registration", "x", "--from", "a", "--to", "b", "--output", "y") == 70
    (log,) = (tmp_path / "bingo_pl").iterdir()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"unexpected error: RuntimeError: the [wheel] came off. The traceback is in {log}; please report it"
    )
    written = log.read_text()
    assert "bingo apply ü.nii" in written
    assert "Traceback" in written
    assert written.endswith("RuntimeError: the [wheel] came off\nand more\n")


def test_a_log_that_cannot_be_written_in_its_place_is_temporary(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(platformdirs, "user_log_path", lambda name: tmp_path / "file" / name)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(page, "write_report", unforeseen)
    assert run(monkeypatch, "report", "x") == 70
    (log,) = tmp_path.glob("*.log")
    assert str(log) in capsys.readouterr().err
