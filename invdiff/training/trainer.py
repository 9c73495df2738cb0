"""Training of a DDPM prior by Algorithm 1 of Ho et al. 2020, which resumes exactly.

With an average of the weights (EMA), warm-up, cool-down and mixed precision. Every random number of
a step (its items, t, eps, dropout) is a function of (seed, step), so the state of a run is its
weights, their average, the optimiser and the step: a killed run continues to the weights it would
have had.

Under ``torchrun`` the same run is shared by several processes (Hugging Face Accelerate,
DistributedDataParallel). Each draws the numbers of the whole batch and takes its share, so that the
loss curve is that of one process; only dropout masks belong to the process and the micro-batch.
"""

from __future__ import annotations

import csv
import io
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from copy import copy, deepcopy
from dataclasses import asdict, dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from invdiff.errors import (
    InputError,
    Stopped,
    check_path,
    check_type,
    first_line,
    reason_of,
    shown,
    warn,
)
from invdiff.estimate import Estimate
from invdiff.io.lock import run_lock
from invdiff.io.pictures import grid
from invdiff.io.whole import cannot_write, write_whole
from invdiff.io.write import write_image
from invdiff.prior.checkpoint import (
    PRIOR_FILE,
    ClassifierSpec,
    PriorSpec,
    load_network,
    save_prior,
)
from invdiff.prior.classifier import NetworkClassifier, cross_entropy, log_probabilities
from invdiff.prior.ddpm import DDPM, Target, Variance
from invdiff.prior.denoiser import NetworkDenoiser
from invdiff.prior.experts import Experts, part_of
from invdiff.prior.guidance import ClassifierFree
from invdiff.prior.reverse import generate
from invdiff.prior.schedule import Schedule, ScheduleName
from invdiff.ranges import COUNT, LEVEL, NOT_NEGATIVE, POSITIVE, SHARE, Range, check_fields
from invdiff.resources import physical_memory, pick_device, this_process
from invdiff.rng import Seed, Streams, stream_seed
from invdiff.summary import several
from invdiff.training import averages
from invdiff.training.data import Data, epoch_order, load_data, to_device
from invdiff.training.files import ValueRange, check_value_range, content_hash
from invdiff.training.objective import Loss, Timesteps, timestep_sampler, training_loss
from invdiff.training.optimiser import OptimiserName, optimisers
from invdiff.training.record import RECORD_FILE, DataRecord

