"""Synthetic cohorts in the layouts of the real datasets, for people who have no data yet.

`ensure_cohort` makes a cohort once, in the user's cache; `write_cohort` makes one anywhere. Anatomy and physics are
in `cardiac`, `brain` and `mr`. The same arguments give the same voxels, and a subject does not
depend on how many others there are.
"""

from __future__ import annotations

import csv
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from platformdirs import user_cache_dir
from rich.progress import track
from scipy.spatial.transform import Rotation

from bingo_pl.errors import BingoError, FileError, InputError, unknown_name
from bingo_pl.phantoms import abdomen as phantom_abdomen
from bingo_pl.phantoms import anatomy as phantom_anatomy
from bingo_pl.phantoms import brain as phantom_brain
from bingo_pl.phantoms import cardiac as phantom_cardiac
from bingo_pl.seeding import numpy_generator

VERSION = 2
"""Part of the cache key: raise it when the same arguments give other voxels."""

README = """These images are SYNTHETIC. They show no person.

bingo_pl computed them (data_modules/phantoms): drawn anatomy, typical relaxation times, the signal equations of the
sequences. They are for demonstrations, tests and benchmarks of registration, and they say nothing about patients.

dataset {dataset}, {subjects} subjects, seed {seed}, spacing {spacing} mm, version {version}
"""


def _write_mscmr(root: Path, subject: int, rng: np.random.Generator, spacing: float) -> None:
    """One patient: three sequences, each on its own grid, with headers that agree only within a few mm."""
    patient = phantom_cardiac.Patient(rng)
    pose = _pose(rng)
    for sequence, ratio in {"C0": 1.25, "LGE": 0.9, "T2": 1.35}.items():
        stack = phantom_cardiac.draw_stack(sequence, patient, spacing * ratio / 0.9, rng)
        image, labels = phantom_cardiac.scan(patient, sequence, stack, rng)
        matrix = pose @ _rigid(rng.normal(0, 0.012, 3), rng.normal(0, 1.5, 3)) @ stack.affine()
        _save(image.astype(np.int16), matrix, root / f"patient{subject}_{sequence}.nii.gz")
        _save(labels, matrix, root / f"patient{subject}_{sequence}_manual.nii.gz")


def _write_brats(root: Path, subject: int, rng: np.random.Generator, spacing: float) -> None:
    """One case: four contrasts and the tumour on one grid of 240x240x155 mm."""
    case = f"Phantom_{subject:03d}"
    shape = round(240 / spacing), round(240 / spacing), round(155 / spacing)
    images, labels = phantom_brain.scan(phantom_brain.Brain(rng), shape, spacing, rng)
    matrix = np.diag([spacing, spacing, spacing, 1.0])
    matrix[:3, 3] = [-(n - 1) / 2 * spacing for n in shape]
    (root / case).mkdir()
    for contrast, image in images.items():
        _save(image.astype(np.int16), matrix, root / case / f"{case}_{contrast}.nii.gz")
    _save(labels, matrix, root / case / f"{case}_seg.nii.gz")


def _write_manifest(root: Path, subject: int, rng: np.random.Generator, spacing: float) -> None:
    """Two to four short-axis slices of one person, each a group of 2D images that may lack or repeat a sequence."""
    patient = phantom_cardiac.Patient(rng)
    pose = _pose(rng)
    split = ("train", "train", "train", "val", "test")[subject % 5]
    rows = []
    for place in np.linspace(0.2, 0.75, int(rng.integers(2, 5))):
        group = f"subject{subject:03d}_slice{round(100 * place)}"
        (root / group).mkdir()
        modalities = list(phantom_cardiac.SEQUENCES)
        change = rng.uniform()
        if change < 0.25:
            modalities.remove(str(rng.choice(modalities)))
        elif change < 0.5:
            modalities.append(str(rng.choice(modalities)))
        for number, modality in enumerate(modalities):
            stack = phantom_cardiac.draw_slice(patient, place * patient.heart.length, spacing, rng)
            image, labels = phantom_cardiac.scan(patient, modality, stack, rng)
            matrix = pose @ stack.affine()
            files = [f"{group}/{number}_{modality}{end}.nii.gz" for end in ("", "_label")]
            _save(image.astype(np.int16), matrix, root / files[0])
            _save(labels, matrix, root / files[1])
            rows.append([split, group, f"subject{subject:03d}", modality, *files])
    with open(root / "manifest.csv", "a", newline="") as file:
        writer = csv.writer(file)
        if file.tell() == 0:
            writer.writerow(["split", "group", "subject", "modality", "image", "label"])
        writer.writerows(rows)


