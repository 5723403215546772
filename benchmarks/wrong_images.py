"""How well a trained model names the image that does not belong to its group.

``python -m benchmarks.wrong_images runs/mscmr/checkpoints/best.ckpt``. See docs/uncertainty.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from scipy.stats import mannwhitneyu
from torch import Tensor

from benchmarks.uncertainty import load
from bingo_pl import cli
from bingo_pl.batch import GroupBatch
from bingo_pl.evaluation.appearance import looks_like, misnaming, unlikeness
from bingo_pl.evaluation.uncertainty import SMALLEST_JUDGED_GROUP, belongs, disagreement, median_of_others
from bingo_pl.methods.registrar import Registrar
from bingo_pl.registration.choices import REFINE
from bingo_pl.seeding import generator
from bingo_pl.spatial import warp

Wrong = Callable[[GroupBatch, int], GroupBatch]
"""Makes the m-th image of a misaligned group (B = 1) wrong."""
OTHER_SEQUENCE = "other sequence named"
SHIFT = 1 / 3
"""Of the longest side, by which an image is misplaced."""
console = Console(soft_wrap=True)


@dataclass(frozen=True, eq=False)
class Judged:
    """What the rules say of the N images of one group; every tensor (N,), on the CPU."""

    disagreement: Tensor
    """Over the median of the others', as `belongs` compares them."""
    flagged: Tensor
    """bool, by `belongs`."""
    misnaming: Tensor
    looks_like: Tensor
    """long, the modality."""
    misnamed: Tensor
    """bool, it looks like another modality than it is given as."""


@dataclass(frozen=True, eq=False)
class Case:
    """A group whose ``member`` was made wrong."""

    judged: Judged
    member: int
    modality: int
    """That the member is, under whatever name."""

    def innocent(self, flagged: Tensor) -> bool:
        """Whether another one is among the flagged (N,)."""
        return bool(flagged.sum() > flagged[self.member])


