"""AbdomenMRCT: which files make which groups, intensities and ids, and the pairs that training draws."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from bingo_pl import config as settings
from bingo_pl.data_modules.learn2reg import Learn2RegDataModule
from bingo_pl.data_modules.pairing import CrossSubjectSampler
from bingo_pl.errors import BingoError
from bingo_pl.phantoms import abdomen
from bingo_pl.phantoms.cohorts import write_cohort
from bingo_pl.studies.rows import choose_rows

SHAPE = (12, 10, 12)


def save(root: Path, folder: str, part: str, number: int, code: int, voxels: np.ndarray) -> None:
    path = root / f"{folder}{part}" / f"AbdomenMRCT_{number:04d}_{code:04d}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 2.0, 1.0])), path)


def organs(ids: tuple[int, int, int, int] = (1, 2, 3, 4)) -> np.ndarray:
    """Liver, spleen, right and left kidney."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[6:10, 3:7, 3:9], labels[2:4, 3:5, 6:9] = ids[:2]
    labels[6:8, 7:9, 2:4], labels[3:5, 7:9, 2:4] = ids[2:]
    return labels


def add(root: Path, part: str, number: int, code: int, ids: tuple[int, int, int, int] = (1, 2, 3, 4)) -> None:
    rng = np.random.default_rng([number, code])
    image = rng.integers(0, 700, SHAPE) if code == 0 else rng.integers(-150, 250, SHAPE)
    if code == 1:
        image[:2], image[-1] = -3024, -1000
    save(root, "images", part, number, code, image.astype(np.int16))
    save(root, "labels", part, number, code, organs(ids))
    save(root, "masks", part, number, code, np.ones(SHAPE, np.uint8))


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Pairs 1 to 3 and 9 to 12, those to test under TotalSegmentator's ids, MR 20 and CT 21 unpaired."""
    for code in (0, 1):
        for number in (1, 2, 3):
            add(tmp_path, "Tr", number, code)
        for number in (9, 10, 11, 12):
            add(tmp_path, "Ts", number, code, ids=(5, 1, 2, 3))
    add(tmp_path, "Tr", 20, 0)
    add(tmp_path, "Tr", 21, 1)
    return tmp_path


def make(root: Path, /, **changes: object) -> Learn2RegDataModule:
    own = {
        "root": str(root),
        "modalities": ["MR", "CT"],
        "label_ids": [1, 2, 3, 4],
        "spacing_mm": 2.0,
        "roi": [12, 12, 12],
        "splits": [9, 1, 4],
        "seed": 0,
        "batch_size": 2,
        "images_per_step": 2,
        "ffd_spacings": [4.0],
        "ffd_strength": 0.2,
        "linear_strength": 0.0,
        "copies": 1,
        "draws_per_test_group": 1,
        "workers": 0,
        "cache_dir": str(root / "cache"),
        "fill_nonfinite": None,
    }
    return Learn2RegDataModule(**{**own, **changes})  # type: ignore[arg-type]


def ready(root: Path, **changes: object) -> Learn2RegDataModule:
    data = make(root, **changes)
    data.prepare_data()
    data.setup("fit")
    return data


def test_test_pairs_are_merged_to_groups_of_2_4_and_8_images(cohort: Path) -> None:
    cases = make(cohort).cases
    assert [len(case.members) for case in cases["test"]] == [2, 2, 2, 2, 4, 4, 8]
    assert cases["test"][-1].name == "08_images_Ts0009_Ts0012"
    assert [case.name for case in cases["train"]] == ["Tr0001", "Tr0002", "Tr0020", "Tr0021"]
    assert [case.name for case in cases["val"]] == ["02_images_Tr0003_Tr0003"]


def test_validation_sees_groups_of_every_size_up_to_all_its_pairs(cohort: Path) -> None:
    groups = make(cohort, splits=[9, 3, 2]).cases["val"]
    assert [len(case.members) for case in groups] == [2, 2, 2, 4, 6]
    assert groups[-1].name == "06_images_Tr0003_Ts0010"
    assert len({case.name for case in groups}) == len(groups), "names are those of the cached groups"


