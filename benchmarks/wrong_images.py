"""How well a trained model names the image that does not belong to its group.

``python -m benchmarks.wrong_images runs/mscmr/checkpoints/best.ckpt``. See docs/uncertainty.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
from bingo_pl.evaluation.uncertainty import SMALLEST_JUDGED_GROUP, belongs, disagreement, median_of_others
from bingo_pl.methods.bingo import Bingo
from bingo_pl.seeding import generator
from bingo_pl.spatial import warp

Wrong = Callable[[GroupBatch, int], GroupBatch]
"""Makes the m-th image of a misaligned group (B = 1) wrong."""
SHIFT = 1 / 3
"""Of the longest side, by which an image is misplaced."""
console = Console(soft_wrap=True)


def main(
    checkpoint: Annotated[Path, typer.Argument(help="Of a trained BInGo")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings")] = None,
    groups: Annotated[int, typer.Option(help="Test groups, evenly chosen")] = 26,
) -> None:
    """One image of each test group is made wrong in several ways, under the misalignment of the test.

    The area under the ROC curve is that of an image's disagreement over the median of the others', against the images
    of the groups as they are; then, how many of the images the rule of `belongs` accuses, wrong and good ones.
    """
    model, data, device = load(checkpoint, overrides or [])
    batches = [batch for batch in data.test_dataloader() if batch.size >= SMALLEST_JUDGED_GROUP]
    batches = [batch.to(device) for batch in batches[:: max(1, len(batches) // groups)]]
    strangers = [batch.to(device) for batch in data.train_dataloader()]
    good: list[Tensor] = []
    accused: list[Tensor] = []
    wrong: dict[str, list[tuple[float, bool, bool]]] = {}
    for aligned in batches:
        batch = data.misalign_for_evaluation(aligned, "test")
        apart = judge(model, batch)
        good.append(relative(apart))
        accused.append(~belongs(apart)[0])
        draws = generator("wrong image", batch.names[0])
        member = int(torch.randint(batch.size, (1,), generator=draws))
        for kind, spoil in kinds(model.modalities, strangers, draws).items():
            apart = judge(model, spoil(batch, member))
            innocent = ~belongs(apart)[0]
            innocent[member] = False
            value, named = relative(apart)[member].item(), not bool(belongs(apart)[0, member])
            wrong.setdefault(kind, []).append((value, named, bool(innocent.any())))
    report(torch.cat(good), accused, wrong)


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
        "other sequence named": other_sequence,
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
def judge(model: Bingo, batch: GroupBatch) -> Tensor:
    apart = disagreement(model, batch, model(batch))
    assert apart is not None
    return apart.cpu()


def relative(apart: Tensor) -> Tensor:
    """Each image's disagreement (1, N) over the median of the others', as `belongs` compares them: (N,)."""
    return (apart / median_of_others(apart))[0]


def report(good: Tensor, accused: list[Tensor], wrong: dict[str, list[tuple[float, bool, bool]]]) -> None:
    images, groups = torch.cat(accused).float().mean(), torch.stack([group.any() for group in accused]).float().mean()
    console.print(f"good groups: accused {images:.1%} of the {len(good)} images, in {groups:.1%} of the groups")
    for kind, cases in wrong.items():
        values, named, innocent = zip(*cases, strict=True)
        area = mannwhitneyu(values, good.numpy()).statistic / (len(values) * len(good))
        console.print(
            f"{kind}: AUC {area:.2f}, named {sum(named) / len(cases):.0%}, "
            f"another image accused in {sum(innocent) / len(cases):.0%} of {len(cases)} groups"
        )


if __name__ == "__main__":
    cli.run(lambda: typer.run(main))
