"""Restore images from their measurements: samples of p(x | y) under a diffusion prior.

    python -m invdiff.solve task=remove                  (letters on a photograph that comes with it)
    python -m invdiff.solve task=remove measurement=photo.jpg operator.mask=mask.png
    python -m invdiff.solve task=denoise measurement=dim.tif
    python -m invdiff.solve task=deblur measurement=photo.jpg operator.kernel=unknown
    python -m invdiff.solve task=inpaint prior=fashion
    python -m invdiff.solve task=deblur_gaussian solver=diffpir solver.steps=50 input=photo.png samples=8
    python -m invdiff.solve task=inpaint measurement=y.png operator.mask=mask.png noise.sigma=0.01
    python -m invdiff.solve volume=true task=denoise measurement=scan.nii.gz
    torchrun --nproc-per-node 4 -m invdiff.solve ...      (the same; the samples are shared out)
    python -m invdiff.solve ... out=FOLDER part=3/8       (a job of eight, without torchrun)

input= takes clean images, simulates their measurements and reports metrics against them;
measurement= takes real measurements and needs no ground truth; the answer to each, NAME_restored, lies
beside the run's folder in the format that went in. Without either, the example images of the task or
the prior are the input. Every run leaves a folder: pictures, posterior.npz, panel.png,
report.html (to open in a browser), metrics.json and config.yaml, which repeats the run; prior.json,
the commit and the SHA-256 of a prior of the Hugging Face hub; where
images differ in size, a folder in it for each size. In metrics.json, numbers that JSON does not have
(an infinite PSNR) are null. A run that is stopped (Ctrl-C, SIGTERM) leaves the images that are done,
or the samples of the first one, and "interrupted": true in its metrics.json. What a run will cost is
said before it: preview=true is a small version in seconds, estimate=mmse denoises by one network call.
One that several processes share keeps the finished samples
in OUT.unfinished, and the same command goes on from them (docs/clusters.md).
python -m invdiff.solve task=FOLDER/config.yaml
"""

from __future__ import annotations

if __name__ == "__main__":
    from invdiff.config.help import print_help_if_asked

    print_help_if_asked(__file__)  # before the imports, which take seconds

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor

from invdiff import config, registry
from invdiff.adjustment import Adjustment
from invdiff.arguments import one_of
from invdiff.baselines import Which, baselines, left_out
from invdiff.blind import blind_problem, restore_blind
from invdiff.calibrate import calibration_for, law_of
from invdiff.choice import (
    AUTO,
    EXAMPLES_OF,
    check_level,
    colours_for,
    example_of,
    introduced,
    looks,
    may_stretch,
    mismatch,
    other_size,
    prior_for,
    stretched,
    told_of_stretch,
    with_coding,
)
from invdiff.config.signals import held_back
from invdiff.config.sources import as_yaml
from invdiff.cost import FEW_STEPS, cheaper, cost_of
from invdiff.diagnostics.fit import TOO_CLOSE, judge_fit
from invdiff.errors import InputError, brief, check_integer, first_line, heard, warn, without
from invdiff.evaluation.metrics import scores
from invdiff.evaluation.ranking import FORM
from invdiff.evaluation.report import write_report
from invdiff.fingerprint import key_of
from invdiff.frame import continued, is_frame, known_sides
from invdiff.held import read_held, sentence
from invdiff.inference import Interrupted, check_batch, restore
from invdiff.intervals import OF_FILLS, SAY_OF_FILLS, percent, shown_levels
from invdiff.io.collection import image_files, read_pictures
from invdiff.io.jpeg import coding_error, jpeg_coding
from invdiff.io.measurements import read_measurements
from invdiff.io.names import free_name, label
from invdiff.io.pictures import Picture, has_holes, read_picture, to_channels
from invdiff.io.units import MEASUREMENTS, Units
from invdiff.io.volumes import read_volume
from invdiff.io.whole import RUN_FILE, WholeFolder, cleaned_by_signals, write_json
from invdiff.io.write import write_picture
from invdiff.noise import describe_sigma
from invdiff.noise.level import estimate_sigma
from invdiff.one_call import check_one_call
from invdiff.operators import Demosaic, Denoise, Grayscale, Jpeg, Mask, MaskFile, Operator
from invdiff.operators.base import numbered
from invdiff.operators.blur import Blur, CircularBlur, SeparableKernelBlur, VaryingBlur
from invdiff.operators.kernel_priors import FAMILIES, KernelPrior, kernel_prior, odd_size
from invdiff.operators.large import made
from invdiff.operators.painted import percent as percent_of
from invdiff.posterior import Estimate, Posterior
from invdiff.preview import SIDE, preview_of
from invdiff.prior.channels import match_channels, match_slices
from invdiff.prior.checkpoint import load_classifier, load_prior, prior_files
from invdiff.prior.denoiser import Denoiser, check_prior
from invdiff.prior.execution import Execution, Precision
from invdiff.prior.guidance import guided
from invdiff.prior.loaders import hub
from invdiff.prior.loaders.words import ClassifierWords, PriorWords, name_of, plain
from invdiff.problem import Problem
from invdiff.progress import progress_bar, show
from invdiff.resources import example_images
from invdiff.rng import Seed
from invdiff.sharing import Share, SharedRun, Task, wait_for_all
from invdiff.solvers import DEFAULT, Solver, preset, preset_of, solver_for
from invdiff.solvers.tools.holes import large_holes
from invdiff.summary import several
from invdiff.window import Window, problem_in, put_back, told_of_window, window_of

CLEAN_IMAGES = 8  # that are damaged and restored, where nobody says how many
WORTH_TIMING = 2**20  # pixels times samples times steps: of less, no cost is said

DESCRIBED_BY = {"mask": "mask_file", "kernel": "blur"}  # settings that alone describe an operator
BLURS = (Blur, CircularBlur, SeparableKernelBlur, VaryingBlur)
OF_VOLUMES = "dds"  # the solver that couples slices
UNKNOWN = "unknown"  # operator.kernel, of a blur that is to be found
NOT_WITH_UNKNOWN = (
    "solver",
    "label",
    "guidance",
    "classifier",
    "preview",
    "part",
    "estimate",
    "colours",
    "baselines",
    "calibration",
    "recompute",
    "volume",
)
# Seen with the network `photos`: samples of a free kernel agree with each other more than with the
# kernel that there was.
FREE_IS_NARROW = (
    "kernel: intervals of a free kernel are too narrow: samples agree more than they are right"
)
DAMAGED_HERE = (
    "input: is taken for clean, damaged here and restored, to see how near that comes; a picture "
    "that is damaged already is given as measurement=FILE"
)
MISFIT = (
    "misfit: from the measurement, in units of its noise; what is right has about 1, a mean less"
)
NO_COLOUR = 0.02  # by how much the channels of a gray picture may differ


