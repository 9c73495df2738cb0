"""Training a DDPM prior: Algorithm 1 of Ho et al. 2020 with EMA, warm-up, cool-down, mixed precision and exact resume.

Every random number of a step (its items, t, eps, dropout) is a function of (seed, step), so the state of a run is
its weights, their average, the optimiser and the step: a killed run continues to the weights it would have had.
"""

from __future__ import annotations

import csv
import math
import os
import sys
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from invdiff.errors import InputError
from invdiff.images import grid, write_image
from invdiff.prior.checkpoint import PRIOR_FILE, PriorSpec, pick_device, save_prior
from invdiff.prior.ddpm import DDPM, Target, algorithm_1
from invdiff.prior.denoiser import NetworkDenoiser
from invdiff.prior.reverse import generate
from invdiff.prior.schedule import ScheduleName
from invdiff.rng import Streams, stream_seed
from invdiff.training.data import Data, epoch_order, load_data


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """A training preset: everything that the weights depend on, and how often to look at them.

    Attributes:
        data: what ``load_data`` reads; size, channels, crop and held_out as there.
        steps, batch: optimiser steps, and images in each.
        lr: the learning rate of AdamW after ``warmup`` steps; it falls linearly to zero over the last
            ``cooldown`` steps.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights, reached gradually.
        flip: mirror images at random.
        precision: "auto" is bf16 where the hardware computes in it, else float32.
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
    target: Target = "eps"
    steps: int = 10_000
    batch: int = 64
    lr: float = 2e-4
    warmup: int = 200
    cooldown: int = 0
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
    flip: bool = False
    seed: int = 0
    precision: Literal["auto", "bf16", "float32"] = "auto"
    channels_last: bool = False
    compile: bool = False
    device: str = "auto"
    log_every: int = 50
    eval_every: int = 1000
    eval_images: int = 256
    save_every: int = 200

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "log_every", "eval_every", "eval_images", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: found {getattr(self, name)}, expected at least 1")
        if not self.lr > 0 or not 0 <= self.ema < 1:
            raise InputError(f"lr, ema: found {self.lr}, {self.ema}, expected lr > 0 and 0 <= ema < 1")

    def spec(self, shape: tuple[int, ...]) -> PriorSpec:
        """The prior that these settings train, for items of a shape."""
        return PriorSpec(shape, self.network, self.schedule, self.T, self.target)


def fit(settings: TrainSettings, out: str | Path, *, progress: bool = True) -> NetworkDenoiser:
    """Train a prior, or continue the run in ``out``; returns the averaged weights as a prior.

    ``out`` receives state.pt (to resume), prior.safetensors, log.csv, TensorBoard events and grids of samples.

    Raises:
        InputError: the data or the folder cannot be used, or ``out`` holds a run with other settings.
    """
    train, held_out = load_data(
        settings.data, settings.size, settings.channels, crop=settings.crop, held_out=settings.held_out
    )
    trainer = Trainer(settings, train, held_out, Path(out))
    trainer.run(progress)
    return trainer.prior(trainer.averaged)


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


class Trainer:
    """The state of one run and the loop over its steps."""

    def __init__(self, settings: TrainSettings, train: Data, held_out: Data, out: Path) -> None:
        self.settings, self.out = settings, out
        self.device = pick_device(settings.device)
        self.train, self.held_out = train.to(self.device), held_out
        self.spec = settings.spec(train.shape)
        torch.manual_seed(stream_seed(settings.seed))
        self.network = self.spec.build().network.to(self.device)
        if settings.channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.averaged = deepcopy(self.network).eval().requires_grad_(False)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        self.step = 0
        self.order: tuple[int, Tensor] = (-1, torch.empty(0))
        bf16 = settings.precision == "bf16" or (settings.precision == "auto" and computes_bf16(self.device))
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)
        compiled = torch.compile(self.network) if settings.compile else self.network
        self.ddpm = DDPM(compiled, self.prior(self.network).schedule, settings.target)
        self._open()

    def prior(self, network: nn.Module) -> NetworkDenoiser:
        """A network of this run as a prior."""
        prior = self.spec.build()
        prior.network = network
        return prior

    # The loop.

    def run(self, progress: bool = True) -> None:
        """Train until ``settings.steps``."""
        s = self.settings
        bar = tqdm(total=s.steps, initial=self.step, unit="step", disable=not progress, dynamic_ncols=True,
                   mininterval=0.1 if sys.stderr.isatty() else 30.0)  # fmt: skip
        started, first = time.perf_counter(), self.step
        losses: list[Tensor] = []
        with SummaryWriter(str(self.out), purge_step=self.step) as board:
            while self.step < s.steps:
                losses.append(self.train_step())
                self.step += 1
                bar.update()
                due = {every: self.step % every == 0 or self.step == s.steps
                       for every in (s.log_every, s.eval_every, s.save_every)}  # fmt: skip
                if any(due.values()):
                    self._stop_if_diverged(losses)
                if due[s.log_every]:
                    loss = torch.stack(losses).mean().item()
                    losses.clear()
                    speed = (self.step - first) * s.batch / (time.perf_counter() - started)
                    self.log(board, loss=loss, images_per_second=speed)
                    bar.set_postfix_str(f"loss {loss:.4f}, {speed:.0f} images/s")
                if due[s.eval_every]:
                    bar.write(self.look(board))
                if due[s.save_every]:
                    self.save()
        bar.close()

    def train_step(self) -> Tensor:
        """Algorithm 1 once; returns the loss, on the device."""
        s = self.settings
        torch.manual_seed(stream_seed(s.seed, 1, self.step))
        x_0 = self.train.batch(self.indices(self.step)).to(self.device)
        self.train.prefetch(self.indices(self.step + 1))
        if s.flip:
            mirrored = torch.rand(len(x_0), device=self.device) < 0.5
            x_0 = torch.where(mirrored.view(-1, 1, 1, 1), x_0.flip(-1), x_0)
        if s.channels_last and x_0.ndim == 4:
            x_0 = x_0.contiguous(memory_format=torch.channels_last)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(s, self.step)
        with self.autocast:
            loss = algorithm_1(self.ddpm, x_0).mean()
        self.optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), s.clip)
        self.optimiser.step()
        self.average()
        return loss.detach() + 0 * norm  # NaN where the gradient overflowed, without asking the device

    def indices(self, step: int) -> Tensor:
        """The items of a step: epochs are shuffled one by one and follow each other without a gap."""
        n, out = len(self.train), []
        for position in range(step * self.settings.batch, (step + 1) * self.settings.batch):
            epoch, place = divmod(position, n)
            if self.order[0] != epoch:
                self.order = (epoch, epoch_order(n, epoch, self.settings.seed))
            out.append(self.order[1][place])
        return torch.stack(out)

    @torch.no_grad()
    def average(self) -> None:
        """EMA of the weights; the decay grows as (1 + step) / (10 + step), so that the start is forgotten."""
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.network.parameters()), 1 - decay)

    # Looking.

    @torch.no_grad()
    def look(self, board: SummaryWriter) -> str:
        """Bits/dim of held-out images and a grid of samples, from the averaged weights."""
        text = f"step {self.step}"
        prior = self.prior(self.averaged)
        if len(prior.shape) == 1:
            return text
        if len(self.held_out):
            bits, error = held_out_bits_per_dim(prior, self.held_out, self.settings.eval_images)
            self.log(board, bits_per_dim=bits, bits_per_dim_error=error)
            text += f": {bits:.3f} +- {error:.3f} bits/dim on held-out images"
        samples = grid(generate(prior, 64, steps=50).clamp(0, 1).cpu(), 8)
        write_image(self.out / f"samples_{self.step:07d}.png", samples)
        board.add_image("samples", samples, self.step)
        return text

    def log(self, board: SummaryWriter, **values: float) -> None:
        """Append to log.csv (step, name, value) and to the TensorBoard events."""
        with (self.out / "log.csv").open("a", newline="") as file:
            for name, value in values.items():
                csv.writer(file).writerow([self.step, name, f"{value:.6g}"])
                board.add_scalar(name, value, self.step)

    def _stop_if_diverged(self, losses: list[Tensor]) -> None:
        """Before anything is logged or saved, so that the last state on disk is a good one."""
        if losses and not math.isfinite(loss := torch.stack(losses).mean().item()):
            raise InputError(f"loss: found {loss} before step {self.step}, expected a finite one; try a lower lr")

    # Saving.

    def save(self) -> None:
        """Write state.pt and prior.safetensors, each to a temporary name first."""
        state = {
            "settings": self._identity(),
            "step": self.step,
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        temporary = self.out / f".state.pt.{os.getpid()}"
        torch.save(state, temporary)
        os.replace(temporary, self.out / "state.pt")
        save_prior(self.out / PRIOR_FILE, self.averaged, self.spec)

    def _identity(self) -> dict[str, Any]:
        """The settings that a resumed run must share; the length, the looks and the path may change."""
        looks = {"log_every", "eval_every", "eval_images", "save_every"}
        free = {"data", "held_out", "steps", "cooldown", "device", "compile", *looks}
        return {k: v for k, v in asdict(self.settings).items() if k not in free}

    def _open(self) -> None:
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / "log.csv").touch()
        except OSError as error:
            raise InputError(f"out {self.out}: cannot be written ({error.strerror})") from None
        path = self.out / "state.pt"
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:  # a damaged file fails in many ways inside torch
            raise InputError(f"{path}: damaged, cannot resume ({str(error).splitlines()[0]})") from None
        for key, value in self._identity().items():
            if state["settings"].get(key) != value:
                found = state["settings"].get(key)
                raise InputError(f"out {self.out}: holds a run with {key}={found!r}, this one has {value!r}")
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])


@torch.no_grad()
def held_out_bits_per_dim(
    prior: NetworkDenoiser, data: Data, images: int, steps_per_image: int = 4, batch: int = 256
) -> tuple[float, float]:
    """Mean L_vlb of the first ``images`` items in bits/dim and its standard error."""
    ddpm = DDPM(prior.network, prior.schedule, prior.target)
    device = next(prior.network.parameters()).device
    totals = []
    for start in range(0, min(images, len(data)), batch):
        index = torch.arange(start, min(start + batch, images, len(data)))
        noise = Streams([(0, int(i)) for i in index])
        totals.append(ddpm.bits_per_dim(data.batch(index).to(device), noise, steps_per_image).total.cpu())
    total = torch.cat(totals)
    return total.mean().item(), (total.std() / len(total) ** 0.5).item()
