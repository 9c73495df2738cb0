"""Priors of gray images out of priors of colour images, and the reverse; priors of volumes out of both."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.prior.denoiser import Denoiser, levels
from invdiff.prior.schedule import Spacing
from invdiff.prior.view import DenoiserView
from invdiff.rng import stream_seed
from invdiff.summary import several

MOST_CHANNELS = 4  # of a picture; an image of more of them is a volume of gray slices
AT_ONCE = 2**18  # values of the channels that the network sees at once on a CPU
AT_ONCE_ON_GPU = 2**22


class GrayView(DenoiserView):
    """Prior of gray images in a prior of colour images.

    A gray image m is the colour image (m, m, m). In orthonormal coordinates of a pixel's channels,
    one along (1, 1, 1) / sqrt(3) and two of chroma, it has sqrt(3) m along the first and zero
    chroma. White noise of level sqrt(3) sigma on colour is therefore noise of level sigma on m and,
    apart from it, noise on the chroma. What is seen is only x = m + sigma n; so the chroma noise is
    drawn,

        X = (x, x, x) + sqrt(3) sigma (n' - mean of n' over the channels),
        D(x, sigma) = mean over the channels of D_colour(X, sqrt(3) sigma),

    and X is distributed exactly as the colour image (m, m, m) under the white noise that the
    network was trained on.

    D(x, sigma) is E[m | x, X's chroma], with m the mean of the channels under the colour prior.
    Where gray and chroma are independent under that prior this is E[m | x], with nothing
    approximate. Elsewhere the noisy chroma also tells that the image is gray: fully as sigma -> 0,
    where D belongs to the prior of colour images given that they are gray, and not at all for large
    sigma, where D belongs to the prior of their gray parts. It is not the denoiser of one prior at
    all levels.

    The chroma noise is a function of sigma, height and width alone, so that D is a function and
    does not depend on the batch. Without chroma noise a network sees an image that noise does not
    make: under the prior `photos`, gray squares of 128x128 are denoised to 26.3 dB for 27.0 dB at
    sigma = 0.1, and to 19.1 dB for 20.8 dB at 0.5.

    Args:
        prior: of colour images, (3, H, W).

    Example:
        >>> from invdiff.prior import GaussianDenoiser
        >>> colour = GaussianDenoiser(torch.zeros(3, 2, 2), torch.eye(12))
        >>> gray = GrayView(colour)
        >>> gray.shape
        (1, 2, 2)
        >>> x_0 = gray(torch.ones(1, 1, 2, 2), 1.0)
        >>> f"{x_0[0, 0, 0, 0].item():.3f}"  # the variance of m is 1/3
        '0.250'
    """

    def __init__(self, prior: Denoiser) -> None:
        super().__init__(prior)
        self.shape = (1, *prior.shape[1:])

    def lift(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return X, (B, 3, H, W), for x (B, 1, H, W)."""
        noise_of: dict[float, Tensor] = {}
        # The noise of a level is the same whatever the precision in which the level is given.
        each = torch.as_tensor(sigma, dtype=torch.float32).expand(len(x)).tolist()
        for level in dict.fromkeys(each):
            numerator, denominator = level.as_integer_ratio()
            generator = torch.Generator().manual_seed(stream_seed(numerator, denominator))
            noise = torch.randn((3, *x.shape[2:]), generator=generator, dtype=torch.float32)
            noise_of[level] = (noise - noise.mean(0)).to(x)
        chroma = torch.stack([noise_of[level] for level in each])
        return x + math.sqrt(3) * levels(sigma, x) * chroma

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """Return the mean over the channels of the colour prior's estimate of X."""
        colour = self.prior(self.lift(x, sigma), math.sqrt(3) * sigma, label)
        return colour.mean(1, keepdim=True)

    def ladder(
        self, steps: int, spacing: Spacing = "uniform", t: float | None = None, end: float = 1.0
    ) -> tuple[float, ...]:
        """Return the levels of m at which the colour prior is asked for its own ladder."""
        sigmas = self.prior.ladder(steps, spacing, t, end)
        return tuple(sigma / math.sqrt(3) for sigma in sigmas)

    def t_at(self, sigma: float | Tensor) -> float:
        """Return the timestep at which the colour prior is asked for a level of m."""
        return self.prior.t_at(math.sqrt(3) * sigma)


class ChannelView(DenoiserView):
    """Prior of images with several channels, each an independent image of a gray prior.

    D(x, sigma) of each channel by itself is then exact. That the channels of a colour image
    resemble each other is not known to it: colours at the same place are guessed apart. The channels
    may be the slices of a volume; the network sees as many at once as fit into its memory.

    Args:
        prior: of gray images, (1, H, W).
        channels: C.

    Example:
        >>> from invdiff.prior import GaussianDenoiser
        >>> gray = GaussianDenoiser(torch.zeros(1, 2, 2), torch.eye(4))
        >>> ChannelView(gray, 3)(torch.ones(1, 3, 2, 2), 1.0)[0, :, 0, 0].tolist()
        [0.5, 0.5, 0.5]
    """

    def __init__(self, prior: Denoiser, channels: int) -> None:
        super().__init__(prior)
        self.shape = (channels, *prior.shape[1:])

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """Return the gray prior's estimate of every channel."""
        channels = x.shape[1]
        if isinstance(sigma, Tensor) and sigma.ndim:
            sigma = sigma.repeat_interleave(channels)
        label = None if label is None else label.repeat_interleave(channels)
        each = x.flatten(0, 1)[:, None]
        size = max(1, (AT_ONCE_ON_GPU if x.is_cuda else AT_ONCE) // each[0].numel())
        if len(each) <= max(size, MOST_CHANNELS * len(x)):
            return self.prior(each, sigma, label).view_as(x)
        found = [
            self.prior(
                each[start : start + size],
                sigma[start : start + size] if isinstance(sigma, Tensor) and sigma.ndim else sigma,
                None if label is None else label[start : start + size],
            )
            for start in range(0, len(each), size)
        ]
        return torch.cat(found).view_as(x)


def match_slices(prior: Denoiser, depth: int) -> Denoiser:
    """Return the prior of volumes of so many slices, each of them a gray image of a prior.

    Args:
        prior: of gray images, or of colour ones, whose gray part is taken.
        depth: D.

    Raises:
        InputError: the prior is of neither.

    Example:
        >>> from invdiff.prior import GaussianDenoiser
        >>> colour = GaussianDenoiser(torch.zeros(3, 2, 2), torch.eye(12))
        >>> match_slices(colour, 3)(torch.ones(1, 3, 2, 2), 1.0).shape
        torch.Size([1, 3, 2, 2])
    """
    return ChannelView(match_channels(prior, 1), depth)


def match_channels(prior: Denoiser, channels: int) -> Denoiser:
    """Return the prior for images of so many channels: itself, or a view of it.

    More than four channels are the slices of a volume, each of them gray.

    Raises:
        InputError: the prior is one for points; or the channels differ, and neither the prior nor
            the images are gray.

    Example:
        >>> from invdiff.prior import GaussianDenoiser
        >>> gray = GaussianDenoiser(torch.zeros(1, 2, 2), torch.eye(4))
        >>> match_channels(gray, 3).shape
        (3, 2, 2)
    """
    if len(prior.shape) != 3:
        raise InputError(f"prior: found one for points {prior.shape}, expected one for images")
    found = prior.shape[0]
    if found == channels:
        return prior
    if found == 1:
        return ChannelView(prior, channels)
    if (found, channels) == (3, 1):
        return GrayView(prior)
    if found == 3 and channels > MOST_CHANNELS:
        return ChannelView(GrayView(prior), channels)
    raise InputError(
        f"prior: found one for {several(found, 'channel')}, expected {channels}, as the image "
        "has, or a gray one"
    )