@dataclass(frozen=True, kw_only=True)
class SolveSettings:
    """Everything that a run of ``python -m invdiff.solve`` depends on.

    Attributes:
        task: a preset in tasks/, or a YAML file; it sets operator, noise and solver.
        operator: what the measurement does to an image: operator.name=NAME and its settings.
        noise: the noise of the measurement: noise.name=NAME and its settings.
        solver: a preset, solver=NAME, or solver.name=NAME and its settings; by default that of the
            task, else mmps_2m_sde, or dps for an operator that is not linear and
            diffpir_jpeg for JPEG without noise.
        prior: "auto" chooses one by the picture (see `invdiff.choice`); else the name of one that
            ships, a training run's folder, a file or a folder of weights, ours or another
            program's, hf:owner/name[@revision], or module:Class; prior.WORD=VALUE tells what a file
            does not.
        label: the class that the images are known to be of, if any.
        guidance: the weight w of classifier-free guidance (by default 0: the conditional prior as
            it is), or the scale of the classifier (by default 1).
        classifier: of noisy images, a file or a run's folder; for a prior without classes;
            classifier.WORD=VALUE tells what a file does not.
        input: clean images: a file, a folder, an .npz.
        measurement: real measurements, likewise; .npy or .npz where they are no pictures (complex
            for k-space).
        stretch: solve pictures of 16 bits or floats that use less than half of their range on
            [0, 1], and write them in theirs; noise.sigma is on the file's scale all the same. False
            leaves them as they are; by default a prior that ships has them stretched.
        volume: take what is in a file (NIfTI, a TIFF stack, .npy), or in a folder of slices such as a
            DICOM series, for one gray volume, and restore its slices together: by dds, which couples
            them, and one sample of it, unless something else is said. By default every slice is
            restored by itself.
        images: how many of them, at most; by default all measurements, and 8 clean images.
        samples: per image; 19 are the fewest whose intervals have 90 %, and 4 have 60 %.
        window: of a large picture with exact pixels and a small hole, work on the surroundings of the hole
            alone, and write the whole picture with the hole filled (see `invdiff.window`). False works
            on the whole of it.
        fill_holes: fill a hole that is as large as what the prior sees, or larger, from the picture's own
            patches, in place of the blur that the prior draws there (docs/holes.md); intervals are then
            not calibrated. False leaves it to the prior.
        estimate: samples; mean, where their mean is what is shown and written; or mmse, the mean of
            p(x | y) by one network call, for Gaussian noise and nothing else (task=denoise).
        colours: of a gray picture, how strong the colours of what is written are, from 0 to 1: a
            factor on those of the samples' mean; 1 leaves them as they are. "auto" is 0.35 under
            `photos`, whose samples agree on colours too well, and 1 under other priors.
        preview: a small version of the picture, one sample of 128 pixels on the longer side, or of as
            many as are given; of a part of the picture where a small one would be another problem.
        baselines: what a person would use instead, to compare with: auto, all (bm3d too, which takes
            its time) or none; nlm and biharmonic need pip install 'invdiff[baselines]'.
        calibration: a file of invdiff calibrate, which widens the intervals of report.html; null
            for none. "auto" takes the one that ships for this very setting, if there is one.
        seed: of every random number; the same seed gives the same run.
        out: folder of the results; by default results/TASK, numbered if there is one already.
        overwrite: replace the run that is in ``out``, in one step, once the new one is there.
        batch: samples computed at once; "auto" is as many as suit the device and its memory.
        precision: of the network: float32, bf16, tf32 (NVIDIA GPUs); "auto" is bf16 on GPUs that
            compute in it, but for solvers that take differences of D, else float32.
        compile: compile the network first (torch.compile), for long runs.
        part: which part of the work to do, such as 3/8, where no torchrun shares it out; the
            parts need one ``out``.
        tile: side in pixels of the overlapping tiles in which the prior sees a large image, a
            multiple of the network's stride; null for none. "auto" is 256 above 2^20 pixels, and
            for a prior with attention its training size.
        recompute: solvers that need gradients through the prior (dps, pigdm) take less memory, and
            more time.
        device: where to compute: cpu, cuda, cuda:N; "auto" is CUDA where there is one.

    Example:
        >>> SolveSettings(task="inpaint", samples=8).prior
        'auto'
    """

    task: str | None = None
    operator: dict[str, Any] = field(default_factory=dict)
    noise: dict[str, Any] = field(default_factory=dict)
    solver: dict[str, Any] = field(
        default_factory=lambda: config.component("solver", DEFAULT), metadata={"preset": DEFAULT}
    )
    prior: str | PriorWords = AUTO
    label: int | None = None
    guidance: float | None = None
    classifier: str | ClassifierWords | None = None
    input: str | None = None
    measurement: str | None = None
    stretch: bool | None = None
    volume: bool = False
    window: bool = True
    fill_holes: bool = True
    images: int | None = None
    samples: int = 19
    estimate: Estimate = "samples"
    colours: float | Literal["auto"] = "auto"
    preview: bool | int = False
    baselines: Which = "auto"
    calibration: str | None = "auto"
    seed: Seed = 0
    out: str | None = None
    overwrite: bool = False
    batch: int | Literal["auto"] = "auto"
    precision: Precision = "auto"
    compile: bool = False
    part: str | None = None
    tile: int | Literal["auto"] | None = "auto"
    recompute: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        check_batch(self.batch)
        check_integer("samples", self.samples, 1)
        if self.preview is not False and self.preview < 1:
            raise InputError(f"preview: found {self.preview}, expected true or a number of pixels")
        if self.colours != AUTO and not 0 <= float(self.colours) <= 1:
            raise InputError(
                f"colours: found {self.colours:g}, expected auto or a number from 0 to 1"
            )


@dataclass(frozen=True)
class Ready:
    """Everything that the words of a command line ask for, read and checked before the work.

    Attributes:
        settings: with the prior by name.
        share: this process's, of the work.
        parts: the images, and their problems.
        prior: the denoiser.
        solver: the method.

    Example:
        >>> ready = get_ready(["task=inpaint", "prior=fashion", "images=1", "samples=2"])
        prior fashion, what pictures are like: gray pictures of clothing, 32x32
        >>> ready.settings.samples, len(ready.parts)
        (2, 1)
    """

    settings: SolveSettings
    share: Share
    parts: list[Part]
    prior: Denoiser
    solver: Solver


def main(words: list[str]) -> None:
    """Run the command line."""
    check_words(words)
    unknown = unknown_kernel(words)
    if unknown is not None:
        solve_unknown(words, unknown)
        return
    ready = get_ready(words)
    if ready.share == Share() and ready.settings.part is None:
        solve_parts(ready.settings, ready.parts, ready.prior, ready.solver)
    else:
        solve_together(ready.settings, ready.share, ready.parts, ready.prior, ready.solver)


def check_words(words: list[str]) -> None:
    """Raise InputError for words that say something, but not where it belongs.

    These are the name of a file alone, and a setting of the operator, the noise or the solver
    without saying of which.
    """
    settings = [field.name for field in fields(SolveSettings)]
    heads = {word: word.partition("=")[0].partition(".")[0] for word in words if "=" in word}
    for word in words:
        if word not in heads and os.path.exists(word):
            raise InputError(
                f"found {brief(word)}, a file, expected key=value: measurement={word} for a "
                "damaged "
                f"picture, input={word} for a clean one"
            )
    astray = [word for word, head in heads.items() if head not in settings]
    if not astray or any(word not in heads for word in words):
        return
    known = config.resolve([word for word in words if word not in astray], SolveSettings)
    for word in astray:
        head = heads[word]
        for part in ("operator", "noise", "solver"):
            name = (known.get(part) or {}).get("name")
            kind = registry.lookup(part, name) if name else None
            of_kind = kind is not None and head in config.schema(kind)
            if of_kind or (part == "operator" and head in DESCRIBED_BY):
                raise InputError(f"found {brief(word)}, expected {part}.{word}")


