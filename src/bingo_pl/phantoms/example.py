"""Example scans to try every command on, written in seconds: a head, a cardiac series, a few people.

Nothing is downloaded. The same seed gives the same voxels.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.spatial.transform import Rotation

from bingo_pl.phantoms import cardiac
from bingo_pl.phantoms.head import Head, Plan
from bingo_pl.phantoms.mr import inversion_recovery
from bingo_pl.seeding import numpy_generator
from bingo_pl.storage.atomic import check_unused
from bingo_pl.storage.folders import replacing_folder

CONTRASTS = {
    "t1": (Plan(2.0), "PSR"),
    "t1ce": (Plan(2.5, shift_mm=(4.0, -3.0, 2.0)), "RAS"),
    "t2": (Plan(1.75, slab=4, tilt=14.0), "LPS"),
    "flair": (Plan(2.25, shift_mm=(-3.0, 0.0, 4.0)), "LPS"),
}
"""The grid of each contrast and the directions in which its voxels are stored; t2 has thick, tilted slices."""
CT = Plan(2.5, shift_mm=(0.0, 0.0, -3.0)), "LPS"
LATER = ("t1", "flair")
"""Contrasts of the second visit."""
GROWTH = 1.35
"""Of the tumour's radius between the visits."""
TURN, SHIFT_MM = 2.0, 2.5
"""Standard deviations of how the head moves between scans: degrees about each axis, mm along it."""
VISIT_TURN, VISIT_SHIFT_MM = 6.0, 8.0
"""The same between visits, and between people."""
LANDMARKS = {
    "right_frontal_horn": (9, 32, 8),
    "left_frontal_horn": (-9, 32, 8),
    "right_temporal_horn": (33, -10, -17),
    "left_temporal_horn": (-33, -10, -17),
    "right_occipital_horn": (20, -58, 6),
    "left_occipital_horn": (-20, -58, 6),
    "fourth_ventricle": (0, -35, -32),
}
"""Where they lie in the average head, mm."""
PEOPLE = 6
PERSON = Plan(3.0), "RAS"
INVERSION_TIMES = (120, 200, 280, 1120, 1200, 2120, 3120, 4120)
"""Of a MOLLI series, ms."""
REPETITION, ECHO = 10000.0, 1.2
"""Times of the series in ms; it recovers between inversions."""
HEART = cardiac.Stack((112, 112, 3), (1.9, 1.9, 10.0), (6.0, 4.0, 20.0), 0.1, 8.0)
BREATH_MM = 2.5
"""Standard deviation of how far the heart moves between volumes, along u and v."""

README = """These images are SYNTHETIC. They show no person. `bingo example` computed them, seed {seed}.

head/       four contrasts of one head, each on its own grid; t2 has slices of 7 mm; the head moved between the scans
visit2/     t1 and flair of a later visit: the tumour has grown
ct/         a CT of the same head
labels/     label maps of head/: 1 cortex, 2 white matter, 3 deep nuclei, 4 cerebellar cortex, 5 fluid, 6 tumour
landmarks/  seven points in the space of t1 (.fcsv, .mrk.json, .csv), and where they really are in the others; t1_2 and
            flair_2 are those of the second visit
series/     a 4D file: a heart at eight inversion times, which breathing moved
people/     t1 and label maps of six heads, listed in people.csv

Run these in this folder. Each takes a minute or two on two CPU cores at most.

Look for problems first:
  bingo check head
One patient, four contrasts; then open out/report.html:
  bingo register head/*.nii.gz -o out
Bring the labels and landmarks of t1 to t2:
  bingo apply labels/t1.nii.gz --labels --registration out --from t1 --to t2 -o t2_labels.nii.gz
  bingo apply landmarks/t1.fcsv --registration out --from t1 --to t2 -o t2_landmarks.fcsv
Two visits; the second t1 is called t1_2:
  bingo register head/t1.nii.gz head/flair.nii.gz visit2/*.nii.gz -o visits
CT with MR; a skull does not deform:
  bingo register head/t1.nii.gz ct/ct.nii.gz --transform rigid -o ct_mr
A series:
  bingo register series/molli.nii.gz --values series/inversion_times.txt -o motion_corrected
Six people: their template and the probability of each label:
  bingo atlas people/people.csv -o atlas
"""


def example(folder: Path | str, seed: int = 0) -> Path:
    """Write example scans with a README.txt of the commands to try: a head, a CT, a 4D series, people, landmarks.

    The folder appears when it is complete.

    Args:
        folder: new or empty.
        seed: of everything that is drawn.

    Returns:
        The folder.

    Raises:
        BingoError: the folder is in use or cannot be written.
    """
    folder = Path(folder)
    check_unused(folder)
    with replacing_folder(folder) as root:
        for name in ("head", "visit2", "ct", "labels", "landmarks", "series", "people"):
            (root / name).mkdir()
        _write_head(root, seed)
        _write_series(root / "series", numpy_generator(seed, "example", "series"))
        _write_people(root / "people", seed)
        (root / "README.txt").write_text(README.format(seed=seed), encoding="utf-8")
    return folder