def test_ids_of_totalsegmentator_become_the_challenges(cohort: Path) -> None:
    data = make(cohort)
    (train, *_), (test, *_) = (data.read_case(data.cases[split][0]) for split in ("train", "test"))
    assert torch.equal(train.labels[0, 0], test.labels[0, 0])
    assert test.labels.unique().tolist() == [0, 1, 2, 3, 4]


def test_ids_of_an_unknown_scheme_are_refused(cohort: Path) -> None:
    add(cohort, "Tr", 1, 0, ids=(4, 1, 2, 3))
    data = make(cohort)
    with pytest.raises(BingoError, match=r"0001_0000.*largest labelled organ is 4, but the liver is 1"):
        data.read_case(data.cases["train"][0])


def test_ct_is_windowed_so_that_padding_is_air(cohort: Path) -> None:
    data = make(cohort)
    _, ct = data.read_case(data.cases["train"][0])
    assert ct.modalities.item() == 1
    source = nib.load(cohort / "imagesTr" / "AbdomenMRCT_0001_0001.nii.gz").get_fdata()
    expected = ((source + 200) / 500).clip(0, 1)
    np.testing.assert_allclose(ct.images[0, 0, 0, :, 1:11].numpy(), expected, atol=1e-5)  # 10 padded to 12
    assert not ct.images[0, 0, 0, :2].any()
    assert not ct.masks[0, 0, 0, :, 0].any()


def test_mr_under_the_code_of_ct_is_noticed(cohort: Path) -> None:
    save(cohort, "images", "Tr", 1, 1, np.random.default_rng(0).integers(0, 700, SHAPE).astype(np.int16))
    data = make(cohort)
    with pytest.raises(BingoError, match="no Hounsfield units"):
        data.read_case(data.cases["train"][0])


def test_training_pairs_an_mr_with_the_ct_of_another_person(cohort: Path) -> None:
    data = ready(cohort)
    loader = data.train_dataloader()
    seen = set()
    for epoch in range(8):
        loader.batch_sampler.sampler.set_epoch(epoch)  # type: ignore[union-attr]  # as Lightning does
        for batch in loader:
            assert batch.modalities.tolist() == [[0, 1]] * batch.groups
            seen |= set(batch.names)
    people = [[image.split("_")[0] for image in name.split("+")] for name in seen]
    assert len(seen) > 3, "new pairs each epoch"
    assert all(mr != ct for mr, ct in people)


def test_nothing_but_training_is_deformed_and_no_truth_is_claimed(cohort: Path) -> None:
    data = ready(cohort)
    batch = next(iter(data.train_dataloader()))
    deformed = data.misalign_for_training(batch, epoch=0)
    assert deformed.truth is None
    assert not torch.equal(deformed.images, batch.images)
    assert data.misalign_for_evaluation(batch, "test") is batch


def test_copies_of_training_images_carry_a_truth(cohort: Path) -> None:
    data = ready(cohort, copies=2, linear_strength=0.5)
    batch = next(iter(data.train_dataloader()))
    first, again, later = (data.misalign_for_training(batch, epoch) for epoch in (0, 0, 2))
    assert data.truth_known
    assert first.truth is not None
    assert first.anatomies is not None
    assert first.anatomies.tolist() == [[0, 0, 1, 1]] * batch.groups
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, later.images)
    apart = data.misalign_for_training(batch, 1)
    assert (apart.groups, apart.size) == (2 * batch.groups, 2), "every other epoch each image's copies by themselves"
    assert apart.anatomies is not None
    assert apart.anatomies.tolist() == [[0, 0], [1, 1]] * batch.groups
    assert apart.names == tuple(name for name in batch.names for _ in range(2))