def get_ready(words: list[str]) -> Ready:
    """Read and check what the words of a command line ask for, and say what was found.

    Raises:
        InputError: a word, a file, or what they are together, cannot be used.
    """
    merged = config.resolve(with_what_is_meant(words), SolveSettings)
    settings = config.validate(SolveSettings, merged)
    if settings.input and settings.measurement:
        raise InputError(
            "input, measurement: found both, expected one: clean images or real measurements"
        )
    if settings.volume:
        settings = of_volume(settings)
    solver: Solver = config.build("solver", settings.solver)
    share = Share.of(settings.part)
    device = share.device(settings.device)
    if settings.out is not None:  # refused before the pictures are read
        results_of(settings)
    parts = pose(settings)
    if settings.input:
        say(DAMAGED_HERE)
    settings = with_prior(settings, parts)
    classifier = load_classifier(settings.classifier, device) if settings.classifier else None
    network = load_prior(settings.prior, device)
    network.recompute(settings.recompute)
    check_prior(network)
    name = name_of(settings.prior)
    sizes = {other_size(name, network.shape, part.image_shape) for part in parts}
    for line in sorted(filter(None, sizes)):
        say(line)
    prior = guided(network, settings.label, settings.guidance, classifier)
    if settings.volume:
        prior = match_slices(prior, parts[0].problem.operator.shape[0])
    execution = Execution(precision=settings.precision, compile=settings.compile)
    execution.resolved(prior, exact=solver.differences)  # refused before the work
    if settings.preview:
        parts = [previewed(part, settings) for part in parts]
        settings = replace(settings, samples=1)
    if settings.estimate == "mmse":
        settings = replace(settings, samples=1)
    for part in parts:
        if settings.estimate == "mmse":
            check_one_call(part.problem)
        solver.check(part.problem)
        match_channels(prior, part.problem.operator.shape[0])
        calibration_of(settings, part, prior, solver)  # one that does not fit is refused here
        if part.truth is not None:  # what metrics cannot be had is told before the work
            corner = part.pages(part.truth)[:1, :, :64, :64]
            judge(corner[None], corner)
    return Ready(settings, share, parts, prior, solver)


def with_prior(settings: SolveSettings, parts: list[Part]) -> SolveSettings:
    """Return the settings with a prior by name, and say which it is and what it is of."""
    name = name_of(settings.prior)
    why = ""
    if name == AUTO:
        name, why = prior_for([part.looks for part in parts])
        settings = replace(settings, prior=name)
    line = introduced(name, why)
    if line:
        say(line)
    told = {mismatch(name, part.image_shape) for part in parts}
    for message in sorted(filter(None, told)):
        warn(message)
    return settings


def of_volume(settings: SolveSettings) -> SolveSettings:
    """Return the settings of a run that restores a volume.

    Raises:
        InputError: there is no file, or a small version is asked for.
    """
    if settings.preview:
        raise InputError(
            "preview: found it with volume=true, expected none: solver.steps=10 is a quick try"
        )
    if settings.measurement is None and settings.input is None:
        raise InputError(
            "volume: found no file, expected measurement=FILE, or input=FILE of a clean volume"
        )
    compared: Which = "none" if settings.baselines == "auto" else settings.baselines
    return replace(settings, window=False, fill_holes=False, baselines=compared)


def with_what_is_meant(words: list[str]) -> list[str]:
    """Return the words with those that follow from them and from the measurement's file.

    These are the example of a task that has one, where no picture is given; the mask operator and
    the mask; the noise level of a noisy picture and the quality of a JPEG file; and the solver, for
    an operator that the default solver does not take.

    Raises:
        InputError: a measurement has pixels to be filled, and nothing says which.
    """
    words = with_mask_operator([_plain_word(word) for word in words])
    merged = config.resolve(words, SolveSettings)
    task = merged.get("task")
    example = example_of(task)
    if example and not (merged.get("input") or merged.get("measurement") or _of(words, "operator")):
        picture, mask = example
        words = [*words, f"measurement={picture}", f"operator.mask={mask}"]
        merged = config.resolve(words, SolveSettings)
    kind = _class_of(merged)
    if kind is None:
        return words
    # The config of a run tells all that was meant.
    if merged.get("volume") is True and _of(words, "volume"):
        words = [*words, *_meant_by_volume(words)]
    if merged.get("input") and kind is MaskFile and "mask" not in merged["operator"]:
        raise without_mask(str(task), "picture")
    source = None if merged.get("input") else merged.get("measurement")
    # A run's stored config has the name of its task, too, and all that was meant by it.
    is_preset = isinstance(task, str) and f"task={task}" in words
    if source is not None and is_preset and task in config.preset_names("task"):
        words = [*words, *_found_in_file(words, str(task), kind, str(source))]
    in_use = merged["solver"]
    if in_use == config.component("solver", DEFAULT, task) and not _of(words, "solver"):
        fitting = solver_for(kind, exact=_is_exact(merged))
        if fitting != DEFAULT:
            say(f"solver {fitting}: for {merged['operator']['name']} is not linear")
            words = [*words, f"solver={fitting}"]
    return words


def without_mask(task: str, found: str) -> InputError:
    """Return the refusal of a picture that has no mask."""
    return InputError(
        f"task {task}: found a {found} and no mask, expected operator.mask=FILE of what is to be "
        "filled: black and white, a transparent layer, or a copy of the picture with strokes in "
        "one colour"
    )


def _meant_by_volume(words: list[str]) -> list[str]:
    """Words that a volume adds: the solver that couples slices, and one sample."""
    found = []
    if not {"solver", "solver.name"} & {word.partition("=")[0] for word in words}:
        say(f"solver {OF_VOLUMES}: couples the slices of a volume")
        found.append(f"solver={OF_VOLUMES}")
    if not _of(words, "samples"):
        found.append("samples=1")
    return found


def _of(words: list[str], key: str) -> list[str]:
    """The words that are about one key."""
    return [word for word in words if word.partition("=")[0].partition(".")[0] == key]


def _plain_word(word: str) -> str:
    """A word, where operator.invert= stands for operator.kept=."""
    plain = {
        "operator.invert=true": "operator.kept=black",
        "operator.invert=false": "operator.kept=white",
    }
    return plain.get(word, word)


def _class_of(merged: config.Settings) -> type[Operator] | None:
    """The operator's class, None where no operator is named."""
    operator = merged.get("operator")
    name = operator.get("name") if isinstance(operator, Mapping) else None
    return None if name is None else registry.lookup("operator", name)


def _is_exact(merged: config.Settings) -> bool:
    """Whether the settings say that there is no noise."""
    noise = merged.get("noise")
    return isinstance(noise, Mapping) and bool(noise.get("sigma") == 0)


def _found_in_file(words: list[str], task: str, kind: type[Operator], source: str) -> list[str]:
    """Words that a real measurement adds to a task by name."""
    found = []
    sides = known_sides(source) if task == "outpaint" and not _of(words, "operator") else None
    if sides is not None:
        height, width = sides
        say("outpaint: the picture is the middle of a larger one, three quarters of either side")
        found = [f"operator.height={height}", f"operator.width={width}"]
    elif issubclass(kind, Mask) and not _of(words, "operator"):
        if not has_holes(source):
            raise without_mask(str(task), "measurement")
        found = ["operator.name=mask_file", f"operator.mask={source}"]
    if kind is Jpeg and not _of(words, "operator"):
        found += _coding_of(source, task)
    elif not issubclass(kind, Mask):
        if not _of(words, "noise"):
            found += _noise_found(words, task, kind, source)
        if task == "denoise" and not _of([*words, *found], "noise"):
            found.append("noise.sigma=auto")
        say_assumed([*words, *found], task)
    return found


def _files_of(source: str) -> list[Path]:
    """The files that a setting names: those in a folder, or the one."""
    return image_files(source) if os.path.isdir(source) else [Path(source)]


def _coding_of(source: str, task: str) -> list[str]:
    """Words that tell how JPEG files were coded.

    Raises:
        InputError: they do not tell, or were coded in several ways.
    """
    codings = set()
    for file in _files_of(source):
        coded = jpeg_coding(file)
        if not file.exists():  # told by what reads it
            return []
        if coded is None:
            raise InputError(
                f"task {task}: {file} is no JPEG file and does not tell its quality, expected the "
                "JPEG file itself, or operator.quality=N (10 for strong blocks, 50 for faint ones)"
            )
        codings.add(coded)
    if len(codings) > 1:
        raise InputError(
            f"task {task}: found JPEG files that were coded in {len(codings)} ways, expected one: "
            "restore them one by one"
        )
    found = []
    for coded in codings:
        say(
            f"{task}: quality {coded.quality}, {coded.chroma} resolution of colour, as the file "
            "tells"
        )
        found = [f"operator.quality={coded.quality}", f"operator.chroma={coded.chroma}"]
        if coded.orientation != 1:
            found.append(f"operator.orientation={coded.orientation}")
    return found


