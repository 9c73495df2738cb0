"""Priors of gray images out of priors of colour images, and the reverse: denoisers around a
denoiser.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.prior.denoiser import Denoiser, levels
from invdiff.prior.schedule import Spacing
from invdiff.rng import stream_seed


class GrayView(Denoiser):
    """The prior of gray images in a prior of colour images.

    A gray image m is the colour image (m, m, m). In orthonormal coordinates of a pixel's channels,
    one along (1, 1, 1) / sqrt(3) and two of chroma, it has sqrt(3) m along the first and zero
    chroma. White noise of level sqrt(3) sigma on colour is therefore noise of level sigma on m and,
    apart from it, noise on the chroma. What is seen is only x = m + sigma n; so the chroma noise is
    drawn,

        X = (x, x, x) + sqrt(3) sigma (n' - mean of n' over the channels),
        D(x, sigma) = mean over the channels of D_colour(X, sqrt(3) sigma),

    and X is distributed exactly as the colour image (m, m, m) under the white noise that the
    network was trained on.

    What that is an estimate of: E[m | x, X's chroma], with m the mean of the channels under the
    colour prior. Where gray and chroma are independent under that prior it is E[m | x], with
    nothing approximate. Elsewhere it also reads from the noisy chroma that the image is gray: all
    of it as sigma -> 0, where it is the prior of colour images given that they are gray, and
    nothing of it for large sigma, where it is the prior of their gray parts. It is not the denoiser
    of one prior at all levels.

    The chroma noise is a function of sigma, height and width alone, so that D is a function and
    does not know the batch. Without it a network is shown an image that noise does not make: under
    the prior `photos`, gray squares of 128x128 are denoised to 26.3 dB for 27.0 dB at sigma = 0.1,
    and to 19.1 dB for 20.8 dB at 0.5.

    Args:
        prior: of colour images, (3, H, W).
    """

    def __init__(self, prior: Denoiser) -> None:
        super().__init__()
        self.prior, self.shape = prior, (1, *prior.shape[1:])
        self.schedule, self.clip, self.stride = prior.schedule, prior.clip, prior.stride

    def lift(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """X, (B, 3, H, W), of x (B, 1, H, W)."""
        shape, drawn = (3, *x.shape[2:]), {}
        each = torch.as_tensor(sigma, dtype=torch.float32).expand(len(x)).tolist()
        for level in dict.fromkeys(each):
            numerator, denominator = level.as_integer_ratio()
            generator = torch.Generator().manual_seed(stream_seed(numerator, denominator))
            noise = torch.randn(shape, generator=generator)
            drawn[level] = (noise - noise.mean(0)).to(x)
        noise = torch.stack([drawn[level] for level in each])
        return x + math.sqrt(3) * levels(sigma, x) * noise

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self.prior(self.lift(x, sigma), math.sqrt(3) * sigma).mean(1, keepdim=True)

    def ladder(
        self, steps: int, spacing: Spacing = "uniform", t: float | None = None, end: float = 1.0
    ) -> tuple[float, ...]:
        """The levels of m at which the colour prior is asked for its own."""
        return tuple(s / math.sqrt(3) for s in self.prior.ladder(steps, spacing, t, end))

    def t_at(self, sigma: float) -> float:
        return self.prior.t_at(math.sqrt(3) * sigma)


class ChannelView(Denoiser):
    """A prior of images of several channels, each of them an independent image of a gray prior.

    D(x, sigma) of each channel by itself is then exact. That channels of a colour image resemble
    each other is not in it: colours at the same place are guessed apart.

    Args:
        prior: of gray images, (1, H, W).
        channels: C.
    """

    def __init__(self, prior: Denoiser, channels: int) -> None:
        super().__init__()
        self.prior, self.shape = prior, (channels, *prior.shape[1:])
        self.schedule, self.clip, self.stride = prior.schedule, prior.clip, prior.stride

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        each = levels(sigma, x).flatten().repeat_interleave(x.shape[1])
        return self.prior(x.flatten(0, 1)[:, None], each).view_as(x)

    def ladder(
        self, steps: int, spacing: Spacing = "uniform", t: float | None = None, end: float = 1.0
    ) -> tuple[float, ...]:
        return self.prior.ladder(steps, spacing, t, end)

    def t_at(self, sigma: float) -> float:
        return self.prior.t_at(sigma)


def of_channels(prior: Denoiser, channels: int) -> Denoiser:
    """The prior for images of so many channels: itself, or a view of it.

    Raises:
        InputError: neither the prior nor the images are gray.
    """
    found = prior.shape[0]
    if len(prior.shape) != 3 or found == channels:
        return prior
    if found == 1:
        return ChannelView(prior, channels)
    if (found, channels) == (3, 1):
        return GrayView(prior)
    raise InputError(
        f"prior: found one for {found} channels, expected {channels}, as the image has, or a gray one"
    )