def _write_anatomies(root: Path, subject: int, rng: np.random.Generator, spacing: float) -> None:
    """One label map to be painted."""
    matrix = np.diag([spacing, spacing, spacing, 1.0])
    _save(phantom_anatomy.draw(subject, spacing, rng), matrix, root / f"anatomy{subject:04d}.nii.gz")


def _write_learn2reg(root: Path, subject: int, rng: np.random.Generator, spacing: float) -> None:
    """One person's MR, CT or both on the grid of 384x320x384 mm, as `bingo_pl.data_modules.learn2reg` wants them.

    Like the challenge's: 1 to 8 have both, 9 to 16 too and are for testing, their labels under TotalSegmentator's ids;
    of 17 to 64 there is MR or CT alone. Whoever comes after them is for testing too: 8 pairs do not tell methods apart.
    """
    test = 9 <= subject <= 16 or subject > 64
    paired = test or subject <= 8
    person = phantom_abdomen.Abdomen(rng)
    shape = [round(extent / spacing) for extent in (384, 320, 384)]
    matrix = np.diag([spacing, spacing, spacing, 1.0])
    matrix[:3, 3] = [-(n - 1) / 2 * spacing for n in shape]
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).reshape(3, -1)
    scanners = (phantom_abdomen.scan_mr, phantom_abdomen.scan_ct)
    for code, scan in enumerate(scanners):
        if not paired and subject % 2 != code:
            continue
        pose = _rigid(rng.normal(0, 0.06, 3), rng.normal(0, 10, 3)) @ matrix
        points = (pose[:3, :3] @ grid + pose[:3, 3:]).reshape(3, *shape).astype(np.float32)
        image, labels, mask = scan(person, points, rng.normal(0, 10), spacing, rng)
        ids = phantom_abdomen.as_totalsegmentator(labels) if test else labels
        name = f"AbdomenMRCT_{subject:04d}_{code:04d}.nii.gz"
        for folder, voxels in {"images": image, "labels": ids, "masks": mask}.items():
            path = root / f"{folder}{'Ts' if test else 'Tr'}" / name
            path.parent.mkdir(exist_ok=True)
            _save(voxels.astype(np.int16 if folder == "images" else np.uint16), matrix, path)


Writer = Callable[[Path, int, np.random.Generator, float], None]
DATASETS: dict[str, tuple[Writer, float]] = {
    "mscmr": (_write_mscmr, 0.9),
    "brats": (_write_brats, 2.0),
    "manifest": (_write_manifest, 1.35),
    "anatomies": (_write_anatomies, 2.0),
    "learn2reg": (_write_learn2reg, 4.0),
}
"""Each dataset's writer of one subject and its default spacing in mm."""