def _write_head(root: Path, seed: int) -> None:
    """Four contrasts, some of them again later, CT, labels and landmarks."""
    head = Head(numpy_generator(seed, "example", "head"))
    places = head.brain.locate(np.array(list(LANDMARKS.values())))
    for contrast, (plan, axes) in CONTRASTS.items():
        rng = numpy_generator(seed, "example", contrast)
        motion = np.eye(4) if contrast == "t1" else _motion(rng, TURN, SHIFT_MM)
        image, labels = head.scan_mr(contrast, plan, motion, rng)
        _save(image, plan, axes, root / "head" / f"{contrast}.nii.gz")
        _save(labels, plan, axes, root / "labels" / f"{contrast}.nii.gz")
        _write_landmarks(_moved(places, np.linalg.inv(motion)), root / "landmarks" / contrast)
    rng = numpy_generator(seed, "example", "ct")
    motion = _motion(rng, TURN, SHIFT_MM)
    image, _ = head.scan_ct(CT[0], motion, rng)
    _save(image, *CT, root / "ct" / "ct.nii.gz")
    _write_landmarks(_moved(places, np.linalg.inv(motion)), root / "landmarks" / "ct")
    head.brain = head.brain.later(GROWTH)
    between = _motion(numpy_generator(seed, "example", "visit"), VISIT_TURN, VISIT_SHIFT_MM)
    for contrast in LATER:
        rng = numpy_generator(seed, "example", "visit", contrast)
        motion = _motion(rng, TURN, SHIFT_MM) @ between
        image, _ = head.scan_mr(contrast, CONTRASTS[contrast][0], motion, rng)
        _save(image, *CONTRASTS[contrast], root / "visit2" / f"{contrast}.nii.gz")
        _write_landmarks(_moved(places, np.linalg.inv(motion)), root / "landmarks" / f"{contrast}_2")


def _write_series(folder: Path, rng: np.random.Generator) -> None:
    """A heart at `INVERSION_TIMES`, moved by breathing, as magnitudes: dark tissue is where the signal changes sign."""
    patient = cardiac.Patient(rng)
    slices = HEART.shape[2]
    volumes = []
    for time in INVERSION_TIMES:
        level = {name: inversion_recovery(each, REPETITION, time, ECHO) for name, each in patient.tissues.items()}
        breath = rng.normal(0, BREATH_MM, (2, 1)) + rng.normal(0, 0.4, (2, slices))
        volumes.append(cardiac.acquire_slices(patient, level, HEART, breath, (25, 35), rng)[0])
    series = np.stack(volumes, axis=-1)
    scaled = (series * (1000 / np.percentile(series[..., -1], 99.5))).round().astype(np.int16)
    image = nib.Nifti1Image(scaled, HEART.affine())
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, folder / "molli.nii.gz")
    (folder / "inversion_times.txt").write_text(" ".join(map(str, INVERSION_TIMES)) + "\n")


def _write_people(folder: Path, seed: int) -> None:
    """T1 images with label maps, and a manifest of them."""
    with (folder / "people.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["modality", "image", "label", "subject"])
        for number in range(1, PEOPLE + 1):
            rng = numpy_generator(seed, "example", "person", number)
            head = Head(rng, healthy=True)
            voxels = head.scan_mr("t1", PERSON[0], _motion(rng, VISIT_TURN, VISIT_SHIFT_MM), rng)
            names = f"person{number}_t1.nii.gz", f"person{number}_t1_seg.nii.gz"
            for each, name in zip(voxels, names, strict=True):
                _save(each, *PERSON, folder / name)
            table.writerow(["t1", *names, f"person{number}"])


def _write_landmarks(points: np.ndarray, path: Path) -> None:
    """Points (P, 3) in RAS mm as Slicer's ``.fcsv`` (RAS) and ``.mrk.json`` (LPS), and as a table."""
    rows = [(name, *point) for name, point in zip(LANDMARKS, points.round(3).tolist(), strict=True)]
    head = "# Markups fiducial file version = 4.11\n# CoordinateSystem = RAS\n"
    columns = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    lines = [f"{i},{x},{y},{z},0,0,0,1,1,1,0,{name},,\n" for i, (name, x, y, z) in enumerate(rows, 1)]
    path.with_suffix(".fcsv").write_text(head + columns + "".join(lines))
    placed = [
        {"id": str(i), "label": name, "position": [-x, -y, z], "positionStatus": "defined"}
        for i, (name, x, y, z) in enumerate(rows, 1)
    ]
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": placed}
    schema = "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    tree = {"@schema": f"{schema}markups-schema-v1.0.3.json#", "markups": [markup]}
    path.with_suffix(".mrk.json").write_text(json.dumps(tree, indent=1) + "\n")
    table = "".join(f"{name},{x},{y},{z}\n" for name, x, y, z in rows)
    path.with_suffix(".csv").write_text("name,r,a,s\n" + table)


def _motion(rng: np.random.Generator, turn: float, shift_mm: float) -> np.ndarray:
    """(4, 4) rotation and shift, drawn."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(rng.normal(0, turn, 3), degrees=True).as_matrix()
    matrix[:3, 3] = rng.normal(0, shift_mm, 3)
    return matrix


def _moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    moved: np.ndarray = points @ matrix[:3, :3].T + matrix[:3, 3]
    return moved


def _save(voxels: np.ndarray, plan: Plan, axes: str, path: Path) -> None:
    """Store voxels, whose axes are those of the plan, in the order and directions ``axes``."""
    image = nib.Nifti1Image(voxels, plan.affine(plan.slab))
    towards = nib.orientations.axcodes2ornt(axes)
    image = image.as_reoriented(nib.orientations.ornt_transform(nib.orientations.io_orientation(image.affine), towards))
    for code in (image.set_qform, image.set_sform):
        code(image.affine, code=1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
