"""`bingo example`: what it writes is what its README says, and every command takes it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bingo_pl import BingoError, check, cli, example
from bingo_pl.images.landmarks import read_landmarks
from bingo_pl.images.manifest import PEOPLE, read_group
from bingo_pl.images.series import find, named
from bingo_pl.phantoms.example import CONTRASTS as SCANS
from bingo_pl.phantoms.example import LANDMARKS, README, _write_series
from bingo_pl.registration.workflow import register
from bingo_pl.seeding import numpy_generator

from .test_register import OBLIQUE
from .test_register import write as write_slice

CONTRASTS = {"t1": 1.0, "t2": 0.4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return example(tmp_path_factory.mktemp("example") / "scans")


def test_four_contrasts_have_grids_of_their_own_and_names_that_say_what_they_are(folder: Path) -> None:
    files = sorted((folder / "head").iterdir())
    assert [named(file)[0] for file in files] == ["flair", "t1", "t1ce", "t2"]
    images = [nib.load(file) for file in files]
    assert len({image.shape for image in images}) == 4
    assert len({nib.aff2axcodes(image.affine) for image in images}) == 3
    assert [max(image.header.get_zooms()) / min(image.header.get_zooms()) > 2 for image in images] == [0, 0, 0, 1]


def test_nothing_in_it_is_wrong(folder: Path) -> None:
    for part in ("head", "visit2", "ct", "people/people.csv"):
        assert not [found for found in check(folder / part).findings if found.problem.severity != "note"]


def test_the_three_formats_of_landmarks_hold_the_same_points_in_the_ventricles(folder: Path) -> None:
    for contrast in ("t1", "t1ce", "t2", "flair", "t1_2", "flair_2", "ct"):
        files = [folder / "landmarks" / f"{contrast}{end}" for end in (".fcsv", ".mrk.json", ".csv")]
        first, *others = (read_landmarks(file).points_mm for file in files)
        assert len(first) == len(LANDMARKS)
        for points in others:
            np.testing.assert_allclose(points, first, atol=1e-9)
        if contrast not in SCANS:
            continue
        labels = nib.load(folder / "labels" / f"{contrast}.nii.gz")
        voxels = np.rint(nib.affines.apply_affine(np.linalg.inv(labels.affine), first)).astype(int)
        in_ventricles = np.asarray(labels.dataobj)[tuple(voxels.T)] == 5
        assert in_ventricles.all() or contrast == "t2"  # whose slices are thicker than a ventricle's horn


def test_the_head_moves_between_the_scans_and_the_tumour_grows_between_the_visits(folder: Path) -> None:
    t1, *others = (
        read_landmarks(folder / "landmarks" / f"{name}.csv").points_mm for name in ("t1", "t1ce", "t2", "flair")
    )
    for points in others:
        assert 1 < np.linalg.norm(points - t1, axis=1).mean() < 10


def test_the_series_has_a_time_for_each_volume_and_the_people_a_label_map_each(folder: Path) -> None:
    series = nib.load(folder / "series" / "molli.nii.gz")
    assert series.shape[3] == len((folder / "series" / "inversion_times.txt").read_text().split())
    people = read_group(folder / "people" / "people.csv", PEOPLE)
    assert len({person.subject for person in people}) == 6
    assert all(person.label is not None and person.label.is_file() for person in people)


def test_the_same_seed_gives_the_same_voxels_and_another_seed_others(tmp_path: Path, folder: Path) -> None:
    drawn = {}
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        _write_series(tmp_path / str(seed), numpy_generator(seed, "example", "series"))
        drawn[seed] = np.asarray(nib.load(tmp_path / str(seed) / "molli.nii.gz").dataobj)
    np.testing.assert_array_equal(drawn[0], np.asarray(nib.load(folder / "series" / "molli.nii.gz").dataobj))
    assert (drawn[0] != drawn[1]).mean() > 0.5


def test_the_readme_names_only_files_and_options_that_exist(folder: Path) -> None:
    commands = [shlex.split(line) for line in README.splitlines() if line.startswith("  bingo ")]
    assert {words[1] for words in commands} == {"check", "register", "apply", "atlas"}
    help_texts = {command.__name__ for command in cli.COMMANDS}
    for _, command, *words in commands:
        assert command in help_texts
        for word in words:
            if "/" in word and not word.startswith("-"):
                assert list(folder.glob(word)), word


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(BingoError, match="in use"):
        example(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_names_of_files_say_the_modality_from_python_too(tmp_path: Path) -> None:
    files = [write_slice(tmp_path / f"p1_{name}.nii.gz", OBLIQUE, contrast=power) for name, power in CONTRASTS.items()]
    group = register(files, transform="network", affine="never", refine=0)
    assert list(group.members) == list(CONTRASTS)


@pytest.mark.parametrize("name", ["t1_seg.nii.gz", "brain_mask.nii.gz"])
def test_a_label_map_among_the_images_is_refused_by_its_name(tmp_path: Path, folder: Path, name: str) -> None:
    (tmp_path / name).write_bytes((folder / "labels" / "t1.nii.gz").read_bytes())
    with pytest.raises(BingoError, match=rf"by its name a (label|mask).*{re.escape(name)}"):
        named(tmp_path / name)


def test_a_folder_is_no_image(folder: Path) -> None:
    with pytest.raises(BingoError, match=r"head: a folder. Name the images in it, e.g. .*head/\*.nii.gz"):
        named(folder / "head")


def test_a_file_of_values_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(BingoError, match=r"no file nowhere\.txt\. Correct its path"):
        find([("molli", folder / "series" / "molli.nii.gz")], "nowhere.txt")
