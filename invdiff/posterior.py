"""Samples of p(x | y) and their summaries: mean, deviation, intervals, misfit; saving, drawing."""

from __future__ import annotations

import base64
import html
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from invdiff.adjustment import Adjustment, Rule, not_calibrated
from invdiff.diagnostics.fit import judge_fit
from invdiff.directions import Directions, principal
from invdiff.errors import (
    InputError,
    check_path,
    check_type,
    described,
    first_line,
    reason_of,
    shown,
    warn,
)
from invdiff.export import to_arviz, to_xarray
from invdiff.intervals import OF_FILLS, Interval, percent
from invdiff.io.layout import recognise
from invdiff.io.names import label
from invdiff.io.pictures import Picture, to_channels
from invdiff.io.whole import cannot_write
from invdiff.io.write import as_float, save_figure, write_array, write_arrays, write_picture
from invdiff.noise import NoiseModel
from invdiff.operators import Grayscale, Operator
from invdiff.problem import Problem, listed
from invdiff.records import (
    noise_of_record,
    operator_of_record,
    record_of_noise,
    record_of_operator,
)
from invdiff.summary import several

if TYPE_CHECKING:
    from invdiff.panel import Panel

# What a run gives: samples of p(x | y), their mean alone, or E[x | y] by one call of the network.
Estimate = Literal["samples", "mean", "mmse"]

