"""Further people brought to a finished atlas, which stays as it is: ``bingo atlas --add``."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape

from bingo_pl.alignment.features import Subject, Template
from bingo_pl.alignment.population import add
from bingo_pl.alignment.transforms import fields_of
from bingo_pl.atlases.cohort import register_scan
from bingo_pl.atlases.people import FEATURES, Choices, draw_member, write_atlas_record, write_maps, write_page
from bingo_pl.atlases.template import RECORD
from bingo_pl.errors import FileError, InputError
from bingo_pl.evaluation.uncertainty import hierarchical
from bingo_pl.images.grids import Grid
from bingo_pl.images.reading import read_voxels
from bingo_pl.images.record import DAMAGES, Record, read_record, sha256_of
from bingo_pl.images.record import RECORD as REGISTRATION
from bingo_pl.images.resampling import resample_labels, to_array
from bingo_pl.images.scans import check_dimensions, names_of, read_scan
from bingo_pl.images.written import FILES, REMADE
from bingo_pl.messages import doing
from bingo_pl.models.model import Model
from bingo_pl.registration.console import warn_of_copies
from bingo_pl.registration.native import Space
from bingo_pl.registration.registered import write_member
from bingo_pl.report.cohort import lines_of, people_of
from bingo_pl.report.strips import Strips
from bingo_pl.storage.atomic import remove_leftovers, replacing
from bingo_pl.storage.locking import held


def add_people(
    atlas: Path,
    newcomers: Sequence[tuple[str, Path]],
    checkpoint: Path | None,
    images: bool,
    jacobian: bool,
    console: Console,
    device: str = "auto",
) -> list[str]:
    """Bring further people to a finished atlas and write their transforms into its folder.

    Template, coverage and label prior stay as they are. Each newcomer is compared with the group alone, so that the
    result does not depend on who else comes.

    Args:
        atlas: the folder that ``bingo atlas`` wrote.
        newcomers: (modality, image) of one person each; an empty modality: the atlas's only one.
        checkpoint: that made the atlas; None: as its record names it, or the ready model.
        images: write each registered image too.
        jacobian: write maps of the logarithm of the Jacobian determinant.
        console: where progress and results are reported.
        device: ``auto``, ``cpu``, ``gpu`` or ``mps``.

    Returns:
        What the newcomers are called in the folder.

    Raises:
        BingoError: no finished atlas of this kind, another model than made it, or unusable images.
    """
    atlas = atlas.absolute()
    with held(atlas):
        tree = _read(atlas / RECORD)
        record = read_record(atlas)
        remove_leftovers(atlas)
        whole = {image["name"] for image in tree["images"]}  # one that a killed process left half-written is no member
        record = replace(record, entries=[entry for entry in record.entries if entry.name in whole])
        space = Space(tree["space"]["dims"], np.array(tree["space"]["frame_ras_mm"]))
        template = Template.read(atlas / FEATURES)
        model = _model(record, checkpoint, space.dims, device)
        known = sorted({entry.modality for entry in record.entries})
        named = [(_modality(modality, known, path), path) for modality, path in newcomers]
        taken = [entry.modality for entry in record.entries]
        names = names_of([*taken, *(modality for modality, _ in named)])[len(taken) :]
        foreign = _clear(atlas, names, _files(atlas) - tree[FILES].keys())
        _check_all(named, tree, space, console)
        for name, (modality, path) in zip(names, named, strict=True):
            before = (atlas / REGISTRATION).read_bytes()
            try:
                with doing(f"aligning {escape(str(path))}", console):
                    found = _add(name, modality, path, template, space, record, tree, model, (images, jacobian), atlas)
                _append(atlas, found, tree, foreign)
            except BaseException:
                there = _read(atlas / RECORD)
                if name not in {image["name"] for image in there["images"]}:
                    with replacing(atlas / REGISTRATION) as temporary:
                        temporary.write_bytes(before)
                    _clear(atlas, [name], _files(atlas) - there[FILES].keys())
                raise
            console.print(
                f"{escape(str(path))} is {escape(name)}: agreement with the group {found['agreement']:.2f}, "
                f"{found['agreement_affine']:.2f} by its affine map alone",
                soft_wrap=True,
            )
        write_page(atlas, console)
        came = [one for one in people_of(tree["images"]) if one.added and one.name in names]
        for line in lines_of(came):
            console.print(escape(line), soft_wrap=True)
    return names


def _check_all(newcomers: Sequence[tuple[str, Path]], tree: Mapping[str, Any], space: Space, console: Console) -> None:
    """Read all of them before anybody is added; name copies of each other and of members.

    Raises:
        BingoError: an unusable image.
    """
    contents = [(str(image["path"]), str(image["sha256"])) for image in tree["images"]]
    for modality, path in newcomers:
        scan = read_scan(str(path), modality, path, None, None)
        check_dimensions([scan], space.dims)
        space.picture(scan)
        contents.append((str(path), sha256_of(path)))
    warn_of_copies(contents, console)


def _add(
    name: str,
    modality: str,
    path: Path,
    template: Template,
    space: Space,
    record: Record,
    tree: dict[str, Any],
    model: Model,
    wanted: tuple[bool, bool],
    atlas: Path,
) -> dict[str, Any]:
    """Register and write one newcomer; its entry in the records."""
    scan = read_scan(name, modality, path, None, None)
    check_dimensions([scan], space.dims)
    subject = Subject([space.picture(scan)], [model.index(modality)], [modality])
    found = add(subject, template, hierarchical(model.registrar), tree["transform"])
    affine = space.to_image(found.maps.linear, scan)
    grid, fields = record.group, fields_of(found.maps)
    first = read_scan("first", record.entries[0].modality, record.entries[0].path, None, None)
    member = register_scan(scan, scan.digests(), affine, fields, 0, space, grid, first)
    images, jacobian = wanted
    entry = write_member(member, grid, atlas, atlas, jacobian=False, images=images)
    labels = None
    if tree["label_ids"] is not None:
        likely = grid.to_sitk(_labels(atlas, grid))
        labels = to_array(resample_labels(likely, member.inverse.transform, scan.grid))
    write_maps(member, grid, labels, jacobian, atlas)
    draw_member(member, Strips.of(atlas, grid))
    return entry | {
        "subject": name,
        "added": True,
        "agreement": found.agreement[0],
        "agreement_affine": found.agreement_affine[0],
        "repeatability_mm": found.repeatability_mm[0],
    }


def _labels(atlas: Path, grid: Grid) -> NDArray:
    voxels, affine = read_voxels(atlas / "labels.nii.gz")
    if voxels.shape != grid.shape or not np.allclose(affine, grid.affine, atol=1e-4):
        raise InputError(f"{atlas / 'labels.nii.gz'}: is not on the atlas's grid", "Copy the atlas again, whole")
    return voxels.astype(np.int32)


def _files(atlas: Path) -> set[str]:
    """Paths of all files in an atlas that its record may list."""
    paths = {path.relative_to(atlas).as_posix() for path in atlas.rglob("*") if path.is_file()}
    return paths - {RECORD, *REMADE}


def _clear(atlas: Path, names: Sequence[str], unlisted: Collection[str]) -> set[str]:
    """Remove what a killed process wrote of newcomers who were to have these names: they may have been other people.

    Returns:
        The unlisted files that are left: somebody else's.
    """
    own = {f"{name}{end}" for name in names for end in (".nii.gz", ".webp")}
    own |= {f"{name}_{way}{end}" for name in names for way in ("forward", "inverse") for end in (".h5", ".nii.gz")}
    halves = {path for path in unlisted if Path(path).name in own}
    for path in halves:
        (atlas / path).unlink()
        with suppress(OSError):  # not empty
            (atlas / path).parent.rmdir()
    return set(unlisted) - halves


def _append(atlas: Path, entry: dict[str, Any], tree: dict[str, Any], foreign: set[str]) -> None:
    """Both records with one more image, also in memory; that of the atlas, which lists all files, last.

    What others put into the folder is not listed, and what they changed keeps its digest: see `check_output`.
    """
    tree["images"].append(entry)
    registration = _read(atlas / REGISTRATION)
    kept = registration["images"][0].keys()
    registration["images"] = [{key: image[key] for key in kept} for image in tree["images"]]
    with replacing(atlas / REGISTRATION) as temporary:
        temporary.write_text(json.dumps(registration, indent=2), encoding="utf-8")
    new = _files(atlas) - tree[FILES].keys() - foreign | {REGISTRATION}
    tree[FILES] |= {name: sha256_of(atlas / name) for name in sorted(new)}
    write_atlas_record(atlas, tree, tree[FILES])


def _read(path: Path) -> dict[str, Any]:
    try:
        tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        [(image["name"], image["path"], image["sha256"]) for image in tree["images"]], dict(tree[FILES])
        if path.name == RECORD:
            Choices(transform=tree["transform"])
            people_of(tree["images"])
            if tree["space"]["dims"] not in (2, 3) or np.shape(tree["space"]["frame_ras_mm"]) != (4, 4):
                raise ValueError(f"space {tree['space']}")
    except OSError as error:
        raise FileError(
            f"{path}: cannot be read ({error.strerror})",
            "Name a folder that bingo atlas wrote, without memory and affine",
        ) from error
    except DAMAGES as error:
        raise FileError(
            f"{path}: is damaged, or of an atlas of the network alone (memory, affine), to which nobody can be added "
            f"({type(error).__name__}: {error})",
            "Make the atlas again",
        ) from error
    return tree


def _model(record: Record, checkpoint: Path | None, dims: int, device: str) -> Model:
    """The model that made the atlas.

    Raises:
        BingoError: another one.
    """
    recorded = record.checkpoint
    model = Model.load(
        checkpoint or (recorded if recorded.suffix == ".ckpt" else None), dims, [f"trainer.accelerator={device}"]
    )
    if sha256_of(model.path) != record.checkpoint_sha256:
        raise InputError(
            f"{model.path} is not the model that made the atlas ({recorded}): their experts cannot be compared",
            "Name that one, or make the atlas again",
        )
    return model


def _modality(given: str, known: Sequence[str], path: Path) -> str:
    if not given and len(known) > 1:
        raise InputError(f"{path}: the atlas has the modalities {', '.join(known)}", "Say which: MODALITY=FILE")
    return given or known[0]
