"""Time to quality: our network and loop beside the networks of two other libraries in a plain loop,
in one process.

    pip install diffusers denoising-diffusion-pytorch      (only this needs them)
    python benchmarks/training.py data=fashion_mnist.npz images=100000 ours=330000 batch=16 lr=8e-4
    out=runs/training

Each sees images of one data set, on one schedule, with a warm-up over the first tenth and a
cool-down over the last third, and the same average of its weights. Ours is trained as its preset
says; the peers predict eps and are moved by AdamW. Ours sees as many images as they, or ``ours``: a
cheaper network may see more of them in the same time.

At the end of every stretch the averaged weights are held to L_simple on held-out images (Ho et al.
2020, Eq. 14): the squared error of eps per dimension, at t uniform in 1..T, with the same images, t
and eps for all. What our network predicts is turned into eps at the same x_t and t, so that the
numbers are comparable. The error of a loss is the standard error over the held-out images; that of
a difference is the paired one.

The curve of a network is kept in ``out``, and is not made again while it is there.

GFLOP are those of one image, forward and backward, as torch.utils.flop_counter counts them (two per
multiplication with addition, of convolutions, matrix products and attention). Seconds are seconds
of the CPU where there is no GPU.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from invdiff import config
from invdiff.errors import InputError
from invdiff.estimate import Estimate
from invdiff.io.whole import write_whole
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
        ours: how many ours sees, where it is another number.
        peers: diffusers, denoising_diffusion_pytorch.
        out: a folder for the curves.
        batch, lr: of the peers; as in the preset unless given.
        stretches: how often the held-out loss is computed.
        held_out: images of it.
    """

    data: str
    preset: str = "fashion"
    images: int = 100_000
    ours: int | None = None
    peers: tuple[str, ...] = ("diffusers", "denoising_diffusion_pytorch")
    batch: int | None = None
    lr: float | None = None
    stretches: int = 10
    held_out: int = 1000
    out: str | None = None


@dataclass(frozen=True)
class Point:
    """A network after some images: seconds of training, and L_simple of each held-out image."""

    images: int
    seconds: float
    losses: list[float]

    @property
    def loss(self) -> Estimate:
        return Estimate.over(self.losses)

    def beyond(self, other: Point) -> Estimate:
        """How much higher the loss is than the other's, over the same images."""
        return Estimate.over(
            [mine - theirs for mine, theirs in zip(self.losses, other.losses, strict=True)]
        )


@dataclass(frozen=True)
class Curve:
    """A network's way: GFLOP of one image, and the points."""

    gflop: float
    points: list[Point]

    @property
    def last(self) -> Point:
        return self.points[-1]

    @classmethod
    def read(cls, text: str) -> Curve:
        kept = json.loads(text)
        return cls(kept["gflop"], [Point(**point) for point in kept["points"]])


