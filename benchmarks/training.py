"""Time to quality: our network and loop beside the networks of two other libraries in a plain loop, in one process.

    pip install diffusers denoising-diffusion-pytorch      (only this needs them)
    python benchmarks/training.py data=fashion_mnist.npz images=100000

Each sees as many images, of one data set, schedule and batch, with the same learning rate (warm-up over the first
tenth, cool-down over the last third) and the same average of its weights; ours predicts what its preset says, the peers
eps. At the end of every stretch the averaged weights are held to L_simple on held-out images (Ho et al. 2020, Eq. 14):
the squared error of eps per dimension, at t uniform in 1..T, with the same images, t and eps for all. What our network
predicts is turned into eps at the same x_t and t, so that the numbers are comparable. The error is the standard error
over the held-out images, which all share: differences are more certain than it says.

GFLOP are those of one image, forward and backward, as torch.utils.flop_counter counts them (two per multiplication
with addition, of convolutions, matrix products and attention). Seconds are seconds of the CPU where there is no GPU.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from invdiff import config
from invdiff.errors import InputError
from invdiff.prior.ddpm import DDPM
from invdiff.prior.schedule import Schedule
from invdiff.rng import Streams
from invdiff.train import TrainCommand
from invdiff.training import Data, Trainer, TrainSettings, load_data
from invdiff.training.trainer import computes_bf16, learning_rate

Loop = Iterator[nn.Module]  # one step of training, then the averaged network


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """What is compared.

    Attributes:
        data: an .npz that ``load_data`` reads.
        preset: ours, of configs/train.
        images: how many each network sees.
        peers: diffusers, denoising_diffusion_pytorch.
        batch, lr: as in the preset unless given.
        stretches: how often the held-out loss is computed.
        held_out: images of it.
    """

    data: str
    preset: str = "fashion"
    images: int = 100_000
    peers: tuple[str, ...] = ("diffusers", "denoising_diffusion_pytorch")
    batch: int | None = None
    lr: float | None = None
    stretches: int = 10
    held_out: int = 1000


class Point(NamedTuple):
    """A network after some images: seconds of training, held-out L_simple and its standard error."""

    images: int
    seconds: float
    loss: float
    error: float


class Diffusers(nn.Module):
    """UNet2DModel of diffusers, 6.5 M parameters for one channel."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        self.unet = UNet2DModel(
            sample_size=size, in_channels=channels, out_channels=channels,
            block_out_channels=(64, 128, 128), layers_per_block=2,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.unet(x_t, t).sample


def denoising_diffusion_pytorch(channels: int, size: int) -> nn.Module:
    """Unet of denoising-diffusion-pytorch, 5.7 M parameters."""
    from denoising_diffusion_pytorch import Unet

    return Unet(dim=48, dim_mults=(1, 2, 4), channels=channels)


PEERS: dict[str, Callable[[int, int], nn.Module]] = {
    "diffusers": Diffusers,
    "denoising_diffusion_pytorch": denoising_diffusion_pytorch,
}


def our_loop(trainer: Trainer) -> Loop:
    """The trainer's own steps."""
    while True:
        trainer.train_step()
        trainer.step += 1
        yield trainer.averaged


def plain_loop(network: nn.Module, s: TrainSettings, data: Data, schedule: Schedule, device: torch.device) -> Loop:
    """Algorithm 1 of Ho et al. as it is usually written: AdamW, clipping, EMA, autocast where there is bf16."""
    averaged = deepcopy(network).eval().requires_grad_(False)
    optimiser = torch.optim.AdamW(network.parameters(), lr=s.lr, weight_decay=s.weight_decay)
    ddpm = DDPM(network, schedule.to(device), "eps")
    step = 0
    while True:
        x_0 = data.batch(torch.randint(len(data), (s.batch,))).to(device)
        t = torch.randint(1, schedule.T + 1, (s.batch,), device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=computes_bf16(device)):
            loss = ddpm.L_simple(x_0, t, torch.randn_like(x_0)).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), s.clip)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(s, step)
        optimiser.step()
        decay = min(s.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(averaged.parameters()), list(network.parameters()), 1 - decay)
        step += 1
        yield averaged


@torch.no_grad()
def held_out_loss(ddpm: DDPM, data: Data, images: int, device: torch.device, batch: int = 100) -> tuple[float, float]:
    """L_simple on eps, and its standard error; image i has its own t and eps, the same for every network."""
    losses = []
    for start in range(0, min(images, len(data)), batch):
        index = torch.arange(start, min(start + batch, images, len(data)))
        noise = Streams([(0, int(i)) for i in index])
        x_0 = data.batch(index)
        u = torch.special.ndtr(noise(torch.zeros(len(index), 1, dtype=torch.float64)))[:, 0]
        t = (1 + (u * ddpm.schedule.T).long().clamp(max=ddpm.schedule.T - 1)).to(device)
        eps = noise(x_0).to(device)
        predicted = ddpm.eps(ddpm.q_sample(x_0.to(device), t, eps), t)
        losses.append((predicted - eps).square().flatten(1).mean(1).cpu())
    loss = torch.cat(losses)
    return loss.mean().item(), (loss.std() / len(loss) ** 0.5).item()


