from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bingo_pl import BingoError
from bingo_pl.images.landmarks import read_landmarks, write_landmarks

RAS = np.array([[-10.0, -20.5, 30.25], [1, 2, 3]])
"""The points of all files below."""
FCSV = """# Markups fiducial file version = 4.11
# CoordinateSystem = {space}
# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID
vtkMRMLMarkupsFiducialNode_0,{points[0]},0,0,0,1,1,1,0,F-1,"apex, lateral",,2,0
vtkMRMLMarkupsFiducialNode_1,{points[1]},0,0,0,1,1,1,0,F-2,,,2,0
"""
TEXT = {"RAS": ("-10.0,-20.5,30.25", "1.0,2.0,3.0"), "LPS": ("10.0,20.5,30.25", "-1.0,-2.0,3.0")}
"""The points as they stand in a file."""


def markups(space: str, *points: list[float]) -> dict:
    controls = [{"id": str(i), "label": f"F-{i}", "position": point, "locked": True} for i, point in enumerate(points)]
    return {
        "@schema": "markups",
        "markups": [{"type": "Fiducial", "coordinateSystem": space, "controlPoints": controls}],
    }


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def files(folder: Path) -> list[tuple[Path, str | None]]:
    """One file of every kind, and the space to be named for it."""
    named = []
    for space, points in TEXT.items():
        axes = ",".join(space.lower())
        table = write(folder / f"{space}.csv", f'"x","y","z",label,note\n{points[0]},apex,a b\n{points[1]},base,\n')
        slicer = write(folder / f"{space}_slicer.csv", f"label,{axes},defined\nF-1,{points[0]},1\nF-2,{points[1]},1\n")
        old = {"RAS": "0", "LPS": "1"}[space]
        lists = [write(folder / f"{name}.fcsv", FCSV.format(space=name, points=points)) for name in (space, old)]
        numbers = [[float(number) for number in point.split(",")] for point in points]
        markup = write(folder / f"{space}.mrk.json", json.dumps(markups(space, *numbers), indent=4) + "\n")
        named += [(table, space), *[(path, None) for path in (slicer, *lists, markup)]]
    return named


def test_every_format_and_space_gives_the_same_points(tmp_path: Path) -> None:
    for path, space in files(tmp_path):
        np.testing.assert_array_equal(read_landmarks(path, space).points_mm, RAS, err_msg=path.name)


def test_unmoved_landmarks_are_written_as_they_were(tmp_path: Path) -> None:
    for path, space in files(tmp_path):
        write_landmarks(read_landmarks(path, space), tmp_path / "out" / path.name)
        assert (tmp_path / "out" / path.name).read_text() == path.read_text()


def test_moved_landmarks_stay_in_the_files_own_space(tmp_path: Path) -> None:
    shifted = RAS + np.array([0.5, -1, 1 / 3])
    for path, space in files(tmp_path):
        write_landmarks(read_landmarks(path, space).moved(shifted), tmp_path / "out" / path.name)
        back = read_landmarks(tmp_path / "out" / path.name, space)
        np.testing.assert_allclose(back.points_mm, shifted, atol=1e-6, err_msg=path.name)  # mm; six decimals


def test_every_list_of_a_markups_file_has_its_own_space(tmp_path: Path) -> None:
    document = markups("RAS", [1, 2, 3])
    document["markups"] += markups("LPS", [1, 2, 3])["markups"]
    path = write(tmp_path / "two.mrk.json", json.dumps(document))
    assert read_landmarks(path).points_mm.tolist() == [[1, 2, 3], [-1, -2, 3]]


def test_points_yet_to_be_placed_survive(tmp_path: Path) -> None:
    document = markups("RAS", [1, 2, 3])
    waiting = {"id": "9", "positionStatus": "undefined"}
    document["markups"][0]["controlPoints"].insert(0, waiting)
    landmarks = read_landmarks(write(tmp_path / "waiting.mrk.json", json.dumps(document)))
    controls = json.loads(landmarks.moved(np.array([[4.0, 5, 6]])).text())["markups"][0]["controlPoints"]
    assert controls[0] == waiting
    assert controls[1] == {"id": "0", "label": "F-0", "position": [4, 5, 6], "locked": True}


