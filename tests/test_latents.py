"""Latents as unknowns: the decoder as an operator, and the page that shows it."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from invdiff import Gaussian, Problem, restore
from invdiff.errors import InputError
from invdiff.operators import Decoder, MaskHalf, Operator
from invdiff.prior import GaussianDenoiser
from invdiff.solvers import DPS

PAGE = Path(__file__).parent.parent / "docs" / "latents.md"


class Enlarged(nn.Module):
    """A linear decoder with two convolutions' worth of mixing, and a scale of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(scaling_factor=0.25)
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("mix", torch.randn(3, 2, generator=generator))

    def decode(self, z: Tensor) -> Any:
        mixed = torch.einsum("dc,bchw->bdhw", self.mix, z)
        return SimpleNamespace(sample=nn.functional.interpolate(mixed, scale_factor=2.0))


def test_the_decoder_undoes_the_scale_of_latents() -> None:
    decode = Enlarged()
    decoder = Decoder((2, 3, 4), decode)
    z = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    images = decoder(decoder.latents(z))
    torch.testing.assert_close(2 * images - 1, decode.decode(z).sample)
    assert decoder.measurement_shape == (3, 6, 8)
    torch.testing.assert_close(decoder.latents(z), (0.25 * z + 1) / 2)
    assert Decoder((2, 3, 4), decode, scale=3).scale == 3.0
    assert Decoder((2, 3, 4), nn.Identity()).scale == 1.0


def test_a_measured_image_is_that_of_its_latents() -> None:
    decoder = Decoder((2, 3, 4), Enlarged())
    operator = MaskHalf((3, 6, 8)) @ decoder
    assert type(operator).__mro__[1] is Operator and operator.shape == (2, 3, 4)
    x = torch.rand(2, 2, 3, 4, requires_grad=True)
    assert torch.equal(operator(x), MaskHalf((3, 6, 8))(decoder(x)))
    (gradient,) = torch.autograd.grad(operator(x).sum(), x)
    assert gradient.isfinite().all() and gradient.abs().max() > 0


def test_a_solver_finds_the_latents() -> None:
    """A linear decoder and a Gaussian prior: the posterior mean is known."""
    prior = GaussianDenoiser(torch.full((2, 3, 4), 0.5), 0.04 * torch.eye(24))
    decoder = Decoder((2, 3, 4), Enlarged(), scale=2.0)
    truth = 0.5 + 0.2 * torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(2))
    problem = Problem.simulate(truth, decoder, Gaussian(0.05))
    basis = torch.eye(24).view(24, 2, 3, 4)
    zero = decoder(torch.zeros(1, 2, 3, 4))
    A = (decoder(basis) - zero).flatten(1).T.double()  # (m, 24)
    precision = A.T @ A / 0.05**2 + torch.eye(24).double() / 0.04
    residual = (problem.y - decoder(torch.full((1, 2, 3, 4), 0.5))).flatten().double()
    mean = 0.5 + torch.linalg.solve(precision, A.T @ residual / 0.05**2)
    found = restore(problem, prior, DPS(steps=200, zeta=1.0), samples=8).mean.flatten().double()
    start = (torch.full_like(mean, 0.5) - mean).square().mean().sqrt()
    assert (found - mean).square().mean().sqrt() < 0.4 * start


WRONG: dict[str, Any] = {
    "decode: found 3 (int), expected a function of latents": dict(decode=3),
    "scale: found 0, expected a positive number": dict(decode=nn.Identity(), scale=0),
    "scale: found nan, expected a positive number": dict(decode=nn.Identity(), scale=float("nan")),
    "scale: found 'a' (str), expected a positive number": dict(decode=nn.Identity(), scale="a"),
}


@pytest.mark.parametrize("line", WRONG)
def test_what_is_no_decoder_is_refused(line: str) -> None:
    with pytest.raises(InputError, match=re.escape(line)):
        Decoder((2, 3, 4), **WRONG[line])


@pytest.mark.parametrize(
    ("decode", "found"),
    [
        (lambda z: z[0], "(2, 3, 4)"),
        (lambda z: z[:1], "(1, 2, 3, 4)"),
        (lambda z: None, "None"),
    ],
    ids=range(3),
)
def test_what_makes_no_images_is_refused(decode: Any, found: str) -> None:
    with pytest.raises(InputError) as caught:
        Decoder((2, 3, 4), decode)(torch.zeros(2, 2, 3, 4))
    line = f"decode: found {found} for 2 latents, expected images (B, C, H, W)"
    assert str(caught.value) == line


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:misfit")
def test_the_page_runs() -> None:
    pytest.importorskip("diffusers")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["images"].shape == (2, 1, 3, 16, 16)
    assert names["images"].isfinite().all()
    assert names["images"].std() > 1e-3
