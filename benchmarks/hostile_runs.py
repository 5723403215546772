"""The calls of `hostile` on models, settings, folders, disks, locks and signals."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import yaml

from benchmarks import hostile_files as files
from benchmarks.hostile_call import (
    APPLY,
    GROUP,
    IMAGE,
    MODEL,
    NEW,
    REGISTER,
    SCALABILITY,
    STREAMED,
    TRAINING,
    Call,
    Change,
    both,
    built,
    moved,
    text,
)

TRAIN = ("train", "manifest", *TRAINING)
SHORT = (*TRAIN, "trainer.epochs=1", "name=new")
LONG = (*TRAIN, "trainer.epochs=400", "name=new", "--continue")
"""At work for as long as a signal or a second command needs to come."""
TABLE = ("table", "manifest", *TRAINING, "trainer.epochs=400", "--methods", "ape,bingo", "--name", "new")
SWEEP = ("sweep", "search.yaml", "--local", "--seed", "1", *NEW)
MANY = 400
"""Images of a population that is at work for so long."""
RUN = "runs/run/checkpoints"


def of_runs() -> Iterator[Call]:
    """All of them, theme by theme."""
    for make in (models, yaml_files, sweeps, settings, folders, outputs, disk, locks, signals):
        yield from make()


def models() -> Iterator[Call]:
    for key, build in files.BAD_MODELS.items():
        change = built("model.ckpt", build)
        yield Call("models", f"{key}, register", (*REGISTER, *NEW, *GROUP), (2,), change)
        yield Call("models", f"{key}, evaluate", ("evaluate", "model.ckpt"), (2,), change)
        yield Call("models", f"{key}, estimate", ("estimate", "model.ckpt", "--images", "4"), (2,), change)
        yield Call("models", f"{key}, streamed", (*STREAMED, *NEW, *GROUP), (2,), change)
        if key == "not finite":  # training would take it to what moves images: see `BAD_SETTINGS`
            continue
        more = key == "tensor too many"  # a network may start from one with further velocities
        yield Call("models", f"{key}, start", (*SHORT, "trainer.start=model.ckpt"), (0, 2) if more else (2,), change)
        last = built(f"{RUN}/last.ckpt", build)
        yield Call("models", f"{key}, resume", ("resume", f"{RUN}/last.ckpt", "trainer.epochs=3"), (2,), last)
        yield Call("models", f"{key}, continue", (*TRAIN, "trainer.epochs=3", "name=run", "--continue"), (2,), last)
    for key in ("absent", "shortened", "trap", "tensor missing", "not finite"):
        change = built("model.ckpt", files.BAD_MODELS[key])
        yield Call("models", f"{key}, atlas", ("atlas", "group.csv", *MODEL, *NEW), (2,), change)
        yield Call("models", f"{key}, scalability", (*SCALABILITY, *MODEL, "--images", "4"), (2,), change)
        table = ("table", "manifest", *TRAINING, "--methods", "bingo", "--checkpoint", "bingo=model.ckpt")
        yield Call("models", f"{key}, table", table, (2,), change, may_leave=("runs/tables",))
    for key, build in files.BAD_MODEL_FILES.items():
        change = built("bad.safetensors", build)
        register = ("register", "--checkpoint", "bad.safetensors", *NEW, *GROUP)
        yield Call("models", f"model file {key}, register", register, (2,), change)
        yield Call("models", f"model file {key}, start", (*SHORT, "trainer.start=bad.safetensors"), (2,), change)
    for name in ("metrics.csv", "config.yaml"):
        command = ("resume", f"{RUN}/last.ckpt", "trainer.epochs=3")
        change = text(f"runs/run/{name}", "")
        yield Call("models", f"{name} empty, resume", command, (0, 2), change, may_change=("runs/run",))


def yaml_files() -> Iterator[Call]:
    contents: dict[str, str | bytes] = {
        **files.BAD_YAML,
        "not UTF-8": b"data: {root: \xff\xfe}\n",
        "binary": b"\x89PNG\x00",
    }
    for key, content in contents.items():
        change = text("bad.yaml", content)
        tail = (*TRAINING, "data.dataset=manifest", "trainer.epochs=1", "name=new")
        yield Call("YAML", f"{key}, train", ("train", "bad.yaml", *tail), (2,), change)
        yield Call("YAML", f"{key}, table", ("table", "bad.yaml", *tail, "--methods", "ape"), (2,), change)
        yield Call("YAML", f"{key}, scalability", ("scalability", "bad.yaml", *MODEL), (2,), change)
        yield Call("YAML", f"{key}, sweep", ("sweep", "bad.yaml", "--local"), (2,), change)
    for key, change in {
        "folder": built("bad.yaml", Path.mkdir),
        "FIFO": built("bad.yaml", files.fifo),
        "absent": text("other.yaml", ""),
        "circle": both(text("bad.yaml", "base: other.yaml\n"), text("other.yaml", "base: bad.yaml\n")),
    }.items():
        yield Call("YAML", f"{key}, train", ("train", "bad.yaml", *TRAINING), (2,), change)
        yield Call("YAML", f"{key}, sweep", ("sweep", "bad.yaml", "--local"), (2,), change)


def search(**changes: object) -> Change:
    """A sweep file of two short trials, with some entries replaced, or left out where they are None."""
    tree = {
        "program": "bingo",
        "command": ["${env}", "${program}", *SHORT[:-1], "${args_no_hyphens}"],
        "method": "grid",
        "metric": {"name": "val/gwi", "goal": "minimize"},
        "parameters": {"trainer.learning_rate": {"values": [0.001, 0.002]}},
    }
    kept = {key: value for key, value in {**tree, **changes}.items() if value is not None}
    return text("search.yaml", yaml.safe_dump(kept))


def sweeps() -> Iterator[Call]:
    rate = "trainer.learning_rate"
    wrong: dict[str, dict[str, object]] = {
        "no parameters": {"parameters": None},
        "parameters of nothing": {"parameters": {}},
        "a parameter of nothing": {"parameters": {rate: {}}},
        "no values": {"parameters": {rate: {"values": []}}},
        "values that are none": {"parameters": {rate: {"values": 3}}},
        "a parameter that is a list": {"parameters": [rate]},
        "unknown setting": {"parameters": {"trainer.rate": {"values": [1, 2]}}},
        "unknown distribution": {
            "method": "random",
            "parameters": {rate: {"distribution": "magic", "min": 0, "max": 1}},
        },
        "least above largest": {"method": "random", "parameters": {rate: {"min": 2.0, "max": 1.0}}},
        "unknown method": {"method": "magic"},
        "no method": {"method": None},
        "no metric": {"metric": None},
        "unknown goal": {"metric": {"name": "val/gwi", "goal": "best"}},
        "no command": {"command": None, "program": None},
        "a command of nothing": {"command": []},
        "a command that is a number": {"command": 7},
        "run_cap below none": {"method": "random", "run_cap": -1},
        "name that leaves": {"name": "../../victim.txt"},
    }
    for key, changes in wrong.items():
        command = ("sweep", "search.yaml", "--local", *(() if "name" in changes else NEW))
        # what a setting means only the trials know, and they leave their logs
        wanted, leaves = ((1, 2), ("new",)) if key == "unknown setting" else ((2,), ())
        yield Call("sweeps", key, command, wanted, search(**changes), may_leave=leaves)


BAD_SETTINGS = (
    *("seed=-1", "seed=1.5", "seed=x", "runs=model.ckpt", "method=magic", "method=", "unknown=1"),
    *("data.roi=[]", "data.roi=[16]", "data.roi=[0,0]", "data.roi=[-16,16]", "data.roi=[15,17]"),
    *("data.roi=[16,16,16,16]", "data.roi=wide", "data.roi=[999999999,999999999]"),
    *("data.spacing_mm=nan", "data.spacing_mm=inf", "data.fill_nonfinite=x", "data.ffd_strength=-1"),
    *("data.modalities=[]", "data.modalities=[a,a]", "data.modalities=[a]", "data.modalities=[../x,b]"),
    *("data.label_ids=[-1]", "data.label_ids=[x]", "data.label_ids=[2]", "data.dataset=magic", "data.root=nowhere"),
    *("data.batch_size=0", "data.batch_size=-1", "data.images_per_step=0", "data.cache_dir=model.ckpt"),
    *("data.ffd_spacings=[]", "data.ffd_spacings=[0]", "data.ffd_spacings=[-1]"),
    *("data.copies=0", "data.draws_per_test_group=0", "data.workers=-1"),
    *("model.channels=[]", "model.channels=[0,8]", "model.channels=[-4,8]", "model.channels=4"),
    *("model.velocity_scales=[]", "model.velocity_scales=[9]", "model.velocity_scales=[-1]"),
    *("model.head_depth=-1", "model.squarings=-1", "model.smoothness=-1", "model.similarity=magic"),
    *("model.cross_reconstruction=2", "weights.bending=-1", "similarity.bins=0", "similarity.bins=-1"),
    *("refine.steps=-1", "trainer.devices=0", "trainer.devices=-7", "trainer.accelerator=abacus"),
    *("trainer.precision=magic", "trainer.epochs=-1", "trainer.learning_rate=-0.001", "trainer.learning_rate=0.x"),
    *("trainer.warm_up=5", "trainer.warm_up=-1", "trainer.start=nowhere", "trainer.start=ready_4d"),
    *("log.wandb=perhaps", "log.figure_groups=-1", "=1", "data", "data=1", "data.=1", ".roi=1", "trainer.epochs"),
    *("data.root=${oc.env:HOME}", "seed=["),
)
"""None makes what moves images a number that is not finite: a library would get coordinates that are none."""
NO_GPU = ("trainer.accelerator=gpu",)
"""Of a machine that has none."""


def settings() -> Iterator[Call]:
    """Each over all others, whose own values are good."""
    for setting in (*BAD_SETTINGS, *(() if torch.cuda.is_available() else NO_GPU)):
        yield Call("settings", f"{setting}, train", (*SHORT, setting))
    for setting in [word for word in BAD_SETTINGS[::4] if "start" not in word]:  # which training alone looks at
        yield Call("settings", f"{setting}, table", ("table", "manifest", *TRAINING, "--methods", "ape", setting))
        yield Call("settings", f"{setting}, evaluate", ("evaluate", "model.ckpt", setting))
        yield Call("settings", f"{setting}, resume", ("resume", f"{RUN}/last.ckpt", "trainer.epochs=3", setting))


def folders() -> Iterator[Call]:
    """Somebody's folders where a command wants to write."""
    go_on = (*TRAIN, "trainer.epochs=2", "name=mine", "--continue")
    yield Call("folders", "somebody's config.yaml, continue", go_on, (2,), _persons("runs/mine"))
    for key, kept in {
        "only best.ckpt": f"{RUN}/best.ckpt",
        "only hpc_ckpt": "runs/run/hpc_ckpt_1.ckpt",
        "only its config": "runs/run/config.yaml",
    }.items():
        yield Call(
            "folders", f"{key}, continue", (*TRAIN, "trainer.epochs=3", "name=run", "--continue"), (2,), _only(kept)
        )
    yield Call("folders", "run is a file, continue", go_on, (2,), text("runs/mine", "mine"))
    yield Call("folders", "run is a file, train", SHORT, (0, 2), text("runs/new", "mine"))
    yield Call("folders", "run is there, train", (*TRAIN, "trainer.epochs=1", "name=run"), (0,))
    yield Call(
        "folders", "run is a link to nothing, continue", go_on, (0, 2), built("runs/mine", files.link("nowhere"))
    )
    yield Call("folders", "runs is a file", SHORT, (2,), both(moved("runs", "old"), text("runs", "mine")))
    table = ("table", "manifest", *TRAINING, "trainer.epochs=1", "--methods", "bingo", "--name", "mine")
    yield Call(
        "folders",
        "somebody's training of a table",
        table,
        change=_persons("runs/tables/mine/trainings/bingo"),
        may_leave=("runs/tables/mine",),
    )
    yield Call("folders", "table is a file", table, (2,), text("runs/tables/mine", "mine"))
    trial = both(search(), _persons("new/trials/trial-001"))
    yield Call("folders", "somebody's trial of a sweep", SWEEP, (0, 1, 2), trial, may_leave=("new",))
    yield Call("folders", "sweep is a file", SWEEP, (2,), both(search(), text("new", "mine")))
    growing = (*SCALABILITY, *MODEL, "--images", "4", "--name", "mine")
    yield Call("folders", "scalability is a file", growing, (2,), text("runs/scalability/mine", "mine"))
    for name in ("new.work", ".new.work"):
        person = text(f"{name}/thesis.tex", "years of work")
        yield Call("folders", f"somebody's {name}, streamed", (*STREAMED, *NEW, *GROUP), (0, 2), person)
        yield Call("folders", f"somebody's {name}, atlas", ("atlas", "group.csv", *MODEL, *NEW), (0, 2), person)