def main(
    checkpoint: Annotated[Path, typer.Argument(help="Of a trained BInGo")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings")] = None,
    groups: Annotated[int, typer.Option(help="Test groups, evenly chosen")] = 26,
    refine: Annotated[int, typer.Option(min=0, help="Steps of refinement, as of bingo register")] = REFINE,
) -> None:
    """One image of each test group is made wrong in several ways, under the misalignment of the test.

    The area under the ROC curve is that of an image's disagreement over the median of the others', against the images
    of the groups as they are; then, how many of the images the rule of `belongs` flags, wrong and good ones. The same
    of the names: of an image's `misnaming` and the rule of `looks_like`.
    """
    model, data = load(checkpoint, overrides or [])
    registrar = model.refining(refine).registrar
    batches = [batch for batch in data.test_dataloader() if batch.size >= SMALLEST_JUDGED_GROUP]
    batches = [batch.to(model.device) for batch in batches[:: max(1, len(batches) // groups)]]
    strangers = [batch.to(model.device) for batch in data.train_dataloader()]
    good: list[Judged] = []
    wrong: dict[str, list[Case]] = defaultdict(list)
    for aligned in batches:
        batch = data.misalign_for_evaluation(aligned, "test")
        good.append(judge(registrar, batch))
        draws = generator("wrong image", batch.names[0])
        member = int(torch.randint(batch.size, (1,), generator=draws))
        for kind, spoil in kinds(model.bingo.modalities, strangers, draws).items():
            judged = judge(registrar, spoil(batch, member))
            wrong[kind].append(Case(judged, member, int(batch.modalities[0, member])))
    report(good, wrong)


def kinds(modalities: int, strangers: list[GroupBatch], draws: torch.Generator) -> dict[str, Wrong]:
    """Ways in which an image may not belong. ``strangers`` are groups of other patients."""

    def other_patient(batch: GroupBatch, member: int) -> GroupBatch:
        modality = batch.modalities[0, member]
        same = [group.images[group.modalities == modality] for group in strangers]
        images = torch.cat(same)
        image = images[int(torch.randint(len(images), (1,), generator=draws))]
        assert batch.truth is not None
        return placed(batch, member, warp(image[None], batch.truth[:, member])[0])

    def other_sequence(batch: GroupBatch, member: int) -> GroupBatch:
        named = batch.modalities.clone()
        shift = 1 + int(torch.randint(modalities - 1, (1,), generator=draws))
        named[0, member] = (named[0, member] + shift) % modalities
        return replace(batch, modalities=named)

    def misplaced(batch: GroupBatch, member: int) -> GroupBatch:
        shift = batch.images.new_zeros(1, len(batch.shape), *batch.shape)
        shift[:, 0] = SHIFT * max(batch.shape)
        return placed(batch, member, warp(batch.images[:, member], shift)[0])

    def flipped(*axes: int) -> Wrong:
        return lambda batch, member: placed(batch, member, batch.images[0, member].flip(axes))

    return {
        "other patient": other_patient,
        OTHER_SEQUENCE: other_sequence,
        "misplaced by a third": misplaced,
        "flipped along the first axis": flipped(1),
        "flipped along the second axis": flipped(2),
        "turned by 180 degrees": flipped(1, 2),
    }


def placed(batch: GroupBatch, member: int, image: Tensor) -> GroupBatch:
    """The batch with another image (1, *S) in the place of one."""
    images = batch.images.clone()
    images[0, member] = image
    return replace(batch, images=images)


@torch.no_grad()
def judge(registrar: Registrar, batch: GroupBatch) -> Judged:
    """Of one group (B = 1)."""
    result = registrar(batch)
    apart, unlike = disagreement(registrar, batch, result), unlikeness(registrar, batch, result)
    assert apart is not None
    assert unlike is not None, "a group of three or more and a model of two modalities or more"
    seen = looks_like(unlike, batch.modalities)
    found = (
        apart / median_of_others(apart),
        ~belongs(apart),
        misnaming(unlike, batch.modalities),
        seen,
        seen != batch.modalities,
    )
    return Judged(*(values[0].cpu() for values in found))


def report(good: Sequence[Judged], wrong: dict[str, list[Case]]) -> None:
    apart = torch.cat([judged.disagreement for judged in good])
    named = torch.cat([judged.misnaming for judged in good])
    console.print(f"good groups: flagged {shares([judged.flagged for judged in good])}")
    console.print(
        f"  names: flagged {shares([judged.misnamed for judged in good])}; misnaming at most {named.max():.2f}"
    )
    for kind, cases in wrong.items():
        area = auc([case.judged.disagreement[case.member] for case in cases], apart)
        found = mean([case.judged.flagged[case.member] for case in cases])
        innocent = mean([case.innocent(case.judged.flagged) for case in cases])
        console.print(
            f"{kind}: AUC {area:.2f}, named {found:.0%}, another image flagged in {innocent:.0%} of {len(cases)} groups"
        )
        area = auc([case.judged.misnaming[case.member] for case in cases], named)
        found = mean([case.judged.misnamed[case.member] for case in cases])
        right = mean([case.judged.looks_like[case.member] == case.modality for case in cases])
        innocent = mean([case.innocent(case.judged.misnamed) for case in cases])
        console.print(
            f"  names: AUC {area:.3f}, its name flagged {found:.0%}, another image's name flagged in {innocent:.0%}"
            + (f", its true name told {right:.0%}" if kind == OTHER_SEQUENCE else "")
        )


def shares(flagged: Sequence[Tensor]) -> str:
    """Of the images and of the groups."""
    images, groups = torch.cat([*flagged]), [group.any() for group in flagged]
    return f"{images.float().mean():.1%} of the {len(images)} images, in {mean(groups):.1%} of the groups"


def auc(wrong: Sequence[Tensor], good: Tensor) -> float:
    return float(mannwhitneyu(torch.stack([*wrong]).numpy(), good.numpy()).statistic / (len(wrong) * len(good)))


def mean(flags: Sequence[Tensor | bool]) -> float:
    return sum(map(bool, flags)) / len(flags)


if __name__ == "__main__":
    cli.run(lambda: typer.run(main))