def write_cohort(dataset: str, root: Path, subjects: int, seed: int, spacing: float | None = None) -> None:
    """Write a synthetic cohort as NIfTI, with a README.txt that says it is synthetic.

    Layouts: ``mscmr`` has ``patientN_{C0,LGE,T2}[_manual].nii.gz``, ``brats`` has
    ``<case>/<case>_{t1,t1ce,t2,flair,seg}.nii.gz``, ``manifest`` has 2D images and a ``manifest.csv`` with the columns
    split, group, subject, modality, image, label; ``anatomies`` has label maps of whole bodies only,
    ``anatomyNNNN.nii.gz``; ``learn2reg`` has ``{images,labels,masks}{Tr,Ts}/AbdomenMRCT_NNNN_{0000,0001}.nii.gz``.
    Images are int16, labels uint16 with the ids of the real datasets.

    Args:
        dataset: a key of `DATASETS`.
        root: the cohort's folder, made if absent; it must be empty.
        subjects: how many people, at least 1.
        seed: subject k is a function of dataset, seed, spacing and k alone.
        spacing: voxel size in mm, of LGE within the slice for ``mscmr`` (the other sequences are in proportion),
            isotropic for ``brats``; None for the dataset's default.

    Raises:
        BingoError: unknown dataset, no subjects, a spacing outside 0.5 to 4 mm, a root that is not empty.
    """
    write, spacing = _validated(dataset, subjects, spacing)
    root.mkdir(parents=True, exist_ok=True)
    if any(root.iterdir()):
        raise InputError(f"{root}: a synthetic cohort needs an empty folder, got one with files", "Name another one")
    note = README.format(dataset=dataset, subjects=subjects, seed=seed, spacing=spacing, version=VERSION)
    (root / "README.txt").write_text(note)
    for subject in track(range(1, subjects + 1), f"drawing synthetic {dataset}", transient=True):
        write(root, subject, numpy_generator(dataset, seed, spacing, subject), spacing)


def ensure_cohort(dataset: str, subjects: int, seed: int, spacing: float | None = None) -> Path:
    """The root of a cohort in the user's cache, written by `write_cohort` if it is not there yet.

    It appears under its name only when it is complete, so a killed run leaves no half cohort. Arguments and errors
    as in `write_cohort`, and where the cache cannot be written.
    """
    _, spacing = _validated(dataset, subjects, spacing)
    key = hashlib.blake2b(repr((VERSION, subjects, seed, spacing)).encode(), digest_size=6).hexdigest()
    root = Path(user_cache_dir("bingo_pl")) / "phantom" / f"{dataset}-{key}"
    if root.is_dir():
        return root
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{dataset}-", dir=root.parent) as temporary:
            unfinished = Path(temporary) / "cohort"
            write_cohort(dataset, unfinished, subjects, seed, spacing)
            try:
                os.rename(unfinished, root)
            except OSError:
                if not root.is_dir():  # else another process was faster, and its cohort is the same
                    raise
    except BingoError:
        raise
    except OSError as error:
        raise FileError(
            f"cannot write the phantom cohort to {root.parent}: {error.strerror or error}",
            "Free space there, or name another cache folder by the environment variable XDG_CACHE_HOME",
        ) from error
    return root


def _validated(dataset: str, subjects: int, spacing: float | None) -> tuple[Writer, float]:
    if dataset not in DATASETS:
        raise unknown_name("synthetic dataset", dataset, DATASETS)
    write, usual = DATASETS[dataset]
    spacing = usual if spacing is None else float(spacing)
    if subjects < 1:
        raise InputError(f"a synthetic cohort needs at least 1 subject, got {subjects}")
    if not 0.5 <= spacing <= 4:
        raise InputError(
            f"the spacing of a synthetic cohort must be 0.5 to 4 mm, got {spacing}", f"The usual one is {usual}"
        )
    return write, spacing


def _rigid(angles: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """(4, 4) rotation by small angles (radians, about x, y, z) and shift in mm."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = Rotation.from_rotvec(angles).as_matrix(), shift
    return matrix


def _pose(rng: np.random.Generator) -> np.ndarray:
    """(4, 4) from heart coordinates to RAS mm: an oblique short axis, the apex to the left, front and below."""
    apex, right = np.array([-0.70, 0.55, -0.45]), np.array([-0.50, -0.80, -0.20])
    apex /= np.linalg.norm(apex)
    right -= (right @ apex) * apex
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([right, np.cross(right, apex), apex], axis=1)
    matrix[:3, 3] = rng.normal(0, 15, 3)
    return _rigid(rng.normal(0, 0.12, 3), np.zeros(3)) @ matrix


def _save(voxels: np.ndarray, matrix: np.ndarray, path: Path) -> None:
    image = nib.Nifti1Image(voxels, matrix)
    image.set_qform(matrix, code=1)
    image.set_sform(matrix, code=1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
