"""Kernel Stein discrepancy of samples to a posterior whose score is known.

Liu, Lee & Jordan 2016 (https://arxiv.org/abs/1602.03253) and Chwialkowski, Strathmann & Gretton
2016 (https://arxiv.org/abs/1602.02964); with the score of a diffusion posterior, Qiu et al. 2026
(https://arxiv.org/abs/2602.04189). Kernel k = Q^-1/2 with Q = 1 + |w|^2 / h^2, w = x - z, the
inverse multiquadric. With s the score, b = 1/2 and d dimensions,

    kappa(x, z) = s(x).s(z) Q^-b + 2 b / h^2 Q^(-b-1) (s(x) - s(z)).w
                  + 2 b d / h^2 Q^(-b-1) - 4 b (b + 1) / h^4 |w|^2 Q^(-b-2).

Its mean over pairs of different samples, U, is 0 in expectation if they are right. The mean over
all pairs, V, is not used: with few samples it is smallest for samples that are too narrow. In many
dimensions U sees little but large shifts; `invdiff.diagnostics.stein` keeps its power there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from invdiff.diagnostics.stein import Scored, scored
from invdiff.errors import check_integer
from invdiff.posterior import Posterior
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import stream_numbers
from invdiff.rng import stream_seed
from invdiff.summary import one_line, several

LEVEL = 0.05
POWER = 0.5  # the kernel's b


def median_distance(points: Tensor) -> Tensor:
    """Return h, the median distance of two different points (K, d), at least 1e-4.

    Example:
        >>> median_distance(torch.tensor([[0.0], [1.0], [3.0]]))
        tensor(2.)
    """
    return torch.pdist(points).median().clamp_min(1e-4)


def stein_kernel(
    points: Tensor, scores: Tensor, width: float | Tensor, power: float = POWER
) -> Tensor:
    """Return kappa of every pair of points, (K, K).

    Args:
        points: (K, d).
        scores: s of each, (K, d).
        width: h of the kernel.
        power: its b, between 0 and 1.

    Example:
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> stein_kernel(x, -x, 1.0).diagonal().tolist()  # |s|^2 + 2 b d / h^2
        [1.0, 2.0]
    """
    d = points.shape[1]
    h2 = width**2
    x = points - points.mean(0)
    square = (x[:, None] - x[None]).square().sum(2) if len(x) * d < 2**12 else _squares(x)
    Q = 1 + square / h2
    # (s_i - s_j).(x_i - x_j), by products of all pairs.
    cross = scores @ x.T
    own = cross.diagonal()
    along = own[:, None] + own[None] - cross - cross.T
    return (
        scores @ scores.T * Q**-power
        + 2 * power / h2 * Q ** (-power - 1) * along
        + 2 * power * d / h2 * Q ** (-power - 1)
        - 4 * power * (power + 1) / h2**2 * square * Q ** (-power - 2)
    )


def _squares(x: Tensor) -> Tensor:
    """|x_i - x_j|^2 of all pairs, by products."""
    products = x @ x.T
    own = products.diagonal()
    square = (own[:, None] + own[None] - 2 * products).clamp_min(0)
    return square - torch.diag(square.diagonal())


def mean_of_pairs(kappa: Tensor) -> Tensor:
    """Return U, the mean of kappa (K, K) over pairs of different points.

    Example:
        >>> mean_of_pairs(torch.tensor([[9.0, 1.0], [3.0, 9.0]]))
        tensor(2.)
    """
    count = len(kappa)
    return (kappa.sum() - kappa.diagonal().sum()) / (count * (count - 1))


def wild_bootstrap_p(kappa: Tensor, draws: int, generator: torch.Generator) -> float:
    """Return the share of U with random signs, sum e_i e_j kappa_ij, that reach U itself.

    The signs are independent, as samples are. U counts among the draws.
    """
    count = len(kappa)
    off = kappa - torch.diag(kappa.diagonal())
    signs = 2.0 * torch.randint(0, 2, (draws, count), generator=generator).to(off) - 1
    drawn = ((signs @ off) * signs).sum(1) / (count * (count - 1))
    # Equal signs give U itself, whatever the rounding.
    room = 1e-9 * off.abs().mean()
    return (1 + int((drawn >= mean_of_pairs(kappa) - room).sum())) / (1 + draws)


@dataclass(frozen=True)
class KSD:
    """Kernel Stein discrepancy of the samples of every image.

    Attributes:
        value: U, (B,): 0 in expectation if samples are right. Compare solvers by it on one y.
        p: of the wild bootstrap that they are, (B,).
        width: h of the kernel, the median distance of two samples, (B,).
        samples: K.
        dimensions: d, the values of an image.
        exact: whether the score is exact but for the network; if it is not, p may be small for
            right samples too.

    Example:
        >>> one = torch.ones(1)
        >>> print(KSD(0.1 * one, 0.4 * one, one, samples=16, dimensions=1024, exact=True))
        image 0: no sign against the samples (KSD U = 0.1, p = 0.4). With 16 samples in 1024 \