def _noise_found(words: list[str], task: str, kind: type[Operator], source: str) -> list[str]:
    """Words that tell the noise of pictures, where they do and it is more than the task assumes.

    What coding as JPEG changed counts as noise. Of it hardly any is seen in the picture where its
    noise is read, so that both are added. In a picture that was blurred, fine texture is not taken
    for noise, and there it is read where coding changed nothing, too.
    """
    assumed = config.resolve(words, SolveSettings).get("noise") or {}
    sigma = assumed.get("sigma")
    if assumed.get("name") != "gaussian" or not isinstance(sigma, float) or sigma == 0:
        return []
    files = _files_of(source)
    coded = [coding_error(file) or 0.0 for file in files]
    is_blurred = issubclass(kind, BLURS)
    if not any(coded) and not is_blurred:
        return []  # of a noisy picture each is read where it is posed
    is_read = is_blurred or kind is Denoise
    read = [noise_read(file) if is_read else 0.0 for file in files]
    levels = [math.hypot(*pair) for pair in zip(coded, read, strict=True)]
    found = float(f"{median(levels):.2g}") if levels else 0.0
    if found <= (0 if kind is Denoise else sigma):
        return []
    whose = "the picture" if len(files) == 1 else "half of the pictures"
    parts = " and what coding as JPEG changed" if any(coded) else ""
    say(f"{task}: noise.sigma={found:g}, {255 * found:.2g} of 255: noise{parts}, read from {whose}")
    return [f"noise.sigma={found:g}"]


def noise_read(file: Path) -> float:
    """Return the noise level of the pictures in a file, 0 where it cannot be read."""
    try:
        values = read_picture(file, rule=MEASUREMENTS, notes=False).values
        return float(estimate_sigma(values.nan_to_num()).median())
    except InputError:  # told by what reads the file
        return 0.0


def say_assumed(words: list[str], task: str) -> None:
    """Say what a task takes for granted of the operator of a real measurement, and of its noise."""
    merged = config.resolve(words, SolveSettings)
    taken = [
        f"{part}.{key}={as_yaml(value)}"
        for part in ("operator", "noise")
        if not _of(words, part)
        for key, value in merged[part].items()
        if key != "name" and (part, value) != ("noise", 0)
    ]
    if taken:
        say(f"{task}: assumes {', '.join(taken)}; say what is otherwise")


def with_mask_operator(words: list[str]) -> list[str]:
    """Return the words with operator.name=mask_file, where a mask is given to an operator without.

    A word ``operator.mask=FILE`` is for the operator that the words or the task name, if it has
    such a setting; else it means the operator that a mask alone describes. So does
    ``operator.kernel=FILE``, which alone describes a blur.
    """
    keys = {word.partition("=")[0] for word in words}
    described = [key for key in DESCRIBED_BY if f"operator.{key}" in keys]
    if not described or keys & {"operator", "operator.name"}:
        return words
    given = config.resolve(words, SolveSettings).get("operator") or {}
    named = registry.lookup("operator", given["name"]) if given.get("name") else None
    if named is not None and described[0] in config.schema(named):
        return words
    return [*words, f"operator.name={DESCRIBED_BY[described[0]]}"]


def solve_together(
    settings: SolveSettings, share: Share, parts: list[Part], prior: Denoiser, solver: Solver
) -> None:
    """Draw this process's samples; the process that finds all of them there writes the results.

    Raises:
        InputError: as `solve_parts`, and for a run of other settings that is not finished.
    """
    if settings.estimate == "mmse":
        raise InputError("estimate: found mmse and several processes, expected one: it is one call")
    results_of(settings)  # refused before the work
    wait_for_all()
    tasks = [Task(part.size, part.problem, part.numbers) for part in parts]
    with progress_bar(hidden=not share.speaks) as bar:
        run = SharedRun(
            final=place_of(settings),
            share=share,
            prior=prior,
            solver=solver,
            samples=settings.samples,
            seed=settings.seed,
            batch=settings.batch,
            tile=settings.tile,
            precision=settings.precision,
            compile=settings.compile,
            fill_holes=settings.fill_holes,
            show=lambda done: show(bar, done),
        )
        done = run.finish(tasks, lambda drawn: solve_parts(settings, parts, prior, solver, drawn))
    if not done and settings.part is not None:
        in_all = sum(settings.samples * len(part.problem) for part in parts)
        say(
            f"part {settings.part}: done; {run.count(tasks)} of {several(in_all, 'sample')} are "
            f"in {run.folder}"
        )


@dataclass(frozen=True, kw_only=True)
class UnknownKernel:
    """What ``operator.kernel=unknown`` is told of the kernel, as words of the operator.

    Attributes:
        kernel: "unknown".
        family: gaussian, defocus or motion, whose parameters are unknown; free for any kernel.
        size: odd side in pixels of a square that holds the kernel.

    Example:
        >>> UnknownKernel(family="motion", size=21)
        UnknownKernel(kernel='unknown', family='motion', size=21)
    """

    kernel: Literal["unknown"] = "unknown"
    family: str = "free"
    size: int = 21

    def __post_init__(self) -> None:
        one_of("operator.family", self.family, FAMILIES)
        odd_size(self.size)


def unknown_kernel(words: list[str]) -> UnknownKernel | None:
    """Return what words tell of a kernel that is unknown; None where it is known.

    Raises:
        InputError: a word of the operator does not go with it.
    """
    merged = config.resolve(words, SolveSettings)
    operator = merged.get("operator")
    if not isinstance(operator, Mapping) or operator.get("kernel") != UNKNOWN:
        return None
    # The task's own blur is the one that is not known: only what the words say counts.
    said = {word.partition("=")[0].partition(".")[2] for word in _of(words, "operator")}
    if "" in said:
        said.add("name")
    given = {key: operator[key] for key in operator if key in said or "name" not in operator}
    kind = given.pop("name", "blur")
    if kind != "blur":
        raise InputError(
            f"operator: found {brief(kind)} with kernel=unknown, expected blur, or no name"
        )
    return config.validate(UnknownKernel, given, "operator")


def solve_unknown(words: list[str], unknown: UnknownKernel) -> None:
    """Restore a picture whose blur is not known, and tell the kernel that was found.

    Raises:
        InputError: a setting does not go with an unknown kernel, or the picture cannot be read.
    """
    settings = settings_of_unknown(words, unknown)
    folder = results_of(settings)  # refused before the work
    kernels = kernel_prior(unknown.family, unknown.size)
    part = pose_unknown(settings, kernels)
    (picture,) = part.pictures
    settings = with_prior(settings, [part])
    prior = load_prior(settings.prior, Share().device(settings.device))
    check_prior(prior)
    match_channels(prior, part.problem.operator.shape[0])
    tell_unknown(settings, part, unknown)
    stored = asdict(settings) | {"prior": plain(settings.prior)}
    for key in ("out", "overwrite", "part", "solver"):
        del stored[key]
    # The folder's handlers of signals lie outside of `held`, which puts back what it met.
    with cleaned_by_signals(), contextlib.ExitStack() as held:
        with folder:
            config.dump(stored, folder.path / RUN_FILE)
            with progress_bar() as bar:
                found = restore_blind(
                    picture.values,
                    noise=part.problem.noise,
                    prior=prior,
                    kernel=unknown.family,
                    size=unknown.size,
                    samples=settings.samples,
                    seed=settings.seed,
                    batch=settings.batch,
                    tile=settings.tile,
                    precision=settings.precision,
                    compile=settings.compile,
                    on_progress=lambda share: show(bar, share),
                )
            say(found.told())
            if unknown.family == "free":
                say(FREE_IS_NARROW)
            held.enter_context(held_back("writing the results"))
            found.save_kernel(folder.path)
            found.picture.save(folder.path, pictures=[picture])
            fit = {"sample": {"misfit": found.misfit().tolist()}}
            cost = {"nfe": found.picture.nfe, "seconds": found.picture.seconds}
            report = {"images": [picture.name], **cost, "metrics": fit}
            write_json(folder.path / "metrics.json", report)
            with costs_a_line(folder.path / "panel.png"):
                found.picture.plot(folder.path / "panel.png", None, part.names, {})
        say(f"kernel: {folder.final / 'kernel.png'}")
        # Of the pixels beyond those of y hardly anything was measured.
        answer = picture.with_values(found.within(found.picture.answer))
        write_answer(folder.final.parent, answer, overwrite=settings.overwrite)


