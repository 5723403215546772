"""A place that cannot be written is refused before the work, by every command that writes there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bingo_pl import cli
from bingo_pl.errors import BingoError
from bingo_pl.images.written import check_output
from bingo_pl.storage.atomic import PATH_BYTES, check_new_file, check_place, check_unused

Place = Callable[[Path], Path]


def dangling(folder: Path) -> Path:
    (folder / "link").symlink_to(folder / "nowhere")
    return folder / "link"


def to_an_empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    (folder / "link").symlink_to(folder / "empty")
    return folder / "link"


def name_without_room(folder: Path) -> Path:
    """For what it is called while it is written."""
    return folder / ("x" * 250)


def long_name(folder: Path) -> Path:
    return folder / ("x" * 260)


def far_too_long_name(folder: Path) -> Path:
    return folder / ("x" * 5000) / "out"


def long_path(folder: Path) -> Path:
    return folder.joinpath(*["x" * 100] * (PATH_BYTES // 101 - 2))


def within_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "out"


def not_utf8(folder: Path) -> Path:
    return folder / "\udcff"


NOT_NEW: dict[Place, str] = {
    dangling: "is a link",
    to_an_empty_folder: "is a link",
    name_without_room: "bytes too long",
}
"""For what is replaced as a whole."""
BAD: dict[Place, str] = {
    long_name: "bytes too long",
    far_too_long_name: "bytes too long",
    long_path: "bytes too long",
    within_a_file: "is a file, but a folder is needed",
    not_utf8: "not UTF-8",
}


@pytest.mark.parametrize(("place", "said"), [*BAD.items(), *NOT_NEW.items()])
def test_a_new_folder_or_file_has_a_place_of_its_own(tmp_path: Path, place: Place, said: str) -> None:
    path = place(tmp_path)
    for check in (check_unused, check_new_file):
        with pytest.raises(BingoError, match=said):
            check(path)


@pytest.mark.parametrize("place", NOT_NEW)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_result_has_one_too(tmp_path: Path, place: Place, overwrite: bool) -> None:
    with pytest.raises(BingoError, match=NOT_NEW[place]):
        check_output(place(tmp_path), overwrite, "registration.json")


def test_a_good_place_is_taken(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for path in (tmp_path / "a" / "b", tmp_path / "link" / "out", tmp_path / ("x" * 240), tmp_path / "é [b] 磁"):
        for check in (check_place, check_unused, check_new_file):
            check(path)


def test_a_place_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run as root, who may write everywhere."""
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(BingoError, match="may not be written to"):
        check_place(tmp_path / "a" / "b")


REPLACING = ("register", "register --memory", "atlas", "apply")
"""What makes a folder or file of its own, in place of any link."""
NAMES = (*REPLACING, "check", "sweep", "train", "train --continue", "table", "scalability")


def commands(folder: Path) -> dict[str, list[str]]:
    """All that write to a place which is named, without the place."""
    image = folder / "image.nii.gz"
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((24, 24, 1)).astype(np.float32), np.eye(4)), image)
    manifest = folder / "group.csv"
    manifest.write_text(f"modality,image\na,{image}\nb,{image}\n")
    runs = "trainer.accelerator=cpu"
    return {
        "register": ["register", f"a={image}", f"b={image}", "--output"],
        "register --memory": ["register", f"a={image}", f"b={image}", "--memory", "1GB", "--output"],
        "atlas": ["atlas", str(manifest), "--output"],
        "apply": ["apply", str(image), "--registration", str(folder), "--from", "a", "--to", "b", "--output"],
        "check": ["check", str(image), "--fix"],
        "sweep": ["sweep", "mscmr", "--local", "--output"],
        "train": ["train", "mscmr_phantom", runs, "runs="],
        "train --continue": ["train", "mscmr_phantom", "--continue", runs, "runs="],
        "table": ["table", "mscmr_phantom", runs, "runs="],
        "scalability": ["scalability", "mscmr_phantom", "--checkpoint", str(folder / "no.ckpt"), runs, "runs="],
    }


LONG = "x" * 300
IMPOSSIBLE = [
    ["check", LONG],
    ["estimate", "--images", "3", "--shape", "0x0"],
    ["estimate", "--images", "3", f"{LONG}.ckpt"],
    ["register", f"a={LONG}.nii.gz", f"b={LONG}.nii.gz", "--output", "out"],
    ["register", f"a={LONG}.nii.gz", f"b={LONG}.nii.gz", "--memory", "1GB", "--output", "out"],
    ["apply", f"{LONG}.nii.gz", "--registration", LONG, "--from", "a", "--to", "b", "--output", "a.nii.gz"],
    ["atlas", "--add", LONG, "--output", LONG],
    ["train", LONG],
    ["train", "manifest", f"data.root={LONG}"],
    ["train", "manifest", f"data.root={LONG}.csv"],
    ["sweep", f"{LONG}.yaml", "--local"],
    ["table", LONG],
]


@pytest.mark.parametrize("given", IMPOSSIBLE, ids=lambda given: " ".join(given)[:40])
def test_inputs_that_cannot_be_are_refused(
    given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bingo", *given])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    assert exit.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


def began(*_: object, **__: object) -> None:
    pytest.fail("the work has begun")


@pytest.mark.parametrize("name", NAMES)
def test_every_command_refuses_it_before_the_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = commands(tmp_path)[name]
    for work in ("training.experiment.build_data", "sweeps.local._run_all", "models.model.Model.load"):
        monkeypatch.setattr(f"bingo_pl.{work}", began)
    places = {**BAD, **(NOT_NEW if name in REPLACING else {})}
    if command[-1] == "runs=":
        del places[not_utf8]  # no YAML, so no setting
    for number, (place, said) in enumerate(places.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = str(place(folder))
        before = {*tmp_path.rglob("*")}
        given = [*command[:-1], f"runs={path}"] if command[-1] == "runs=" else [*command, path]
        monkeypatch.setattr(sys, "argv", ["bingo", *given])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        captured = capsys.readouterr()
        assert exit.value.code == 2, place.__name__
        assert said in captured.err, place.__name__
        assert captured.out == "", f"{place.__name__}: it was refused before the work"
        assert {*tmp_path.rglob("*")} == before
