"""Latents as unknowns: the decoder of an autoencoder as an operator.

Rombach et al. 2022 (https://arxiv.org/abs/2112.10752) train a diffusion model on the latents z of an
autoencoder. Its decoder is a nonlinear, differentiable operator, and A @ decoder measures the
decoded image, so that every solver for differentiable operators runs on latents (Rout et al. 2023,
https://arxiv.org/abs/2307.00976, in its plain form).

Priors and solvers see x = (z scale + 1) / 2: the scale on which a denoiser of latents, which was
trained on z scale as others are on [-1, 1], is any other denoiser, but one that clips nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from invdiff.errors import InputError, check_type, described
from invdiff.operators.base import Operator


class Decoder(Operator):
    """Images of latents: x -> (decode((2 x - 1) / scale) + 1) / 2.

    Args:
        shape: (C, h, w) of the latents.
        decode: the decoder, or an autoencoder that has one under the name ``decode``, as diffusers'
            ``AutoencoderKL``: latents to images (B, C', H, W) in [-1, 1], or to an object that has
            them under the name ``sample``.
        scale: that latents are multiplied by before the diffusion model sees them; by default
            ``decode.config.scaling_factor`` where there is one, else 1.

    Raises:
        InputError: the decoder is no function, or does not return images of the latents.

    Example:
        >>> import torch
        >>> larger = nn.Upsample(scale_factor=2)
        >>> decoder = Decoder((3, 4, 4), larger)
        >>> decoder(torch.full((1, 3, 4, 4), 0.75)).unique()
        tensor([0.7500])
        >>> from invdiff.operators import MaskBox
        >>> (MaskBox((3, 8, 8), height=2, width=2) @ decoder).measurement_shape
        (3, 8, 8)
    """

    def __init__(
        self,
        shape: Sequence[int],
        decode: nn.Module | Callable[[Tensor], Any],
        scale: float | None = None,
    ) -> None:
        super().__init__(shape)
        function = getattr(decode, "decode", decode)
        if not callable(function):
            expected = "a function of latents, or an object with one under the name decode"
            raise InputError(f"decode: found {described(decode)}, expected {expected}")
        if scale is None:
            scale = getattr(getattr(decode, "config", None), "scaling_factor", 1.0)
        check_type("scale", scale, (int, float), "a positive number")
        if not 0 < scale < float("inf"):
            raise InputError(f"scale: found {scale}, expected a positive number")
        self.decode = decode
        self.scale = float(scale)

    def forward(self, x: Tensor) -> Tensor:
        """Return the images (B, C', H, W) of latents x (B, C, h, w)."""
        z = (2 * x - 1) / self.scale
        found = getattr(self.decode, "decode", self.decode)(z)
        images = getattr(found, "sample", found)
        if not isinstance(images, Tensor) or images.ndim != 4 or len(images) != len(x):
            what = tuple(images.shape) if isinstance(images, Tensor) else described(images)
            raise InputError(
                f"decode: found {what} for {len(x)} latents, expected images (B, C, H, W)"
            )
        return (images + 1) / 2

    def latents(self, z: Tensor) -> Tensor:
        """Return latents z of the autoencoder on the scale of priors and solvers.

        Example:
            >>> import torch
            >>> Decoder((1, 1, 1), nn.Identity(), scale=0.5).latents(torch.tensor(1.0))
            tensor(0.7500)
        """
        return (z * self.scale + 1) / 2