def outputs() -> Iterator[Call]:
    """Places that cannot be written or must not be overwritten."""
    places: dict[str, tuple[str, Change]] = {
        "a folder in use": ("cohort", text("x", "")),
        "a file": ("model.ckpt", text("x", "")),
        "a file outside": ("../victim.txt", text("x", "")),
        "below a file": ("model.ckpt/new", text("x", "")),
        "too long": ("n" * 300, text("x", "")),
        "a path too long": ("/".join(["n" * 200] * 30), text("x", "")),
        "a link to nothing": ("link", built("link", files.link("nowhere"))),
        "a link to itself": ("link", built("link", files.link("link"))),
        "a link to somebody's folder": ("link", built("link", files.link("cohort"))),
        "a pipe": ("pipe", built("pipe", files.fifo)),
        "a device": ("/dev/null", text("x", "")),
        "where nobody may": ("/proc/new", text("x", "")),
        "the folder itself": (".", text("x", "")),
        "nothing": ("", text("x", "")),
    }
    for key, (place, change) in places.items():
        yield Call("outputs", f"{key}, register", (*REGISTER, "--output", place, *GROUP), (2,), change)
        yield Call("outputs", f"{key}, streamed", (*STREAMED, "--output", place, *GROUP), (2,), change)
        yield Call("outputs", f"{key}, atlas", ("atlas", "group.csv", *MODEL, "--output", place), (2,), change)
        yield Call("outputs", f"{key}, apply", (*APPLY, IMAGE, "--output", place), (2,), change)
        yield Call("outputs", f"{key}, points", (*APPLY, "points.csv", "--output", place), (2,), change)
        if key not in ("a folder in use", "the folder itself", "nothing", "a link to somebody's folder"):
            sheared = both(change, built("odd/odd.nii.gz", files.field(files.SLOPE, "f", files.NAN)))
            yield Call("outputs", f"{key}, copies", ("check", "odd", "--fix", place), (2,), sheared)
    for suffix in ("png", "nii", "txt", "nii.gz.bak"):
        yield Call("outputs", f"image as {suffix}", (*APPLY, IMAGE, "--output", f"new.{suffix}"), (0, 2))
    yield Call("outputs", "onto its input", (*APPLY, IMAGE, "--output", IMAGE))
    link = built("link.nii.gz", files.link("cohort/5_b.nii.gz"))
    yield Call("outputs", "link to an image, apply", (*APPLY, IMAGE, "--output", "link.nii.gz"), (2,), link)
    report = both(_remove("out/report.html"), built("out/report.html", files.link("../../victim.txt")))
    yield Call("outputs", "report is a link", ("report", "out"), (0, 2), report, may_change=("out/report.html",))
    yield Call(
        "outputs",
        "report is a folder",
        ("report", "out"),
        (2,),
        both(_remove("out/report.html"), built("out/report.html", Path.mkdir)),
    )


