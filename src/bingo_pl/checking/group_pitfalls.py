"""What only shows in images side by side: a label map on another grid, doubles, no overlap, missing modalities."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine

from bingo_pl.checking.listing import Finding, Group, Listing
from bingo_pl.images.geometry import corner_distance_mm, voxel_size_mm
from bingo_pl.images.problems import Problem
from bingo_pl.images.reading import other_grid
from bingo_pl.images.volume import Volume

SAMPLES = 9
"""Along each axis, of the points at which overlap is looked for; they include the corners."""


@dataclass(frozen=True)
class Seen:
    """What is kept of a file that can be used when its voxels are dropped."""

    shape: tuple[int, ...]
    affine: np.ndarray
    digest: bytes
    """Of the voxels: the same for equal images, however they are stored."""

    @classmethod
    def of(cls, volume: Volume) -> Seen | None:
        if volume.failed or volume.data is None or volume.affine is None:
            return None
        with np.errstate(over="ignore"):  # of label maps; such an image has failed
            voxels = volume.data.astype(np.float32)
        return cls(volume.data.shape, volume.affine, hashlib.sha256(voxels.tobytes()).digest())

    def holds_any(self, points: np.ndarray) -> bool:
        """Whether any of the points (K, 3) in RAS mm lies in the field of view."""
        index = apply_affine(np.linalg.inv(self.affine), points)
        return bool(((index >= -0.5) & (index <= np.array(self.shape) - 0.5)).all(axis=1).any())

    def points(self) -> np.ndarray:
        """(K, 3) points of the field of view, in RAS mm."""
        axes = [np.linspace(-0.5, size - 0.5, SAMPLES) for size in self.shape]
        return apply_affine(self.affine, np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 3))

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape))
        spacing = "x".join(f"{mm:.3g}" for mm in voxel_size_mm(self.affine))
        return f"{size} voxels of {spacing} mm, {''.join(nib.aff2axcodes(self.affine))}"


def group_findings(group: Group, listing: Listing, seen: Mapping[Path, Seen]) -> list[Finding]:
    """Of a group's images, label maps and masks that can be used."""
    images = {member.image: seen[member.image] for member in group.members if member.image in seen}
    findings = [
        Finding(listing.name(path), problem)
        for problems in (_doubles(images, listing), _strangers(images, listing, group.stated), _misplaced(group, seen))
        for path, problem in problems
    ]
    if problem := _different_grids(images, listing):
        findings.append(Finding(f"group {group.name}", problem))
    return findings


def cohort_findings(groups: Sequence[Group]) -> Iterator[Finding]:
    """Groups of one image, and modalities that a group lacks and at least half of the groups have."""
    counts = Counter(modality for group in groups for modality in {member.modality for member in group.members})
    common = {modality for modality, count in counts.items() if len(groups) > 1 and 2 * count >= len(groups)}
    unpaired = 3 * sum(len(group.members) == 1 for group in groups) > len(groups)  # a cohort of single images
    for group in groups:
        missing = sorted(common - {member.modality for member in group.members})
        if missing:
            problem = Problem(
                "note",
                f"has no {', '.join(missing)}, unlike most groups",
                "the group is used without, so that figures compare groups of different images",
                "Add the images if there are any, or correct their names",
            )
            yield Finding(f"group {group.name}", problem)
        too_few = group.stated and len(group.members) < group.fewest
        if too_few or (len(group.members) == 1 and missing and not unpaired):
            problem = Problem(
                "error" if too_few else "warning",
                f"has one image ({group.members[0].image.name})",
                "there is nothing to register it with",
                "Add an image or remove the group",
            )
            yield Finding(f"group {group.name}", problem)


def _doubles(images: Mapping[Path, Seen], listing: Listing) -> Iterator[tuple[Path, Problem]]:
    first: dict[bytes, Path] = {}
    for path, image in images.items():
        if (double := first.setdefault(image.digest, path)) != path:
            yield (
                path,
                Problem(
                    "warning",
                    f"holds the same voxels as {listing.name(double)} of the same group",
                    "an image that counts twice pulls the group to itself; probably a file was copied twice",
                    "Replace it with the image that was meant, or remove it",
                ),
            )


def _strangers(images: Mapping[Path, Seen], listing: Listing, stated: bool) -> Iterator[tuple[Path, Problem]]:
    """Images that have no place in common with the first."""
    if not images:
        return
    (first, reference), *others = images.items()
    for path, image in others:
        if not image.holds_any(reference.points()) and not reference.holds_any(image.points()):
            yield (
                path,
                Problem(
                    "error" if stated else "warning",
                    f"does not overlap with {listing.name(first)}, the first image of its group",
                    "by their headers they show different places, or different patients; nothing can be registered",
                    "Correct the headers or align the images",
                ),
            )


def _misplaced(group: Group, seen: Mapping[Path, Seen]) -> Iterator[tuple[Path, Problem]]:
    """Label maps and masks that do not lie on the grid of their image."""
    for path in sorted({*group.annotations} & {*seen}):
        images = [seen[image] for image in group.annotations[path] if image in seen]
        problems = [other_grid(seen[path].shape, seen[path].affine, image.shape, image.affine) for image in images]
        # a manifest's label map is read with the first image that has it; a name tells no more than the case
        misplaced = problems and (problems[0] if group.stated else all(problems) and problems[0])
        if misplaced:
            yield path, misplaced


def _different_grids(images: Mapping[Path, Seen], listing: Listing) -> Problem | None:
    if not images:
        return None
    first, *others = images.values()
    for other in others:
        same = first.shape == other.shape and (
            corner_distance_mm(first.affine, other.affine, first.shape) < voxel_size_mm(first.affine).min() / 100
        )
        if not same:
            grids = "; ".join(f"{path.name} {image}" for path, image in images.items())
            return Problem(
                "note",
                f"its images lie on different grids: {grids}",
                "they are resampled to one grid, and what is finer than that is lost",
                "Nothing need be done",
            )
    return None
