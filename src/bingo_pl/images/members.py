"""An image of a group and the files that belong to it: what registers, makes atlases and trains takes its input as."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Member:
    """One image of a case and the files that belong to it."""

    modality: str
    image: Path
    label: Path | None = None
    mask: Path | None = None
    subject: str = ""
    """Whom it shows, where a person may have several images; empty: one of its own."""

    @property
    def files(self) -> list[Path]:
        return [path for path in (self.image, self.label, self.mask) if path is not None]