def settings_of_unknown(words: list[str], unknown: UnknownKernel) -> SolveSettings:
    """Return the settings of a run whose kernel is unknown.

    Raises:
        InputError: one does not go with it.
    """
    given = {word.partition("=")[0].partition(".")[0] for word in words}
    for key in NOT_WITH_UNKNOWN:
        if key in given:
            raise InputError(
                f"{key}: found it with operator.kernel=unknown, expected none, which has a method "
                "of its own"
            )
    merged = config.resolve(words, SolveSettings)
    if not merged.get("noise"):
        merged["noise"] = {"name": "gaussian", "sigma": "auto"}
    settings = config.validate(SolveSettings, {**merged, "operator": asdict(unknown)})
    if Share.of(settings.part) != Share():
        raise InputError("operator.kernel: found unknown and several processes, expected one")
    if settings.measurement is None or settings.input is not None:
        raise InputError("operator.kernel: found unknown, expected measurement=FILE and no input=")
    return settings


def pose_unknown(settings: SolveSettings, kernels: KernelPrior) -> Part:
    """Return the picture of a run whose kernel is unknown, and its problem with a point as kernel.

    Raises:
        InputError: it cannot be read, is more than one, or the kernel is too large for it.
    """
    pictures = [part for p in read_pictures(str(settings.measurement)) for part in p.parts()]
    count = sum(len(picture) for picture in pictures)
    if count != 1:
        raise InputError(
            f"measurement: found {count} pictures, expected one: each has a kernel of its own"
        )
    noise = config.build("noise", settings.noise)
    check_level(settings.noise.get("sigma"), pictures)
    problem = blind_problem(pictures[0].values, noise, kernels)
    if may_stretch(settings.stretch, name_of(settings.prior)):
        pictures, noise, used = stretched(pictures, noise, problem.operator)
        if used is not None:
            say(f"range: {told_of_stretch(used)}")
            problem = blind_problem(pictures[0].values, noise, kernels)
    return Part(pictures, [0], None, problem)


def tell_unknown(settings: SolveSettings, part: Part, unknown: UnknownKernel) -> None:
    """Print what is about to be done with an unknown kernel."""
    sigma = getattr(part.problem.noise, "sigma", None)
    level = float(torch.as_tensor(sigma).max()) if sigma is not None else None
    if level is not None and part.stretch is not None:  # on the file's scale
        level *= part.stretch.width
    known = "" if level is None else f", sigma = {describe_sigma(level)}"
    shape = "x".join(map(str, part.pictures[0].values.shape[1:]))
    say(
        f"unknown kernel on an image {shape}, family {unknown.family}, "
        f"{unknown.size}x{unknown.size} pixels{known}"
    )
    say(
        f"{several(settings.samples, 'sample')} of picture and kernel under "
        f"'{name_of(settings.prior)}'"
    )


def place_of(settings: SolveSettings) -> Path:
    """Return the folder of the results, which gets a number where it exists and was not named."""
    return Path(settings.out or Path("results") / run_name(settings))


def results_of(settings: SolveSettings) -> WholeFolder:
    """Return the folder of the results, not made yet.

    Raises:
        InputError: it can have no place.
    """
    return WholeFolder(
        place_of(settings),
        overwrite=settings.overwrite,
        numbered=settings.out is None,
        ours=lambda path: config.holds_settings(path, SolveSettings),
    )


def solve_parts(
    settings: SolveSettings,
    parts: list[Part],
    prior: Denoiser,
    solver: Solver,
    drawn: list[Posterior] | None = None,
) -> None:
    """Restore the images part by part into the run's folder, and say where it is.

    What is finished is kept: a part is written as soon as its samples are drawn, and a run that is
    stopped between parts leaves those that it has, with a ``metrics.json`` that says so.

    Args:
        settings: of the run.
        parts: of the images.
        prior: the denoiser.
        solver: the method.
        drawn: the samples of each part, where they were drawn before.

    Raises:
        InputError: the folder cannot be written, or the samples of a part.
    """
    free = ("out", "overwrite", "part")
    stored = {key: value for key, value in asdict(settings).items() if key not in free}
    stored["prior"] = plain(settings.prior)
    if settings.classifier is not None:
        stored["classifier"] = plain(settings.classifier)
    failures: list[InputError] = []
    finished: list[str] = []
    answers: list[Picture] = []
    folder = results_of(settings)
    with cleaned_by_signals(), contextlib.ExitStack() as held:
        with folder:
            config.dump(stored, folder.path / RUN_FILE)
            name = name_of(settings.prior)
            if hub.recognise(name):
                write_json(folder.path / "prior.json", hub.origin(name, prior_files(name)))
            text = (folder.path / RUN_FILE).read_text(encoding="utf-8")
            try:
                for i, part in enumerate(parts):
                    describe(settings, part, solver)
                    holes = large_holes(part.problem, prior, solver)
                    if settings.fill_holes and holes.told_of_fill:
                        say(holes.told_of_fill)
                    if drawn is None and settings.estimate != "mmse":
                        begun = holes.view(prior) if settings.fill_holes else prior
                        say_cost(settings, part, begun, solver)
                    stopped: Interrupted | None = None
                    try:
                        posterior = (
                            run(settings, part, prior, solver) if drawn is None else drawn[i]
                        )
                    except Interrupted as stop:
                        if stop.posterior is None:
                            raise
                        stopped = stop
                        posterior = stop.posterior
                        say(
                            f"stopped; finished are {len(posterior.samples)} of "
                            f"{several(settings.samples, 'sample')}, "
                            f"{len(stop.images)} of {several(len(part.problem), 'image')}"
                        )
                        part = part.of(stop.images)
                    posterior = replace(
                        posterior, colours=colours_of(settings), volume=settings.volume
                    )
                    if stopped is None:
                        posterior = calibrated(settings, part, prior, solver, posterior)
                    if settings.estimate != "mmse":
                        say(intervals_line(settings, part, prior, solver, posterior))
                    if line := told_of_noise(settings, posterior, part.stretch):
                        say(line)
                    # A signal waits for what is finished to be written, and for the folder's name.
                    held.enter_context(held_back("writing the results"))
                    within = folder.path if len(parts) == 1 else folder.path / part.size
                    within.mkdir(parents=True, exist_ok=True)
                    try:
                        posterior.save(within, pictures=part.saved)
                    except InputError as error:
                        failures.append(error)
                    folder.keep()
                    if settings.measurement and not settings.preview:
                        answers += part.answers(posterior.answer)
                    judge_and_show(settings, part, posterior, within, text, stopped is not None)
                    finished.append(part.size)
                    if stopped is not None:
                        raise stopped
                    if part is not parts[-1]:
                        held.close()
            except BaseException:
                if finished and len(parts) > 1:
                    write_json(
                        folder.path / "metrics.json", {"interrupted": True, "parts": finished}
                    )
                raise
        for name in ("panel.png", "report.html"):
            for path in sorted(folder.final.rglob(name)):
                say(f"{path.stem}: {path}")
        for answer in answers:
            write_answer(folder.final.parent, answer, overwrite=settings.overwrite)
    if failures:
        raise failures[0]