LOG_FILE = "log.csv"
SNAPSHOTS = "averages"  # folder in a run's folder


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Settings of a training run: all that the weights depend on, and how often they are judged.

    Attributes:
        data: a folder of images, an .npz of uint8 arrays, or "swissroll".
        size: side in pixels to which images are resized; by default that of the data.
        channels: 1 for gray images, 3 for colour; by default those of the data.
        crop: take random squares of ``size`` pixels instead of resizing.
        crop_scale: [low, high], the scales at which those squares are taken: at 0.2 a square is
            five times as wide, and shrunk; [0.2, 1] teaches what large things look like, too.
        held_out: images that are not trained on, a folder or an .npz; by default a part of data.
        value_range: [low, high], the values that become 0 and 1 in every file of a folder; needed
            for floats and medical files whose values leave [0, 1].
        data_changed: go on with a run although its data changed since it began; images that were
            held out before stay out of training.
        network: by its registered name; with ``classes`` it learns the labels of the data.
        schedule: the noise schedule: a name, {name: ..., its numbers, zero_terminal_snr: true}, or a
            table {abar: [...]}; by default flow for the target "flow", else linear.
        T: steps of a schedule with a name.
        target: what the network predicts, as in ``DDPM``. The target "flow" trains the velocity of
            flow matching, for which a schedule only says which noise levels are drawn. The target
            "label" trains a classifier of noisy images (``unet_classifier``).
        variance: sigma_t^2 of p_theta, as in ``DDPM``.
        loss: "simple"; "hybrid", which teaches the "learned" variance beside it; or "vlb" alone.
        min_snr: weight the error of x_0 by min(SNR, min_snr), 5 in Hang et al. 2023; .inf weights
            every target like eps; null for the plain squared error of the target.
        timesteps: "uniform"; "stratified", the same but spread evenly over a batch; "importance" by
            the size of the loss, which Nichol & Dhariwal advise for "vlb"; or "log_sigma", whose
            noise levels are log-uniform.
        sigma_range: [low, high], the noise levels of images in [0, 1] that are trained, with
            timesteps=log_sigma: for an expert of low noise, which is no prior by itself.
        p_uncond: share of the images whose label is withheld from a network with classes, so that
            it learns the unconditional model too (Ho & Salimans 2022, Alg. 1).
        init: a prior whose weights the run begins with: a name that ships, a file, or a run's
            folder. A network with classes, or with attention, may begin with one without.
        steps: optimiser steps in all.
        seconds: end the run by the clock, this many seconds after it was begun or continued, with
            the cool-down inside; ``steps`` is then the most that are done.
        batch: images in each step, over all processes.
        accumulate: micro-batches, one after the other, that the batch of a process is cut into to
            save memory.
        optimiser: "adamw"; or "muon" for the convolutions, which learns more from an image and
            takes longer over a step: by a third at 16 images of the preset ``fashion``, by less in
            larger batches.
        lr: the learning rate after ``warmup`` steps; it falls linearly to zero over the last
            ``cooldown`` steps.
        warmup, cooldown: steps over which the learning rate rises, and falls to zero.
        weight_decay: decoupled decay of the weights, as in AdamW.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights, reached gradually; or "auto", which keeps snapshots of two
            averages in the run's folder, and makes of them the average that denoises held-out images
            best, each time that the weights are judged (post-hoc EMA, Karras et al. 2024).
        flip: mirror images at random.
        seed: of every random number; the same seed gives the same weights.
        precision: "auto" is bf16 where the hardware computes in it, else float32.
        channels_last: keep images with the channels last, which is faster on some GPUs.
        compile: compile the network (torch.compile), which takes minutes and then saves time.
        device: where to compute: cpu, cuda, cuda:N; "auto" is CUDA where there is one.
        log_every: steps between lines of log.csv.
        eval_every: steps between judgements of the weights (bits/dim, a grid of samples).
        eval_images: held-out images of which bits/dim is the mean.
        save_every: steps between checkpoints.

    Example:
        >>> TrainSettings(data="photos", steps=1000, network={"name": "unet", "classes": 3}).classes
        3
    """

    data: str
    size: int | None = None
    channels: int | None = None
    crop: bool = False
    crop_scale: tuple[float, float] = (1.0, 1.0)
    held_out: str | None = None
    value_range: ValueRange | None = None
    data_changed: bool = False
    network: Mapping[str, Any] = field(default_factory=lambda: {"name": "unet"})
    schedule: ScheduleName | Mapping[str, Any] | None = None
    T: int = 1000
    target: Target | Literal["label"] = "eps"
    variance: Variance = "small"
    loss: Loss = "simple"
    min_snr: float | None = None
    timesteps: Timesteps = "uniform"
    sigma_range: tuple[float, float] | None = None
    p_uncond: float = 0.1
    init: str | None = None
    steps: int = 10_000
    seconds: float | None = None
    batch: int = 64
    accumulate: int = 1
    optimiser: OptimiserName = "adamw"
    lr: float = 2e-4
    warmup: int = 200
    cooldown: int = 0
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float | Literal["auto"] = 0.999
    flip: bool = False
    seed: Seed = 0
    precision: Literal["auto", "bf16", "float32"] = "auto"
    channels_last: bool = False
    compile: bool = False
    device: str = "auto"
    log_every: int = 50
    eval_every: int = 1000
    eval_images: int = 256
    save_every: int = 200

    def __post_init__(self) -> None:
        check_fields(self, _RANGES)
        check_value_range(self.value_range)
        Schedule.described(self.noise_schedule, self.T)
        _check_increasing("crop_scale", self.crop_scale, highest=1)
        if self.sigma_range is not None:
            _check_increasing("sigma_range", self.sigma_range, highest=math.inf)
            if self.timesteps != "log_sigma":
                raise InputError(
                    f"sigma_range: found it with timesteps={self.timesteps}, expected log_sigma"
                )
        if self.loss != "vlb" and (self.loss == "hybrid") != (self.variance == "learned"):
            expected = "variance learned for the loss hybrid, small or large for simple"
            raise InputError(
                f"loss, variance: found {self.loss}, {self.variance}, expected {expected}"
            )
        if self.min_snr is not None and self.loss == "vlb":
            raise InputError(
                f"min_snr: found {self.min_snr} with loss vlb, expected it with another loss"
            )
        if self.target == "label" and not self.classes:
            raise InputError(
                "network.classes is missing: expected the number of labels for target=label"
            )
        if self.target == "label" and (self.loss != "simple" or self.min_snr is not None):
            raise InputError(
                f"loss: found {self.loss}, min_snr={self.min_snr} for target=label, expected neither"
            )

    @property
    def noise_schedule(self) -> ScheduleName | Mapping[str, Any]:
        """The noise schedule, or the one that suits the target."""
        return self.schedule or ("flow" if self.target == "flow" else "linear")

    @property
    def classes(self) -> int:
        """Number of labels that the network knows; 0 where it knows none."""
        found = self.network.get("classes", 0)
        if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found <= 10**6:
            raise InputError(
                f"network.classes: found {found!r}, expected a whole number from 0 to 1000000"
            )
        return found

    def spec(self, shape: tuple[int, ...]) -> PriorSpec | ClassifierSpec:
        """Return the description of the prior or classifier to be trained, for items of a shape."""
        if self.target == "label":
            return ClassifierSpec(shape, self.network, self.noise_schedule, self.T)
        if self.loss != "simple" and len(shape) == 1:
            raise InputError(
                f"loss: found {self.loss} for points, expected simple: L_vlb is that of 8-bit images"
            )
        return PriorSpec(
            shape,
            self.network,
            self.noise_schedule,
            self.T,
            self.target,
            self.variance,
            data_range=self.value_range,
            sigma_range=self.sigma_range,
        )


_STEPS = Range(0, 10**12, integer=True)
_AT_LEAST_ONE = Range(1, 10**12, integer=True)
_RANGES = {
    "size": Range(1, 2**15, integer=True),
    "channels": Range(1, 4, integer=True),
    "T": COUNT,
    "min_snr": LEVEL,
    "p_uncond": SHARE,
    "steps": _AT_LEAST_ONE,  # times `batch` it is a 64-bit integer
    "seconds": POSITIVE,
    "batch": Range(1, 10**6, integer=True),
    "accumulate": Range(1, 10**6, integer=True),
    "lr": POSITIVE,
    "warmup": _STEPS,
    "cooldown": _STEPS,
    "weight_decay": NOT_NEGATIVE,
    "clip": LEVEL,
    "ema": Range(0, 1, below_high=True),
    "seed": Range(0, 2**63, integer=True),
    "log_every": _AT_LEAST_ONE,
    "eval_every": _AT_LEAST_ONE,
    "eval_images": _AT_LEAST_ONE,
    "save_every": _AT_LEAST_ONE,
}


def _check_increasing(name: str, pair: object, highest: float) -> None:
    """Raise InputError unless something is two numbers, 0 < low <= high <= highest."""
    numbers = (
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and all(isinstance(each, int | float) and not isinstance(each, bool) for each in pair)
    )
    if not (numbers and 0 < pair[0] <= pair[1] <= highest):  # type: ignore[index]
        most = "" if highest == math.inf else f" <= {highest:g}"
        raise InputError(
            f"{name}: found {shown(pair)}, expected [low, high] with 0 < low <= high{most}"
        )


def check_memory(settings: TrainSettings, shape: tuple[int, ...]) -> None:
    """Check that the images of one step and their noise fit into the machine's memory.

    Raises:
        InputError: they need more than all of the memory.
    """
    needed = 2 * 4 * settings.batch * math.prod(shape)  # x_0 and eps in float32
    memory = physical_memory()
    if needed > memory:
        raise InputError(
            f"batch, size: found {several(settings.batch, 'image')} of "
            f"{'x'.join(map(str, shape))}, "
            f"{needed / 2**30:.0f} GiB in a step, expected at most the {memory / 2**30:.0f} GiB "
            "of this machine"
        )


def check_sides(shape: tuple[int, ...], stride: int) -> None:
    """Check that a network can halve the sides of its images as often as it does.

    Args:
        shape: of an image, (C, H, W), or of a point.
        stride: what H and W must be multiples of.

    Raises:
        InputError: they are not.
    """
    sides = shape[1:]
    if any(side % stride for side in sides):
        nearest = max(stride, min(sides) // stride * stride)
        raise InputError(
            f"size: found images of {'x'.join(map(str, sides))}, expected multiples of {stride}, "
            f"the network's stride: size={nearest}"
        )


def fit(
    settings: TrainSettings, out: str | Path, *, progress: bool = True
) -> NetworkDenoiser | NetworkClassifier:
    """Train a prior or a classifier, or continue the run in ``out``; return it with averaged weights.

    Args:
        settings: of the run.
        out: a folder that receives state.pt (to resume), prior.safetensors, data.json (what was
            held out), log.csv, TensorBoard events and grids of samples.
        progress: whether a bar is shown.

    Raises:
        InputError: the data or the folder cannot be used, the data changed since the run began,
            ``out`` holds a run with other settings or is being written by another, or the loss is
            not finite.
        Stopped: the run was told to stop (SIGINT, SIGTERM, SIGHUP), and has been saved.

    Example:
        >>> import tempfile
        >>> tiny = TrainSettings(data="swissroll", network={"name": "mlp", "width": 8}, steps=1)
        >>> fit(tiny, tempfile.mkdtemp(), progress=False).shape
        (2,)
    """
    check_type("settings", settings, TrainSettings, "a TrainSettings")
    check_path("out", out)
    folder = Path(out)
    if _same_place(settings.data, folder):
        raise InputError(
            f"out {folder}: found the folder of the training images, whose samples would be trained "
            "on, expected another one"
        )
    if settings.size is not None:
        check_memory(settings, (settings.channels or 1, settings.size, settings.size))
    processes = make_accelerator(settings)
    main = processes.is_main_process
    with run_folder(folder) if main else nullcontext():
        begun = main and (folder / "state.pt").exists()
        [before] = broadcast_object_list([DataRecord.read(folder) if begun else None])
        train, held_out = load_data(
            settings.data,
            settings.size,
            settings.channels,
            crop=settings.crop,
            crop_scale=settings.crop_scale,
            held_out=settings.held_out,
            value_range=settings.value_range,
            before=before,
        )
        trainer = Trainer(settings, train, held_out, folder, processes)
        record = trainer.check_data(before)
        if main:
            write_whole(folder / RECORD_FILE, record.write())
        trainer.run(progress)
    return trainer.spec.around(trainer.averaged)


@contextmanager
def run_folder(out: Path) -> Iterator[None]:
    """Make the folder of a run and hold it, so that no other run writes there meanwhile.

    Raises:
        InputError: the folder cannot be made or written, or another run writes there.
    """
    made = not os.path.lexists(out)
    if os.path.islink(out) and not os.path.exists(out):
        raise InputError(
            f"out {out}: found a link to {os.readlink(out)}, which does not exist, expected a folder"
        )
    if not made and not os.path.isdir(out):
        raise InputError(f"out {out}: cannot be written (found a file, expected a folder)")
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / LOG_FILE).touch()
    except OSError as error:
        raise cannot_write(f"out {out}", error) from None
    except ValueError:
        raise InputError(f"out {str(out)!r}: a name cannot hold the character NUL") from None
    try:
        with run_lock(out):
            yield
    finally:
        # Nothing was trained; where somebody removed the folder, there is nothing to clear.
        if made and out.is_dir() and [path.name for path in out.iterdir()] == [LOG_FILE]:
            with suppress(OSError):  # another run may have begun here
                (out / LOG_FILE).unlink()
                out.rmdir()


def learning_rate(settings: TrainSettings, step: int, end: int | None = None) -> float:
    """Return the learning rate of a step: warm-up, constant, and cool-down to zero, both linear.

    Args:
        settings: of the run.
        step: how many steps were done before.
        end: the step at which the run ends, by default ``settings.steps``.
    """
    warm = (step + 1) / max(1, settings.warmup)
    cool = ((settings.steps if end is None else end) - step) / max(1, settings.cooldown)
    return settings.lr * min(1.0, warm, cool if settings.cooldown else 1.0)


def last_step(step: int, first: int, elapsed: float, seconds: float, cooldown: int) -> int | None:
    """Return the step at which a run of limited time ends, None while its cool-down is far.

    At least one more step is done, after which the weights are judged and saved.

    Args:
        step: how many steps were done.
        first: how many of them before the clock was started.
        elapsed: seconds since then.
        seconds: how many there are in all.
        cooldown: steps of the cool-down.

    Example:
        >>> last_step(step=100, first=0, elapsed=10.0, seconds=40.0, cooldown=50) is None
        True
        >>> last_step(step=300, first=0, elapsed=30.0, seconds=34.0, cooldown=50)
        340
    """
    speed = (step - first) / elapsed
    left = max(1, math.floor(speed * (seconds - elapsed)))
    return step + left if left <= cooldown else None


def computes_bf16(device: torch.device) -> bool:
    """Return whether the hardware computes in bf16 rather than emulating it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def make_accelerator(settings: TrainSettings) -> Accelerator:
    """Return the processes of this run: one, or those that torchrun started."""
    process = this_process()
    device = pick_device(settings.device)
    if device.index is not None:
        torch.cuda.set_device(device)
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and computes_bf16(device))
    # Accelerate keeps one precision and one device per program; here each run has its own.
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        return Accelerator(
            cpu=device.type == "cpu",
            mixed_precision="bf16" if bf16 else "no",
            gradient_accumulation_steps=settings.accumulate,
            dynamo_backend="inductor" if settings.compile else "no",
        )
    except (ValueError, RuntimeError) as error:  # of what the environment says
        if process.processes == 1 and "LOCAL_RANK" not in os.environ:
            raise
        raise InputError(
            f"processes: found {process.processes} (WORLD_SIZE), which cannot meet "
            f"({first_line(error)}): expected the environment that torchrun sets"
        ) from None


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGHUP in a list instead of ending the program.

    A signal that is ignored, such as SIGHUP under ``nohup``, stays ignored.
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
        yield seen
        return
    before = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, lambda n, _: seen.append(n))
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Batch(NamedTuple):
    """What a step learns from.

    Attributes:
        x_0: (B, *shape), images in [-1, 1].
        t: (B,) in 1..T.
        weight: of the loss at t, (B,).
        eps: standard normal noise, (B, *shape).
        label: (B,) in 0..classes; the last stands for none.
    """

    x_0: Tensor
    t: Tensor
    weight: Tensor
    eps: Tensor
    label: Tensor


