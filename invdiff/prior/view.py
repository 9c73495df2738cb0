"""Base of every denoiser around another one."""

from __future__ import annotations

from typing import Self

from torch import Tensor

from invdiff.prior.denoiser import Denoiser
from invdiff.prior.schedule import Spacing


class DenoiserView(Denoiser):
    """Denoiser around another one, the prior, which does the work.

    Whatever a view does not change is the prior's: shape, schedule, classes, clip, stride, ranges and
    where solvers start, as they are when it is wrapped; the ladder, timesteps, and ``recompute``. So
    views may be wrapped in views in any order. A view that changes noise levels overrides
    ``ladder`` and ``t_at``; one that changes the shape of images sets ``shape``.

    Args:
        prior: the denoiser inside.

    Example:
        >>> import torch
        >>> from invdiff.prior import GaussianDenoiser
        >>> class Brighter(DenoiserView):
        ...     def forward(self, x, sigma, label=None):
        ...         return self.prior(x, sigma, label) + 0.5
        >>> view = Brighter(GaussianDenoiser(torch.zeros(1, 1, 2), torch.eye(2)))
        >>> view.shape
        (1, 1, 2)
        >>> view(torch.ones(1, 1, 1, 2), 1.0).tolist()
        [[[[1.0, 1.0]]]]
    """

    any_dtype = True  # the prior inside casts what it is given

    def __init__(self, prior: Denoiser) -> None:
        super().__init__()
        self.prior = prior
        self.shape = prior.shape
        self.schedule = prior.schedule
        self.classes = prior.classes
        self.clip = prior.clip
        self.stride = prior.stride
        self.value_range = prior.value_range
        self.data_range = prior.data_range
        self.sigma_range = prior.sigma_range
        self.starts_from_noise = prior.starts_from_noise

    def ladder(
        self, steps: int, spacing: Spacing = "uniform", t: float | None = None, end: float = 1.0
    ) -> tuple[float, ...]:
        """Return the noise levels of the prior's ladder."""
        return self.prior.ladder(steps, spacing, t, end)

    def t_at(self, sigma: float | Tensor) -> float:
        """Return the timestep at which the prior is asked for a noise level."""
        return self.prior.t_at(sigma)

    @property
    def posterior_mean(self) -> bool:
        """Whether the prior's D is E[x_0 | x]."""
        return self.prior.posterior_mean

    def recompute(self, on: bool = True) -> Self:
        """Trade time for memory in gradients through the prior's network."""
        self.prior.recompute(on)
        return self
