"""Which of several priors is right for this y, and whether none of them is.

Priors are compared by data fission (`invdiff.diagnostics.fission`): samples given one part of y
predict the other, on the same random splits for all priors. The best prior has the highest log
predictive density S(y+), that of independent Gaussians.

Each prior j has a p-value of its own, by a likelihood ratio: what speaks against it is

    T_j(y+) = max( max_{i != j} S_i(y+) - S_j(y+),  m/2 (r - 1 - log r) ),  r = c(y+) / mean c     (1)

the lead of the best other prior, or what it would gain if all its errors were of another size: c is
the mean square error over what was predicted, as in `Fission`, and its mean is that over y+ and the
simulated measurements. p_j is the rank of T_j(y+) among those of measurements simulated under prior
j. If that prior, noise, operator and solver are right, all of them are exchangeable, so that p_j is
exact for finitely many samples, whatever the other priors are. So a broad prior, which expects errors
as large as any that a simple picture gives, is refuted where a narrow one predicts better than it
should. The p-value that one of the priors is right is the largest, for it is small only if every
prior is refuted (Berger 1982, an intersection-union test).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from invdiff.diagnostics.fission import LEVEL, Fission, Forecast, checked, forecasts
from invdiff.errors import InputError, check_type
from invdiff.prior.checkpoint import load_prior
from invdiff.prior.denoiser import Denoiser, check_prior
from invdiff.problem import Problem
from invdiff.solvers import Solver


@dataclass(frozen=True)
class PriorComparison:
    """Priors on one y: how well each predicts held-out data, and whether it is refuted.

    Attributes:
        names: of the P priors.
        found: the check of each by itself.
        against: T of (1) in nats, what speaks against each prior in each of S splits of B images,
            (P, S, B).
        simulated: that of J measurements that were simulated under the prior, (P, J, S, B).

    Example:
        >>> one = torch.ones(1, 1)
        >>> alone = [Fission(one, one.expand(39, 1, 1), s * one, one, 0.2) for s in (-3, -9)]
        >>> against = torch.tensor([0.5, 6.0]).view(2, 1, 1)
        >>> simulated = torch.linspace(0, 2, 39).view(39, 1, 1).expand(2, -1, -1, -1)
        >>> print(PriorComparison(("cells", "faces"), tuple(alone), against, simulated))
        image 0: cells predicts held-out data best, and nothing speaks against it (p = 0.75)
          cells: 0.0 nats behind the best, p = 0.75
          faces: 6.0 nats behind the best, p = 0.025: wrong for this picture
    """

    names: tuple[str, ...]
    found: tuple[Fission, ...]
    against: Tensor
    simulated: Tensor

    @property
    def log_score(self) -> Tensor:
        """Log predictive density of held-out data in nats, the mean over splits, (P, B)."""
        return torch.stack([one.log_score.mean(0) for one in self.found])

    @property
    def p(self) -> Tensor:
        """The p-value of each prior that it is right, (P, B); its least is 1 / (J + 1).

        Of several splits of one y it is twice the mean, as in ``Fission.p``.
        """
        above = 1 + (self.simulated >= self.against[:, None]).sum(1)
        p = above / (1 + self.simulated.shape[1])
        return p[:, 0] if p.shape[1] == 1 else (2 * p.mean(1)).clamp_max(1)

    @property
    def wrong(self) -> Tensor:
        """Whether each picture speaks against each prior, (P, B)."""
        return self.p <= LEVEL + 1e-6

    @property
    def p_none(self) -> Tensor:
        """The p-value that one of the priors is right, (B,): small if none of them is."""
        return self.p.amax(0)

    @property
    def wins(self) -> Tensor:
        """The number of splits in which each prior predicts best, (P, B)."""
        scores = torch.stack([one.log_score for one in self.found])  # (P, S, B)
        best = scores.argmax(0)
        return torch.stack([(best == index).sum(0) for index in range(len(self.names))])

    def best(self, image: int = 0) -> str:
        """Return the name of the prior that predicts held-out data of an image best."""
        return self.names[int(self.log_score[:, image].argmax())]

    def says(self, image: int = 0) -> str:
        """Return what was found for an image, in words: one line, and one for each prior."""
        scores = self.log_score[:, image]
        first = int(scores.argmax())
        p = self.p[:, image]
        wrong = self.wrong[:, image].tolist()
        name = self.names[first]
        if all(wrong):
            head = (
                f"none of these priors is right for this picture (p = {float(self.p_none[image]):.2g}), "
                f"though {name} predicts held-out data best. Train one on such pictures, or check "
                "sigma and the operator"
            )
        elif wrong[first]:
            head = (
                f"{name} predicts held-out data best, but is wrong for this picture "
                f"(p = {float(p[first]):.2g}): check sigma and the operator"
            )
        else:
            head = (
                f"{name} predicts held-out data best, and nothing speaks against it "
                f"(p = {float(p[first]):.2g})"
            )
        lines = [f"image {image}: {head}"]
        for index, other in enumerate(self.names):
            behind = float(scores[first] - scores[index])
            verdict = ": wrong for this picture" if wrong[index] else ""
            lines.append(
                f"  {other}: {behind:.1f} nats behind the best, p = {float(p[index]):.2g}{verdict}"
            )
        return "\n".join(lines)

    def __str__(self) -> str:
        """Return the lines of every image."""
        return "\n".join(self.says(b) for b in range(self.p.shape[1]))


def compare_priors(
    problem: Problem,
    priors: Mapping[str, Denoiser] | Sequence[str | Path | Denoiser],
    solver: Solver | None = None,
    *,
    share: float = 0.2,
    samples: int = 8,
    simulated: int = 39,
    splits: int = 1,
    seed: int = 0,
    batch: int | Literal["auto"] = "auto",
    numbers: Sequence[int] | None = None,
) -> PriorComparison:
    """Return which prior is right for one's own y, and whether none of them is.

    Args:
        problem: with Gaussian noise, or Poisson noise of whole counts; y as it was measured.
        priors: by name; or a list of names and files, as ``load_prior`` takes them, and of
            denoisers.
        solver, share, samples, simulated, splits, seed, batch, numbers: as of ``fission``; every
            prior meets the same splits. The smallest p is 1 / (J + 1).

    Raises:
        InputError: there is no prior, two have one name, or what ``fission`` raises.

    Example:
        >>> from invdiff import Gaussian, operators, solvers
        >>> from invdiff.prior import GaussianDenoiser
        >>> def prior(variance):
        ...     return GaussianDenoiser(torch.full((1, 4, 4), 0.5), variance * torch.eye(16))
        >>> y = torch.linspace(-1, 2, 16).view(1, 1, 4, 4)
        >>> problem = Problem(operators.Denoise((1, 4, 4)), Gaussian(0.1), y)
        >>> priors = {"flat": prior(0.01), "contrast": prior(1.0)}
        >>> compare_priors(problem, priors, solvers.MMPS2M(steps=5)).best()
        'contrast'
    """
    check_type("problem", problem, Problem, "a Problem; Problem(operator, noise, y) makes one")
    named = named_priors(priors)
    made = [
        forecasts(
            problem,
            prior,
            solver,
            share=share,
            samples=samples,
            simulated=simulated,
            splits=splits,
            seed=seed,
            batch=batch,
            numbers=numbers,
        )
        for prior in named.values()
    ]
    found = tuple(checked(of_prior, share) for of_prior in made)
    rows = [
        [evidence(of_split, prior) for of_split in zip(*made, strict=True)]
        for prior in range(len(made))
    ]
    against = torch.stack([torch.stack([T for T, _ in row]) for row in rows])
    might_be = torch.stack([torch.stack([T for _, T in row], 1) for row in rows])
    return PriorComparison(tuple(named), found, against, might_be)


def evidence(made: Sequence[Forecast], prior: int) -> tuple[Tensor, Tensor]:
    """Return T of (1) for one of several priors in one split, in nats.

    Args:
        made: what every prior predicts.
        prior: j, the number of the one in question.

    Returns:
        T of y+, (B,), and T of the measurements that were simulated under the prior, (J, B).

    Example:
        >>> from invdiff.diagnostics.fission import Prediction
        >>> one = torch.ones(1, 1, 1, 2)
        >>> y, might_be = one, torch.stack([one, -one])
        >>> near, far = (
        ...     Forecast(Prediction(mean * one, one, one), y, might_be, one[0]) for mean in (1.0, 0.0)
        ... )
        >>> evidence([near, far], 1)  # y is at the mean of `near`, 1 from that of `far`, in two pixels
        (tensor([1.]), tensor([[1.],
                [0.]]))
    """
    own = made[prior]
    others = [one.prediction for index, one in enumerate(made) if index != prior]
    measured = torch.cat([own.y[None], own.simulated])
    c = torch.stack([own.prediction.chi_square(y) for y in measured])
    r = c / c.mean(0)
    gain = own.prediction.count(own.y) / 2 * (r - 1 - r.log())
    T = gain
    for other in others:
        lead = [other.log_score(y.to(other.mean)) - own.prediction.log_score(y) for y in measured]
        T = torch.maximum(T, torch.stack(lead).to(gain))
    return T[0], T[1:]


def named_priors(
    priors: Mapping[str, Denoiser] | Sequence[str | Path | Denoiser],
) -> dict[str, Denoiser]:
    """Return priors by name; those given as names or files are loaded.

    Raises:
        InputError: there is none, two have one name, or one is no prior.

    Example:
        >>> list(named_priors(["fashion"]))
        ['fashion']
    """
    expected = "a list of priors, or a mapping from names to priors"
    if isinstance(priors, str | Path | Denoiser):
        raise InputError(f"priors: found a single one, expected {expected}")
    check_type("priors", priors, (Mapping, Sequence), expected)
    named: dict[str, Denoiser] = {}
    items = (
        list(priors.items())
        if isinstance(priors, Mapping)
        else [
            (Path(prior).stem if isinstance(prior, str | Path) else f"prior {index}", prior)
            for index, prior in enumerate(priors)
        ]
    )
    for name, prior in items:
        if name in named:
            raise InputError(f"priors: found two of the name {name!r}, expected different names")
        named[name] = load_prior(prior) if isinstance(prior, str | Path) else prior
        check_prior(named[name])
    if not named:
        raise InputError("priors: found none, expected at least one")
    return named