class Diffusers(nn.Module):
    """UNet2DModel of diffusers, 6.5 M parameters for one channel."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        self.unet = UNet2DModel(
            sample_size=size,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(64, 128, 128),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        )

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.unet(x_t, t).sample


def denoising_diffusion_pytorch(channels: int, size: int) -> nn.Module:
    """Unet of denoising-diffusion-pytorch, 5.7 M parameters."""
    from denoising_diffusion_pytorch import Unet

    return Unet(dim=48, dim_mults=(1, 2, 4), channels=channels)


OURS = "invdiff"
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


def plain_loop(
    network: nn.Module, s: TrainSettings, data: Data, schedule: Schedule, device: torch.device
) -> Loop:
    """Algorithm 1 of Ho et al. as it is usually written: AdamW, clipping, EMA, autocast where there
    is bf16.
    """
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
def held_out_losses(
    ddpm: DDPM, data: Data, images: int, device: torch.device, batch: int = 100
) -> list[float]:
    """L_simple on eps of each image; image i has its own t and eps, the same for every network."""
    losses: list[float] = []
    for start in range(0, min(images, len(data)), batch):
        index = torch.arange(start, min(start + batch, images, len(data)))
        noise = Streams([(0, int(i)) for i in index])
        x_0 = data.batch(index)
        u = torch.special.ndtr(noise(torch.zeros(len(index), 1, dtype=torch.float64)))[:, 0]
        t = (1 + (u * ddpm.schedule.T).long().clamp(max=ddpm.schedule.T - 1)).to(device)
        eps = noise(x_0).to(device)
        predicted = ddpm.eps(ddpm.q_sample(x_0.to(device), t, eps), t)
        losses += (predicted - eps).square().flatten(1).mean(1).tolist()
    return losses


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


def curve(
    loop: Loop,
    judge: Callable[[nn.Module], list[float]],
    s: TrainSettings,
    stretches: int,
    device: torch.device,
) -> list[Point]:
    """Train to the end; the held-out loss at the end of each stretch, whose own time does not
    count.
    """
    points, spent, done = [], 0.0, 0
    for stretch in range(1, stretches + 1):
        end = round(s.steps * stretch / stretches)
        started = seconds(device)
        for _ in range(end - done):
            averaged = next(loop)
        spent, done = spent + seconds(device) - started, end
        points.append(Point(done * s.batch, spent, judge(averaged)))
        print(f"  {points[-1].images} images, {spent:.0f} s: {points[-1].loss:.4f}", flush=True)
    return points


def settings(b: BenchmarkSettings, name: str) -> TrainSettings:
    """How a network is trained."""
    words = [f"train={b.preset}", f"data={b.data}", "out=."]
    s: TrainSettings = config.validate(TrainCommand, config.resolve(words, TrainCommand))
    if name != OURS:
        s = replace(s, batch=b.batch or s.batch, lr=b.lr or s.lr)
    images = b.ours or b.images if name == OURS else b.images
    steps = max(b.stretches, images // s.batch)
    return replace(s, steps=steps, warmup=steps // 10, cooldown=steps // 3)


def trained(name: str, b: BenchmarkSettings) -> Curve:
    """The curve of one network."""
    s = settings(b, name)
    train, held_out = load_data(s.data, s.size, s.channels)
    schedule = Schedule.described(s.noise_schedule, s.T)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(s, train, held_out, Path(folder))
        device, kind = trainer.device, (s.target, s.variance)
        network, loop = trainer.network, our_loop(trainer)
        if name != OURS:
            torch.manual_seed(0)
            network, kind = (
                PEERS[name](train.shape[0], train.shape[-1]).to(device),
                ("eps", "small"),
            )
            loop = plain_loop(network, s, trainer.train, schedule, device)
        cost = gflop(network, torch.zeros(4, *train.shape, device=device))
        size = sum(p.numel() for p in network.parameters()) / 1e6
        print(f"{name}: {size:.2f} M parameters, {cost:.2f} GFLOP per image", flush=True)

        def judge(averaged: nn.Module) -> list[float]:
            ddpm = DDPM(averaged, schedule.to(device), *kind)  # type: ignore[arg-type]
            return held_out_losses(ddpm, held_out, b.held_out, device)

        return Curve(cost, curve(loop, judge, s, b.stretches, device))


def main(words: list[str]) -> None:
    b = config.validate(BenchmarkSettings, config.resolve(words, BenchmarkSettings))
    unknown = [name for name in b.peers if name not in PEERS]
    if unknown:
        raise InputError(f"peers: found {unknown[0]!r}, expected some of {', '.join(PEERS)}")
    curves: dict[str, Curve] = {}
    for name in (*b.peers, OURS):
        kept = Path(b.out) / f"{name}.json" if b.out else None
        if kept and kept.exists():
            curves[name] = Curve.read(kept.read_text())
            continue
        curves[name] = trained(name, b)
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_whole(kept, json.dumps(asdict(curves[name])).encode())
    report(curves)


def report(curves: dict[str, Curve]) -> None:
    """The tables: every network at its end, and ours where it was first level with a peer."""
    print(
        "\n| network | GFLOP/image | images | images/s | L_simple | seconds | GFLOP |\n|---|---|---|---|---|---|---|"
    )
    for name, made in curves.items():
        last = made.last
        print(
            f"| {name} | {made.gflop:.2f} | {last.images} | {last.images / last.seconds:.1f} | {last.loss:.4f} "
            f"| {last.seconds:.0f} | {made.gflop * last.images:.0f} |"
        )
    ours = curves.pop(OURS)
    for name, peer in curves.items():
        level = next(
            (point for point in ours.points if point.beyond(peer.last).mean <= 0), ours.last
        )
        print(
            f"{OURS} beside {name} after {level.images} images, {level.seconds / peer.last.seconds:.2f} of its "
            f"seconds and {level.images * ours.gflop / (peer.last.images * peer.gflop):.2f} of its GFLOP: "
            f"{level.beyond(peer.last):.4f}"
        )


if __name__ == "__main__":
    config.run_command(main)