def disk() -> Iterator[Call]:
    """A disk that is full: no file can grow beyond some bytes."""
    for limit in (100, 3000):
        full = replace(Call("disk", "", ()), file_limit=limit)
        begun = {
            "train": (SHORT, "runs/new", None),
            "continue": ((*TRAIN, "trainer.epochs=4", "name=run", "--continue"), "runs/run", None),
            "table": (TABLE, "runs/tables", None),
            "sweep": (SWEEP, "new", search()),
            "scalability": ((*SCALABILITY, *MODEL, "--images", "4", "--name", "new"), "runs/scalability", None),
            "register": ((*REGISTER, *NEW, *GROUP), "nothing", None),
            "streamed": ((*STREAMED, *NEW, *GROUP), "new/unfinished", None),
            "atlas": (("atlas", "group.csv", *MODEL, *NEW, "--memory", "1GB"), "new.work", None),
            "report": (("report", "out"), "nothing", None),
        }
        for key, (command, leaves, change) in begun.items():
            call = replace(full, name=f"{limit} bytes, {key}", command=command, may_leave=(leaves,))
            call = replace(call, wanted=(1, 2) if key == "sweep" else (2,))
            changes = ("runs/run/figures", "runs/run/metrics.csv", "runs/run/config.yaml") if key == "continue" else ()
            yield replace(call, change=change or call.change, may_change=changes)
    small = replace(Call("disk", "", ()), file_limit=20)
    yield replace(small, name="20 bytes, apply", command=(*APPLY, IMAGE, "--output", "new.nii.gz"))
    yield replace(small, name="20 bytes, points", command=(*APPLY, "points.csv", "--output", "new.csv"))
    odd = built("odd/odd.nii.gz", files.field(files.SLOPE, "f", files.NAN))
    yield replace(
        small, name="20 bytes, copies", command=("check", "odd", "--fix", "new"), change=odd, may_leave=("new",)
    )


