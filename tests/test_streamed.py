"""Laws of ``bingo register --memory``: the files of a registration in memory, whatever happens on the way."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from bingo_pl import BingoError, register
from bingo_pl.images.grids import Grid
from bingo_pl.images.members import Member
from bingo_pl.models.model import Model
from bingo_pl.registration import streamed
from bingo_pl.registration.registered import UNFINISHED
from bingo_pl.registration.streamed import probe_files, register_files
from bingo_pl.report import page
from bingo_pl.storage import resumable
from bingo_pl.streaming import file_source

from .test_affine import image, move
from .test_register import FIRST, kinds, make_checkpoint
from .test_transforms import map_all, points_in

MEMORY = 10**8


@pytest.fixture(scope="module", autouse=True)
def report_without_pictures() -> Iterator[None]:
    """Drawing takes longer than all else; the report has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "write_report", lambda folder, scans=(): (folder / "report.html").touch())
        yield


def make_members(folder: Path, dims: int, far: bool = False) -> list[Member]:
    """A head on grids of three kinds, the last one perhaps far off; the first has a label map, the second a mask."""
    members = []
    for number, grid in enumerate([*kinds(dims).values()][:3]):
        array, affine = image(grid, "ab"[number % 2], move(FIRST[dims], 18, 12) if far and number == 2 else None)
        members.append(Member("ab"[number % 2], folder / f"{number}.nii.gz"))
        nib.save(nib.Nifti1Image((1000 * array).astype(np.int16), affine), members[-1].image)
        nib.save(nib.Nifti1Image((array > 0.5).astype(np.uint8), affine), folder / f"{number}_ids.nii.gz")
    first, second, *others = members
    labelled, masked = folder / "0_ids.nii.gz", folder / "1_ids.nii.gz"
    return [Member("a", first.image, label=labelled), Member("b", second.image, mask=masked), *others]


def contents(folder: Path) -> dict[str, str]:
    """A digest of every file, of ITK's without the time of writing that HDF5 keeps in it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(content(path)).hexdigest() for path in files}


def content(path: Path) -> bytes:
    if path.name == "registration.json":
        record = json.loads(path.read_bytes())
        record["files"] = {file: "" if file.endswith(".h5") else digest for file, digest in record["files"].items()}
        return json.dumps(record).encode()
    if path.suffix != ".h5":
        return path.read_bytes()
    transform = sitk.ReadTransform(str(path))
    return np.array([*transform.GetFixedParameters(), *transform.GetParameters()]).tobytes()


@pytest.mark.parametrize("dims", [2, 3])
def test_the_files_are_those_of_a_registration_in_memory(tmp_path: Path, dims: int) -> None:
    """To 1e-3 of the intensities' range, the effect of 1e-4 voxel (`test_stream.TOLERANCE`) at the sharpest edge."""
    members, model = make_members(tmp_path, dims, far=True), make_checkpoint(tmp_path / "model.ckpt", dims)
    out = register_files(members, tmp_path / "streamed", MEMORY, model, jacobian=True, device="cpu")
    group = register(
        [(member.modality, member.image) for member in members],
        model,
        masks={"b": members[1].mask or ""},
        labels={"a": members[0].label or ""},
        refine=0,
        device="cpu",
    )
    whole = tmp_path / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bingo_pl.report.page.write_report", lambda folder, scans=(): (folder / "report.html").touch())
        group.write(whole, jacobian=True)
    left_out = {f"{kind}/{name}.nii.gz" for kind in ("uncertainty", "template") for name in group.members}
    assert contents(out).keys() == contents(whole).keys() - left_out
    for path in [path for path in contents(out) if path.endswith(".nii.gz")]:
        ours, theirs = nib.load(out / path), nib.load(whole / path)
        assert ours.get_data_dtype() == theirs.get_data_dtype()
        np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-5)
        values = theirs.get_fdata()
        np.testing.assert_allclose(ours.get_fdata(), values, rtol=0, atol=1e-3 * max(np.ptp(values), 1), err_msg=path)
    points = points_in(Grid.of(sitk.ReadImage(str(out / "template" / "mean.nii.gz"))))
    for path in [path for path in contents(out) if path.endswith(".h5")]:
        ours, theirs = (map_all(sitk.ReadTransform(str(folder / path)), points) for folder in (out, whole))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)
    moved = [float(member.displacement.abs().max()) for member in group.members.values()]
    assert max(moved) > 0.1, "the model moves images"
    assert group["a_2"].stage.moves, "one image needed the affine stage"
    check_records(*(json.loads((folder / "registration.json").read_text()) for folder in (out, whole)))


