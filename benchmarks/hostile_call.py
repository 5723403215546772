"""One call of `hostile`: what is run, on what, and how it must end; and what changes files before."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.hostile_files import Builder
from benchmarks.kill import SETTINGS

Change = Callable[[Path], object]
"""Changes the folder in which a call is run."""

TRAINING = (*SETTINGS, "data.root=cohort")
GROUP = ("a=cohort/5_a.nii.gz", "b=cohort/5_b.nii.gz")
IMAGE = "cohort/5_a.nii.gz"
MODEL = ("--checkpoint", "model.ckpt")
PLAIN = ("--affine", "never", "--refine", "0")
REGISTER = ("register", *MODEL, *PLAIN)
STREAMED = ("register", *MODEL, "--affine", "never", "--memory", "100MB")
APPLY = ("apply", "--registration", "out", "--from", "a", "--to", "b")
SCALABILITY = ("scalability", "manifest", *(word for word in TRAINING if not word.startswith("model.")))
NEW = ("--output", "new")


UNFINISHED = ("new/unfinished",)
"""What a streamed registration has done when it meets a file that it cannot use, and resumes from."""


def nothing(work: Path) -> None:
    """The inputs as they are."""


@dataclass(frozen=True)
class Call:
    """A command line, what it is given, and how it must end."""

    theme: str
    name: str
    command: tuple[str, ...]
    """Run in a folder of its own, see `hostile.Playground`; ``{work}`` is that folder."""
    wanted: tuple[int, ...] = (2,)
    """Exit statuses that are right: 0 good, 1 findings or a doubtful result, 2 unusable input, 128 + a signal."""
    change: Change = nothing
    """Changes the folder before."""
    may_leave: tuple[str, ...] = ()
    """Files and folders that the call may make although it does not end well."""
    may_change: tuple[str, ...] = ()
    """Files and folders that it may change."""
    sends: signal.Signals | None = None
    """The signal that the command gets when it is at work."""
    file_limit: int | None = None
    """Bytes beyond which no file can grow, as if the disk were full."""
    beside: tuple[str, ...] = ()
    """A command that has begun before, is at work meanwhile, and must end well."""
    again: tuple[str, ...] = ()
    """A command that must end well afterwards, such as the same one."""

    @property
    def title(self) -> str:
        return f"{self.theme}: {self.name}"


def text(path: str, content: str | bytes) -> Change:
    """Write a file; ``{work}`` in it is the folder."""

    def change(work: Path) -> None:
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, bytes) else content.replace("{work}", str(work)).encode()
        (work / path).write_bytes(data)

    return change


def built(path: str, build: Builder) -> Change:
    """Write, change or remove a file."""

    def change(work: Path) -> None:
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        build(work / path)

    return change


def moved(old: str, new: str) -> Change:
    def change(work: Path) -> None:
        (work / new).parent.mkdir(parents=True, exist_ok=True)
        (work / old).rename(work / new)

    return change


def edited(path: str, old: str, new: str) -> Change:
    """Replace words in a text."""

    def change(work: Path) -> None:
        content = (work / path).read_text()
        assert old in content, f"{path} holds no {old}"
        (work / path).write_text(content.replace(old, new.replace("{work}", str(work))))

    return change


def both(*changes: Change) -> Change:
    def change(work: Path) -> None:
        for each in changes:
            each(work)

    return change