def locks() -> Iterator[Call]:
    """A second command on what another one is working on is refused; the first one does not notice."""
    crowd = _population(MANY)
    streamed = (*STREAMED[:-1], "1MB", *NEW, "--manifest", "crowd.csv")
    atlas = ("atlas", "crowd.csv", *MODEL, *NEW, "--memory", "1GB")
    growing = (*SCALABILITY, *MODEL, "--images", "100", "--name", "new")
    yield Call("locks", "continue twice", LONG, beside=LONG)
    yield Call("locks", "resume what is trained", ("resume", "runs/new/checkpoints/last.ckpt"), beside=LONG)
    yield Call("locks", "table twice", TABLE, beside=TABLE)
    yield Call("locks", "sweep twice", SWEEP, change=search(), beside=SWEEP)
    yield Call("locks", "streamed twice", streamed, change=crowd, beside=streamed)
    yield Call("locks", "atlas twice", atlas, change=crowd, beside=atlas)
    yield Call("locks", "scalability twice", growing, beside=growing)
    left = both(text("runs/.new.lock", ""), text(".new.lock", ""))
    yield Call("locks", "lock left by a killed process", SHORT, (0,), left, may_change=("runs/.new.lock", ".new.lock"))
    other = (*TRAIN, "trainer.epochs=1", "name=other")
    yield Call("locks", "trained beside another", other, (0,), beside=LONG)


