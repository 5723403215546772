"""What a manifest lists, and everything that is wrong with the manifest itself."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from bingo_pl.checking.listing import Finding, Group, Listing, foreign
from bingo_pl.data_modules.manifest_cohort import COHORT, groups_of, with_cohort_problems
from bingo_pl.images.manifest import GROUP, PEOPLE, Manifest, Row, read_manifest
from bingo_pl.images.members import Member
from bingo_pl.images.naming import FORMATS, ending


def list_manifest(path: Path) -> Listing:
    """The files and groups of a manifest, of a cohort, of one group or of a population; its faults are findings."""
    manifest = read_manifest(path, COHORT, GROUP, PEOPLE)
    if manifest.columns is COHORT:
        manifest = with_cohort_problems(manifest)
    listing = Listing(path.parent)
    listing.findings += [Finding(path.name, problem) for problem in manifest.problems]
    for name, rows in _groups(manifest).items():
        members: dict[Path, Member] = {}
        for member in map(_member, rows):
            members.setdefault(member.image, member)
        listing.add(Group.listed(name, members.values(), fewest=2 if manifest.columns is COHORT else 1))
    for file in listing.roles:
        if not ending(file, FORMATS):
            listing.findings.append(Finding(listing.name(file), foreign(file.suffix)))
    return listing


def _groups(manifest: Manifest) -> dict[str, list[Row]]:
    if manifest.columns is COHORT:
        return groups_of(manifest)
    return {manifest.path.stem: [*manifest.rows]} if manifest.rows else {}


def _member(row: Row) -> Member:
    """A row's files under one spelling each, whatever the row's own."""
    image, label, mask = (
        path and Path(os.path.normpath(path)) for path in (row.member.image, row.member.label, row.member.mask)
    )
    assert image is not None
    return dataclasses.replace(row.member, image=image, label=label, mask=mask)