def write_answer(folder: Path, answer: Picture, *, overwrite: bool) -> None:
    """Write a restored picture into a folder, in the format that went in; what fails costs a warning."""
    path = folder / f"{answer.name}_restored{answer.own_suffix}"
    path = path if overwrite else free_name(path)
    with costs_a_line(path):
        write_picture(path, answer, overwrite=overwrite)
        say(f"restored: {path}")


def judge_and_show(
    settings: SolveSettings,
    part: Part,
    posterior: Posterior,
    folder: Path,
    stored_config: str,
    interrupted: bool = False,
) -> None:
    """Write metrics.json, panel.png and report.html; what fails costs a warning."""
    metrics: dict[str, dict[str, list[float]]] = {}
    others: dict[str, Tensor] = {}
    if not interrupted:
        others = baselines(posterior.problem, settings.baselines)
        if line := left_out(posterior.problem, settings.baselines):
            say(line)
    with costs_a_line(folder / "metrics.json"):
        report = measure(posterior, part.truth, others)
        metrics = report["metrics"]
        say(table(report))
        begun = {"interrupted": True, "samples": len(posterior.samples)} if interrupted else {}
        write_json(folder / "metrics.json", {"images": part.shown, **begun, **report})
    with costs_a_line(folder / "panel.png"):
        posterior.plot(folder / "panel.png", part.truth, part.shown, others)
    with costs_a_line(folder / "report.html"):
        write_report(
            folder / "report.html",
            posterior,
            truth=part.truth,
            names=part.shown,
            metrics=metrics,
            config=stored_config,
            title=f"{run_name(settings)}, {settings.solver['name']}, prior {Path(name_of(settings.prior)).stem}",
        )


@contextlib.contextmanager
def costs_a_line(path: Path) -> Iterator[None]:
    """Turn any failure inside the block into a warning that `path` is missing."""
    try:
        yield
    except Exception as error:  # the samples are written, and are worth more than this file
        warn(f"{path.name}: left out: {first_line(error)}")


def say(text: str) -> None:
    """Print, if anybody is there to read it: a closed pipe is no reason to lose results."""
    if heard(text):
        return
    with contextlib.suppress(OSError):
        print(text, flush=True)


@dataclass(frozen=True)
class Part:
    """The images of one shape, and their problem.

    Attributes:
        pictures: the files that the images were read from.
        numbers: of the images among all, which name their random streams.
        truth: (B, C, H, W), if they are clean images.
        problem: operator, noise and measurements.
        window: where the pictures, the truth and the problem lie in the files' pictures; None for
            all of these.
        wholes: the files' pictures, where there is a window.
        slices: of a volume, which is then the one picture, an image of D channels.

    Example:
        >>> settings = SolveSettings(
        ...     prior="fashion", operator={"name": "denoise"}, noise={"name": "gaussian", "sigma": 0.1}, images=2
        ... )
        >>> (part,) = pose(settings)  # the examples of the prior
        >>> part.numbers, part.size
        ([0, 1], '1x32x32')
    """

    pictures: list[Picture]
    numbers: list[int]
    truth: Tensor | None
    problem: Problem
    window: Window | None = None
    wholes: list[Picture] = field(default_factory=list)
    slices: Picture | None = None

    def of(self, images: list[int]) -> Part:
        """Return the part of some of the images, by number."""
        if len(images) == len(self.names):
            return self
        return Part(
            some_of(self.pictures, images),
            [self.numbers[b] for b in images],
            None if self.truth is None else self.truth[images],
            self.problem.select(images),
            self.window,
            some_of(self.wholes, images) if self.wholes else [],
        )

    @property
    def stretch(self) -> Units | None:
        """The part of the files' [0, 1] that was stretched, the same for all pictures."""
        return self.pictures[0].stretch

    @property
    def looks(self) -> Tensor:
        """What the images look like before they are restored, (B, C, H, W)."""
        return self.pages(looks(self.problem) if self.truth is None else self.truth)

    def pages(self, x: Tensor) -> Tensor:
        """Return images (B, C, H, W); of a volume its slices, (D, 1, H, W)."""
        return x if self.slices is None else x.transpose(0, 1)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W) of the restored images; of a volume that of its slices."""
        shape = tuple(self.problem.operator.shape)
        return shape if self.slices is None else (1, *shape[1:])

    def answers(self, restored: Tensor) -> list[Picture]:
        """The restored pictures, as large as the files', given their values (B, C, H, W)."""
        if self.slices is not None:
            return [self.slices.with_values(self.pages(restored))]
        parts = torch.split(restored, [len(picture) for picture in self.pictures])
        pictures = self.wholes or self.pictures
        return [put_back(self.window, p, part) for p, part in zip(pictures, parts, strict=True)]

    @property
    def size(self) -> str:
        """Shape of the measurements in the files, as the name of a folder."""
        picture = (self.wholes or self.pictures)[0]
        return "x".join(map(str, picture.values.shape[1:]))

    @property
    def names(self) -> list[str]:
        """Names of the images."""
        return [name for picture in self.pictures for name in picture.names]

    @property
    def saved(self) -> list[Picture]:
        """What the images are written like: the pictures, or the slices of a volume."""
        return self.pictures if self.slices is None else [self.slices]

    @property
    def shown(self) -> list[str]:
        """Names of the images that are shown: of a volume those of its slices."""
        return [name for picture in self.saved for name in picture.names]


def some_of(pictures: list[Picture], images: list[int]) -> list[Picture]:
    """Return some of the images of pictures, by number, as a picture each."""
    single = [
        replace(picture.select([b]), name=name)
        for picture in pictures
        for b, name in enumerate(picture.names)
    ]
    return [single[b] for b in images]


def pose(settings: SolveSettings) -> list[Part]:
    """Return the parts of a run: one for the images of each shape.

    Raises:
        InputError: a setting is missing or out of range, or the images cannot be read.
    """
    if settings.images is not None and settings.images < 1:
        raise InputError(f"images: found {settings.images}, expected at least 1")
    if not settings.operator:
        raise InputError("task is missing: expected task=NAME or operator.name=NAME")
    named = name_of(settings.prior)
    examples = EXAMPLES_OF if named == AUTO else named
    source = settings.measurement or settings.input or str(example_images(examples))
    kind: type[Operator] = config.resolve_class("operator", settings.operator, shape=())[0]
    if settings.volume:
        return [pose_volume(settings, kind, source)]
    if settings.measurement:
        files = [in_gray(p, kind) for p in read_measurements(source, kind.picture, kind.coiled)]
    else:
        files = read_pictures(source)
    shapes: dict[tuple[int, ...], list[tuple[int, Picture]]] = {}
    count = 0
    for picture in [part for file in files for part in file.parts()]:
        shapes.setdefault(tuple(picture.values.shape[1:]), []).append((count, picture))
        count += len(picture)
    # Masks or kernels may be one per image, so that an operator is made for all images of a shape.
    every = {
        shape: [first + b for first, p in found for b in range(len(p))]
        for shape, found in shapes.items()
    }
    most = most_images(settings, count)
    chosen = {shape: [(b, p) for b, p in found if b < most] for shape, found in shapes.items()}
    if settings.images is None and settings.input and most < count:
        say(f"images: the first {most} of {count} are taken; images={count} takes all")
    return [
        pose_shape(settings, shape, every[shape], found) for shape, found in chosen.items() if found
    ]


def most_images(settings: SolveSettings, count: int) -> int:
    """Return how many images a run takes, of so many that there are."""
    most = CLEAN_IMAGES if settings.measurement is None else count
    return min(count, most if settings.images is None else settings.images)


