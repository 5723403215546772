"""Small pictures of an atlas's subjects: the planes of a volume side by side, as WebP files in the atlas's folder.

They are drawn while a subject is in memory, so that the page needs neither the original images nor more than one.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image

from bingo_pl.figures.views import Plane
from bingo_pl.images.grids import Grid
from bingo_pl.images.resampling import resample_image, to_array
from bingo_pl.report.display import Display
from bingo_pl.storage.atomic import replacing

PICTURES = "pictures"
"""The folder in that of the atlas."""
MOMENTS = AFFINE, END = "affine", "end"
"""By affine maps alone, and at the end; folders in `PICTURES`."""
MEAN = "mean"
"""The template's picture; no image is called so."""
SIDE, SIDE_OF_MEAN = 110, 260
"""Pixels of the longest side of what is shown."""
GAP = 4
"""Pixels between planes."""
QUALITY = 80
"""Of WebP."""


@dataclass(frozen=True, eq=False)
class Strips:
    """Draws volumes in the planes of an atlas."""

    folder: Path
    grid: Grid
    """The display grid."""
    planes: Sequence[Plane]

    @classmethod
    def of(cls, folder: Path, group: Grid) -> Strips:
        """Those of an atlas whose template is written.

        Raises:
            BingoError: the template is missing, damaged or empty.
        """
        display = Display.of(folder, group)
        return cls(folder, display.grid, display.foreground()[1])

    def write(self, moment: str, name: str, image: sitk.Image, transform: sitk.Transform, side: int = SIDE) -> None:
        """Draw a volume, intensities from 0 to 1.

        Args:
            moment: one of `MOMENTS`.
            name: of its files.
            image: 3D, in its own space.
            transform: points of the atlas to the image's, LPS mm.
            side: pixels.

        Raises:
            BingoError: it cannot be written.
        """
        buffer = io.BytesIO()
        Image.fromarray(self.draw(image, transform, side)).save(buffer, "webp", quality=QUALITY)
        path = picture_file(self.folder, moment, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(buffer.getvalue())

    def draw(self, image: sitk.Image, transform: sitk.Transform, side: int) -> NDArray[np.uint8]:
        """(rows, columns): its planes side by side, in physical aspect and radiological convention."""
        size_mm = max(size for plane in self.planes for size in self._extent_mm(plane)) / side
        panels = [self._panel(image, transform, plane, size_mm) for plane in self.planes]
        height = max(len(panel) for panel in panels)
        padded = []
        for panel in panels:
            above = (height - len(panel)) // 2
            padded.append(np.pad(panel, ((above, height - len(panel) - above), (0, GAP))))
        return np.concatenate(padded, axis=1)[:, :-GAP]

    def _extent_mm(self, plane: Plane) -> list[float]:
        spacing = self.grid.spacing[list(plane.kept)].tolist()
        return [size * (end - first) for size, (first, end) in zip(spacing, plane.window, strict=True)]

    def _panel(self, image: sitk.Image, transform: sitk.Transform, plane: Plane, size_mm: float) -> NDArray[np.uint8]:
        """A plane, interpolated at the pixels."""
        first, step, shape = np.array(plane.centre, float), np.ones(3), [1, 1, 1]
        for axis, extent, (start, end) in zip(plane.kept, self._extent_mm(plane), plane.window, strict=True):
            shape[axis] = max(round(extent / size_mm), 1)
            step[axis] = (end - start) / shape[axis]
            first[axis] = start + step[axis] / 2
        x, y, z = shape
        pixels = to_array(resample_image(image, transform, self.grid.part(first, step, (x, y, z)), outside=0.0))
        rows = pixels.squeeze(plane.fixed[0]).T
        if plane.kept[1] == 2:  # superior is up
            rows = rows[::-1]
        drawn: NDArray[np.uint8] = (255 * rows.clip(0, 1)).round().astype(np.uint8)
        return drawn


def picture_file(folder: Path, moment: str, name: str) -> Path:
    """Where an image's picture is, one of `MOMENTS`."""
    return folder / PICTURES / moment / f"{name}.webp"
