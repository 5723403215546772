"""The calls of `hostile` on images, names, manifests, points and registrations."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import hostile_files as files
from benchmarks.hostile_call import (
    APPLY,
    GROUP,
    IMAGE,
    MODEL,
    NEW,
    PLAIN,
    REGISTER,
    SCALABILITY,
    STREAMED,
    TRAINING,
    UNFINISHED,
    Call,
    Change,
    both,
    built,
    edited,
    moved,
    text,
)

BAD_NAMES = {
    "that leaves the folder": "../../victim.txt",
    "that leaves from a folder": "x/../../../victim.txt",
    "absolute": "{work}/../victim.txt",
    "with a slash": "T1/Gd",
    "with a backslash": "T1\\Gd",
    "of two dots": "..",
    "hidden": ".T1",
    "too long": "T" * 300,
    "with a bell": "T1\x07",
}
ODD_NAMES = {
    "brackets": "[red]T1",
    "spaces": "T1 Gd",
    "umlaut": "T1ü",
    "star": "T2*",
    "dash": "-T1",
}
APPLIED = ("--output", "new.nii.gz")


def of_images() -> Iterator[Call]:
    """All of them, theme by theme."""
    for make in (names, headers, units, manifests, registrations, points, options):
        yield from make()


def names() -> Iterator[Call]:
    """Whatever becomes a file name: modalities (the ready model takes any), groups, runs, tables, members."""
    for key, name in BAD_NAMES.items():
        table = text("list.csv", f'modality,image\n"{name}",{IMAGE}\nb,cohort/5_b.nii.gz\n')
        cohort = edited("cohort/manifest.csv", "group0", name)
        commands: dict[str, tuple[tuple[str, ...], Change | None]] = {
            "modality": (("register", *NEW, *PLAIN, f"{name}={IMAGE}", GROUP[1]), None),
            "modality, streamed": (("register", *NEW, "--memory", "100MB", f"{name}={IMAGE}", GROUP[1]), None),
            "modality, listed": (("register", *NEW, "--manifest", "list.csv"), table),
            "modality, atlas": (("atlas", "list.csv", *NEW), table),
            "mask": ((*REGISTER, *NEW, "--mask", f"{name}={IMAGE}", *GROUP), None),
            "member": (("apply", "--registration", "out", "--from", name, "--to", "b", IMAGE, *APPLIED), None),
            "group": (("train", "manifest", *TRAINING, "trainer.epochs=1"), cohort),
            "table": (("table", "manifest", *TRAINING, "--methods", "ape", "--name", name), None),
            "scalability": ((*SCALABILITY, *MODEL, "--name", name), None),
        }
        if name.isprintable():  # YAML, as which settings are read, refuses or folds the rest
            commands["run"] = (("train", "manifest", *TRAINING, "trainer.epochs=1", f"name={name}"), None)
        for kind, (command, change) in commands.items():
            call = Call("names", f"{kind} {key}", command)
            yield replace(call, change=change) if change else call
        yield Call("names", f"listed modality {key}, check", ("check", "list.csv"), (1,), table)
        yield Call("names", f"group {key}, check", ("check", "cohort/manifest.csv"), (1,), cohort)
    for key, name in ODD_NAMES.items():
        table = text("list.csv", f'modality,image\n"{name}",{IMAGE}\nb,cohort/5_b.nii.gz\n')
        yield Call("names", f"allowed: {key}", ("register", *NEW, *PLAIN, "--manifest", "list.csv"), (0,), table)
    for key, name in {"brackets": "[b] [/x]", "spaces": " a b ", "umlaut": "ü", "dash": "-x"}.items():
        change = moved("cohort", name)
        group = (f"a={name}/5_a.nii.gz", f"b={name}/5_b.nii.gz")
        command = (*REGISTER, f"--output={name}/new {name}", *group)
        yield Call("names", f"path: {key}", command, (0,), change, may_leave=(name,))
        yield Call("names", f"path that is absent: {key}", (*REGISTER, *NEW, f"a={name}/no.nii.gz", GROUP[1]))


def headers() -> Iterator[Call]:
    for key, build in files.BAD_IMAGES.items():
        change = built("bad/bad.nii.gz", build)
        yield Call("headers", f"{key}, check", ("check", "bad"), (1,), change)
        yield Call("headers", f"{key}, register", (*REGISTER, *NEW, "a=bad/bad.nii.gz", GROUP[1]), (2,), change)
        streamed = (*STREAMED, *NEW, GROUP[0], "b=bad/bad.nii.gz")
        yield Call("headers", f"{key}, streamed", streamed, (2,), change, UNFINISHED)
        label = (*REGISTER, *NEW, "--label", "a=bad/bad.nii.gz", *GROUP)
        yield Call("headers", f"{key}, label", label, (0, 2) if key in files.AS_LABELS else (2,), change)
        moved_to = (*APPLY, "bad/bad.nii.gz", *APPLIED)
        yield Call("headers", f"{key}, apply", moved_to, files.MOVED.get(key, (2,)), change)
    for key, build in list(files.BAD_IMAGES.items())[::5]:
        change = both(_without(IMAGE), built(IMAGE, build))
        yield Call("headers", f"{key}, train", ("train", "manifest", *TRAINING, "trainer.epochs=1"), (2,), change)
        yield Call("headers", f"{key}, atlas", ("atlas", "group.csv", *MODEL, *NEW), (2,), change)
        yield Call("headers", f"{key}, estimate", ("estimate", "model.ckpt", "--manifest", "group.csv"), (2,), change)
        yield Call("headers", f"{key}, scalability", (*SCALABILITY, *MODEL, "--images", "4"), (2,), change)


def units() -> Iterator[Call]:
    """Files that are good, though not everybody's are like them."""
    for key, build in files.ODD_IMAGES.items():
        change = built("odd/odd.nii.gz", build)
        yield Call("units", f"{key}, check", ("check", "odd"), (0, 1), change)
        first = "a=odd/odd.nii.gz" if key in files.OTHER_PLANES else GROUP[0]
        yield Call("units", f"{key}, register", (*REGISTER, *NEW, first, "b=odd/odd.nii.gz"), (0,), change)
        yield Call("units", f"{key}, streamed", (*STREAMED, *NEW, first, "b=odd/odd.nii.gz"), (0,), change)
        yield Call("units", f"{key}, apply", (*APPLY, "odd/odd.nii.gz", *APPLIED), (0,), change)
    hidden = both(moved("cohort/5_a.nii.gz", "one/x.nii.gz"), text("one/._x.nii.gz", b"\x00\x05\x16\x07"))
    yield Call("units", "hidden file of macOS", ("check", "one"), (0,), hidden)
    yield Call("units", "capital suffix", ("check", "one/U.CSV"), (0,), _listed("one/U.CSV"))
    yield Call("units", "FreeSurfer", (*REGISTER, *NEW, "a=x.mgz", GROUP[1]), (2,), text("x.mgz", b"\x1f\x8b no"))