def pose_volume(settings: SolveSettings, kind: type[Operator], source: str) -> Part:
    """Return the part of a volume, which is one image of D channels.

    Raises:
        InputError: the file or folder holds no volume.
    """
    if settings.measurement and not kind.picture:  # such as a sinogram for each slice
        found = read_measurements(source, kind.picture, kind.coiled)
        if [len(measured) for measured in found] != [1]:
            raise InputError(
                f"measurement {source}: found several images, expected one volume, (D, h, w)"
            )
        (volume,) = found
        pages = volume.values.transpose(0, 1)
        slices = replace(volume, values=pages, stack=True, source=".npy")
    else:
        slices = read_volume(source)
        volume = replace(
            slices, values=slices.values.transpose(0, 1), header=None, stack=False, source=""
        )
    part = pose_shape(settings, tuple(volume.values.shape[1:]), [0], [(0, volume)])
    slices = replace(slices, stretch=part.stretch)
    return replace(part, slices=slices)


def pose_shape(
    settings: SolveSettings,
    shape: tuple[int, ...],
    every: list[int],
    found: list[tuple[int, Picture]],
) -> Part:
    """Return the part of one shape (C, H, W).

    Args:
        settings: of the run.
        shape: of the images, or of the measurements.
        every: numbers of all images of this shape, for which masks or kernels are made.
        found: pictures to restore, each with the number of its first image.
    """
    kind: type[Operator]
    described = numbered(settings.operator, every)
    kind, given = config.resolve_class("operator", described, shape=())
    most = most_images(settings, 1 + max(every))
    pictures = [p.select(range(min(len(p), most - first))) for first, p in found]
    values = torch.cat([picture.values for picture in pictures])
    image_shape = kind.infer_shape(shape, given) if settings.measurement else shape
    in_frame = settings.measurement is not None and is_frame(kind, given, shape)
    if in_frame:
        image_shape = tuple(continued(pictures[0]).values.shape[1:])
    resolved = config.resolve_class("operator", described, shape=image_shape, photo=values)
    operator = made(*resolved)
    operator.check_batch(len(every))
    operator = operator.select(range(len(values)))
    numbers = every[: len(values)]
    noise = config.build("noise", settings.noise)
    check_level(settings.noise.get("sigma"), pictures)
    if in_frame:
        pictures = [continued(picture) for picture in pictures]
        values = torch.cat([picture.values for picture in pictures])
    if settings.measurement and settings.measurement == given.get("mask"):  # its holes are filled
        pictures = [replace(picture, alpha=None) for picture in pictures]
    if may_stretch(settings.stretch, name_of(settings.prior)):
        is_clean = not settings.measurement
        pictures, noise, part = stretched(pictures, noise, operator, simulated=is_clean)
        if part is not None:
            say(f"range: {told_of_stretch(part)}")
            values = torch.cat([picture.values for picture in pictures])
    if settings.measurement:
        window = window_of(operator, noise) if settings.window else None
        wholes: list[Picture] = []
        problem = problem_in(window, operator, noise, operator.measured(values))
        problem = with_coding(problem, noise, pictures)
        if window is not None:
            say(told_of_window(window, operator.shape))
            wholes = pictures
            pictures = [window.picture(picture) for picture in wholes]
        return Part(pictures, numbers, None, problem, window, wholes)
    return Part(
        pictures, numbers, values, Problem.simulate(values, operator, noise, settings.seed, numbers)
    )


def in_gray(picture: Picture, kind: type[Operator]) -> Picture:
    """Return a measurement of one channel that came as a picture of three, where that is meant."""
    if not issubclass(kind, Grayscale | Demosaic) or picture.values.shape[1] != 3:
        return picture
    is_gray = bool((picture.values.amax(1) - picture.values.amin(1)).max() < NO_COLOUR)
    if not is_gray and issubclass(kind, Demosaic):
        return picture  # refused, as it is no mosaic
    if not is_gray:
        warn(f"{picture.name}: is in colour; its gray values are coloured anew")
    return picture.with_values(to_channels(picture.values, 1))


def told_of_mask(part: Part) -> str:
    """Return the line that tells how much a mask leaves to be filled, empty for other operators."""
    operator = part.problem.operator
    if not isinstance(operator, Mask):
        return ""
    filled = 1 - float(operator.s.mean())
    if part.window is not None:
        filled *= part.window.share_of(part.wholes[0].values)
    return f"{percent_of(filled)} of the picture is filled"


def colours_of(settings: SolveSettings) -> float:
    """Return how strong the colours of an answer are to be."""
    if isinstance(settings.colours, str):
        return colours_for(name_of(settings.prior))
    return settings.colours


def told_of_colours(part: Part, colours: float) -> str:
    """Return the line that tells what colours of a gray picture are worth, empty for other operators.

    Args:
        part: of the pictures.
        colours: how strong the answer has them.
    """
    if not isinstance(part.problem.operator, Grayscale):
        return ""
    guesses = "colours are guesses, others in every sample; gray may be nearer to the truth"
    if colours == 1:
        return guesses
    return (
        f"{guesses}; what is written has those of their mean, {colours:g} times as strong "
        "(colours=1 leaves them)"
    )


def describe(settings: SolveSettings, part: Part, solver: Solver) -> None:
    """Print what is about to be done, the noise on all three scales."""
    problem = part.problem
    for line in filter(None, (told_of_mask(part), told_of_colours(part, colours_of(settings)))):
        say(line)
    sigma = getattr((problem.stated or problem).noise, "sigma", None)
    stretch = part.stretch
    if stretch is not None and sigma is not None:  # as people know it, on the file's scale
        sigma = sigma * stretch.width
    noise = f"{settings.noise['name']} noise"
    if isinstance(sigma, float):
        noise = f"{noise}, sigma = {describe_sigma(sigma)}" if sigma else "without noise"
    shape = "x".join(map(str, problem.operator.shape))
    count = "a volume" if part.slices is not None else several(len(problem), "image")
    say(f"{settings.operator['name']} on {count} {shape}, {noise}")
    if isinstance(sigma, Tensor):  # one per image, for a setting is a number or "auto"
        for name, level in zip(part.names, sigma.tolist(), strict=True):
            say(f"{name}: sigma = {describe_sigma(level)}, estimated from the measurement")
    for picture in part.pictures:
        if picture.units is not None:
            say(
                f"{picture.name}: 0 is {picture.units.low:g} and 1 is {picture.units.high:g} in the file's units"
            )
    label = "" if settings.label is None else f" of label {settings.label}"
    each = " each" if len(problem) > 1 else ""
    what = f"{several(settings.samples, 'sample')}{each}, as the picture may have been, by {solver}"
    if settings.estimate == "mmse":
        what = "E[x | y] by one network call"
    say(f"{what} under the prior '{name_of(settings.prior)}'{label}")


def previewed(part: Part, settings: SolveSettings) -> Part:
    """Return a small version of a part, and say what it is."""
    side = SIDE if settings.preview is True else int(settings.preview)
    preview = preview_of(part.problem, side)
    is_whole = part.window is None
    say(preview.text if is_whole else preview.text.replace("the whole picture", "the window"))
    truth = None if part.truth is None else preview.small(part.truth)
    values = preview.problem.y if truth is None else truth
    pictures = []
    first = 0
    for picture in part.pictures:
        rows = slice(first, first + len(picture))
        first += len(picture)
        small = replace(picture, values=values[rows], alpha=None, header=None, background=None)
        pictures.append(small)
    return Part(pictures, part.numbers, truth, preview.problem, part.window, part.wholes)


