"""Training a DDPM prior: Algorithm 1 of Ho et al. 2020 with EMA, warm-up, cool-down, mixed
precision and exact resume.

Every random number of a step (its items, t, eps, dropout) is a function of (seed, step), so the
state of a run is its weights, their average, the optimiser and the step: a killed run continues to
the weights it would have had.

Under ``torchrun`` the same run is shared by several processes (Hugging Face Accelerate,
DistributedDataParallel). Each draws the numbers of the whole batch and takes its part, so that the
loss curve is that of one process; only dropout masks belong to the process and the micro-batch.
"""

from __future__ import annotations

import csv
import io
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import deepcopy
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

from invdiff.errors import InputError
from invdiff.estimate import Estimate
from invdiff.io.pictures import grid
from invdiff.io.whole import write_whole
from invdiff.io.write import write_image
from invdiff.prior.checkpoint import (
    PRIOR_FILE,
    ClassifierSpec,
    PriorSpec,
    Spec,
    load_prior,
    save_prior,
)
from invdiff.prior.classifier import NetworkClassifier, cross_entropy, log_probabilities
from invdiff.prior.ddpm import DDPM, Target, Variance
from invdiff.prior.denoiser import NetworkDenoiser
from invdiff.prior.guidance import ClassifierFree
from invdiff.prior.reverse import generate
from invdiff.prior.schedule import ScheduleName
from invdiff.resources import pick_device
from invdiff.rng import Seed, Streams, stream_seed
from invdiff.training.data import Data, epoch_order, load_data, sent
from invdiff.training.objective import Loss, Timesteps, timestep_sampler, training_loss
from invdiff.training.optimiser import OptimiserName, optimisers


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """A training preset: everything that the weights depend on, and how often to look at them.

    Attributes:
        data: a folder of images, an .npz of uint8 arrays, or "swissroll".
        size: side in pixels to which images are resized; by default that of the data.
        channels: 1 for gray images, 3 for colour; by default those of the data.
        crop: take random squares of ``size`` pixels instead of resizing.
        held_out: images that are not trained on, a folder or an .npz; by default a part of data.
        network: by its registered name; with ``classes`` it learns the labels of the data.
        schedule: the noise schedule.
        T: steps of the schedule.
        target, variance: what the network predicts, and sigma_t^2 of p_theta; as in ``DDPM``. The
            target "label" trains a classifier of noisy images (``unet_classifier``).
        loss: "simple"; "hybrid", which teaches the "learned" variance beside it; or "vlb" alone.
        min_snr: weight the error of x_0 by min(SNR, min_snr), 5 in Hang et al. 2023; .inf weights
            every target like eps; null for the plain squared error of the target.
        timesteps: "uniform"; "stratified", the same but spread evenly over a batch; or "importance"
            by the size of the loss, which Nichol & Dhariwal advise for "vlb".
        p_uncond: share of the images whose label is withheld from a network with classes, so that
            it learns the unconditional model too (Ho & Salimans 2022, Alg. 1).
        init: a prior whose weights the run begins with: a name that ships, a file, or a run's
            folder. A network with classes, or with attention, may begin with one without.
        steps, batch: optimiser steps, and images in each, over all processes.
        accumulate: micro-batches, one after the other, that the batch of a process is cut into to
            save memory.
        optimiser: "adamw"; or "muon" for the convolutions, which learns more from an image and
            takes longer over a
            step: by a third at 16 images of the preset ``fashion``, by less in larger batches.
        lr: the learning rate after ``warmup`` steps; it falls linearly to zero over the last
            ``cooldown`` steps.
        warmup, cooldown: steps over which the learning rate rises, and falls to zero.
        weight_decay: decoupled decay of the weights, as in AdamW.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights, reached gradually.
        flip: mirror images at random.
        seed: of every random number; the same seed gives the same weights.
        precision: "auto" is bf16 where the hardware computes in it, else float32.
        channels_last: keep images with the channels last, which is faster on some GPUs.
        compile: compile the network (torch.compile), which takes minutes and then saves time.
        device: where to compute: cpu, cuda, cuda:N; "auto" is CUDA where there is one.
        log_every: steps between lines of log.csv.
        eval_every, save_every: steps between looks (bits/dim, a grid of samples) and checkpoints.
        eval_images: held-out images of a look at bits/dim.
    """

    data: str
    size: int | None = None
    channels: int | None = None
    crop: bool = False
    held_out: str | None = None
    network: Mapping[str, Any] = field(default_factory=lambda: {"name": "unet"})
    schedule: ScheduleName = "linear"
    T: int = 1000
    target: Target | Literal["label"] = "eps"
    variance: Variance = "small"
    loss: Loss = "simple"
    min_snr: float | None = None
    timesteps: Timesteps = "uniform"
    p_uncond: float = 0.1
    init: str | None = None
    steps: int = 10_000
    batch: int = 64
    accumulate: int = 1
    optimiser: OptimiserName = "adamw"
    lr: float = 2e-4
    warmup: int = 200
    cooldown: int = 0
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
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
        for name in (
            "steps",
            "batch",
            "accumulate",
            "log_every",
            "eval_every",
            "eval_images",
            "save_every",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: found {getattr(self, name)}, expected at least 1")
        if not self.lr > 0 or not 0 <= self.ema < 1:
            raise InputError(
                f"lr, ema: found {self.lr}, {self.ema}, expected lr > 0 and 0 <= ema < 1"
            )
        if self.loss != "vlb" and (self.loss == "hybrid") != (self.variance == "learned"):
            expected = "variance learned for the loss hybrid, small or large for simple"
            raise InputError(
                f"loss, variance: found {self.loss}, {self.variance}, expected {expected}"
            )
        if self.min_snr is not None and (self.loss == "vlb" or not self.min_snr > 0):
            raise InputError(
                f"min_snr: found {self.min_snr} with loss {self.loss}, expected it above 0, not with vlb"
            )
        if not 0 <= self.p_uncond <= 1:
            raise InputError(f"p_uncond: found {self.p_uncond}, expected a share in [0, 1]")
        if self.target == "label" and not self.classes:
            raise InputError(
                "network.classes is missing: expected the number of labels for target=label"
            )
        if self.target == "label" and (self.loss != "simple" or self.min_snr is not None):
            raise InputError(
                f"loss: found {self.loss}, min_snr={self.min_snr} for target=label, expected neither"
            )

    @property
    def classes(self) -> int:
        """Labels that the network knows."""
        return int(self.network.get("classes", 0))

    def spec(self, shape: tuple[int, ...]) -> Spec:
        """The prior or the classifier that these settings train, for items of a shape."""
        if self.target == "label":
            return ClassifierSpec(shape, self.network, self.schedule, self.T)
        if self.loss != "simple" and len(shape) == 1:
            raise InputError(
                f"loss: found {self.loss} for points, expected simple: L_vlb is that of 8-bit images"
            )
        return PriorSpec(shape, self.network, self.schedule, self.T, self.target, self.variance)


def fit(
    settings: TrainSettings, out: str | Path, *, progress: bool = True
) -> NetworkDenoiser | NetworkClassifier:
    """Train a prior (or a classifier), or continue the run in ``out``; returns it, with the
    averaged weights.

    ``out`` receives state.pt (to resume), prior.safetensors, log.csv, TensorBoard events and grids
        of samples.

    Raises:
        InputError: the data or the folder cannot be used, ``out`` holds a run with other settings,
            or the loss is not finite.
        KeyboardInterrupt: the run was told to stop (SIGINT, SIGTERM), and has been saved.
    """
    train, held_out = load_data(
        settings.data,
        settings.size,
        settings.channels,
        crop=settings.crop,
        held_out=settings.held_out,
    )
    trainer = Trainer(settings, train, held_out, Path(out))
    trainer.run(progress)
    return trainer.spec.around(trainer.averaged)


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Linear warm-up, constant, linear cool-down to zero after the last step."""
    warm = (step + 1) / max(1, settings.warmup)
    cool = (settings.steps - step) / max(1, settings.cooldown)
    return settings.lr * min(1.0, warm, cool if settings.cooldown else 1.0)


def computes_bf16(device: torch.device) -> bool:
    """Whether bf16 is computed by the hardware rather than emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def accelerator(settings: TrainSettings) -> Accelerator:
    """The processes of this run: one, or those that torchrun started."""
    device = pick_device(settings.device)
    if device.index is not None:
        torch.cuda.set_device(device)
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and computes_bf16(device))
    # Accelerate keeps one precision and one device per program; here each run has its own.
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if bf16 else "no",
        gradient_accumulation_steps=settings.accumulate,
        dynamo_backend="inductor" if settings.compile else "no",
    )


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM go into the list instead of ending the program."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
        yield seen
        return
    before = {
        number: signal.signal(number, lambda n, _: seen.append(n))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Batch(NamedTuple):
    """What a step learns from: x_0 (B, *shape) in [-1, 1], t (B,) and its weight, eps (B, *shape),
    and labels (B,).

    Labels are in 0..classes; the last stands for none.
    """

    x_0: Tensor
    t: Tensor
    weight: Tensor
    eps: Tensor
    label: Tensor


class Trainer:
    """The state of one run and the loop over its steps."""

    def __init__(self, settings: TrainSettings, train: Data, held_out: Data, out: Path) -> None:
        self.settings, self.out = settings, out
        self.accelerator = accelerator(settings)
        self.device = self.accelerator.device
        self.mine = self._share()
        self.train, self.held_out = train.to(self.device), held_out
        self.spec = settings.spec(train.shape)
        check_labels(settings, self.train)
        torch.manual_seed(stream_seed(settings.seed))
        self.network = self.spec.build().network.to(self.device)
        if settings.channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.averaged = deepcopy(self.network).eval().requires_grad_(False)
        self.optimisers = optimisers(
            self.network, settings.optimiser, settings.lr, settings.weight_decay
        )
        self.step = 0
        self.order: tuple[int, Tensor] = (-1, torch.empty(0))
        self.timesteps = timestep_sampler(settings.timesteps, settings.T).to(self.device)
        self._open()
        # The network as it is trained: in bf16, compiled, its gradients averaged over the
        # processes.
        self.model = self.accelerator.prepare_model(self.network)
        schedule = self.spec.around(self.network).schedule.to(self.device)
        # A classifier needs the forward process alone.
        target = "eps" if settings.target == "label" else settings.target
        self.ddpm = DDPM(self.model, schedule, target, settings.variance)

    def _share(self) -> slice:
        """The part of a batch that is this process's."""
        processes, batch, parts = (
            self.accelerator.num_processes,
            self.settings.batch,
            self.settings.accumulate,
        )
        if batch % (processes * parts):
            raise InputError(
                f"batch: found {batch}, expected a multiple of {processes} processes x accumulate={parts}"
            )
        size = batch // processes
        return slice(
            self.accelerator.process_index * size, (self.accelerator.process_index + 1) * size
        )

    # The loop.

    def run(self, progress: bool = True) -> None:
        """Train until ``settings.steps``. What is logged, drawn and saved is written by the main
        process alone.
        """
        s, main = self.settings, self.accelerator.is_main_process
        started, first = time.perf_counter(), self.step
        pending: list[Tensor] = []  # losses that are still on the device
        losses: list[float] = []  # the last ones, for the log
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
                stopping = False
                while self.step < s.steps and not stopping:
                    pending.append(self.train_step())
                    self.step += 1
                    bar.update()
                    due = {
                        every: self.step % every == 0 or self.step == s.steps
                        for every in (s.log_every, s.eval_every, s.save_every)
                    }
                    # Several processes can only stop together, so they ask each other when they
                    # meet anyway.
                    if not any(due.values()) and not (
                        signals and self.accelerator.num_processes == 1
                    ):
                        continue
                    losses = (losses + self.finite(pending))[-s.log_every :]
                    pending.clear()
                    stopping = self.anyone(bool(signals))
                    if board is None:
                        continue
                    if due[s.log_every]:
                        loss = sum(losses) / len(losses)
                        speed = (self.step - first) * s.batch / (time.perf_counter() - started)
                        self.log(board, loss=loss, images_per_second=speed)
                        bar.set_postfix_str(f"loss {loss:.4f}, {speed:.0f} images/s")
                    if due[s.eval_every] and not stopping:
                        bar.write(self.look(board))
                    if due[s.save_every] or stopping:
                        self.save()
                self.accelerator.wait_for_everyone()
        except OSError as error:
            reason = f"cannot be written at step {self.step} ({error.strerror or error})"
            raise InputError(
                f"out {self.out}: {reason}; the run as it was last saved is intact"
            ) from None
        if self.step < s.steps:
            raise KeyboardInterrupt(
                f"saved at step {self.step} of {s.steps}; the same command continues"
            )

    def train_step(self) -> Tensor:
        """Algorithm 1 once; returns the loss of this process's part of the batch, on the device."""
        s, losses = self.settings, []
        unweighted: list[Tensor] = []  # of each image
        batch = self.draw(self.step)
        self.train.prefetch(self.indices(self.step + 1)[self.mine])
        for group in chain(*(optimiser.param_groups for optimiser in self.optimisers)):
            group["lr"] = learning_rate(s, self.step)
        self.network.zero_grad()
        for x_0, t, weight, eps, label in zip(
            *(values.chunk(s.accumulate) for values in batch), strict=True
        ):
            with self.accelerator.accumulate(self.model):
                per_image = self.loss(x_0, t, eps, label)
                loss = (weight * per_image).mean()
                self.accelerator.backward(loss)
            losses.append(loss.detach())
            unweighted.append(per_image.detach())
        if s.timesteps == "importance":  # which learns from the whole batch, in every process alike
            self.timesteps.update(*self.accelerator.gather((batch.t, torch.cat(unweighted))))
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), s.clip)
        for optimiser in self.optimisers:
            optimiser.step()
        self.average()
        return (
            torch.stack(losses).mean() + 0 * norm
        )  # NaN where the gradient overflowed, without asking the device

    def loss(self, x_0: Tensor, t: Tensor, eps: Tensor, label: Tensor) -> Tensor:
        """What is minimised, of every item, (B,)."""
        if self.settings.target == "label":
            return cross_entropy(self.ddpm, x_0, t, eps, label)
        ddpm = self.ddpm.given(label) if self.settings.classes else self.ddpm
        return training_loss(ddpm, x_0, t, eps, self.settings.loss, self.settings.min_snr)

    def draw(self, step: int) -> Batch:
        """This process's part of the batch of a step. Random numbers are drawn for the whole batch
        by everyone.
        """
        s, mine = self.settings, self.mine
        torch.manual_seed(stream_seed(s.seed, 1, step))
        x_0 = self.train.batch(
            self.indices(step)[mine], torch.rand(s.batch, self.train.uniforms)[mine]
        )
        if s.flip:
            mirrored = torch.rand(s.batch, device=self.device)[mine] < 0.5
            x_0 = torch.where(mirrored.view(-1, 1, 1, 1), x_0.flip(-1), x_0)
        layout = (
            torch.channels_last if s.channels_last and x_0.ndim == 4 else torch.contiguous_format
        )
        x_0 = x_0.contiguous(memory_format=layout)
        t, weight = self.timesteps.draw(s.batch, self.device)
        eps = torch.empty(
            s.batch, *x_0.shape[1:], device=self.device, memory_format=layout
        ).normal_()[mine]
        label = self.labels(self.indices(step)[mine])
        if self.accelerator.process_index > 0:  # masks of dropout differ between the processes
            torch.manual_seed(stream_seed(s.seed, 2, step, self.accelerator.process_index))
        return Batch(x_0, t[mine], weight[mine], eps, label)

    def labels(self, indices: Tensor) -> Tensor:
        """Of this process's part of a batch; a share p_uncond of the whole batch's is withheld."""
        s = self.settings
        none = torch.full((len(indices),), s.classes, device=self.device)
        if not s.classes:
            return none
        label = sent(self.train.label(indices), self.device)
        if s.target == "label":
            return label
        return torch.where(
            torch.rand(s.batch, device=self.device)[self.mine] < s.p_uncond, none, label
        )

    def indices(self, step: int) -> Tensor:
        """The items of a step: epochs are shuffled one by one and follow each other without a gap."""
        n, start = len(self.train), step * self.settings.batch
        positions = torch.arange(start, start + self.settings.batch)
        return torch.cat(
            [
                self._order(int(e))[positions[positions // n == e] % n]
                for e in (positions // n).unique()
            ]
        )

    def _order(self, epoch: int) -> Tensor:
        if self.order[0] != epoch:
            self.order = (epoch, epoch_order(len(self.train), epoch, self.settings.seed))
        return self.order[1]

    def finite(self, losses: list[Tensor]) -> list[float]:
        """The losses of the last steps over the whole batch.

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

    def anyone(self, here: bool) -> bool:
        """Whether something is so in any process."""
        return bool(
            self.accelerator.reduce(torch.tensor(float(here), device=self.device), reduction="sum")
            > 0
        )

    @torch.no_grad()
    def average(self) -> None:
        """EMA of the weights; the decay grows as (1 + step) / (10 + step), so that the start is
        forgotten.
        """
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(
            list(self.averaged.parameters()), list(self.network.parameters()), 1 - decay
        )

    # Looking.

    @torch.no_grad()
    def look(self, board: SummaryWriter) -> str:
        """Bits/dim of held-out images and a grid of samples, or a classifier's accuracy, by the
        averaged weights.
        """
        text = f"step {self.step}"
        prior = self.spec.around(self.averaged)
        if isinstance(prior, NetworkClassifier):
            return text + self.look_at_classifier(prior, board)
        if len(prior.shape) == 1:
            return text
        if len(self.held_out):
            bits, error = held_out_bits_per_dim(prior, self.held_out, self.settings.eval_images)
            self.log(board, bits_per_dim=bits, bits_per_dim_error=error)
            text += f": {bits:.3f} +- {error:.3f} bits/dim on held-out images"
        samples = grid(draw_samples(prior).clamp(0, 1).cpu(), 8)
        write_image(self.out / f"samples_{self.step:07d}.png", samples)
        board.add_image("samples", samples, self.step)
        return text

    def look_at_classifier(self, classifier: NetworkClassifier, board: SummaryWriter) -> str:
        """Its accuracy on held-out images at a few noise levels."""
        if not len(self.held_out) or self.held_out.labels is None:
            return ""
        found = held_out_accuracy(classifier, self.held_out, self.settings.eval_images)
        self.log(board, **{f"accuracy_t{t}": accuracy for t, accuracy in found.items()})
        return ": accuracy on held-out images " + ", ".join(
            f"{a:.3f} at t = {t}" for t, a in found.items()
        )

    def log(self, board: SummaryWriter, **values: float) -> None:
        """Append to log.csv (step, name, value) and to the TensorBoard events."""
        with (self.out / "log.csv").open("a", newline="") as file:
            for name, value in values.items():
                csv.writer(file).writerow([self.step, name, f"{value:.6g}"])
                board.add_scalar(name, value, self.step)

    # Saving.

    def save(self) -> None:
        """Write state.pt and prior.safetensors, each whole or not at all."""
        state = {
            "settings": self._identity(),
            "step": self.step,
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "timesteps": self.timesteps.state_dict(),
        }
        content = io.BytesIO()  # torch tells no full disk from other failures, a file does
        torch.save(state, content)
        write_whole(self.out / "state.pt", content.getbuffer())
        save_prior(self.out / PRIOR_FILE, self.averaged, self.spec)

    def _identity(self) -> dict[str, Any]:
        """The settings that a resumed run must share; the length, the looks and the path may
        change.
        """
        looks = {"log_every", "eval_every", "eval_images", "save_every"}
        free = {"data", "held_out", "steps", "accumulate", "cooldown", "device", "compile", *looks}
        return {k: v for k, v in asdict(self.settings).items() if k not in free}

    def _open(self) -> None:
        """Begin, or continue from state.pt, which the main process reads for all."""
        [state] = broadcast_object_list(
            [self._saved() if self.accelerator.is_main_process else None]
        )
        if state is not None:
            self.step = state["step"]
            self.network.load_state_dict(state["network"])
            self.averaged.load_state_dict(state["averaged"])
            # A run that is older than Muon has the one of AdamW.
            for optimiser, held in zip(
                self.optimisers, state.get("optimisers") or [state["optimiser"]], strict=True
            ):
                optimiser.load_state_dict(held)
            self.timesteps.load_state_dict(state.get("timesteps", {}))
        elif self.settings.init is not None:
            self._begin_with(self.settings.init)
        if self.accelerator.is_main_process:
            self._shorten_log()

    def _saved(self) -> dict[str, Any] | None:
        """The state in ``out``, which must be writable, if there is one."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / "log.csv").touch()
        except OSError as error:
            raise InputError(f"out {self.out}: cannot be written ({error.strerror})") from None
        path = self.out / "state.pt"
        if not path.exists():
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file fails in many ways inside torch
            raise InputError(
                f"{path}: damaged, cannot resume ({str(error).splitlines()[0]})"
            ) from None
        # A setting that is younger than the run had its default.
        stored = {f.name: f.default for f in fields(TrainSettings)} | state["settings"]
        for key, value in self._identity().items():
            if (found := stored[key]) != value:
                raise InputError(
                    f"out {self.out}: holds a run with {key}={found!r}, this one has {value!r}"
                )
        return state

    def _shorten_log(self) -> None:
        """Drop what a killed run logged after it was last saved, which will be logged again."""
        lines = (self.out / "log.csv").read_bytes().splitlines(keepends=True)
        kept = [
            line
            for line in lines
            if line.endswith(b"\n") and int(line.partition(b",")[0]) <= self.step
        ]
        if kept != lines:
            write_whole(self.out / "log.csv", b"".join(kept))

    def _begin_with(self, name: str) -> None:
        """The weights of another prior, which must fit one by one."""
        prior = load_prior(name)
        if prior.target != self.spec.target:
            raise InputError(
                f"init {name}: predicts {prior.target}, expected target={self.spec.target}"
            )
        given, own = prior.network.state_dict(), self.network.state_dict()
        # What the other has not begins as it always does: without effect, for its last layer is
        # zero.
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


def check_labels(settings: TrainSettings, data: Data) -> None:
    """Raise InputError where the network learns labels that the data does not have."""
    if not settings.classes:
        return
    expected = f"expected 0..{settings.classes - 1}, as network.classes={settings.classes}"
    if data.labels is None:
        raise InputError(f"data {settings.data}: found no labels, {expected}")
    if int(data.labels.max()) >= settings.classes:
        raise InputError(
            f"data {settings.data}: found labels up to {int(data.labels.max())}, {expected}"
        )


def draw_samples(prior: NetworkDenoiser) -> Tensor:
    """For a grid of eight columns: 64 samples, or a row for each of at most 16 classes."""
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
    """Share of the first ``images`` items whose label is told right at x_t, for t = 1, T / levels,
    2 T / levels, ...
    """
    schedule, device = classifier.schedule, next(classifier.parameters()).device
    ddpm = DDPM(classifier.network, schedule)
    right = {max(1, level * schedule.T // levels): 0 for level in range(levels)}
    number = min(images, len(data))
    for start in range(0, number, batch):
        index = torch.arange(start, min(start + batch, number))
        x_0, label = data.batch(index).to(device), data.label(index).to(device)
        noise = Streams([(0, int(i)) for i in index])
        for t in right:
            log_p = log_probabilities(ddpm, x_0, torch.full_like(label, t), noise(x_0))
            right[t] += int((log_p.argmax(1) == label).sum())
    return {t: count / number for t, count in right.items()}


@torch.no_grad()
def held_out_bits_per_dim(
    prior: NetworkDenoiser, data: Data, images: int, steps_per_image: int = 4, batch: int = 256
) -> Estimate:
    """L_vlb of the first ``images`` items in bits/dim."""
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