class Trainer:
    """The state of one run and the loop over its steps.

    Args:
        settings: of the run.
        train: the training data.
        held_out: the data that judge the weights.
        out: the folder of the run; a run in it is continued.
        processes: by default those that torchrun started, or this one.

    Attributes:
        step: the number of steps done.
        network: the weights that are trained.
        averaged: their average over the steps.
        running: the two running averages of which ema=auto makes it.
        width: relative width of that average.
        end: the step at which the run ends; with ``seconds``, known when the cool-down begins.

    Example:
        >>> import tempfile
        >>> from invdiff.training import TrainingData
        >>> points = TrainingData(torch.zeros(4, 2))
        >>> settings = TrainSettings(data="points", network={"name": "mlp", "width": 8}, batch=4)
        >>> trainer = Trainer(settings, points, points, Path(tempfile.mkdtemp()))
        >>> bool(trainer.train_step().isfinite())
        True
    """

    def __init__(
        self,
        settings: TrainSettings,
        train: Data,
        held_out: Data,
        out: Path,
        processes: Accelerator | None = None,
    ) -> None:
        self.settings = settings
        self.out = out
        check_memory(settings, train.shape)
        self.accelerator = processes or make_accelerator(settings)
        self.device = self.accelerator.device
        self.share = self._share_of_batch()
        self.train = train.to(self.device)
        self.held_out = held_out
        self.spec = settings.spec(train.shape)
        check_labels(settings, self.train)
        torch.manual_seed(stream_seed(settings.seed))
        self.network = self._built().to(self.device)
        if settings.channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.averaged = deepcopy(self.network).eval().requires_grad_(False)
        tracked = averages.TRACKED if settings.ema == "auto" else ()
        self.running = [
            averages.PowerAverage(self.network, averages.exponent(width)) for width in tracked
        ]
        self.width = averages.TRACKED[-1]
        self.optimisers = optimisers(
            self.network, settings.optimiser, settings.lr, settings.weight_decay
        )
        self.step = 0
        self.end = settings.steps
        self.ends_by_clock = False
        self.losses: list[float] = []  # of the last steps, whose mean is logged
        self.judged = True  # as far as the step asks for it
        self.order: tuple[int, Tensor] = (-1, torch.empty(0))
        schedule = self.spec.make_schedule()
        self.timesteps = timestep_sampler(settings.timesteps, schedule, settings.sigma_range).to(
            self.device
        )
        self._resume()
        # The network as it is trained: in bf16, compiled, its gradients averaged over the
        # processes.
        self.model = self.accelerator.prepare_model(self.network)
        # A classifier needs the forward process alone.
        target = "x0" if settings.target == "label" else settings.target
        self.ddpm = DDPM(self.model, schedule.to(self.device), target, settings.variance)

    def _built(self) -> nn.Module:
        """Return the network with the weights that it begins with.

        Raises:
            InputError: its settings do not fit, or it does not fit into memory.
        """
        try:
            network = self.spec.make_network()
        except (MemoryError, OverflowError, RuntimeError) as error:
            reason = (str(error).splitlines() or ["out of memory"])[0]
            raise InputError(
                f"network: cannot be built ({reason}), expected a smaller one"
            ) from None
        check_sides(self.spec.shape, int(network.stride))  # type: ignore[arg-type]
        return network

    def _share_of_batch(self) -> slice:
        """Return the part of a batch that belongs to this process."""
        processes = self.accelerator.num_processes
        parts = self.settings.accumulate
        if self.settings.batch % (processes * parts):
            raise InputError(
                f"batch: found {self.settings.batch}, expected a multiple of {processes} processes "
                f"x accumulate={parts}"
            )
        size = self.settings.batch // processes
        start = self.accelerator.process_index * size
        return slice(start, start + size)

    def check_data(self, before: DataRecord | None) -> DataRecord:
        """Return the record of the data, which must be those that the run began with.

        Args:
            before: the record in the folder of the run.

        Raises:
            InputError: they are not, or the record is missing, and ``data_changed`` does not allow
                it; or the processes see different data.
        """
        source = self.settings.data
        train = self.train.contents
        held_out = self.held_out.contents
        now = DataRecord(
            {**train, **held_out},
            frozenset(train.values()),
            frozenset(held_out.values()),
            {**self.train.files, **self.held_out.files},
        )
        if not self.settings.data_changed:
            if before is not None:
                before.check(source, now)
            elif self.step > 0 and now.contents:
                raise InputError(
                    f"out {self.out}: found a run without {RECORD_FILE}, which tells the held-out "
                    "images, expected both; another out= begins anew, data_changed=true goes on "
                    "and chooses the held-out images again"
                )
        seen = content_hash(repr(sorted(now.contents.items())).encode())
        [expected] = broadcast_object_list([seen])
        if seen != expected:
            raise InputError(f"data {source}: differ between the processes, expected the same")
        return now if before is None else before.joined(now)

    # The loop.

    def run(self, progress: bool = True) -> None:
        """Train until ``settings.steps``; only the main process writes.

        Raises:
            InputError: the loss is not finite, or a file cannot be written.
            Stopped: the run was told to stop, and has been saved.
        """
        s = self.settings
        main = self.accelerator.is_main_process
        started = time.perf_counter()
        first = self.step
        timed = (first, 0.0)  # the step, and the seconds, from which the speed is measured
        pending: list[Tensor] = []  # losses that are still on the device
        try:
            with (
                stop_signals() as signals,
                SummaryWriter(str(self.out), purge_step=first) if main else nullcontext() as board,
                tqdm(
                    total=s.steps,
                    initial=first,
                    unit="step",
                    disable=not (progress and main),
                    dynamic_ncols=True,
                    mininterval=0.1 if sys.stderr.isatty() else 30.0,
                ) as bar,
            ):
                if board is not None and not self.judged:
                    self.judge(board)
                    self.judged = True
                    self.save()
                stopping = False
                while self.step < self.end and not stopping:
                    pending.append(self.train_step())
                    self.step += 1
                    bar.update()
                    due = {
                        every: self.step % every == 0 or self.step == self.end
                        for every in (s.log_every, s.eval_every, s.save_every)
                    }
                    # Several processes can only stop together, so they ask each other when they
                    # meet anyway.
                    if not any(due.values()) and not (
                        signals and self.accelerator.num_processes == 1
                    ):
                        continue
                    self.losses = (self.losses + self.finite_losses(pending))[-s.log_every :]
                    pending.clear()
                    elapsed = time.perf_counter() - started
                    if s.seconds is not None:
                        self.look_at_clock(timed, elapsed)
                    timed = timed if timed[1] else (self.step, elapsed)  # without compiling
                    stopping = self.in_any_process(bool(signals))
                    # Judging takes long: a run that is told to stop leaves it to the next one.
                    self.judged = not (stopping and due[s.eval_every])
                    if board is None:
                        continue
                    if due[s.log_every]:
                        loss = sum(self.losses) / len(self.losses)
                        speed = (self.step - first) * s.batch / (time.perf_counter() - started)
                        self.log(board, loss=loss, images_per_second=speed)
                        bar.set_postfix_str(f"loss {loss:.4f}, {speed:.0f} images/s")
                    if due[s.eval_every] and not stopping:
                        judgement = self.judge(board)
                        if progress:
                            bar.write(judgement)
                    if due[s.save_every] or stopping:
                        self.save()
                self.accelerator.wait_for_everyone()
        except (OSError, InputError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError):
                raise
            reason = cannot_write(f"out {self.out}", cause)
            raise InputError(
                f"{reason}; stopped at step {self.step}, the run as it was last saved is intact"
            ) from None
        if stopping and not (self.step == self.end and self.judged):
            raise Stopped(
                signals[0] if signals else signal.SIGINT,
                f"saved at step {self.step} of {self.end}; the same command continues",
            )

    def look_at_clock(self, timed: tuple[int, float], elapsed: float) -> None:
        """Choose the step at which a run of limited time ends, when its cool-down is to begin.

        Args:
            timed: the step and the seconds from which the speed is measured.
            elapsed: seconds since the run was begun or continued.
        """
        first, before = timed
        seconds = self.settings.seconds
        if seconds is None or self.ends_by_clock or (elapsed < seconds and not before):
            return
        cooldown = self.settings.cooldown
        found = last_step(self.step, first, elapsed - before, seconds - before, cooldown)
        [found] = broadcast_object_list([found])  # the clock of the main process counts
        if found is not None:
            self.end = min(self.settings.steps, found)
            self.ends_by_clock = True

    def train_step(self) -> Tensor:
        """Do one step of Algorithm 1; return the loss of this process's share, on the device."""
        s = self.settings
        losses: list[Tensor] = []
        unweighted: list[Tensor] = []  # of each image
        batch = self.draw_batch(self.step)
        self.train.prefetch(self.indices(self.step + 1)[self.share])
        for group in chain(*(optimiser.param_groups for optimiser in self.optimisers)):
            group["lr"] = learning_rate(s, self.step, self.end)
        self.network.zero_grad()
        for x_0, t, weight, eps, label in zip(
            *(values.chunk(s.accumulate) for values in batch), strict=True
        ):
            with self.accelerator.accumulate(self.model):
                per_image = self.loss(x_0, t, eps, label, self.ddpm)
                loss = (weight * per_image).mean()
                self.accelerator.backward(loss)
            losses.append(loss.detach())
            unweighted.append(per_image.detach())
        if s.timesteps == "importance":  # which learns from the whole batch, in every process alike
            self.timesteps.update(*self.accelerator.gather((batch.t, torch.cat(unweighted))))
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), s.clip)
        for optimiser in self.optimisers:
            optimiser.step()
        self.update_average()
        # NaN where the gradient overflowed, without asking the device.
        return torch.stack(losses).mean() + 0 * norm

    def loss(self, x_0: Tensor, t: Tensor, eps: Tensor, label: Tensor, ddpm: DDPM) -> Tensor:
        """Return the loss of every item under a DDPM, (B,)."""
        if self.settings.target == "label":
            return cross_entropy(ddpm, x_0, t, eps, label)
        ddpm = ddpm.given(label) if self.settings.classes else ddpm
        return training_loss(ddpm, x_0, t, eps, self.settings.loss, self.settings.min_snr)

    def draw_batch(self, step: int) -> Batch:
        """Draw this process's share of the batch of a step.

        Every process draws the random numbers of the whole batch, and uses its share of them.
        """
        s = self.settings
        share = self.share
        torch.manual_seed(stream_seed(s.seed, 1, step))
        numbers = self.indices(step)[share]
        u = torch.rand(s.batch, self.train.uniforms_per_item)[share]
        x_0 = self.train.batch(numbers, u)
        if s.flip:
            mirrored = torch.rand(s.batch, device=self.device)[share] < 0.5
            x_0 = torch.where(mirrored.view(-1, 1, 1, 1), x_0.flip(-1), x_0)
        is_image = x_0.ndim == 4
        layout = torch.channels_last if s.channels_last and is_image else torch.contiguous_format
        x_0 = x_0.contiguous(memory_format=layout)
        t, weight = self.timesteps.draw(s.batch, self.device)
        whole = torch.empty(s.batch, *x_0.shape[1:], device=self.device, memory_format=layout)
        eps = whole.normal_()[share]
        label = self.draw_labels(numbers)
        if self.accelerator.process_index > 0:  # masks of dropout differ between the processes
            torch.manual_seed(stream_seed(s.seed, 2, step, self.accelerator.process_index))
        return Batch(x_0, t[share], weight[share], eps, label)

    def draw_labels(self, indices: Tensor) -> Tensor:
        """Return the labels of items, a share ``p_uncond`` of them replaced by "none", (B,)."""
        s = self.settings
        none = torch.full((len(indices),), s.classes, device=self.device)
        if not s.classes:
            return none
        label = to_device(self.train.label(indices), self.device)
        if s.target == "label":
            return label
        withheld = torch.rand(s.batch, device=self.device)[self.share] < s.p_uncond
        return torch.where(withheld, none, label)

    def indices(self, step: int) -> Tensor:
        """Return the items of a step, (B,): epochs are shuffled one by one and follow without a gap."""
        n = len(self.train)
        start = step * self.settings.batch
        positions = torch.arange(start, start + self.settings.batch)
        epochs = positions // n
        return torch.cat(
            [
                self._order(epoch)[positions[epochs == epoch] % n]
                for epoch in range(int(epochs[0]), int(epochs[-1]) + 1)
            ]
        )

    def _order(self, epoch: int) -> Tensor:
        if self.order[0] != epoch:
            self.order = (epoch, epoch_order(len(self.train), epoch, self.settings.seed))
        return self.order[1]

    def finite_losses(self, losses: list[Tensor]) -> list[float]:
        """Return the losses of the last steps over the whole batch.

        Raises:
            InputError: one is not finite. It is found before anything is saved, so that what is on
                disk is good.
        """
        values: list[float] = self.accelerator.reduce(
            torch.stack(losses), reduction="mean"
        ).tolist()
        for step, loss in enumerate(values, self.step - len(values) + 1):
            if not math.isfinite(loss):
                raise InputError(
                    f"loss: found {loss} at step {step}, expected a finite one; try a lower lr"
                )
        return values

    def in_any_process(self, here: bool) -> bool:
        """Return whether something is true in at least one process."""
        number = torch.tensor(float(here), device=self.device)
        return bool(self.accelerator.reduce(number, reduction="sum") > 0)

    @torch.no_grad()
    def update_average(self) -> None:
        """Update the average of the weights (EMA).

        The decay grows as (1 + step) / (10 + step), so that the initial weights are forgotten.
        """
        if self.settings.ema == "auto":
            for average in self.running:
                average.update(self.network)
            return
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        average_weights: list[Tensor] = list(self.averaged.parameters())
        weights: list[Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(average_weights, weights, 1 - decay)

    def make_average(self, width: float) -> None:
        """Make the average of a relative width over the steps so far, of ema=auto."""
        self._combine(self._known_averages(), width)

    def _known_averages(self) -> list[tuple[averages.Profile, Mapping[str, Tensor]]]:
        """Return the snapshots of earlier steps, from their files, and the running averages."""
        earlier = averages.read_snapshots(self.out / SNAPSHOTS, self.step - 1)
        return [*earlier, *((average.profile, average.weights) for average in self.running)]

    def _combine(
        self, known: Sequence[tuple[averages.Profile, Mapping[str, Tensor]]], width: float
    ) -> None:
        """Make the average of a relative width of those that are known."""
        wanted = averages.Profile(self.running[0].step, averages.exponent(width))
        made = averages.combined(known, wanted)
        self.averaged.load_state_dict({**self.network.state_dict(), **made})

    @torch.no_grad()
    def choose_average(self) -> str:
        """Keep a snapshot, and take the average that has the least loss on held-out images."""
        averages.write_snapshot(self.out / SNAPSHOTS, self.running)
        known = self._known_averages()
        losses = {}
        for width in averages.WIDTHS if len(self.held_out) else ():
            self._combine(known, width)
            losses[width] = self.held_out_loss()
        self.width = min(losses, key=lambda width: losses[width], default=self.width)
        self._combine(known, self.width)
        return f", an average of relative width {self.width:g}"

    def held_out_loss(self) -> float:
        """Return the mean loss of the averaged weights on held-out images, always on the same noise."""
        s = self.settings
        number = min(s.eval_images, len(self.held_out))
        ddpm = copy(self.ddpm)
        ddpm.network = self.averaged
        total = 0.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(s.seed, 3))
            for start in range(0, number, s.batch):
                index = torch.arange(start, min(start + s.batch, number))
                x_0 = self.held_out.batch(index)
                t, weight = self.timesteps.draw(len(index), torch.device("cpu"))
                eps = torch.randn(x_0.shape)
                label = self.held_out.label(index) if s.classes else torch.zeros(len(index)).long()
                x_0, t, weight, eps, label = (
                    each.to(self.device) for each in (x_0, t, weight, eps, label)
                )
                total += float((weight * self.loss(x_0, t, eps, label, ddpm)).sum())
        return total / number

    # Judging the weights.

    @torch.no_grad()
    def judge(self, board: SummaryWriter) -> str:
        """Judge the averaged weights; log the numbers and return them as a line.

        A prior is judged by bits/dim of held-out images, and a grid of its samples is written; a
        classifier by its accuracy.
        """
        text = f"step {self.step}"
        if self.settings.ema == "auto":
            text += self.choose_average()
            self.log(board, average_width=self.width)
        prior = self.spec.around(self.averaged)
        if isinstance(prior, NetworkClassifier):
            return text + self.judge_classifier(prior, board)
        if len(prior.shape) == 1:
            return text
        if self.settings.sigma_range is not None:  # no prior by itself: it has no samples
            return text + self.judge_denoising(prior, board)
        if len(self.held_out):
            bits, error = held_out_bits_per_dim(prior, self.held_out, self.settings.eval_images)
            self.log(board, bits_per_dim=bits, bits_per_dim_error=error)
            text += f": {bits:.3f} +- {error:.3f} bits/dim on held-out images"
        samples = grid(draw_samples(prior).clamp(0, 1).cpu(), 8)
        write_image(self.out / f"samples_{self.step:07d}.png", samples)
        board.add_image("samples", samples, self.step)
        return text

    def judge_denoising(self, prior: NetworkDenoiser, board: SummaryWriter) -> str:
        """Log the PSNR of denoised held-out images at the ends and the middle of the noise levels."""
        if not len(self.held_out) or self.settings.sigma_range is None:
            return ""
        low, high = self.settings.sigma_range
        sigmas = sorted({low, math.sqrt(low * high), high})
        found = held_out_psnr(prior, self.held_out, self.settings.eval_images, sigmas)
        self.log(board, **{f"psnr_{sigma:.3g}": each.mean for sigma, each in found.items()})
        return ": " + ", ".join(
            f"{each.mean:.2f} dB at sigma {sigma:.3g}" for sigma, each in found.items()
        )

    def judge_classifier(self, classifier: NetworkClassifier, board: SummaryWriter) -> str:
        """Log a classifier's accuracy on held-out images at a few noise levels; return it as text."""
        if not len(self.held_out) or self.held_out.labels is None:
            return ""
        found = held_out_accuracy(classifier, self.held_out, self.settings.eval_images)
        self.log(board, **{f"accuracy_t{t}": accuracy for t, accuracy in found.items()})
        return ": accuracy on held-out images " + ", ".join(
            f"{a:.3f} at t = {t}" for t, a in found.items()
        )

    def log(self, board: SummaryWriter, **values: float) -> None:
        """Append to log.csv (step, name, value) and to the TensorBoard events."""
        with (self.out / LOG_FILE).open("a", newline="", encoding="utf-8") as file:
            for name, value in values.items():
                csv.writer(file).writerow([self.step, name, f"{value:.6g}"])
                board.add_scalar(name, value, self.step)

    # Saving.

    def save(self) -> None:
        """Write prior.safetensors and state.pt, each whole or not at all.

        The state is the last to be written: a run that is killed between the two does its last
        steps again, and ends with a prior that belongs to its state.
        """
        if self.settings.ema == "auto":
            self.make_average(self.width)
        prior = self.spec.around(self.averaged)
        save_prior(prior, self.out / PRIOR_FILE, dtype=torch.float16)
        state = {
            "settings": identity_of(self.settings),
            "step": self.step,
            "end": self.end if self.ends_by_clock else None,
            "judged": self.judged,
            "logged": (self.out / LOG_FILE).stat().st_size,
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "timesteps": self.timesteps.state_dict(),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "running": [average.weights for average in self.running],
            "width": self.width,
        }
        content = io.BytesIO()  # torch tells no full disk from other failures, a file does
        torch.save(state, content)
        write_whole(self.out / "state.pt", content.getbuffer())

    def _resume(self) -> None:
        """Begin, or continue from state.pt, which the main process reads for all."""
        main = self.accelerator.is_main_process
        [state] = broadcast_object_list([self._saved_state() if main else None])
        if state is not None:
            self.step = state["step"]
            if self.settings.seconds is not None and state.get("end") is not None:
                self.end = min(self.settings.steps, state["end"])
                self.ends_by_clock = True
            self.network.load_state_dict(state["network"])
            self.averaged.load_state_dict(state["averaged"])
            # A run that is older than Muon has the one of AdamW.
            for optimiser, held in zip(
                self.optimisers, state.get("optimisers") or [state["optimiser"]], strict=True
            ):
                optimiser.load_state_dict(held)
            self.timesteps.load_state_dict(state.get("timesteps", {}))
            self.losses = state.get("losses", torch.empty(0)).tolist()
            self.judged = state.get("judged", True)
            for average, weights in zip(self.running, state.get("running", []), strict=True):
                average.resume(self.step, weights)
            self.width = state.get("width", self.width)
        elif self.settings.init is not None:
            self.take_weights_of(self.settings.init)
        if main:
            self._shorten_log(None if state is None else state.get("logged"))

    def _saved_state(self) -> dict[str, Any] | None:
        """Return the state in ``out``, which must be writable; None where there is none."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / LOG_FILE).touch()
        except OSError as error:
            raise cannot_write(f"out {self.out}", error) from None
        path = self.out / "state.pt"
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file fails in many ways inside torch
            raise InputError(
                f"{path}: damaged, cannot resume ({reason_of(error)}); another out= begins anew"
            ) from None
        settings = state.get("settings") if isinstance(state, dict) else None
        if not isinstance(settings, dict):
            raise InputError(
                f"{path}: found no state of a training run, expected its settings in it; "
                "another out= begins anew"
            )
        # A setting that is younger than the run had its default.
        stored = {f.name: f.default for f in fields(TrainSettings)} | settings
        for key, value in identity_of(self.settings).items():
            if (found := stored[key]) != value:
                raise InputError(
                    f"out {self.out}: holds a run with {key}={found!r}, this one has {value!r}; "
                    "another out= begins anew"
                )
        return state

    def _shorten_log(self, size: int | None) -> None:
        """Remove what a killed run logged after its last state, which is logged again.

        Args:
            size: of the log when the state was written, in bytes; None where the state does not
                say so, or where there is none.
        """
        content = (self.out / LOG_FILE).read_bytes()
        lines = content[:size].splitlines(keepends=True)
        kept = [line for line in lines if line.endswith(b"\n") and _step_of(line) <= self.step]
        if b"".join(kept) != content:
            write_whole(self.out / LOG_FILE, b"".join(kept))

    def _part_that_fits(self, prior: NetworkDenoiser) -> NetworkDenoiser:
        """Return a prior; of experts, where the network to be trained is none, the one of its kind."""
        network = prior.network
        if not isinstance(network, Experts) or isinstance(self.network, Experts):
            return prior
        return part_of(prior, "low" if isinstance(self.network, type(network.low)) else "high")

    def take_weights_of(self, name: str) -> None:
        """Begin with the weights of another prior, each of which must fit."""
        prior = self._part_that_fits(load_network(name))
        if prior.target != self.spec.target:
            raise InputError(
                f"init {name}: predicts {prior.target}, expected target={self.spec.target}"
            )
        given = prior.network.state_dict()
        own = self.network.state_dict()
        # Weights missing from `init` keep their initial values; their last layer is zero, so they
        # have no effect yet.
        new = {".attention.", *([] if prior.classes else ["label.weight"])}
        given |= {
            key: own[key] for key in own.keys() - given.keys() if any(part in key for part in new)
        }
        for key in [*own, *given]:
            found, expected = (
                tuple(w[key].shape) if key in w else "no such weight" for w in (given, own)
            )
            if found != expected:
                raise InputError(f"init {name}: {key}: found {found}, expected {expected}")
        self.network.load_state_dict(given)
        self.averaged.load_state_dict(given)


def identity_of(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings that a resumed run must share.

    The length of the run, how often it is judged, and where its data lie may change.

    Example:
        >>> short = TrainSettings(data="photos", steps=10)
        >>> identity_of(short) == identity_of(TrainSettings(data="others", steps=20))
        True
    """
    judging = {"log_every", "eval_every", "eval_images", "save_every"}
    data = {"data", "held_out", "data_changed"}
    free = {"steps", "seconds", "accumulate", "cooldown", "device", "compile", *data, *judging}
    found = {**asdict(settings), "schedule": settings.noise_schedule}
    return {k: v for k, v in found.items() if k not in free}