def gflop(network: nn.Module, x: Tensor) -> float:
    """Forward and backward of one image."""
    counter = FlopCounterMode(display=False)
    with counter:
        network(x, torch.ones(len(x), device=x.device)).square().mean().backward()
    network.zero_grad()
    return counter.get_total_flops() / len(x) / 1e9


def seconds(device: torch.device) -> float:
    """Of the CPU, all threads together; of the clock on a GPU, when it has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def curve(loop: Loop, judge: Callable[[nn.Module], tuple[float, float]], s: TrainSettings, stretches: int,
          device: torch.device) -> list[Point]:  # fmt: skip
    """Train to the end; the held-out loss at the end of each stretch, whose own time does not count."""
    points, spent, done = [], 0.0, 0
    for stretch in range(1, stretches + 1):
        end = round(s.steps * stretch / stretches)
        started = seconds(device)
        for _ in range(end - done):
            averaged = next(loop)
        spent, done = spent + seconds(device) - started, end
        points.append(Point(done * s.batch, spent, *judge(averaged)))
        last = points[-1]
        print(f"  {last.images} images, {last.seconds:.0f} s: {last.loss:.4f} +- {last.error:.4f}", flush=True)
    return points


def reached(points: list[Point], loss: float) -> Point | None:
    """The first point at which a loss was reached."""
    return next((point for point in points if point.loss <= loss), None)


def main(words: list[str]) -> None:
    b = config.validate(BenchmarkSettings, config.resolve(words, BenchmarkSettings))
    unknown = [name for name in b.peers if name not in PEERS]
    if unknown:
        raise InputError(f"peers: found {unknown[0]!r}, expected some of {', '.join(PEERS)}")
    words = [f"train={b.preset}", f"data={b.data}", "out=."]
    s: TrainSettings = config.validate(TrainCommand, config.resolve(words, TrainCommand))
    batch = b.batch or s.batch
    steps = max(b.stretches, b.images // batch)
    s = replace(s, batch=batch, lr=b.lr or s.lr, steps=steps, warmup=steps // 10, cooldown=steps // 3)

    train, held_out = load_data(s.data, s.size, s.channels)
    schedule = Schedule.named(s.schedule, s.T)
    curves: dict[str, list[Point]] = {}
    costs: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(s, train, held_out, Path(folder))
        device = trainer.device
        example = torch.zeros(4, *train.shape, device=device)
        networks = {"invdiff": trainer.network}
        for name in b.peers:
            torch.manual_seed(0)
            networks[name] = PEERS[name](train.shape[0], train.shape[-1]).to(device)
        for name, network in networks.items():
            costs[name] = gflop(network, example)
            size = sum(p.numel() for p in network.parameters()) / 1e6
            print(f"{name}: {size:.2f} M parameters, {costs[name]:.2f} GFLOP per image", flush=True)
            ours = network is trainer.network
            kind = (s.target, s.variance) if ours else ("eps", "small")
            loop = our_loop(trainer) if ours else plain_loop(network, s, trainer.train, schedule, device)
            curves[name] = curve(
                loop,
                lambda averaged, kind=kind: held_out_loss(  # type: ignore[misc]
                    DDPM(averaged, schedule.to(device), *kind), held_out, b.held_out, device
                ),
                s, b.stretches, device,
            )  # fmt: skip
    report(curves, costs)


def report(curves: dict[str, list[Point]], costs: dict[str, float]) -> None:
    """The tables."""
    print("\n| network | GFLOP/image | images/s | L_simple at the end | seconds | GFLOP |\n|---|---|---|---|---|---|")
    for name, points in curves.items():
        last = points[-1]
        print(f"| {name} | {costs[name]:.2f} | {last.images / last.seconds:.1f} | {last.loss:.4f} +- {last.error:.4f} "
              f"| {last.seconds:.0f} | {costs[name] * last.images:.0f} |")  # fmt: skip
    for name in list(curves)[1:]:
        goal = curves[name][-1]
        ours = reached(curves["invdiff"], goal.loss)
        if ours is None:
            print(f"invdiff did not reach the {goal.loss:.4f} of {name}")
            continue
        time_share = ours.seconds / goal.seconds
        work_share = ours.images * costs["invdiff"] / (goal.images * costs[name])
        print(f"invdiff was at or below the {goal.loss:.4f} of {name} after {ours.images} images: "
              f"{time_share:.2f} of its seconds, {work_share:.2f} of its GFLOP")  # fmt: skip


if __name__ == "__main__":
    config.run_command(main, __doc__, settings=BenchmarkSettings)