PANEL_ROWS = 8
PANEL_SAMPLES = 4
COLOURS_DIFFER = 2.0  # times the brightness, from which colours are what is to be doubted


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
        seed: of the samples; None where it is not known.
        solver: the method and its settings, in words.
        estimate: what is shown and written: the samples and their mean, or the "mean" alone;
            "mmse" where the one sample is E[x | y] itself, of `invdiff.mmse`.
        filled: of each image, whether a hole larger than what the prior sees was filled from the
            picture's own patches; nothing where none could be. There the samples differ as fills do.
        colours: of a gray picture that is coloured, how strong the colours of `answer` are: a factor
            on those of the mean.
        volume: whether the channels of the one image are the slices of a volume, which are then
            written and shown as gray images.

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
    seed: int | None = None
    solver: str = ""
    estimate: Estimate = "samples"
    filled: tuple[bool, ...] = ()
    colours: float = 1.0
    volume: bool = False

    def __post_init__(self) -> None:
        """Check what everything else here leans on."""
        expected = "a tensor (K, B, C, H, W)"
        check_type("samples", self.samples, Tensor, expected)
        if self.samples.ndim != 5 or not len(self.samples):
            raise InputError(
                f"samples: found shape {tuple(self.samples.shape)}, expected {expected}"
            )
        check_type("problem", self.problem, Problem, "a Problem")

    def __repr__(self) -> str:
        """Return one line: how many samples of what, and what they took."""
        count, batch, *shape = self.samples.shape
        what = "E[x | y]" if self.estimate == "mmse" else several(count, "sample")
        size = "x".join(map(str, shape))
        cost = f"{several(self.nfe, 'call')} per sample, {self.seconds:.1f} s"
        return f"Posterior({what} of {several(batch, 'image')} {size}, {self.problem!r}, {cost})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the line, and the panel of the first images."""
        picture = base64.b64encode(self.plot()._repr_png_()).decode()
        line = html.escape(repr(self))
        return f'<p>{line}</p><img style="max-width: 100%" src="data:image/png;base64,{picture}">'

    def numpy(self) -> np.ndarray:
        """Return the samples as an array of NumPy, (K, B, C, H, W).

        Example:
            >>> from invdiff import Gaussian, operators
            >>> problem = Problem(operators.Denoise((1, 2, 2)), Gaussian(0.1), torch.zeros(1, 1, 2, 2))
            >>> Posterior(torch.zeros(3, 1, 1, 2, 2), problem, nfe=1, seconds=0.1).numpy().shape
            (3, 1, 1, 2, 2)
        """
        found: np.ndarray = as_float(self.samples).numpy()
        return found

    def to_xarray(self, picture: Picture | None = None) -> Any:
        """Return an ``xarray.Dataset`` of the samples and y, with coordinates and units.

        Args:
            picture: what the B images were read from, whose names and units are taken.

        Raises:
            InputError: xarray is missing, or the picture has another number of images.
        """
        return to_xarray(self, picture)

    def to_arviz(self, picture: Picture | None = None) -> Any:
        """Return the groups posterior and observed_data of ArviZ, an ``xarray.DataTree``.

        Args:
            picture: as in `to_xarray`.

        Raises:
            InputError: as `to_xarray`.
        """
        return to_arviz(self, picture)

    @cached_property
    def mean(self) -> Tensor:
        """Pixelwise mean, (B, C, H, W): the estimate of least squared error."""
        return self.samples.mean(0)

    @cached_property
    def answer(self) -> Tensor:
        """What is written as the restored image, (B, C, H, W): the mean.

        Of a gray picture it is the mean with its colours `colours` times as strong. Where a large hole
        was filled it is the sample nearest to the mean, unless the mean was asked for: the mean of
        different textures is a blur.
        """
        operator = self.problem.operator
        if isinstance(operator, Grayscale) and self.colours != 1:
            return operator.faded(self.mean, self.colours)
        if self.estimate == "mean" or not any(self.filled):
            return self.mean
        distance = (self.samples - self.mean).square().flatten(2).sum(2)  # (K, B)
        nearest = distance.argmin(0)
        rows = zip(nearest.tolist(), self.filled, strict=True)
        chosen = [
            self.samples[k, b] if filled else self.mean[b] for b, (k, filled) in enumerate(rows)
        ]
        return torch.stack(chosen)

    @cached_property
    def std(self) -> Tensor:
        """Pixelwise standard deviation, (B, C, H, W); NaN for a single sample, which has none."""
        if len(self.samples) == 1:
            return torch.full_like(self.mean, torch.nan)
        return self.samples.std(0)

    @cached_property
    def brightness_std(self) -> Tensor:
        """Standard deviation of the brightness, (B, 1, H, W): where to doubt a picture.

        The brightness is the luma of ITU-R BT.601 for colour, the channel of gray, and else the
        mean of the channels. NaN for a single sample.
        """
        brightness = torch.stack([_brightness(x) for x in self.samples])
        if len(brightness) == 1:
            return torch.full_like(brightness[0], torch.nan)
        return brightness.std(0)

    @cached_property
    def doubt(self) -> Tensor:
        """Where to doubt a picture, (B, 1, H, W): the deviation of the brightness, or of the colours.

        It is `brightness_std`, but for pictures in which the colours differ far more than the
        brightness, as where gray was measured: of these the root mean square of `std` over the
        channels. NaN for a single sample.
        """
        of_colours = self.std.square().mean(1, keepdim=True).sqrt()
        per_image = (1, 2, 3)
        differ = of_colours.mean(per_image) > COLOURS_DIFFER * self.brightness_std.mean(per_image)
        return torch.where(differ[:, None, None, None], of_colours, self.brightness_std)

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
                "samples" for the samples as they are; by default "samples" without an adjustment,
                and with one "mean" or, of fewer than 39 images, "pooled".

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
            found = not_calibrated(self.samples, level)
            if any(self.filled):
                return found._replace(label=f"{percent(found.level)}, {OF_FILLS}")
            return found
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
            found = principal(self.samples, count)
            return found._replace(label=OF_FILLS) if any(self.filled) else found
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

    def pages(self, x: Tensor) -> Tensor:
        """Return images (..., B, C, H, W) as they are shown: of a volume its slices, (..., D, 1, H, W).

        Example:
            >>> from invdiff import Gaussian, operators
            >>> y = torch.zeros(1, 6, 2, 2)
            >>> problem = Problem(operators.Denoise((6, 2, 2)), Gaussian(0.1), y)
            >>> found = Posterior(torch.zeros(2, 1, 6, 2, 2), problem, nfe=1, seconds=0.0, volume=True)
            >>> found.pages(found.samples).shape
            torch.Size([2, 6, 1, 2, 2])
        """
        return x.transpose(-4, -3) if self.volume else x

    @property
    def y_in_pages(self) -> bool:
        """Whether y can be shown: it is a picture, or a slice for each slice of a volume."""
        if not self.volume:
            return self.problem.y_is_picture
        y = self.problem.y
        return y.ndim == 4 and y.shape[1] == self.samples.shape[2]

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
        check_type("images", x, Tensor, "a tensor (..., B, C, H, W), such as `mean`")
        return self.problem.layout.arrange(x)

    def save(
        self,
        folder: str | Path,
        names: Sequence[str] | None = None,
        pictures: Sequence[Picture] | None = None,
    ) -> None:
        """Write the samples and y, unrounded, to ``posterior.npz``, and pictures of every image.

        Pictures are ``NAME_measurement`` (where y is one; ``.npy`` holds it unrounded),
        ``NAME_sample_K`` (not where `estimate` asks for the mean), ``NAME_mean`` and, for more than
        one sample, ``NAME_std``: the standard deviation, of colours as `doubt` has it, in which
        white is 1/4.
        ``posterior.npz`` holds what `load` needs: operator, noise, seed and cost too.

        Pictures are PNG of 8 bits, or what `pictures` ask for; TIFF, where images have neither 1
        nor 3 channels. Every file is whole or missing: what cannot be written is left out, with one
        warning for all of it.

        Args:
            folder: it is made where it does not exist.
            names: of the B images; their numbers by default.
            pictures: instead of names, what the B images were read from, in turn. Their alpha,
                depth and units are kept: 16 bits in PNG, floats and the pages of one file in TIFF,
                NIfTI as such.

        Raises:
            InputError: two images have one name, there are not as many names or pictures as images,
                the folder cannot be made, or ``posterior.npz`` cannot be written, after the
                pictures were.
        """
        check_path("folder", folder)
        names = self._names(names)
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(folder, error) from error
        y = as_float(self.problem.measurement)
        y = self.pages(y) if self.y_in_pages else y
        in_colour = self.samples.shape[2] == 3 and not self.volume
        deviation = self.doubt if in_colour else self.std
        samples, mean, std = (self.pages(as_float(x)) for x in (self.samples, self.mean, deviation))
        if pictures is None:
            chosen = names or [f"{b:03d}" for b in range(len(y))]
            pictures = [Picture(mean[b : b + 1], name=name) for b, name in enumerate(chosen)]
            if self.volume:
                pictures = [Picture(mean, name=chosen[0], stack=True)]
        else:
            check_pictures(pictures, len(y))
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

        attempt("posterior.npz", partial(write_arrays, arrays=self._stored()))
        first = 0
        for stem, like in zip(stems, pictures, strict=True):
            rows = slice(first, first + len(like))
            first += len(like)
            measured = y[rows].squeeze(0)
            attempt(f"{stem}_measurement.npy", partial(write_array, x=measured))
            if self.y_in_pages:
                draw(f"{stem}_measurement", like.with_values(y[rows]))
            for k, sample in enumerate(samples[:, rows] if self.estimate == "samples" else []):
                draw(f"{stem}_sample_{k}", like.with_values(sample))
            draw(f"{stem}_mean", like.with_values(mean[rows]))
            if len(samples) > 1:
                draw(f"{stem}_std", Picture(4 * std[rows]))
        if not failed:
            return
        name, reason = next(iter(failed.items()))
        others = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        message = f"{folder}: could not write {name}{others}: {reason}"
        if "posterior.npz" in failed:
            raise InputError(message)
        warn(message)

    def _stored(self) -> dict[str, Tensor | str]:
        """What ``posterior.npz`` holds: arrays, and all else in JSON."""
        arrays: dict[str, Tensor] = {}
        stated = self.problem.stated or self.problem
        record = {
            "operator": record_of_operator(stated.operator, arrays),
            "noise": record_of_noise(stated.noise, arrays),
            "nfe": self.nfe,
            "seconds": self.seconds,
            "seed": self.seed,
            "solver": self.solver,
            "estimate": self.estimate,
            "filled": self.filled,
            "colours": self.colours,
            "volume": self.volume,
        }
        stored: dict[str, Tensor | str] = {
            "y": self.problem.measurement,
            "samples": self.samples,
            **arrays,
        }
        if self.ess is not None:
            stored["ess"] = self.ess
        stored["record"] = json.dumps(record)
        return stored

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        operator: Operator | None = None,
        noise: NoiseModel | None = None,
    ) -> Self:
        """Return what `save` has written; a file names no code, and runs none.

        Args:
            path: of a ``posterior.npz``, or its folder.
            operator: A, where the file cannot tell: it is of a class of one's own, or holds a
                network.
            noise: likewise.

        Returns:
            the posterior, without its calibration.

        Raises:
            InputError: the file cannot be read, is no ``posterior.npz``, or tells of an operator or
                a noise that must be given.

        Example:
            >>> import tempfile
            >>> from invdiff import Gaussian, operators
            >>> problem = Problem(operators.Denoise((1, 2, 2)), Gaussian(0.1), torch.zeros(1, 1, 2, 2))
            >>> folder = tempfile.mkdtemp()
            >>> Posterior(torch.zeros(3, 1, 1, 2, 2), problem, nfe=9, seconds=0.1).save(folder)
            >>> Posterior.load(folder)
            Posterior(3 samples of 1 image 1x2x2, Problem(Denoise((1, 2, 2)), Gaussian(sigma=0.1), \
1 image), 9 calls per sample, 0.1 s)
        """
        check_path("path", path)
        path = Path(path)
        path = path / "posterior.npz" if path.is_dir() else path
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            record = json.loads(str(arrays["record"]))
            samples = torch.from_numpy(arrays["samples"])
            y = torch.from_numpy(arrays["y"])
            ess = torch.from_numpy(arrays["ess"]) if "ess" in arrays else None
            cost = {key: record[key] for key in ("nfe", "seconds", "seed", "solver", "estimate")}
            filled = tuple(record.get("filled", ()))
            colours = float(record.get("colours", 1.0))
            volume = bool(record.get("volume", False))
            told = record["operator"], record["noise"]
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
        except Exception as error:  # damage, or another file: zipfile and NumPy raise many kinds
            raise InputError(
                f"{path}: found no posterior ({reason_of(error)}), expected the posterior.npz of "
                "Posterior.save"
            ) from error
        try:
            operator = operator_of_record(told[0], arrays) if operator is None else operator
            noise = noise_of_record(told[1], arrays) if noise is None else noise
            problem = Problem(operator, noise, y)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        return cls(samples, problem, ess=ess, filled=filled, colours=colours, volume=volume, **cost)

    def report(
        self,
        path: str | Path,
        *,
        truth: Tensor | np.ndarray | None = None,
        names: Sequence[str] | None = None,
        title: str = "Posterior samples",
    ) -> None:
        """Write the page that ``invdiff solve`` leaves: pictures, intervals, where to doubt them.

        Args:
            path: of the page, such as ``report.html``; it appears whole or not at all.
            truth: (B, C, H, W), if known, or in another layout that y may have.
            names: of the B images.
            title: of the page.

        Raises:
            InputError: the page cannot be written; or the truth or the names are not those of B
                images.
        """
        from invdiff.evaluation.report import write_report

        check_path("path", path)
        check_type("title", title, str, "text")
        truth = None if truth is None else self._images("truth", truth)
        write_report(path, self, truth=truth, names=self._names(names), title=title)

    def plot(
        self,
        path: str | Path | None = None,
        truth: Tensor | np.ndarray | None = None,
        names: Sequence[str] | None = None,
        baselines: Mapping[str, Tensor | np.ndarray] | None = None,
    ) -> Panel:
        """Draw the first images as rows: truth, measurement, baselines, samples, mean, deviation.

        Of a volume the rows are slices from end to end. Pixels are drawn as squares of whole
        pixels, of an image of up to 512 each as one at least. Of larger images a row shows the
        whole in small, and the next one the part at full size that the restoration changed most.
        Images with neither 1 nor 3 channels are shown as the mean of their channels. Where an image
        uses less than half of its range, white is its brightest part, and the row says so. The
        deviation is `doubt`.

        Args:
            path: of the picture, any suffix that matplotlib writes; None to write none.
            truth: (B, C, H, W), if known, or in another layout that y may have.
            names: of the B images.
            baselines: more estimates (B, C, H, W) by name, as of `invdiff.baselines.baselines`.

        Returns:
            the figure, which a notebook shows.

        Raises:
            InputError: the picture cannot be written; or the truth, a baseline or the names are
                not those of B images.
        """
        from invdiff.panel import Cell, Panel  # matplotlib, which takes a while

        if path is not None:
            check_path("path", path)
        names = self._names(names)
        others = {} if baselines is None else baselines
        check_type("baselines", others, Mapping, "estimates (B, C, H, W) by name")
        y = self.problem.measurement
        several = len(self.samples) > 1
        columns: dict[str, Tensor] = {}
        if truth is not None:
            columns["truth"] = self._images("truth", truth)
        if self.y_in_pages:
            columns["measurement"] = y
        columns["baseline"] = self.baseline
        for name, x in others.items():
            columns[name] = self._images(f"baseline {name}", x)
        if self.estimate == "mmse":
            columns["E[x | y]"] = self.mean
        elif self.estimate == "samples":
            columns |= {f"sample {k + 1}": x for k, x in enumerate(self.samples[:PANEL_SAMPLES])}
        if several or self.estimate == "mean":
            columns["mean"] = self.mean
        if several:
            columns["std"] = self.std if self.volume else self.doubt
        columns = {title: self.pages(x) for title, x in columns.items()}
        mean, baseline = self.pages(self.mean), self.pages(self.baseline)
        rows = self._shown(len(mean))
        cells = [
            {title: Cell(as_float(x[b]), title == "std") for title, x in columns.items()}
            for b in rows
        ]
        changed = as_float((_brightness(mean) - _brightness(baseline)).abs())
        figure = Panel.of(
            cells,
            names=None if names is None else [names[b] for b in rows],
            interest=[changed[b] for b in rows],
        )
        if path is not None:
            save_figure(figure, path)
        return figure

    def _names(self, names: Sequence[str] | None) -> list[str] | None:
        """Names that are one for each image; a volume is one image, or as many as it has slices."""
        if names is None:
            return None
        count = len(self.problem)
        expected = f"a list of {several(count, 'name')}, one per image"
        if isinstance(names, str):
            raise InputError(f"names: found {described(names)}, expected {expected}")
        given = listed("names", names, expected)
        wrong = [name for name in given if not isinstance(name, str)]
        if wrong:
            raise InputError(f"names: found {described(wrong[0])}, expected {expected}")
        if len(given) != count and not (self.volume and given):
            raise InputError(f"names: found {len(given)}, expected {expected}")
        return given

    def _images(self, name: str, x: Tensor | np.ndarray) -> Tensor:
        """Images of the problem, (B, C, H, W), in whatever layout they are given."""
        shape = tuple(self.samples.shape[2:])
        images, _ = recognise(x, shape, self.samples.dtype, name)
        if tuple(images.shape) != (len(self.problem), *shape):
            expected = ", ".join(map(str, (len(self.problem), *shape)))
            raise InputError(f"{name}: found shape {tuple(images.shape)}, expected ({expected})")
        return images.to(self.samples.device)

    def _shown(self, count: int) -> list[int]:
        """Which images a panel shows: the first ones; of a volume slices from end to end."""
        rows = min(PANEL_ROWS, count)
        if not self.volume:
            return list(range(rows))
        return [(2 * row + 1) * count // (2 * rows) for row in range(rows)]


def check_pictures(pictures: Sequence[Picture], count: int) -> None:
    """Raise an InputError unless these are the pictures that so many images were read from."""
    expected = f"what {several(count, 'image')} were read from, as of read_picture"
    given = listed("pictures", pictures, expected)
    for picture in given:
        check_type("pictures", picture, Picture, expected)
    found = sum(map(len, given))
    if found != count:
        raise InputError(f"pictures: found {several(found, 'image')}, expected {expected}")


def _brightness(x: Tensor) -> Tensor:
    """The brightness of images (B, C, H, W), (B, 1, H, W)."""
    return to_channels(x, 1) if x.shape[1] in (1, 3) else x.mean(1, keepdim=True)