BAD_MANIFESTS: dict[str, str | bytes] = {
    "empty": "",
    "header alone": "{columns}\n",
    "binary": b"\x89PNG\r\n\x00\xff\xfe",
    "Latin-1": "{columns}\nä,ä.nii.gz\n".encode("latin-1"),
    "semicolons": "modality;image\na;cohort/5_a.nii.gz\n",
    "unclosed quote": '{columns}\n"a,cohort/5_a.nii.gz\n',
    "misspelt column": "modalty,image\na,cohort/5_a.nii.gz\n",
    "column twice": "modality,image,image\na,cohort/5_a.nii.gz,cohort/5_b.nii.gz\n",
    "too many cells": "{columns}\na,cohort/5_a.nii.gz,,,,,,x\n",
    "no modality": "{columns}\n,cohort/5_a.nii.gz\n",
    "no image": "{columns}\na,\n",
    "absent image": "{columns}\na,nowhere.nii.gz\nb,cohort/5_b.nii.gz\n",
    "path too long": "{columns}\na," + "x" * 5000 + ".nii.gz\nb,cohort/5_b.nii.gz\n",
    "itself": "{columns}\na,bad.csv\nb,bad.csv\n",
}


def manifests() -> Iterator[Call]:
    for key, content in BAD_MANIFESTS.items():
        filled = content if isinstance(content, bytes) else content.replace("{columns}", "modality,image")
        change = text("bad.csv", filled)
        yield Call("manifests", f"{key}, register", (*REGISTER, *NEW, "--manifest", "bad.csv"), (2,), change)
        yield Call("manifests", f"{key}, streamed", (*STREAMED, *NEW, "--manifest", "bad.csv"), (2,), change)
        yield Call("manifests", f"{key}, atlas", ("atlas", "bad.csv", *MODEL, *NEW), (2,), change)
        yield Call("manifests", f"{key}, estimate", ("estimate", "model.ckpt", "--manifest", "bad.csv"), (2,), change)
        yield Call("manifests", f"{key}, train", ("train", "manifest", *TRAINING, "data.root=bad.csv"), (2,), change)
        yield Call("manifests", f"{key}, check", ("check", "bad.csv"), (1,), change)
    for key, change in {
        "folder": built("bad.csv", Path.mkdir),
        "FIFO": built("bad.csv", files.fifo),
        "link to itself": built("bad.csv", files.link("bad.csv")),
        "absent": text("other.csv", ""),
    }.items():
        yield Call("manifests", f"{key}, register", (*REGISTER, *NEW, "--manifest", "bad.csv"), (2,), change)
        yield Call("manifests", f"{key}, train", ("train", "manifest", *TRAINING, "data.root=bad.csv"), (2,), change)


