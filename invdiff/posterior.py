"""Samples of p(x | y) and their summaries: mean, deviation, quantiles, misfit; saving, drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invdiff.errors import InputError, described, warn
from invdiff.io.pictures import Picture, write_picture
from invdiff.problem import Problem

PANEL_ROWS, PANEL_SAMPLES = 8, 4
PANEL_PIXELS = 512  # of a picture's longer side


@dataclass(frozen=True)
class Posterior:
    """Posterior samples of a batch of images.

    Attributes:
        samples: (K, B, C, H, W), on the [0, 1] scale, not clipped.
        problem: the problem that was solved.
        nfe: network calls per sample: the images that networks were called on, divided by K B. The
            channels of a colour image under a gray prior, both calls of classifier-free guidance,
            particles and tiles (in gradients too) are counted one by one.
        seconds: wall time of the whole restoration.
        ess: smallest effective sample size (ESS) reached during sampling, (K, B); None without
            particles. Near 1, a sample is hardly better than the proposals it came from.

    Example:
        >>> from invdiff import Gaussian, operators
        >>> problem = Problem(operators.Denoise((1, 2, 2)), Gaussian(0.1), torch.zeros(1, 1, 2, 2))
        >>> samples = torch.tensor([0.25, 0.75]).view(2, 1, 1, 1, 1).expand(2, 1, 1, 2, 2)
        >>> posterior = Posterior(samples, problem, nfe=10, seconds=0.1)
        >>> posterior.mean.flatten().tolist()
        [0.5, 0.5, 0.5, 0.5]
    """

    samples: Tensor
    problem: Problem
    nfe: int
    seconds: float
    ess: Tensor | None = None

    @cached_property
    def mean(self) -> Tensor:
        """Pixelwise mean, (B, C, H, W): the estimate of least squared error."""
        return self.samples.mean(0)

    @cached_property
    def std(self) -> Tensor:
        """Pixelwise standard deviation, (B, C, H, W); NaN for a single sample, which has none."""
        if len(self.samples) == 1:
            return torch.full_like(self.mean, torch.nan)
        return self.samples.std(0)

    @cached_property
    def baseline(self) -> Tensor:
        """Estimate without a prior, (B, C, H, W): ``problem.baseline()``, computed once."""
        return self.problem.baseline()

    def quantile(self, q: float) -> Tensor:
        """Return the pixelwise quantile, linear between order statistics, (B, C, H, W).

        Raises:
            InputError: q is not between 0 and 1.
        """
        if not isinstance(q, Real) or not 0 <= q <= 1:
            raise InputError(f"quantile: found {described(q)}, expected a number from 0 to 1")
        return self.samples.quantile(float(q), dim=0)

    def misfit(self) -> Tensor:
        """Return ||y - A x||^2 / (m sigma^2) of every sample, (K, B): about 1 if it explains y."""
        return torch.stack([self.problem.misfit(x) for x in self.samples])

    def warn_of_misfit(self) -> None:
        """Warn if the samples contradict the noise level of the problem.

        True samples have a misfit of 1 in expectation. Good approximations stay between a half and
        twice that; five standard errors of chi-square, sqrt(2 / m) for m measurements, are allowed
        on top.
        """
        misfit = self.misfit().mean(0)
        m = torch.as_tensor(self.problem.operator.count(self.problem.y)).to(misfit)
        factor = 2 * (1 + 5 * (2 / m).sqrt())
        # Exact measurements have no misfit: it is infinite or NaN where sigma = 0.
        far = misfit.isfinite() & ((misfit > factor) | (misfit < 1 / factor))
        if bool(far.any()):
            worst = int(torch.where(far, misfit.log().abs(), -1).argmax())
            warn(
                f"misfit: found {float(misfit[worst]):.3g} for image {worst}, expected about 1 "
                f"({int(far.sum())} of {len(far)} images are far from it): either the noise level "
                "or the operator is not what it was said to be, or the solver did not come near "
                "the posterior"
            )

    def as_given(self, x: Tensor) -> Tensor | np.ndarray:
        """Return images (..., B, C, H, W) in the layout and the type that y was given in.

        It is a NumPy array where y was one; for integers, values are clamped to [0, 1], scaled to
        the integers' range and rounded.

        Args:
            x: images, such as ``mean`` or ``samples``.
        """
        return self.problem.layout.arrange(x)

    def save(
        self,
        folder: str | Path,
        names: Sequence[str] | None = None,
        pictures: Sequence[Picture] | None = None,
    ) -> None:
        """Write pictures of every image, and everything unrounded in ``posterior.npz`` (y,
        samples).

        Pictures are ``NAME_measurement`` (where y is one; ``.npy`` holds it unrounded),
        ``NAME_sample_K``,
        ``NAME_mean`` and, for more than one sample, ``NAME_std``, in which white is 1/4. They are
            PNG of 8 bits, or
        what `pictures` ask for.

        Args:
            folder: an existing folder.
            names: of the B images; their numbers by default.
            pictures: instead of names, what the B images were read from, in turn. Their alpha,
                depth and units are
                kept: 16 bits in PNG, floats and the pages of one file in TIFF, NIfTI as such.
        """
        folder, y = Path(folder), self.problem.y.cpu()
        np.savez_compressed(
            folder / "posterior.npz", y=y.numpy(), samples=self.samples.cpu().numpy()
        )
        names = names or [f"{b:03d}" for b in range(len(y))]
        images = self.mean.cpu()
        first = 0
        for like in pictures or [
            Picture(images[b : b + 1], name=name) for b, name in enumerate(names)
        ]:
            rows, first = slice(first, first + len(like)), first + len(like)

            def write(what: str, values: Tensor, like: Picture = like) -> None:
                picture = like.like(values.cpu())
                write_picture(
                    folder / f"{like.name}_{what}{picture.suffix}", picture, overwrite=True
                )

            np.save(folder / f"{like.name}_measurement.npy", y[rows].squeeze(0).numpy())
            if self.problem.y_is_picture:
                write("measurement", y[rows])
            for k, sample in enumerate(self.samples[:, rows]):
                write(f"sample_{k}", sample)
            write("mean", self.mean[rows])
            if len(self.samples) > 1:
                write("std", 4 * self.std[rows], Picture(images[rows], name=like.name))

    def plot(
        self, path: str | Path, truth: Tensor | None = None, names: Sequence[str] | None = None
    ) -> None:
        """Draw the first images as rows: truth, measurement, baseline, samples, mean, standard
        deviation.

        Args:
            path: of the picture, any suffix that matplotlib writes.
            truth: (B, C, H, W), if known.
            names: of the B images.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        y = self.problem.y
        columns: list[tuple[str, Tensor]] = [] if truth is None else [("truth", truth)]
        columns += [("measurement", y)] if self.problem.y_is_picture else []
        columns += [("baseline", self.baseline)]
        columns += [(f"sample {k + 1}", x) for k, x in enumerate(self.samples[:PANEL_SAMPLES])]
        columns += [("mean", self.mean)] if len(self.samples) > 1 else []
        columns += [("std", self.std.mean(1, keepdim=True))] if len(self.samples) > 1 else []
        rows = min(PANEL_ROWS, len(y))

        figure = Figure(
            figsize=(1.5 * len(columns), 1.5 * rows + 0.3), dpi=100, layout="constrained"
        )
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, len(columns), squeeze=False)
        largest = float(self.std[:rows].amax()) if len(self.samples) > 1 else 1.0
        for row in range(rows):
            for axis, (title, x) in zip(axes[row], columns, strict=True):
                picture = thumbnail(x[row]).clamp(0, 1).permute(1, 2, 0).cpu().numpy()
                colours = (
                    {"cmap": "magma", "vmax": largest}
                    if title == "std"
                    else {"cmap": "gray", "vmax": 1}
                )
                shown = axis.imshow(picture, vmin=0, interpolation="nearest", **colours)
                axis.set(xticks=[], yticks=[])
                if row == 0:
                    axis.set_title(title, fontsize=9)
            if names is not None:
                axes[row, 0].set_ylabel(names[row], fontsize=8)
        if len(self.samples) > 1:
            figure.colorbar(
                shown, ax=axes[:, -1].tolist(), fraction=0.1, label="standard deviation"
            )
        figure.savefig(path)


def thumbnail(x: Tensor) -> Tensor:
    """Return an image (C, H, W) that fits a panel: averages of k x k pixels, k as small as can be."""
    return torch.nn.functional.avg_pool2d(
        x, max(1, -(-max(x.shape[-2:]) // PANEL_PIXELS)), ceil_mode=True
    )
