"""Samples of p(x | y) and their summaries: mean, deviation, intervals, misfit; saving, drawing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invdiff.adjustment import Adjustment, Rule, not_calibrated
from invdiff.diagnostics.fit import judge_fit
from invdiff.directions import Directions, principal
from invdiff.errors import InputError, described, first_line, shown, warn
from invdiff.intervals import Interval
from invdiff.io.names import label
from invdiff.io.pictures import Picture
from invdiff.io.write import as_float, save_figure, write_array, write_arrays, write_picture
from invdiff.problem import Problem

PANEL_ROWS = 8
PANEL_SAMPLES = 4
PANEL_PIXELS = 512  # of a picture's longer side
PANEL_LETTERS = 24  # of a name beside a row


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
        adjustment: what calibration found for this setting, by which `interval` widens; None where
            intervals are not calibrated.

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
    adjustment: Adjustment | None = None

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

    def interval(self, level: float, rule: Rule | None = None) -> Interval:
        """Return intervals for every pixel, their level, and a label that says what it rests on.

        Without calibration they lie between order statistics of the K samples, whose level is
        exact if the samples are those of the posterior: 4 samples have 60 and 20 %, 9 have 80 %,
        and 90 % needs 19 (`invdiff.intervals`). Of the levels that K samples have, the least that
        is not below `level` is taken and returned. With an adjustment they are widened by what
        calibration found, and hold their level on images like those that it was found on.

        Args:
            level: share of true pixels that are to be inside, between 0 and 1.
            rule: "pooled", "mean", "image", "sure", "groups" or "scale" of `invdiff.adjustment`, or
                "samples" for the samples as they are; by default "samples" without an adjustment, and
                with one "mean" or, of fewer than 39 images, "pooled".

        Raises:
            InputError: K samples, or the adjustment, have no such level, or there is no
                adjustment for the rule.

        Example:
            >>> from invdiff import Gaussian, operators
            >>> y = torch.zeros(1, 1, 1, 1)
            >>> problem = Problem(operators.Denoise((1, 1, 1)), Gaussian(0.1), y)
            >>> samples = torch.tensor([0.4, 0.1, 0.3, 0.2]).view(4, 1, 1, 1, 1)
            >>> found = Posterior(samples, problem, nfe=1, seconds=0.0).interval(0.5)
            >>> round(found.low.item(), 3), round(found.high.item(), 3), found.level, found.label
            (0.1, 0.4, 0.6, '60 %, not calibrated')
        """
        if self.adjustment is None:
            if rule not in (None, "samples"):
                raise InputError(
                    f"rule: found {shown(rule)} without a calibration, expected one in "
                    "restore(..., calibration=FILE); invdiff calibrate makes it"
                )
            return not_calibrated(self.samples, level)
        return self.adjustment.interval(self.samples, level, rule or self.adjustment.rule)

    def directions(self, count: int = 3) -> Directions:
        """Return the first principal directions of the samples, with intervals along them.

        With an adjustment that has so many, the truth is inside along all of them at once with
        probability 0.9; without one the intervals are those of the samples and have no level.

        Args:
            count: r, at most K - 1.

        Raises:
            InputError: so few samples have no such count, or the adjustment has others.

        Example:
            >>> from invdiff import Gaussian, operators
            >>> y = torch.zeros(1, 1, 2, 2)
            >>> problem = Problem(operators.Denoise((1, 2, 2)), Gaussian(0.1), y)
            >>> posterior = Posterior(torch.rand(9, 1, 1, 2, 2), problem, nfe=1, seconds=0.0)
            >>> found = posterior.directions(2)
            >>> found.axes.shape, found.low.shape, found.label
            (torch.Size([1, 2, 1, 2, 2]), torch.Size([1, 2]), 'not calibrated')
        """
        if self.adjustment is None:
            return principal(self.samples, count)
        return self.adjustment.principal(self.samples, count)

    def quantile(self, q: float) -> Tensor:
        """Return an estimate of a pixel's quantile, linear between order statistics, (B, C, H, W).

        It is for looking at one side of a distribution. Two of them make no interval of their
        level: from 5 to 95 % hold 74 % at K = 9 and 81 % at K = 19 even if the samples are exact.
        `interval` has ends whose level is known.

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
        """Warn if samples are not finite, follow y too closely or do not reach it.

        Every kind of fault has a warning of its own, with a remedy; see `invdiff.diagnostics.fit`.
        """
        for message in judge_fit(self.problem, self.samples).warnings():
            warn(message)

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
        """Write the samples and y, unrounded, to ``posterior.npz``, and pictures of every image.

        Pictures are ``NAME_measurement`` (where y is one; ``.npy`` holds it unrounded),
        ``NAME_sample_K``, ``NAME_mean`` and, for more than one sample, ``NAME_std``, in which white
        is 1/4. They are PNG of 8 bits, or what `pictures` ask for; TIFF, where images have neither
        1 nor 3 channels. Every file is whole or missing: what cannot be written is left out, with
        one warning for all of it.

        Args:
            folder: an existing folder.
            names: of the B images; their numbers by default.
            pictures: instead of names, what the B images were read from, in turn. Their alpha,
                depth and units are kept: 16 bits in PNG, floats and the pages of one file in TIFF,
                NIfTI as such.

        Raises:
            InputError: two images have one name, or ``posterior.npz`` cannot be written, after the
                pictures were.
        """
        folder = Path(folder)
        y = as_float(self.problem.y)
        samples, mean, std = (as_float(x) for x in (self.samples, self.mean, self.std))
        if pictures is None:
            chosen = names or [f"{b:03d}" for b in range(len(y))]
            pictures = [Picture(mean[b : b + 1], name=name) for b, name in enumerate(chosen)]
        stems = [label(picture.name).replace("/", "_") for picture in pictures]
        if len(set(stems)) < len(stems):
            raise InputError(f"names: found {', '.join(stems)}, expected a different one per image")

        failed: dict[str, str] = {}

        def attempt(name: str, write: Callable[[Path], None]) -> None:
            try:
                write(folder / name)
            except Exception as error:  # the other files are written all the same
                failed[name] = first_line(error)

        def draw(name: str, picture: Picture) -> None:
            with warnings.catch_warnings():  # all numbers are in the arrays
                warnings.filterwarnings("ignore", message=".*what is beyond is clipped")
                attempt(
                    name + picture.suffix, lambda path: write_picture(path, picture, overwrite=True)
                )

        attempt("posterior.npz", partial(write_arrays, arrays={"y": y, "samples": samples}))
        first = 0
        for stem, like in zip(stems, pictures, strict=True):
            rows = slice(first, first + len(like))
            first += len(like)
            measured = y[rows].squeeze(0)
            attempt(f"{stem}_measurement.npy", partial(write_array, x=measured))
            if self.problem.y_is_picture:
                draw(f"{stem}_measurement", like.with_values(y[rows]))
            for k, sample in enumerate(samples[:, rows]):
                draw(f"{stem}_sample_{k}", like.with_values(sample))
            draw(f"{stem}_mean", like.with_values(mean[rows]))
            if len(samples) > 1:
                draw(f"{stem}_std", Picture(4 * std[rows]))
        if not failed:
            return
        name, reason = next(iter(failed.items()))
        others = f" and {len(failed) - 1} others" if len(failed) > 1 else ""
        message = f"{folder}: could not write {name}{others}: {reason}"
        if "posterior.npz" in failed:
            raise InputError(message)
        warn(message)

    def plot(
        self, path: str | Path, truth: Tensor | None = None, names: Sequence[str] | None = None
    ) -> None:
        """Draw the first images as rows: truth, measurement, baseline, samples, mean, deviation.

        Images with neither 1 nor 3 channels are shown as the mean of their channels.

        Args:
            path: of the picture, any suffix that matplotlib writes.
            truth: (B, C, H, W), if known.
            names: of the B images.

        Raises:
            InputError: the picture cannot be written.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        y = self.problem.y
        several = len(self.samples) > 1
        columns: list[tuple[str, Tensor]] = [] if truth is None else [("truth", truth)]
        columns += [("measurement", y)] if self.problem.y_is_picture else []
        columns += [("baseline", self.baseline)]
        columns += [(f"sample {k + 1}", x) for k, x in enumerate(self.samples[:PANEL_SAMPLES])]
        columns += [("mean", self.mean)] if several else []
        columns += [("std", self.std.mean(1, keepdim=True))] if several else []
        rows = min(PANEL_ROWS, len(y))

        figure = Figure(
            figsize=(1.5 * len(columns), 1.5 * rows + 0.3), dpi=100, layout="constrained"
        )
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, len(columns), squeeze=False)
        largest = float(self.std[:rows].amax()) if several else 1.0
        for row in range(rows):
            for axis, (title, x) in zip(axes[row], columns, strict=True):
                picture = _shown(thumbnail(x[row]))
                colours = (
                    {"cmap": "magma", "vmax": largest}
                    if title == "std"
                    else {"cmap": "gray", "vmax": 1}
                )
                drawn = axis.imshow(picture, vmin=0, interpolation="nearest", **colours)
                axis.set(xticks=[], yticks=[])
                if row == 0:
                    axis.set_title(title, fontsize=9)
            if names is not None:
                # A dollar in a name begins no formula.
                axes[row, 0].set_ylabel(_cut(label(names[row])), fontsize=8, parse_math=False)
        if several:
            figure.colorbar(
                drawn, ax=axes[:, -1].tolist(), fraction=0.1, label="standard deviation"
            )
        save_figure(figure, path)


def thumbnail(x: Tensor) -> Tensor:
    """Return an image (C, H, W), averaged over k x k pixels with the least k that fits a panel.

    Example:
        >>> thumbnail(torch.ones(1, 1024, 700)).shape
        torch.Size([1, 512, 350])
    """
    return torch.nn.functional.avg_pool2d(
        x, max(1, -(-max(x.shape[-2:]) // PANEL_PIXELS)), ceil_mode=True
    )


def _shown(x: Tensor) -> np.ndarray:
    """An image (C, H, W) as matplotlib takes it, (H, W, 1) or (H, W, 3)."""
    x = x if x.shape[0] in (1, 3) else x.mean(0, keepdim=True)
    return as_float(x.clamp(0, 1)).float().permute(1, 2, 0).numpy()


def _cut(name: str) -> str:
    return name if len(name) <= PANEL_LETTERS else name[: PANEL_LETTERS - 1] + "\u2026"