def signals() -> Iterator[Call]:
    """Ctrl-C and `kill`: one line, 130 or 143, nothing half-written, and the same command resumes afterwards."""
    crowd = _population(MANY)
    slow = ("register", *MODEL, *NEW, "--affine", "never", "--refine", "2000", *GROUP)
    quick = (*REGISTER, *NEW, *GROUP)
    streamed = (*STREAMED[:-1], "1MB", *NEW, "--manifest", "crowd.csv")
    growing = (*SCALABILITY, *MODEL, "--images", "100", "--name", "new")
    jobs: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], Change | None]] = {
        "train": ((*TRAIN, "trainer.epochs=400", "name=new"), ("runs/new",), LONG, None),
        "continue": (LONG, ("runs/new",), LONG, None),
        "resume": (("resume", f"{RUN}/last.ckpt", "trainer.epochs=400"), ("runs/run",), (), None),
        "table": (TABLE, ("runs/tables",), TABLE, None),
        "sweep": (SWEEP, ("new",), SWEEP, search()),
        "register": (slow, (), quick, None),
        "streamed": (streamed, ("new/unfinished",), streamed, crowd),
        "atlas": (
            ("atlas", "crowd.csv", *MODEL, *NEW, "--memory", "1GB"),
            ("new.work", ".new"),
            ("atlas", "crowd.csv", *MODEL, *NEW, "--memory", "1GB"),
            crowd,
        ),
        "scalability": (growing, ("runs/scalability",), growing, None),
    }
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        for key, (command, leaves, again, change) in jobs.items():
            call = Call("signals", f"{number.name} to {key}", command, (status,), may_leave=leaves, again=again)
            changes = ("runs/run",) if key == "resume" else ()
            yield replace(call, change=change or call.change, sends=number, may_change=changes)


def _only(kept: str) -> Change:
    """A run of one file, which is its last checkpoint where the run has none of that name."""

    def change(work: Path) -> None:
        content = (work / (kept if (work / kept).exists() else f"{RUN}/last.ckpt")).read_bytes()
        shutil.rmtree(work / "runs" / "run")
        (work / kept).parent.mkdir(parents=True)
        (work / kept).write_bytes(content)

    return change


def _persons(folder: str) -> Change:
    """A folder of somebody's, which looks like a run at first sight."""
    return both(text(f"{folder}/config.yaml", "my: own\n"), text(f"{folder}/thesis.tex", "years of work"))


def _remove(path: str) -> Change:
    return lambda work: (work / path).unlink()


def _population(images: int) -> Change:
    """A manifest of so many lines, each of a file of its own."""

    def change(work: Path) -> None:
        (work / "crowd").mkdir()
        lines = ["modality,image"]
        for number in range(images):
            shutil.copy(work / "cohort" / f"{number % 7}_a.nii.gz", work / "crowd" / f"{number}.nii.gz")
            lines.append(f"a,crowd/{number}.nii.gz")
        (work / "crowd.csv").write_text("\n".join(lines) + "\n")

    return change