def check_records(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Equal but for what needs all images at once, and for rounding: of the affine stage, of voxels about to fold."""
    theirs["verdict"] = None
    for one, other in zip(ours["images"], theirs["images"], strict=True):
        other |= dict.fromkeys(("disagreement", "belongs", "misnaming", "looks_like"))
        assert abs(one.pop("folding_percent") - other.pop("folding_percent")) < 0.1
        np.testing.assert_allclose(one.pop("stage_affine_ras_mm"), other.pop("stage_affine_ras_mm"), atol=1e-6)
    np.testing.assert_allclose(ours["group"].pop("affine_ras_mm"), theirs["group"].pop("affine_ras_mm"), atol=1e-6)
    assert ours.pop("files").keys() < theirs.pop("files").keys()
    assert ours == theirs
    assert len(ours["images"][0]["label_sha256"]) == len(ours["images"][1]["mask_sha256"]) == 64


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Member], Path]:
    folder = tmp_path_factory.mktemp("inputs")
    return make_members(folder, 2), make_checkpoint(folder / "model.ckpt", 2)


def test_interrupted_at_any_file_the_same_command_gives_the_same_files(
    inputs: tuple[list[Member], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members, model = inputs
    replaced: list[Path] = []
    replace, fails_at = Path.replace, -1

    def counting(path: Path, target: Path) -> Path:
        replaced.append(target)
        if len(replaced) == fails_at:
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", counting)
    expected = contents(register_files(members, tmp_path / "whole", MEMORY, model, device="cpu"))
    total = len(replaced)
    for number in range(1, total + 1, 11):
        replaced.clear()
        fails_at, out = number, tmp_path / str(number)
        with pytest.raises(KeyboardInterrupt):
            register_files(members, out, MEMORY, model, device="cpu")
        assert not (out / "registration.json").exists(), "nothing that looks finished and is not"
        fails_at = -1
        interrupted = {path for path in replaced[:-1] if path.exists()}
        replaced.clear()
        assert contents(register_files(members, out, MEMORY, model, device="cpu")) == expected
        again = interrupted & {*replaced} - {out / UNFINISHED / "sweeps" / "rank_0" / "partial.pt"}
        assert len(again) <= 8, "at most the files of one image are written again"


SCRIPT = """
import os, signal, sys
from pathlib import Path
from bingo_pl.registration import streamed
from bingo_pl.images.members import Member
from bingo_pl.report import page

folder, moment = Path(sys.argv[1]), int(sys.argv[2])
write_bytes = Path.write_bytes
def dies(path, content):
    global moment
    moment -= 1
    if moment == 0:
        write_bytes(path, content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return write_bytes(path, content)
Path.write_bytes = dies
page.write_report = lambda folder, scans=(): (folder / "report.html").touch()
members = [Member("a", folder / "0.nii.gz"), Member("b", folder / "1.nii.gz"), Member("a", folder / "2.nii.gz")]
streamed.register_files(members, folder / "out", 10**8, folder / "model.ckpt", device="cpu")
"""


@pytest.mark.slow
def test_killed_while_an_image_is_written_the_same_command_goes_on(tmp_path: Path) -> None:
    make_members(tmp_path, 2)
    make_checkpoint(tmp_path / "model.ckpt", 2)

    def run(moment: int) -> int:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path), str(moment)], env=environment).returncode

    assert run(5) == -signal.SIGKILL
    out = tmp_path / "out"
    assert [path for path in out.rglob(".*.tmp") if path.is_file()], "it was killed while it wrote"
    assert (out / UNFINISHED).is_dir()
    assert run(-1) == 0
    killed = contents(out)
    out.rename(tmp_path / "killed")
    assert run(-1) == 0
    assert killed == contents(out)


def test_going_on_with_something_else_is_refused_with_the_difference(
    inputs: tuple[list[Member], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members, model = inputs
    with monkeypatch.context() as patch:
        patch.setattr(streamed, "write_member", interrupt)
        with pytest.raises(KeyboardInterrupt):
            register_files(members, tmp_path / "out", MEMORY, model, device="cpu")
    with pytest.raises(BingoError, match=r"Jacobians: False -> True"):
        register_files(members, tmp_path / "out", MEMORY, model, jacobian=True, device="cpu")
    with pytest.raises(BingoError, match=r"image 2: .*2\.nii\.gz .* -> None"):
        register_files(members[:2], tmp_path / "out", MEMORY, model, device="cpu")
    assert register_files(members, tmp_path / "out", MEMORY, model, device="cpu").is_dir()


def test_the_files_of_some_images_tell_what_all_will_cost(inputs: tuple[list[Member], Path], tmp_path: Path) -> None:
    members, model = inputs
    out = register_files(members, tmp_path / "out", MEMORY, model, device="cpu")
    costs = probe_files(members, Model.load(model, overrides=["trainer.accelerator=cpu"]), MEMORY)
    kept = [path for path in out.rglob("*") if path.is_file() and path.suffix not in (".json", ".html")]
    assert costs.disk_bytes == pytest.approx(sum(path.stat().st_size for path in kept) / 3, rel=1e-6)
    assert costs.seconds > 0


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("mine", ["thesis.txt", "unfinished/thesis.txt"])
def test_a_folder_in_use_is_left_alone(inputs: tuple[list[Member], Path], tmp_path: Path, mine: str) -> None:
    members, model = inputs
    path = tmp_path / mine
    path.parent.mkdir(exist_ok=True)
    path.write_text("precious")
    with pytest.raises(BingoError, match="in use"):
        register_files(members, tmp_path, MEMORY, model, device="cpu")
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


def test_an_image_that_cannot_be_used_can_be_replaced_before_anything_is_streamed(
    inputs: tuple[list[Member], Path], tmp_path: Path
) -> None:
    members, model = inputs
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(members[2].image.read_bytes()[:100])
    wrong = [*members[:2], Member("a", broken)]
    with pytest.raises(BingoError, match=r"broken\.nii\.gz"):
        register_files(wrong, tmp_path / "out", MEMORY, model, device="cpu")
    assert (register_files(members, tmp_path / "out", MEMORY, model, device="cpu") / "registration.json").exists()


@pytest.mark.parametrize("file", ["placements/0.json", "outputs/plan.json", "outputs/0.json"])
def test_a_whole_file_of_something_else_is_not_resumed_from(
    file: str, inputs: tuple[list[Member], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members, checkpoint = inputs

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(streamed, "write_record", stopped)
        with pytest.raises(KeyboardInterrupt):
            register_files(members, tmp_path / "out", 10**9, checkpoint)
    others: tuple[object, ...] = ([], None)
    for tree in others:
        resumable.write_json(tmp_path / "out" / UNFINISHED / file, tree)
        with pytest.raises(BingoError, match=rf"{Path(file).name}: is not what was written there"):
            register_files(members, tmp_path / "out", 10**9, checkpoint)


def test_a_refused_grid_leaves_nothing(
    inputs: tuple[list[Member], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members, checkpoint = inputs

    def refused(*_: object) -> None:
        raise BingoError("the grid is refused")

    monkeypatch.setattr(file_source, "grid_around", refused)
    with pytest.raises(BingoError, match="the grid is refused"):
        register_files(members, tmp_path / "out", 10**9, checkpoint)
    assert not (tmp_path / "out").exists()


def test_a_mask_has_a_file_of_its_own_beside_an_image_called_like_it(tmp_path: Path) -> None:
    y, x = np.mgrid[:32, :32] - 15.5
    disc = ((np.hypot(y, x) < 10) * (1 + np.cos(x / 3)))[..., None].astype(np.float32)
    images = {"t1": (disc, np.eye(4)), "t1_mask": (1 + disc, np.eye(4))}
    masks = {"t1": ((disc > 0).astype(np.uint8), np.eye(4))}
    group = register(images, masks=masks, transform="network", affine="never", refine=0, device="cpu")
    entries = json.loads((group.write(tmp_path / "out") / "registration.json").read_text())["images"]
    files = [entries[0]["path"], entries[0]["mask"], entries[1]["path"]]
    assert len(set(files)) == 3
    for file, voxels in zip(files, (disc, disc > 0, 1 + disc), strict=True):
        assert np.array_equal(np.asanyarray(nib.load(file).dataobj), voxels)
