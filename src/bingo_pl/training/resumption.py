"""What must be as it was for a run to resume exactly, and how a change is reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from bingo_pl import config as settings
from bingo_pl.config import Config, IntrinsicConfig, RefineConfig
from bingo_pl.data_modules.base import GroupDataModule
from bingo_pl.errors import InputError, some

INDIFFERENT = (
    "name",
    "runs",
    "log.",
    "data.workers",
    "data.cache_dir",
    "trainer.checkpoint_minutes",
    "trainer.gradient_checkpointing",
)
"""Settings that change no result."""
HOW_TO = {
    section: tuple(f"{section}.{field.name}" for field in fields(kind) if field.name != "steps")
    for section, kind in (("refine", RefineConfig), ("intrinsic", IntrinsicConfig))
}
"""Settings of each section that change none where its steps are 0."""
LISTED = 5
"""Changed cases that an error names."""


def indifferent(*configs: Config) -> tuple[str, ...]:
    """What the names of settings begin with that change no result of these."""
    unused = [names for section, names in HOW_TO.items() if not any(getattr(c, section).steps for c in configs)]
    return (*INDIFFERENT, *(name for names in unused for name in names))


def changes(old: Config, new: Config) -> list[str]:
    """``key: old -> new`` for each setting that differs and changes results.

    A moved data folder is no change: whether the files in it are the same is for `refuse_other_data`.
    """
    return [
        line for line in settings.differences(old, new) if not line.startswith((*indifferent(old, new), "data.root"))
    ]


def refuse_edited(run: Path, old: Config, new: Config) -> None:
    """Raises `BingoError` where a resume would undo what a run's `config.yaml` says.

    Args:
        run: the run's folder.
        old: the settings in its checkpoint.
        new: those that it would resume with.
    """
    path = run / "config.yaml"
    if not path.is_file():
        return
    written = settings.load(str(path))
    said = {line.partition(":")[0] for line in changes(old, new)}
    edits = [line for line in changes(old, written) if line.partition(":")[0] not in said]
    if edits:
        raise InputError(
            f"{path} is not what the run's checkpoint was made with: {'; '.join(edits)}",
            "A resume takes its settings from the checkpoint: give the changed ones as KEY=VALUE, or restore the file",
        )


def refuse_other_processes(checkpoint: Path, old: int, new: int) -> None:
    """Raises `BingoError` where a run would resume with another number of processes (devices times machines)."""
    if old != new:
        raise InputError(
            f"{checkpoint} was trained by {old} process(es), and {new} would resume: {old} -> {new}. The batches would "
            "be others, so the run would not resume exactly",
            "Set trainer.devices as it was, or pass --allow-changed-processes",
        )


def refuse_other_data(checkpoint: Path, provenance: Mapping[str, Any], data: GroupDataModule) -> None:
    """Raises `BingoError`, with the cases that differ, where the data are not those of a checkpoint.

    Args:
        checkpoint: for the message.
        provenance: what the checkpoint says of its making.
        data: the data that the run would resume with.
    """
    if data.fingerprint() != provenance["data"]:
        named = _different(provenance["cases"], case_keys(data)) if "cases" in provenance else []
        different = named or ["which cases differ, the checkpoint does not say"]
        raise InputError(
            f"the data under '{data.root}' (files, sizes, dates or preprocessing settings) are not those that "
            f"{checkpoint} was trained on: {'; '.join(different)}. The run would "
            "not resume exactly",
            "Restore them, or pass --allow-changed-data",
        )


def case_keys(data: GroupDataModule) -> dict[str, str]:
    """``split/case`` of every case and a hash of its files' names, sizes, dates and preprocessing."""
    return {f"{split}/{case.name}": data.cache.key(case) for split, cases in data.cases.items() for case in cases}


def _different(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    kinds = {
        "changed": [case for case in old if case in new and old[case] != new[case]],
        "missing": [case for case in old if case not in new],
        "new": [case for case in new if case not in old],
    }
    return [f"{kind}: {some(cases, LISTED)}" for kind, cases in kinds.items() if cases]