def registrations() -> Iterator[Call]:
    """The folder that `register` wrote, damaged or edited by hand."""
    record = "out/registration.json"
    changes: dict[str, Change] = {
        "empty": text(record, ""),
        "no JSON": text(record, "{"),
        "a list": text(record, "[]"),
        "a number": text(record, "7"),
        "null": text(record, "null"),
        "binary": text(record, b"\xff\xfe\x00"),
        "nested": text(record, "[" * 5000),
        "absent": _without(record),
        "no keys": text(record, "{}"),
        "no images": _edit(lambda tree: tree.update({key: [] for key in tree if isinstance(tree[key], list)})),
        "numbers for texts": _edit(lambda tree: _replace(tree, str, 7)),
        "texts for numbers": _edit(lambda tree: _replace(tree, float, "x")),
        "nulls": _edit(lambda tree: _replace(tree, str, None)),
        "name that leaves": edited(record, '"name": "a"', '"name": "../../victim.txt"'),
    }
    for key, change in changes.items():
        yield Call("registrations", f"{key}, apply", (*APPLY, IMAGE, *APPLIED), (2,), change)
        yield Call("registrations", f"{key}, report", ("report", "out"), (2,), change)
    for suffix in (".h5", ".nii.gz"):
        for what, build in {"empty": files.content(b""), "text": files.content(b"no transform")}.items():
            for direction in ("forward", "inverse"):
                change = both(*(built(f"out/transforms/{name}_{direction}{suffix}", build) for name in "ab"))
                wanted = (0, 2)  # not all of them are needed
                yield Call("registrations", f"{direction}{suffix} {what}", (*APPLY, IMAGE, *APPLIED), wanted, change)
    yield Call("registrations", "no transforms", (*APPLY, IMAGE, *APPLIED), (2,), moved("out/transforms", "elsewhere"))
    gone = edited(record, "/cohort/5_a", "/elsewhere/5_a")
    yield Call("registrations", "originals gone", ("report", "out"), (2,), gone)
    yield Call("registrations", "image emptied", ("report", "out"), (2,), text("out/registered/a.nii.gz", ""))
    yield Call("registrations", "no folder", ("report", "nowhere"))
    yield Call("registrations", "a file", ("report", IMAGE))
    yield Call("registrations", "another folder", ("report", "cohort"))


