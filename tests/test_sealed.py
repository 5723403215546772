"""Laws of files that carry a digest: what is read is what was written, or nothing is."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from bingo_pl.storage import sealed

WEIGHTS = torch.arange(40.0)
CONTENT = {"weights": WEIGHTS, "step": 3, "nested": {"rate": [0.5, 1e-3]}}


def written(path: Path, seal: bool) -> Path:
    if seal:
        with path.open("w+b") as file:
            sealed.write(CONTENT, file)
    else:  # as earlier versions did
        torch.save(CONTENT, path)
    return path


def same(content: dict) -> bool:
    rest = {name: content[name] for name in ("step", "nested")}
    return torch.equal(content["weights"], WEIGHTS) and rest == {"step": 3, "nested": {"rate": [0.5, 1e-3]}}


@pytest.mark.parametrize("seal", [True, False])
def test_what_was_written_is_read(seal: bool, tmp_path: Path) -> None:
    path = written(tmp_path / "file.pt", seal)
    assert same(sealed.load(path))
    assert same(torch.load(path, weights_only=True)), "other programs read it"
    assert (sealed.SEAL in path.read_bytes()) == seal


@pytest.mark.parametrize("seal", [True, False])
def test_no_flipped_bit_gives_other_content(seal: bool, tmp_path: Path) -> None:
    """On every 13th byte; some bits say nothing of the content, or of a file without a digest nothing that is used."""
    path = written(tmp_path / "file.pt", seal)
    content = path.read_bytes()
    refused = 0
    for place in range(0, len(content), 13):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        try:
            assert same(sealed.load(path)), place
        except sealed.DamagedFileError:
            refused += 1
    assert refused > (0.95 if seal else 0.5) * len(content) / 13


@pytest.mark.parametrize("seal", [True, False])
def test_a_part_of_a_file_is_refused(seal: bool, tmp_path: Path) -> None:
    path = written(tmp_path / "file.pt", seal)
    content = path.read_bytes()
    for length in (0, 1, 30, len(content) // 2, len(content) - sealed.LENGTH - 1):
        path.write_bytes(content[:length])
        with pytest.raises(sealed.DamagedFileError):
            sealed.load(path)


def test_a_missing_file_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(sealed.DamagedFileError, match="No such file"):
        sealed.load(tmp_path / "none.pt")


def test_tensors_that_are_not_finite_are_listed() -> None:
    values = [float("nan"), 1.0, *[float("inf")] * 3]
    bad = {name: torch.tensor([1.0, value]) for name, value in zip("abcde", values, strict=True)}
    assert sealed.nonfinite(bad) == "a, c, d and 1 more"
    assert not sealed.nonfinite({"a": torch.ones(2), "ids": torch.tensor([1]), "step": float("nan")})


def test_a_full_disk_is_named_as_such() -> None:
    """PyTorch's own error says neither what happened nor that it was the disk."""

    class Full(io.BytesIO):
        def write(self, content: Any) -> int:
            if self.tell() + len(content) > 600:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(content)

    with pytest.raises(OSError, match="No space left"):
        sealed.write(CONTENT, Full())
