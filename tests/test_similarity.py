"""Laws of the groupwise similarities and of the bending energy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from bingo_pl.methods import similarity
from bingo_pl.methods.priors import bending_energy
from bingo_pl.methods.similarity import PARTNERS, ape, cte, em_posterior, mutual_information, sample_voxels, x_coreg
from bingo_pl.seeding import generator
from bingo_pl.spatial import identity

from .conftest import smooth

Measure = Callable[..., Tensor]


def x_coreg_by_em(images: Tensor, mask: Tensor) -> Tensor:
    return x_coreg(images, em_posterior(images, mask), mask)


every_measure = pytest.mark.parametrize("measure", [ape, cte, x_coreg_by_em])


def everywhere(images: Tensor) -> Tensor:
    return torch.ones(len(images), 1, 1, *images.shape[3:], dtype=torch.bool)


def contrasts(shape: tuple[int, ...] = (48, 48), shift: int = 0) -> Tensor:
    """Two groups (2, 3, 1, *S) that share an anatomy: as it is, inverted and folded; ``shift`` voxels apart."""
    anatomy = torch.stack([smooth(shape, "anatomy", group) for group in range(2)])
    views = [anatomy, (1 - anatomy).roll(shift, 1), (anatomy - 0.4).abs().roll(-shift, 2)]
    return torch.stack(views, dim=1)[:, :, None]


def correlated(correlation: float, count: int) -> tuple[Tensor, Tensor]:
    """Two Gaussian images (1, 1, 1, count) of a known correlation."""
    a, noise = torch.randn(2, count, generator=generator("gauss"), dtype=torch.float64)
    b = correlation * a + (1 - correlation**2) ** 0.5 * noise
    return a.reshape(1, 1, 1, -1), b.reshape(1, 1, 1, -1)


def test_mutual_information_agrees_with_a_plain_histogram_and_with_theory() -> None:
    """Information of 65,536 draws. A histogram of 64 x 64 bins is biased by up to 63^2 / (2 * 65,536) = 0.03 nats; the
    windows average that noise away and blur the densities by a bin, here a thirteenth of a standard deviation or so."""
    a, b = correlated(0.8, 256**2)
    counts, _, _ = np.histogram2d(a.flatten().numpy(), b.flatten().numpy(), bins=64)
    joint = counts / counts.sum()
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    plain = (joint[joint > 0] * np.log(joint[joint > 0] / independent[joint > 0])).sum()
    ours = mutual_information(a, b, everywhere(a)).item()
    assert ours == pytest.approx(plain, abs=0.03)
    assert ours == pytest.approx(-0.5 * np.log(1 - 0.8**2), abs=0.03)


def test_fewer_bins_blur_the_densities_and_so_lose_information() -> None:
    """Information processing: what coarser windows see of two images is a function of less of them."""
    a, b = correlated(0.8, 256**2)
    fine, medium, coarse = (mutual_information(a, b, everywhere(a), bins).item() for bins in (64, 16, 4))
    assert 0 < coarse < medium < fine


def test_in_a_small_image_fewer_bins_see_less_that_is_not_there() -> None:
    """400 unrelated voxels: the bias of a histogram is its number of cells over twice that of voxels."""
    a, b = correlated(0.0, 400)
    many, few = (mutual_information(a, b, everywhere(a), bins).item() for bins in (64, 16))
    assert few < many / 2


def test_mutual_information_of_unrelated_images_is_nearly_zero() -> None:
    a, b = correlated(0.0, 256**2)
    assert 0 <= mutual_information(a, b, everywhere(a)).item() < 0.03


def test_mutual_information_does_not_see_inversion_or_rescaling() -> None:
    images = contrasts(shift=2)
    a, b = images[:, :1], images[:, 2:]
    plain = mutual_information(a, b, everywhere(images))
    # Bins lie symmetrically in the range of an image, so only rounding differs.
    torch.testing.assert_close(mutual_information(a, 7 - 3 * b, everywhere(images)), plain, atol=1e-4, rtol=0)
    torch.testing.assert_close(mutual_information(b, a, everywhere(images)), plain, atol=1e-5, rtol=0)


def test_ape_of_a_pair_is_its_mutual_information() -> None:
    pair = contrasts()[:, :2]
    information = mutual_information(pair[:, :1], pair[:, 1:], everywhere(pair))[:, 0]
    torch.testing.assert_close(ape(pair, everywhere(pair)), -2 * information)


def crowd(size: int) -> Tensor:
    """A group (1, N, 1, *S) whose images share less and less with the first."""
    common = torch.rand(32, 32, generator=generator("common"))
    own = torch.rand(1, size, 1, 32, 32, generator=generator("own"))
    return torch.lerp(common, own, torch.linspace(0, 1, size)[:, None, None, None])


def test_ape_looks_at_all_pairs_of_a_small_group_whoever_draws() -> None:
    images = crowd(2 * PARTNERS + 1)
    mask = everywhere(images)
    assert torch.equal(ape(images, mask, 16, generator("pairs")), ape(images, mask, 16))


def test_ape_of_drawn_pairs_is_that_of_all_in_the_mean() -> None:
    images, draws = crowd(2 * PARTNERS + 8), generator("pairs")
    mask = everywhere(images)
    drawn = torch.cat([ape(images, mask, 16, draws) for _ in range(60)])
    every = ape(images, mask, 16).item()
    error = drawn.std().item() / len(drawn) ** 0.5
    assert 0 < error < 0.01 * abs(every)
    assert drawn.mean().item() == pytest.approx(every, abs=3 * error)


def test_drawn_pairs_grow_with_the_group_and_leave_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, information = [], similarity._information

    def counted(joint: Tensor) -> Tensor:
        seen.append(joint.shape[1])
        return information(joint)

    monkeypatch.setattr(similarity, "_information", counted)
    images = crowd(6 * PARTNERS).requires_grad_()
    ape(images, everywhere(images), 16, generator("pairs")).backward()
    assert sum(seen) == 6 * PARTNERS * PARTNERS
    assert images.grad is not None
    assert (images.grad.flatten(2).norm(dim=2) > 0).all()


@every_measure
def test_alignment_lowers_it(measure: Measure) -> None:
    values = [measure(contrasts(shift=shift), everywhere(contrasts())) for shift in (6, 3, 1, 0)]
    assert (torch.stack(values).diff(dim=0) < 0).all()


@every_measure
def test_the_order_of_the_images_does_not_matter(measure: Measure) -> None:
    images = contrasts(shift=2)
    mask = everywhere(images)
    torch.testing.assert_close(measure(images[:, [2, 0, 1]], mask), measure(images, mask), atol=1e-4, rtol=0)


@every_measure
def test_inverting_an_image_does_not_matter(measure: Measure) -> None:
    """Of the template it may flip the sign, and of the classes the order."""
    images = contrasts(shift=2)
    inverted = torch.cat([1 - images[:, :1], images[:, 1:]], dim=1)
    mask = everywhere(images)
    torch.testing.assert_close(measure(inverted, mask), measure(images, mask), atol=1e-3, rtol=0)


@every_measure
def test_groups_of_a_batch_do_not_see_each_other(measure: Measure) -> None:
    images = contrasts(shift=2)
    mask = everywhere(images)
    torch.testing.assert_close(measure(images[1:], mask[1:])[0], measure(images, mask)[1], atol=1e-5, rtol=0)


@every_measure
def test_what_lies_outside_the_mask_does_not_matter(measure: Measure) -> None:
    images = contrasts(shift=2)
    mask = everywhere(images)
    mask[..., :20, :] = False
    other = images.where(mask, 5 * torch.rand(images.shape, generator=generator("outside")))
    torch.testing.assert_close(measure(other, mask), measure(images, mask), atol=1e-5, rtol=0)


@every_measure
def test_the_gradient_is_that_of_finite_differences(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    """In double precision, with all that the method takes to be constant held: ranges, and the posterior of X-CoReg."""
    ranges: dict[int, tuple[Tensor, Tensor]] = {}

    def first_range(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """By the number of images, one for the template; with room for the steps."""
        return ranges.setdefault(x.shape[1], (x.amin(-1, keepdim=True) - 0.1, x.amax(-1, keepdim=True) + 0.1))

    monkeypatch.setattr(similarity, "_range", first_range)
    anatomy, *noise = torch.rand(4, 12, generator=generator("gradcheck"), dtype=torch.float64)
    images = (0.7 * anatomy + 0.3 * torch.stack(noise))[None, :, None].requires_grad_()
    mask = everywhere(images)
    posterior = em_posterior(images, mask)
    ranges.clear()
    held = partial(x_coreg, posterior=posterior) if measure is x_coreg_by_em else measure
    assert torch.autograd.gradcheck(lambda x: held(x, mask=mask), images)


@every_measure
@pytest.mark.parametrize("case", ["duplicates", "a constant image", "an empty mask"])
def test_degenerate_groups_have_finite_gradients(measure: Measure, case: str) -> None:
    images = contrasts()
    mask = everywhere(images)
    if case == "duplicates":
        images = images[:, [0, 0, 0]]
    elif case == "a constant image":
        images[:, 1] = 0.5
    else:
        mask = ~mask
    images.requires_grad_()
    value = measure(images, mask)
    (slope,) = torch.autograd.grad(value.sum(), images)
    assert torch.isfinite(value).all()
    assert torch.isfinite(slope).all()


@every_measure
def test_a_group_of_one_has_a_finite_value(measure: Measure) -> None:
    images = contrasts()[:, :1]
    assert torch.isfinite(measure(images, everywhere(images))).all()


@every_measure
def test_autocast_and_half_precision_images_are_computed_in_single_precision(measure: Measure) -> None:
    images = contrasts(shift=2).to(torch.bfloat16)
    mask = everywhere(images)
    exact = measure(images.float(), mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(measure(images, mask), exact)


def test_the_posterior_is_one_of_probabilities_without_certainty_or_gradient() -> None:
    images = contrasts().requires_grad_()
    posterior = em_posterior(images, everywhere(images))
    assert posterior.shape == (2, 4, 1, 48, 48)
    assert not posterior.requires_grad
    torch.testing.assert_close(posterior.sum(1), torch.ones(2, 1, 48, 48))
    assert posterior.min() > 0.99e-3  # 1e-3 before the sum is made one again


def test_em_finds_the_tissues_of_a_noisy_group() -> None:
    """Three tissues of 8, 20 and 20 rows, so not the equal classes that EM starts from; no single image shows all."""
    tissue = torch.tensor([0] * 8 + [1] * 20 + [2] * 20)[:, None].expand(48, 48)
    brightness = torch.tensor([[0.2, 0.8, 0.8], [0.8, 0.8, 0.2], [0.3, 0.9, 0.3]])
    images = (brightness[:, tissue] + 0.05 * torch.randn(3, 48, 48, generator=generator("noise")))[None, :, None]
    label = em_posterior(images, everywhere(images), classes=3).argmax(1)[0, 0]
    found = [torch.bincount(label[tissue == k], minlength=3) for k in range(3)]
    assert sorted(int(counts.argmax()) for counts in found) == [0, 1, 2]
    assert min((counts.max() / counts.sum()).item() for counts in found) > 0.95


def test_a_sample_of_the_voxels_estimates_the_whole() -> None:
    images = contrasts((128, 128), shift=2)
    mask = everywhere(images)
    few, some = sample_voxels(images, mask, 0.5, generator("voxels"))
    assert (few.shape, some.shape) == ((2, 3, 1, 8192), (2, 1, 1, 8192))
    torch.testing.assert_close(cte(few, some), cte(images, mask), rtol=0.1, atol=0)  # fewer voxels, fuller bins
    again, _ = sample_voxels(images, mask, 0.5, generator("voxels"))
    assert torch.equal(few, again)
    whole, _ = sample_voxels(images, mask, 0.5, None)
    assert torch.equal(whole, images.flatten(3))


@pytest.mark.parametrize("shape", [(8, 9), (6, 7, 8)])
def test_affine_maps_do_not_bend(shape: tuple[int, ...]) -> None:
    dims = len(shape)
    matrix = torch.randn(dims, dims, generator=generator("affine"), dtype=torch.float64)
    grid = identity(shape, matrix)
    affine = torch.tensordot(matrix, grid, dims=1) + 3
    assert bending_energy(affine[None]).item() == pytest.approx(0, abs=1e-20)


def test_bending_energy_of_a_quadratic_is_its_squared_hessian() -> None:
    y, x = identity((7, 8), torch.zeros((), dtype=torch.float64))
    bent = torch.stack([1.5 * y**2, 0.5 * x * y])[None]  # Hessians diag(3, 0) and [[0, 0.5], [0.5, 0]]
    assert bending_energy(bent).item() == pytest.approx(3**2 + 2 * 0.5**2)
