"""Previews: the pooled problem is the problem of pooled images, or a part of the picture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.io.pictures import Background, FileHeader, Picture
from invdiff.noise import Gaussian, Laplace, NoiseModel, Poisson, PoissonGaussian, SaltAndPepper
from invdiff.operators import (
    BlockAverage,
    Blur,
    CircularBlur,
    Demosaic,
    Denoise,
    GaussianBlur,
    Grayscale,
    Jpeg,
    Mask,
    MaskBox,
    MaskRandom,
    MotionKernel,
    Operator,
    Radon,
)
from invdiff.preview import (
    pooled,
    pooled_noise,
    pooled_operator,
    preview_of,
    with_floor,
)
from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.solve import Part, SolveSettings, previewed
from invdiff.window import Window

KERNEL = torch.rand(9, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def blocks(x: Tensor, k: int) -> Tensor:
    return x.repeat_interleave(k, -1).repeat_interleave(k, -2)


def image(*shape: int) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.rand(*shape, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize(
    "operator",
    [
        Blur((1, 48, 60), KERNEL / KERNEL.sum()),
        Blur((1, 48, 60), KERNEL[:8, :6] / KERNEL[:8, :6].sum(), boundary="zero"),
        Blur((1, 48, 60), MotionKernel(15, angle=40), boundary="replicate"),
        GaussianBlur((1, 48, 60), sigma=3.0),
        CircularBlur((1, 48, 60), KERNEL / KERNEL.sum()),
    ],
    ids=repr,
)
def test_the_blur_of_blocks(operator: Operator, k: int) -> None:
    """Between means of an image that is constant in blocks, away from the edges, it is exact."""
    small = pooled_operator(operator.double(), k)
    assert small is not None
    small = small.double()
    x = image(2, 1, 48 // k, 60 // k)
    expected = pooled(operator(blocks(x, k)), k)
    found = small(x)
    inside = (slice(None), slice(None), slice(8, -8) if k == 2 else slice(5, -5), slice(6, -6))
    torch.testing.assert_close(found[inside], expected[inside], atol=1e-7, rtol=0)
    if isinstance(operator, CircularBlur):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_the_mask_of_blocks() -> None:
    """A pooled pixel is known where its whole block is, and is then the mean of the block."""
    operator = MaskBox((1, 40, 40), height=10, width=6, top=5, left=9).double()
    small = pooled_operator(operator, 4)
    assert isinstance(small, Mask)
    known = pooled(operator(torch.ones(1, 1, 40, 40, dtype=torch.float64)), 4) > 0.999
    assert torch.equal(small.s[0] > 0, known[0, 0])
    x = image(1, 1, 40, 40)
    y = small.double().measured(pooled(operator(x), 4))
    torch.testing.assert_close(y, small(pooled(x, 4)), atol=1e-12, rtol=0)
    assert pooled_operator(MaskRandom((1, 40, 40), missing=0.5), 4) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "noise",
    [
        Gaussian(0.2),
        Gaussian(torch.tensor([0.2, 0.1])),
        Poisson(20.0),
        PoissonGaussian(20.0, 0.1),
        Laplace(0.1),
    ],
    ids=lambda noise: repr(noise)[:15],
)
def test_the_noise_of_means(noise: NoiseModel) -> None:
    """Mean and variance of pooled noise are those of the model, in 40,000 blocks."""
    clean = torch.full((2, 1, 600, 600), 0.4)
    y = pooled(noise.sample(clean, Streams([(0, 0), (0, 1)])), 3)
    small = pooled_noise(noise, 3)
    assert small is not None
    expected = torch.as_tensor(small.variance(torch.full((2, 1, 1, 1), 0.4))).expand(2, 1, 1, 1)
    found = y.var((1, 2, 3))
    assert torch.allclose(found, expected.flatten(), rtol=0.04)
    assert float(y.mean()) == pytest.approx(0.4, abs=2e-3)


def test_noise_that_has_no_mean_of_its_kind() -> None:
    assert pooled_noise(SaltAndPepper(0.1), 2) is None
    assert pooled_noise(Gaussian(torch.full((1, 1, 4, 4), 0.1)), 2) is None


def test_least_noise() -> None:
    """What is added brings sigma to 0.01; more noise stays as it is."""
    y, noise = with_floor(torch.full((1, 1, 200, 200), 0.5), Gaussian(0.006))
    assert noise == noise and repr(noise) == "Gaussian(sigma=0.01)"
    assert float(y.std()) == pytest.approx(0.008, rel=0.03)
    same, noise = with_floor(y, Gaussian(0.02))
    assert same is y and repr(noise) == "Gaussian(sigma=0.02)"


def posed(operator: Operator, noise: NoiseModel | None = None) -> tuple[Problem, Tensor]:
    x = image(1, *operator.shape).float()
    return Problem.simulate(x, operator, noise or Gaussian(0.08)), x


def test_the_whole_picture_in_small() -> None:
    problem, x = posed(MaskBox((3, 200, 333), height=40, width=50))
    preview = preview_of(problem, 100)
    assert preview.text == (
        "preview: the whole picture in small, 50x83, each pixel the mean of 4x4"
    )
    small = preview.small(x)
    assert small.shape == (1, 3, 50, 83)
    assert repr(preview.problem.noise) == "Gaussian(sigma=0.02)"
    assert float(preview.problem.misfit(small)) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("weights", ["luma", "mean"])
def test_a_gray_picture_in_small_is_gray_in_the_same_way(weights: str) -> None:
    problem, x = posed(Grayscale((3, 200, 333), weights=weights))
    preview = preview_of(problem, 100)
    assert "the whole picture in small, 50x83" in preview.text
    small = preview.problem
    torch.testing.assert_close(
        small.operator(preview.small(x)), preview.small(problem.operator(x)), rtol=0, atol=1e-6
    )
    assert float(small.misfit(preview.small(x))) == pytest.approx(1.0, abs=0.1)


def test_exact_pixels_behind_a_mask_stay_exact() -> None:
    problem, x = posed(MaskBox((1, 200, 333), height=40, width=50), Gaussian(0.0))
    preview = preview_of(problem, 100)
    small = preview.problem
    assert repr(small.noise) == "Gaussian(sigma=0.0)"
    assert torch.equal(small.y, small.operator(preview.small(x)))


@pytest.mark.parametrize(
    "operator",
    [
        Denoise((3, 200, 333)),
        GaussianBlur((1, 200, 333), sigma=1.0),
        MaskRandom((1, 200, 333), missing=0.5),
        BlockAverage((1, 200, 332), 4),
        Demosaic((3, 200, 333)),
        Jpeg((3, 200, 333), quality=30),
        Jpeg((3, 200, 333), quality=30, orientation=3),
        Jpeg((3, 203, 330), quality=30, orientation=6),
    ],
    ids=lambda operator: type(operator).__name__,
)
def test_a_part_at_full_size(operator: Operator) -> None:
    """Its measurement is that part of the measurement, to the noise and the surroundings."""
    problem, x = posed(operator)
    preview = preview_of(problem, 100)
    assert preview.text.startswith("preview: a part of the picture at full size, 96x96 at row ")
    small = preview.small(x)
    assert small.shape == (1, operator.shape[0], 96, 96)
    limit = 2.5 if isinstance(operator, Jpeg) else 1.3
    assert float(preview.problem.misfit(small)) < limit
    assert preview.problem.noise is problem.noise


def test_a_part_of_a_mask_is_where_pixels_are_missing() -> None:
    """Scratches that pooling would swallow: the part is around their middle."""
    s = torch.ones(400, 400)
    s[300:, ::5] = 0
    s[::2, ::3] = 0
    problem, x = posed(Mask((1, 400, 400), s))
    preview = preview_of(problem, 64)
    assert "a part of the picture" in preview.text
    assert torch.equal(
        preview.problem.operator(torch.ones(1, 1, 64, 64)) > 0, preview.small(s[None, None]) > 0
    )


def test_a_small_picture_is_its_own_preview() -> None:
    problem, x = posed(Denoise((1, 90, 100)))
    preview = preview_of(problem, 100)
    assert preview.problem is problem and preview.small(x) is x


@pytest.mark.parametrize("operator", [Radon((1, 64, 64), angles=20)])
def test_what_has_no_preview(operator: Any) -> None:
    problem, _ = posed(operator)
    with pytest.raises(InputError) as caught:
        preview_of(problem, 32)
    assert str(caught.value).startswith("preview: found the operator Radon, expected")
    assert str(caught.value) == (
        "preview: found the operator Radon, expected a measurement that is a picture, or preview=false"
    )


def test_where_a_part_lies() -> None:
    """In the middle, by whole blocks of 16 pixels and of the factor; the line tells where."""
    wanted = "preview: a part of the picture at full size, {}: of {} there is no smaller version"
    problem, x = posed(Denoise((3, 90, 120)))
    preview = preview_of(problem, 64)
    assert preview.text == wanted.format("64x64 at row 0, column 16", "Denoise")
    assert torch.equal(preview.small(x), x[..., :64, 16:80])
    assert torch.equal(preview.problem.y, problem.y[..., :64, 16:80])
    problem, x = posed(BlockAverage((1, 100, 240), 4))
    preview = preview_of(problem, 64)
    assert preview.text == wanted.format("64x64 at row 16, column 80", "BlockAverage")
    assert torch.equal(preview.small(x), x[..., 16:80, 80:144])
    assert torch.equal(preview.problem.y, problem.y[..., 4:20, 20:36])
    problem, x = posed(Denoise((1, 10, 65)))
    assert preview_of(problem, 64).problem.operator.shape == (1, 10, 64)
    assert preview_of(problem, 65).problem is problem


@pytest.mark.parametrize("kind", ["whole", "part", "chosen"])
def test_images_of_a_batch_have_their_own_masks_and_kernels(kind: str) -> None:
    """The preview of two images is that of each: the same size, y and operator."""
    draw = torch.Generator().manual_seed(3)
    if kind == "chosen":
        kernels = torch.rand(3, 3, 3, generator=draw)
        kernels = kernels / kernels.sum((1, 2), keepdim=True)
        operator: Operator = Blur((1, 120, 120), kernels).select([2, 0])
    elif kind == "whole":
        masks = torch.ones(2, 1, 120, 120)
        masks[0, :, 8:40, 16:60] = 0
        masks[1, :, 80:104, 4:40] = 0
        operator = Mask((1, 120, 120), masks)
    else:
        masks = (torch.rand(2, 1, 120, 120, generator=draw) > 0.5).float()
        operator = Mask((1, 120, 120), masks)
    x = image(2, 1, 120, 120).float()
    problem = Problem.simulate(x, operator, Gaussian(0.05))
    together = preview_of(problem, 40 if kind == "whole" else 64)
    words = "the whole picture in small" if kind == "whole" else "a part of the picture"
    assert words in together.text
    small = together.small(x)
    expected = together.problem.operator(small)
    for b in range(2):
        one = together.problem.select([b])
        torch.testing.assert_close(one.operator(small[b : b + 1]), expected[b : b + 1])
        own = problem.operator.select([b])
        if kind == "whole":
            measured = pooled(own(torch.ones(1, 1, 120, 120)), 3) > 0.999
            assert torch.equal(one.measured() > 0, measured)
        else:
            cut = together.small(own(x[b : b + 1]))
            inside = (..., slice(1, -1), slice(1, -1))
            torch.testing.assert_close(expected[b : b + 1][inside], cut[inside])


def test_a_preview_has_a_side() -> None:
    problem = Problem(Denoise((1, 4, 4)), Gaussian(0.1), torch.zeros(1, 1, 4, 4))
    with pytest.raises(InputError, match="^side: found 0, expected at least 1$"):
        preview_of(problem, 0)


def test_pictures_of_a_preview_are_without_what_belongs_to_their_size() -> None:
    """Alpha, header and background have the file's own pixels; the rest is as in the file."""
    values = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    header = FileHeader("fits", b"", "0", (2,))
    background = Background(mask, torch.zeros(2, 1, 8, 8))
    picture = Picture(
        values, torch.ones(2, 1, 8, 8), 16, "scan", header=header, background=background
    )
    problem = Problem(MaskBox((1, 8, 8), 4, 4), Gaussian(0.1), values)
    part = Part([picture], [0, 1], values, problem)
    settings = SolveSettings(prior="fashion", preview=4)
    whole = previewed(part, settings)
    window = Window((2, 6), (0, 4)).picture(picture)
    for small in (*whole.pictures, window):
        assert small.values.shape == (2, 1, 4, 4)
        assert (small.header, small.background) == (None, None)
        assert (small.bits, small.name) == (16, "scan")
    assert whole.pictures[0].alpha is None and window.alpha is not None