@pytest.mark.parametrize("status", ["undefined", "preview", "missing"])
def test_points_that_slicer_marks_as_not_placed_are_left_out_and_survive_in_every_format(
    tmp_path: Path, status: str
) -> None:
    code = ["undefined", "preview", "defined", "missing"].index(status)
    fcsv = FCSV.format(space="RAS", points=TEXT["RAS"]) + f"new,0,0,0,0,0,0,1,1,1,0,F-3,,,{code},0\n"
    table = "label,r,a,s,defined\nF-1,-10.0,-20.5,30.25,1\nF-2,1.0,2.0,3.0,1\nF-3,0,0,0,0\nF-4,,,,0\n"
    document = markups("RAS", *RAS.tolist())
    document["markups"][0]["controlPoints"].append({"id": "3", "position": [0, 0, 0], "positionStatus": status})
    texts = {"p.fcsv": fcsv, "p.csv": table, "p.mrk.json": json.dumps(document, indent=4) + "\n"}
    for name, text in texts.items():
        landmarks = read_landmarks(write(tmp_path / name, text))
        np.testing.assert_array_equal(landmarks.points_mm, RAS, err_msg=name)
        assert landmarks.text() == text
        assert landmarks.moved(RAS + 1).text() != text


def test_names_of_files_may_shout(tmp_path: Path) -> None:
    for path, space in files(tmp_path):
        loud = path.rename(path.with_name(path.name.upper()))
        np.testing.assert_array_equal(read_landmarks(loud, space).points_mm, RAS, err_msg=loud.name)


@pytest.mark.parametrize(("unit", "scale"), [("mm", 1), ("um", 1e-3), (["um", "UCUM", "micrometer"], 1e-3), ("m", 1e3)])
def test_points_are_in_mm_whatever_the_unit_of_their_file(tmp_path: Path, unit: object, scale: float) -> None:
    document = markups("LPS", [-1, -2, 3])
    document["markups"][0]["coordinateUnits"] = unit
    landmarks = read_landmarks(write(tmp_path / "p.mrk.json", json.dumps(document)))
    np.testing.assert_allclose(landmarks.points_mm, np.array([[1, 2, 3]]) * scale)
    moved = json.loads(landmarks.moved(landmarks.points_mm + 2e-6).text())["markups"][0]["controlPoints"][0]
    np.testing.assert_allclose(moved["position"], np.array([-1, -2, 3]) + np.array([-2e-6, -2e-6, 2e-6]) / scale)
    document["markups"][0]["coordinateUnits"] = "furlong"
    with pytest.raises(BingoError, match="unit 'furlong'"):
        read_landmarks(write(tmp_path / "p.mrk.json", json.dumps(document)))


@pytest.mark.parametrize(
    ("name", "text", "space", "message"),
    [
        ("p.csv", "x,y,z\n1,2,3\n", None, "does not say in which space"),
        ("p.csv", "x,y,z\n1,2,3\n", "ras", "'ras'. Wanted: RAS or LPS"),
        ("p.csv", "r,a,s\n1,2,3\n", "LPS", "are in RAS, but LPS was given"),
        ("p.csv", "", "RAS", "no columns x, y, z"),
        ("p.csv", "x;y;z\n1;2;3\n", "RAS", "Got: x;y;z"),
        ("p.csv", "x,y,z\n1,2,3\n1,two,3\n", "RAS", r"point 2 is at \['1', 'two', '3'\]"),
        ("p.csv", "x,y,z\n1,2\n", "RAS", "point 1"),
        ("p.csv", "x,y,z\n1,2,nan\n", "RAS", "point 1"),
        ("p.fcsv", FCSV.format(space="IJK", points=TEXT["RAS"]), None, "coordinates in 'IJK'"),
        ("p.fcsv", "# columns = id,x,y,z\n0,1,2,3\n", None, "does not say in which space"),
        ("p.mrk.json", "{", None, "no markups file"),
        ("p.mrk.json", "[]", None, "no markups file"),
        ("p.mrk.json", json.dumps(markups("LPS", [1, 2])), None, "point 1"),
        ("p.mrk.json", json.dumps(markups("LPS")).replace("Fiducial", "Plane"), None, "type Plane"),
        ("p.txt", "1 2 3", None, "unknown kind"),
    ],
)
def test_unusable_files_are_explained(tmp_path: Path, name: str, text: str, space: str | None, message: str) -> None:
    with pytest.raises(BingoError, match=message):
        read_landmarks(write(tmp_path / name, text), space)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BingoError, match=r"absent\.csv"):
        read_landmarks(tmp_path / "absent.csv", "RAS")


def test_markups_nested_too_deeply_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.mrk.json"
    path.write_text("[" * 10_000)
    with pytest.raises(BingoError, match="no markups file"):
        read_landmarks(path)