BAD_POINTS: dict[str, tuple[str, str | bytes]] = {
    "empty": ("p.csv", ""),
    "no coordinates": ("p.csv", "name\nx\n"),
    "NaN": ("p.csv", "r,a,s\nnan,1,1\n"),
    "infinite": ("p.csv", "r,a,s\ninf,1,1\n"),
    "words": ("p.csv", "r,a,s\none,two,three\n"),
    "too few": ("p.csv", "r,a,s\n1,2\n"),
    "space unknown": ("p.csv", "x,y,z\n1,2,3\n"),
    "binary": ("p.csv", b"\x89PNG\xff\xfe\x00"),
    "fcsv without columns": ("p.fcsv", "1,2,3\n"),
    "fcsv of another space": ("p.fcsv", "# CoordinateSystem = XYZ\n# columns = id,x,y,z\n1,2,3,4\n"),
    "JSON cut": ("p.mrk.json", '{"markups": ['),
    "JSON of nothing": ("p.mrk.json", "{}"),
    "JSON of null": ("p.mrk.json", "null"),
    "JSON of texts": ("p.mrk.json", '{"markups": [{"coordinateSystem": "LPS", "controlPoints": "none"}]}'),
    "JSON nested": ("p.mrk.json", "[" * 5000),
}


def points() -> Iterator[Call]:
    for key, (name, content) in BAD_POINTS.items():
        yield Call("points", key, (*APPLY, name, "--output", f"new_{name}"), (2,), text(name, content))
    good = text("U.CSV", "r,a,s\n8,8,0\n")
    yield Call("points", "capital suffix", (*APPLY, "U.CSV", "--output", "new.csv"), (0,), good)
    yield Call(
        "points",
        "outside the grid",
        (*APPLY, "far.csv", "--output", "new.csv"),
        (0, 1),
        text("far.csv", "r,a,s\n9e5,1,0\n"),
    )
    yield Call("points", "as labels", (*APPLY, "points.csv", "--labels", "--output", "new.csv"))
    yield Call("points", "as image", (*APPLY, "points.csv", *APPLIED))
    half = built("half.nii.gz", files.voxels(files.DISC * 0.5))
    yield Call("points", "interpolated labels", (*APPLY, "half.nii.gz", "--labels", *APPLIED), (2,), half)
    far = built("far.nii.gz", lambda path: files.save(path, affine=_shifted(500.0)))
    yield Call("points", "image elsewhere", (*APPLY, "far.nii.gz", *APPLIED), (1, 2), far)