def test_pairs_repeat_with_seed_and_epoch_and_ranks_share_them() -> None:
    def batches(seed: int, epoch: int, size: int = 1, rank: int = 0, ranks: int = 1) -> list[list[tuple[int, int]]]:
        sampler = CrossSubjectSampler([0, 0, 0, 1, 1], list("abcad"), size, seed, rank, ranks)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert batches(0, 1) == batches(0, 1)
    assert len({str(batches(seed, epoch)) for seed in (0, 1) for epoch in range(4)}) > 4
    assert sorted(pair[0] for (pair,) in batches(0, 0)) == [0, 1, 2]  # each image of the larger modality once
    halves = [batches(0, 1, 1, rank, 2) for rank in (0, 1)]
    assert [{*first, *second} for first, second in zip(*halves, strict=True)] == [set(b) for b in batches(0, 1, 2)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"root": "/nowhere"}, "does not exist.*imagesTr.*learn2reg.grand-challenge.org"),
        ({"splits": [1, 2, 8]}, r"found 7 people with MR and CT"),
        ({"splits": [9, 0, 4]}, "at least one pair for validation"),
        ({"images_per_step": None}, "images_per_step=None"),
        ({"draws_per_test_group": 2}, "not misaligned"),
        ({"modalities": ["MR", "CBCT"]}, "CBCT"),
    ],
)
def test_wrong_settings_and_roots_are_explained(cohort: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(BingoError, match=message):
        make(cohort, **change).list_cases()


def test_one_person_alone_cannot_be_paired() -> None:
    with pytest.raises(BingoError, match="of another person"):
        CrossSubjectSampler([0, 1], ["a", "a"], 1, 0)


def test_the_phantom_is_read_by_the_real_loader(tmp_path: Path) -> None:
    write_cohort("learn2reg", tmp_path / "all", subjects=1, seed=0, spacing=4)
    data = make(tmp_path / "all", spacing_mm=12.0, roi=[32, 32, 32], splits=[0, 1, 0])
    (group,) = data.read_case(data.list_cases()["val"][0])
    assert group.images.shape == (1, 2, 1, 32, 32, 32)
    assert group.labels.unique().tolist() == [0, 1, 2, 3, 4]
    assert 0.1 < group.masks.float().mean() < 0.6


def test_the_embedded_cohort_has_the_people_that_its_experiment_asks_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blank = abdomen.Scan(np.zeros((2, 2, 2)), np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 2)))
    for scanner in ("scan_mr", "scan_ct"):
        monkeypatch.setattr(abdomen, scanner, lambda *_: blank)  # who is there, not what they look like
    wanted = settings.load("learn2reg_phantom").data
    write_cohort("learn2reg", tmp_path / "all", wanted.phantom_subjects, seed=0)
    cases = make(tmp_path / "all", splits=wanted.splits).cases
    training, validation, testing = wanted.splits
    assert len(cases["train"]) == training
    assert Counter(len(case.members) for case in cases["val"]) == {2: validation, 4: 1, 6: 1}
    assert Counter(len(case.members) for case in cases["test"]) == {2 * k: testing // k for k in (1, 2, 4, 8)}
    assert all(name.startswith("Ts") for case in cases["test"] for name in case.name.split("_")[2:])


def test_every_experiment_asks_for_what_the_module_gives() -> None:
    for name in ("learn2reg", "learn2reg_paper", "learn2reg_phantom"):
        config = settings.load(name)
        assert config.data.images_per_step == 2
        assert config.data.copies > 1 or not config.weights.truth
        rows = settings.load_table(name).methods
        assert "bingo_partial" in rows


def test_the_phantoms_table_shows_the_network_with_and_without_refinement() -> None:
    rows = {row.name: row for row in choose_rows(settings.load_table("learn2reg_phantom"), [], [])}
    refined, alone = rows["bingo_refined"], rows["bingo_partial"]
    assert alone.config == settings.load("learn2reg_phantom")
    assert (refined.config.refine.steps, alone.config.refine.steps) == (60, 0)
    assert refined.training == alone