def say_cost(settings: SolveSettings, part: Part, prior: Denoiser, solver: Solver) -> None:
    """Print what the samples of a part will cost, and what is cheaper where that is long.

    Args:
        settings: of the run.
        part: of the images.
        prior: whose ladder begins where a solver begins at a fill.
        solver: the method.
    """
    pixels = len(part.problem) * math.prod(part.problem.operator.shape[1:])
    if settings.samples * solver.total_steps * pixels < WORTH_TIMING:
        return
    cost = cost_of(
        part.problem,
        prior,
        solver,
        samples=settings.samples,
        batch=settings.batch,
        tile=settings.tile,
        precision=settings.precision,
    )
    say(str(cost))
    if part.slices is not None:  # its other ways would leave the slices apart
        return
    if line := cheaper(cost, part.problem, prior, preset(FEW_STEPS)):
        say(line)


def is_noise_assumed(settings: SolveSettings) -> bool:
    """Return whether the noise of a real measurement is what its task takes for granted."""
    task = settings.task
    if settings.measurement is None or task is None or task not in config.preset_names("task"):
        return False
    if task == "denoise":  # whose noise is read from the picture, or said
        return False
    taken = config.resolve([f"task={task}"], SolveSettings).get("noise")
    return settings.noise == taken


def told_of_noise(settings: SolveSettings, posterior: Posterior, stretch: Units | None) -> str:
    """Return the line about a picture with less noise than its task assumes, empty for others.

    Args:
        settings: of the run.
        posterior: its samples.
        stretch: the part of the file's [0, 1] that was stretched; sigma is told on the file's scale.
    """
    if not is_noise_assumed(settings):
        return ""
    fit = judge_fit(posterior.problem, posterior.samples)
    if fit.sigma is None or not bool(fit.too_close.any()):
        return ""
    assumed = fit.sigma if stretch is None else fit.sigma * stretch.width
    found = assumed * float(fit.misfit[fit.too_close].max()) ** 0.5
    return (
        f"noise: about {found:.1g} explains the picture, and {settings.task} assumes {assumed:.3g}; "
        f"noise.sigma={found:.1g} keeps nearer to it, if the rest is known well"
    )


def run(settings: SolveSettings, part: Part, prior: Denoiser, solver: Solver) -> Posterior:
    """Draw the samples of a part, with a progress bar."""
    unsaid = TOO_CLOSE if is_noise_assumed(settings) else ""
    with without(unsaid), progress_bar() as bar:
        return restore(
            part.problem,
            prior,
            solver,
            samples=settings.samples,
            seed=settings.seed,
            batch=settings.batch,
            tile=settings.tile,
            precision=settings.precision,
            compile=settings.compile,
            numbers=part.numbers,
            estimate=settings.estimate,
            fill_holes=settings.fill_holes,
            on_step=lambda done, total, step: bar.set_description_str(
                f"step {done}/{total} ", refresh=False
            ),
            on_progress=lambda share: show(bar, share),
        )


def calibrated(
    settings: SolveSettings, part: Part, prior: Denoiser, solver: Solver, posterior: Posterior
) -> Posterior:
    """Return the posterior of a part with the calibration that fits it, if there is one.

    There is none for fills.
    """
    if any(posterior.filled):
        return posterior
    adjustment = calibration_of(settings, part, prior, solver)
    return posterior if adjustment is None else replace(posterior, adjustment=adjustment)


def calibration_of(
    settings: SolveSettings, part: Part, prior: Denoiser, solver: Solver
) -> Adjustment | None:
    """Return the calibration that fits a part, None for none.

    Raises:
        InputError: one was named that does not fit, or of a part with a hole that is filled.
    """
    if settings.fill_holes and settings.calibration not in (None, "auto"):
        large_holes(part.problem, prior, solver).check_calibration()
    return calibration_for(
        settings.calibration, part.problem, prior, solver, settings.samples, settings.operator
    )


def intervals_line(
    settings: SolveSettings, part: Part, prior: Denoiser, solver: Solver, posterior: Posterior
) -> str:
    """Return how far the intervals of the page can be believed, and what to do, in one line."""
    adjustment = posterior.adjustment
    known = shown_levels(len(posterior.samples))
    name = preset_of(solver, settings.task) or str(settings.solver["name"])
    if adjustment is not None:
        size = f" of {adjustment.made_at}" if adjustment.made_at else ""
        held = f"; {adjustment.held_out}" if adjustment.held_out else ""
        return f"intervals of {name}: calibrated on {adjustment.source}{size}{held}"
    if not known:
        return f"intervals of {name}: none, for a single sample has none; 90 % needs samples=19"
    if any(posterior.filled):
        return f"intervals of {name}: {OF_FILLS}; there the intervals {SAY_OF_FILLS}"
    most = f", and at most {percent(known[0])} from so few samples" if known[0] < 0.9 else ""
    key = key_of(part.problem, prior, solver, len(posterior.samples), law_of(settings.operator))
    held = sentence(read_held(), key)
    return (
        f"intervals of {name}: not calibrated{most}; {held}; for calibrated ones: invdiff calibrate"
    )


def measure(
    posterior: Posterior, truth: Tensor | None, others: Mapping[str, Tensor] | None = None
) -> dict[str, Any]:
    """Return metrics of the baselines, of the samples (averaged over them) and of their mean.

    Each is a list with an entry per image. Solvers with particles have an entry "ess" likewise.

    Args:
        posterior: the samples.
        truth: (B, C, H, W), if known.
        others: baselines besides the posterior's own.
    """
    problem = posterior.problem
    estimates = {"baseline": posterior.baseline[None]}
    estimates |= {name: x[None] for name, x in (others or {}).items()}
    if posterior.estimate != "mean":
        estimates["mmse" if posterior.estimate == "mmse" else "sample"] = posterior.samples
    if len(posterior.samples) > 1 or posterior.estimate == "mean":
        estimates["mean"] = posterior.mean[None]
    if posterior.colours != 1 and isinstance(problem.operator, Grayscale):
        estimates["answer"] = posterior.answer[None]
    # Exact measurements have no misfit.
    is_noisy = bool((torch.as_tensor(problem.variance()) > 0).all())
    rows: dict[str, dict[str, list[float]]] = {}
    for name, images in estimates.items():
        pages = posterior.pages
        values = {} if truth is None else judge(pages(images), pages(truth.to(images)))
        if is_noisy:
            values["misfit"] = torch.stack([problem.misfit(x) for x in images])
        rows[name] = {metric: value.mean(0).tolist() for metric, value in values.items()}
    report = {"nfe": posterior.nfe, "seconds": posterior.seconds, "metrics": rows}
    return report if posterior.ess is None else {**report, "ess": posterior.ess.mean(0).tolist()}


def judge(images: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Return the metrics of images (K, B, C, H, W) against (B, C, H, W), clipped to [0, 1].

    Metrics that cannot be had are left out, with a warning.
    """
    try:
        return scores(images.clamp(0, 1), truth)
    except InputError as error:
        warn(f"metrics: left out: {error}")
        return {}


def table(report: dict[str, Any]) -> str:
    """Return the metrics as aligned columns, means over the images."""
    known = report["metrics"]["baseline"]
    columns = {name: form for name, form in FORM.items() if name in known}
    lines = [["", *columns, "calls", "seconds"]]
    for name, values in report["metrics"].items():
        cells = [form.format(sum(values[c]) / len(values[c])) for c, form in columns.items()]
        cost = (
            [str(report["nfe"]), f"{report['seconds']:.1f}"]
            if name in ("sample", "mean", "mmse", "answer")
            else ["0", "-"]
        )
        lines.append([name, *cells, *cost])
    rows = ["  ".join(f"{cell:>9}" for cell in line).rstrip() for line in lines]
    if "misfit" in columns:
        rows.append(MISFIT)
    if "ess" in report:
        ess = sum(report["ess"]) / len(report["ess"])
        rows.append(
            f"effective sample size of the particles behind a sample, at its smallest: {ess:.1f}"
        )
    return "\n".join(rows)


def run_name(settings: SolveSettings) -> str:
    """Return the name of a run: its task's, or its operator's."""
    return label(Path(settings.task or settings.operator["name"]).stem)


if __name__ == "__main__":
    config.run_command(main)