def check_labels(settings: TrainSettings, data: Data) -> None:
    """Check that the data have the labels that the network learns.

    Raises:
        InputError: there are none, or more than ``network.classes``.
    """
    if not settings.classes:
        return
    expected = f"expected 0..{settings.classes - 1}, as network.classes={settings.classes}"
    if data.labels is None:
        raise InputError(
            f"data {settings.data}: found no labels, {expected}: an .npz with `labels`, or a folder "
            "whose images all lie in one sub-folder per class"
        )
    if len(data.classes) > settings.classes:
        raise InputError(
            f"data {settings.data}: found {len(data.classes)} sub-folders "
            f"({', '.join(data.classes[:20])}), expected network.classes={settings.classes} of them"
        )
    if int(data.labels.max()) >= settings.classes:
        raise InputError(
            f"data {settings.data}: found labels up to {int(data.labels.max())}, {expected}"
        )
    if 0 < len(data.classes) < settings.classes:
        warn(
            f"data {settings.data}: found {len(data.classes)} sub-folders "
            f"({', '.join(data.classes[:20])}) for network.classes={settings.classes}; the other "
            "labels are never met"
        )


def draw_samples(prior: NetworkDenoiser) -> Tensor:
    """Draw samples for a grid of eight columns: 64, or a row for each of at most 16 classes."""
    if not prior.classes:
        return generate(prior, 64, steps=50)
    return torch.cat(
        [
            generate(ClassifierFree(prior, label), 8, steps=50)
            for label in range(min(16, prior.classes))
        ]
    )