def options() -> Iterator[Call]:
    """Words of the command line that mean nothing."""
    commands: dict[str, tuple[str, ...]] = {
        "unknown command": ("regster",),
        "unknown option": ("register", "--outptu", "x"),
        "register without images": ("register", *NEW),
        "register of both": (*REGISTER, *NEW, "--manifest", "group.csv", *GROUP),
        "register without equals": (*REGISTER, *NEW, IMAGE),
        "register of nothing": (*REGISTER, *NEW, "a="),
        "refine less than none": ("register", *MODEL, *NEW, "--refine", "-1", *GROUP),
        "refine by words": ("register", *MODEL, *NEW, "--refine", "many", *GROUP),
        "refine, streamed": (*STREAMED, "--refine", "5", *NEW, *GROUP),
        "unknown affine": ("register", *MODEL, *NEW, "--affine", "perhaps", *GROUP),
        "unknown device": (*REGISTER, *NEW, "--device", "abacus", *GROUP),
        "mask of nobody": (*REGISTER, *NEW, "--mask", f"z={IMAGE}", *GROUP),
        "label of nobody": (*REGISTER, *NEW, "--label", f"z={IMAGE}", *GROUP),
        "unknown modality": (*REGISTER, *NEW, f"z={IMAGE}", GROUP[1]),
        "memory of words": (*STREAMED[:-1], "much", *NEW, *GROUP),
        "memory of nothing": (*STREAMED[:-1], "0", *NEW, *GROUP),
        "memory below nothing": (*STREAMED[:-1], "-1GB", *NEW, *GROUP),
        "memory beyond numbers": (*STREAMED[:-1], "1e999GB", *NEW, *GROUP),
        "memory too small": (*STREAMED[:-1], "1KB", *NEW, *GROUP),
        "estimate of nothing": ("estimate", "model.ckpt"),
        "estimate of no images": ("estimate", "model.ckpt", "--images", "0"),
        "estimate of a word": ("estimate", "model.ckpt", "--images", "some"),
        "estimate of no shape": ("estimate", "model.ckpt", "--images", "4", "--shape", "wide"),
        "estimate of an empty shape": ("estimate", "model.ckpt", "--images", "4", "--shape", "0x0"),
        "estimate of another dimension": ("estimate", "model.ckpt", "--images", "4", "--shape", "16x16x16"),
        "check of nothing": ("check", "nowhere"),
        "check of an empty path": ("check", ""),
        "check of a text": ("check", "../victim.txt"),
        "check of a long path": ("check", "x" * 300),
        "ids of words": ("check", "cohort", "--label-ids", "one"),
        "copies onto a file": ("check", "cohort", "--fix", "model.ckpt"),
        "apply to nobody": ("apply", "--registration", "out", "--from", "a", "--to", "z", IMAGE, *APPLIED),
        "apply to another space": (*APPLY, "points.csv", "--space", "MNI", "--output", "new.csv"),
        "space of an image": (*APPLY, IMAGE, "--space", "RAS", *APPLIED),
        "atlas of nothing": ("atlas", "nowhere.csv", *NEW),
        "atlas of unknown affine": ("atlas", "group.csv", *MODEL, *NEW, "--affine", "perhaps"),
        "sweep of nobody": ("sweep", "nowhere", "--local"),
        "sweep with agents less than none": ("sweep", "mscmr", "--local", "--agents", "-1"),
        "table of unknown methods": ("table", "manifest", *TRAINING, "--methods", "magic"),
        "table of an unknown row": ("table", "manifest", *TRAINING, "--checkpoint", "magic=model.ckpt"),
        "scalability of none": (*SCALABILITY, *MODEL, "--images", "0"),
        "scalability of a method": (*SCALABILITY, *MODEL, "method=ape"),
    }
    for key, command in commands.items():
        leaves = UNFINISHED if key == "memory too small" else ()  # how much is needed is known when images are placed
        yield Call("options", key, command, (1, 2) if key == "check of an empty path" else (2,), may_leave=leaves)


def _without(path: str) -> Change:
    return lambda work: (work / path).unlink()


def _listed(path: str) -> Change:
    return text(path, f"modality,image\na,../{IMAGE}\nb,../cohort/5_b.nii.gz\n")


def _edit(change: Callable[[dict[str, Any]], object]) -> Change:
    """Change the record of a registration."""

    def edit(work: Path) -> None:
        path = work / "out" / "registration.json"
        tree = json.loads(path.read_text())
        change(tree)
        path.write_text(json.dumps(tree))

    return edit


def _replace(tree: Any, kind: type, value: object) -> Any:
    """Put a value in place of all of a kind, at any depth."""
    for key, old in list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)):
        if isinstance(old, dict | list):
            _replace(old, kind, value)
        elif isinstance(old, kind):
            tree[key] = value
    return tree


def _shifted(mm: float) -> Any:
    affine = np.eye(4)
    affine[:3, 3] = mm
    return affine