dimensions this check sees nothing but large shifts: look at the Stein width.
    """

    value: Tensor
    p: Tensor
    width: Tensor
    samples: int
    dimensions: int
    exact: bool

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)

    @property
    def powerless(self) -> bool:
        """Whether a wrong width goes unseen: with fewer samples than dimensions."""
        return self.samples < self.dimensions

    def says(self, image: int = 0) -> str:
        """Return what was found for an image, in words."""
        p = float(self.p[image])
        figures = f"(KSD U = {float(self.value[image]):.3g}, p = {p:.2g})"
        if p <= LEVEL and self.exact:
            said = f"samples are not those of the posterior {figures}: use another solver."
        elif p <= LEVEL:
            said = (
                f"samples differ from the posterior of a slightly blurred prior {figures}, as "
                "right ones may do: compare solvers on one y."
            )
        else:
            said = f"no sign against the samples {figures}."
        if self.powerless and p > LEVEL:
            said += (
                f" With {several(self.samples, 'sample')} in {self.dimensions} dimensions this "
                "check sees "
                "nothing but large shifts: look at the Stein width."
            )
        return f"image {image}: {said}"

    def __str__(self) -> str:
        """Return a line for every image."""
        return "\n".join(self.says(b) for b in range(len(self.value)))


def ksd(
    posterior: Posterior,
    prior: Denoiser,
    *,
    blur: float | None = None,
    draws: int = 999,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
) -> KSD:
    """Return the kernel Stein discrepancy of samples to the posterior, without a truth.

    Args:
        posterior, prior, blur, numbers: as of `invdiff.diagnostics.stein.scored`.
        draws: of the bootstrap.
        seed: of the noise that is added, and of the bootstrap.

    Raises:
        InputError: as from `scored`, or fewer than 1 draw.

    Example:
        >>> from invdiff import Gaussian, Problem, operators
        >>> from invdiff.prior import GaussianDenoiser
        >>> prior = GaussianDenoiser(torch.full((1, 2, 2), 0.5), 0.04 * torch.eye(4))
        >>> problem = Problem(operators.Denoise((1, 2, 2)), Gaussian(0.1), torch.ones(1, 1, 2, 2))
        >>> z = torch.randn(40, 1, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> far_off = Posterior(0.2 + 0.09 * z, problem, nfe=0, seconds=0.0)
        >>> float(ksd(far_off, prior, draws=99).p)
        0.01
    """
    check_integer("draws", draws, 1)
    found = scored(posterior, prior, blur=blur, seed=seed, numbers=numbers)
    return ksd_of(found, stream_numbers(numbers, found.points.shape[1]), draws, seed)


def ksd_of(found: Scored, names: Sequence[int], draws: int = 999, seed: int = 0) -> KSD:
    """Return the discrepancy of points whose scores are known.

    Args:
        found: points and scores of K samples of B images.
        names: of the images' random streams.
        draws: of the bootstrap.
        seed: of the bootstrap.
    """
    points = found.points.double().flatten(2)
    scores = found.scores.double().flatten(2)
    rows = []
    for b, name in enumerate(names):
        h = median_distance(points[:, b])
        kappa = stein_kernel(points[:, b], scores[:, b], h)
        generator = torch.Generator().manual_seed(stream_seed(seed, name, 0, 4))
        p = wild_bootstrap_p(kappa.cpu(), draws, generator)
        rows.append((float(mean_of_pairs(kappa)), p, float(h)))
    values, ps, widths = torch.tensor(rows, dtype=torch.float64).T
    return KSD(values, ps, widths, len(points), points.shape[2], found.exact)