@torch.no_grad()
def held_out_accuracy(
    classifier: NetworkClassifier, data: Data, images: int, levels: int = 4, batch: int = 256
) -> dict[int, float]:
    """Return the accuracy on noisy items x_t, for t = 1, T / levels, 2 T / levels, ...

    Args:
        classifier: of noisy images.
        data: with labels.
        images: how many items, the first ones, are classified.
        levels: the number of timesteps.
        batch: items in each call.

    Returns:
        t -> share of the items whose label is right.
    """
    schedule = classifier.schedule
    device = next(classifier.parameters()).device
    ddpm = DDPM(classifier.network, schedule, "x0")
    right = {max(1, level * schedule.T // levels): 0 for level in range(levels)}
    number = min(images, len(data))
    for start in range(0, number, batch):
        index = torch.arange(start, min(start + batch, number))
        x_0 = data.batch(index).to(device)
        label = data.label(index).to(device)
        noise = Streams([(0, int(i)) for i in index])
        for t in right:
            log_p = log_probabilities(ddpm, x_0, torch.full_like(label, t), noise(x_0))
            right[t] += int((log_p.argmax(1) == label).sum())
    return {t: count / number for t, count in right.items()}


@torch.no_grad()
def held_out_psnr(
    prior: NetworkDenoiser, data: Data, images: int, sigmas: Sequence[float], batch: int = 64
) -> dict[float, Estimate]:
    """Return the PSNR in dB of the first ``images`` items, denoised at each noise level.

    Args:
        prior: the denoiser.
        data: clean images.
        images: how many of them.
        sigmas: noise levels of images in [0, 1].
        batch: images in each call.

    Returns:
        noise level -> mean over images.
    """
    device = next(prior.network.parameters()).device
    found: dict[float, list[Tensor]] = {sigma: [] for sigma in sigmas}
    number = min(images, len(data))
    for start in range(0, number, batch):
        index = torch.arange(start, min(start + batch, number))
        x_0 = (data.batch(index).to(device) + 1) / 2
        noise = Streams([(0, int(i)) for i in index])
        for sigma, values in found.items():
            error = prior(x_0 + sigma * noise(x_0), sigma).clamp(0, 1) - x_0
            values.append(-10 * error.square().flatten(1).mean(1).log10().cpu())
    return {sigma: Estimate.over(torch.cat(values)) for sigma, values in found.items()}


@torch.no_grad()
def held_out_bits_per_dim(
    prior: NetworkDenoiser, data: Data, images: int, steps_per_image: int = 4, batch: int = 256
) -> Estimate:
    """Return L_vlb of the first ``images`` items in bits/dim."""
    device = next(prior.network.parameters()).device
    totals = []
    for start in range(0, min(images, len(data)), batch):
        index = torch.arange(start, min(start + batch, images, len(data)))
        noise = Streams([(0, int(i)) for i in index])
        totals.append(
            prior.ddpm.bits_per_dim(
                data.batch(index).to(device), noise, steps_per_image
            ).total.cpu()
        )
    return Estimate.over(torch.cat(totals))


def _step_of(line: bytes) -> int:
    """The step of a line of the log; 0 of one that is not of a run, which stays."""
    first = line.partition(b",")[0]
    return int(first) if first.isdigit() else 0


def _same_place(first: str | Path, second: str | Path) -> bool:
    """Whether two names are of one file or folder that exists."""
    try:
        return os.path.samefile(first, second)
    except (OSError, ValueError):
        return False
