"""Network calls: images per second and share of the device's peak, ours beside azula, deepinv and diffusers.

    python benchmarks/inference.py --out inference.md                  (every shipped prior, and an ADM network)
    python benchmarks/inference.py --compile --sizes 64 256 --batch 16 --out inference.md     (on a GPU)
    python benchmarks/inference.py --priors fashion --width 32 --sizes 16 --repeats 2    (tiny: a rehearsal)

Every way to compute one network is measured in turns in this process, so that other work on the machine meets all
alike; a figure is the median of the repeats. On a CPU a second is one of the CPU, summed over threads; on a GPU it
is one of the clock, after everything has finished. The peak is what one large convolution (256 channels, 3x3)
reaches in the same type in this process; a network's operations are those that torch's counter finds in it.

"plain" is a network as it is written; float32, bf16 and "compiled" are those of `invdiff.prior.execution`. A peer has
random weights, and ours has the same ones, read by our loader: what both return is compared first.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from invdiff import load_prior
from invdiff.prior.denoiser import NetworkDenoiser
from invdiff.prior.execution import Execution, computing_in
from invdiff.prior.loaders import diffusers as diffusers_files
from invdiff.prior.loaders import guided
from invdiff.prior.schedule import Schedule
from invdiff.registry import lookup
from invdiff.resources import pick_device, shipped_priors

Call = Callable[[], object]
MULTIPLIERS = (1, 1, 2, 2, 4, 4)  # of the ADM network of FFHQ, 93.6 M parameters at width 128
COLUMNS = "| network | pixels | batch | way | images/s | times plain | share of peak |"
TENSORS: dict[str, torch.dtype] = {"float32": torch.float32, "bf16": torch.bfloat16}


def filled(network: nn.Module, device: torch.device) -> nn.Module:
    """Return the network with random weights everywhere, on a device."""
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        weight.data = 0.03 * torch.randn(weight.shape, generator=generator)
    return network.eval().requires_grad_(False).to(device)


def azula_network(width: int) -> tuple[nn.Module, Callable[[nn.Module], Any]]:
    """Return azula's ADM network, and what reads its weights."""
    from azula.plugins.adm._src.unet import UNetModel

    network = UNetModel(
        image_size=256,
        in_channels=3,
        model_channels=width,
        out_channels=6,
        num_res_blocks=1,
        attention_resolutions=(16,),
        channel_mult=MULTIPLIERS,
        num_head_channels=min(64, width),
        use_scale_shift_norm=True,
        resblock_updown=True,
    )
    settings = {"head_channels": min(64, width), "schedule": "linear", "T": 1000}
    return network, lambda other: guided.load(dict(other.state_dict()), settings)


def deepinv_network(width: int) -> tuple[nn.Module, Callable[[nn.Module], Any]]:
    """Return deepinv's ADM network, whose width is 128, and what reads its weights."""
    from deepinv.models import DiffUNet

    if width != 128:
        raise ImportError("its width is 128")

    class Told(DiffUNet):  # type: ignore[misc]
        def forward(self, x: Tensor, t: Tensor) -> Any:
            return super().forward(x, t, type_t="timestep")

    def read(other: nn.Module) -> Any:
        weights = other.state_dict()
        kept = {k: v for k, v in weights.items() if k.split(".")[0] in KNOWN}
        return guided.load(kept, {"head_channels": 64, "schedule": "linear", "T": 1000})

    return Told(pretrained=None), read


KNOWN = ("time_embed", "input_blocks", "middle_block", "output_blocks", "out")


def diffusers_network(width: int) -> tuple[nn.Module, Callable[[nn.Module], Any]]:
    """Return the same network of diffusers, and what reads its weights."""
    from diffusers import DDPMScheduler, UNet2DModel

    down = ["ResnetDownsampleBlock2D"] * len(MULTIPLIERS)
    down[4] = "AttnDownBlock2D"
    up = ["ResnetUpsampleBlock2D"] * len(MULTIPLIERS)
    up[1] = "AttnUpBlock2D"
    network = UNet2DModel(
        sample_size=256,
        in_channels=3,
        out_channels=6,
        block_out_channels=tuple(m * width for m in MULTIPLIERS),
        layers_per_block=1,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        attention_head_dim=min(64, width),
        attn_norm_num_groups=32,
        norm_eps=1e-5,
        freq_shift=0,
        flip_sin_to_cos=True,
    )

    def read(other: nn.Module) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            other.save_pretrained(folder)
            DDPMScheduler().save_pretrained(folder)
            return diffusers_files.load(Path(folder), {})

    return network, read


PEERS = {"azula": azula_network, "deepinv": deepinv_network, "diffusers": diffusers_network}


class Tensors(nn.Module):
    """A network that may return an object with its result under the name ``sample``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the result itself."""
        out = self.network(x, t)
        found: Tensor = getattr(out, "sample", out)
        return found


def seconds_of(call: Call, device: torch.device) -> float:
    """Return the seconds of a call: of the CPU, or of the clock on a GPU."""
    if device.type == "cpu":
        start = time.process_time()
        call()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def in_turns(calls: dict[str, Call], repeats: int, device: torch.device) -> dict[str, float]:
    """Return the median seconds of each call, after one that is not measured."""
    for call in calls.values():
        call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            taken[name].append(seconds_of(call, device))
    return {name: statistics.median(values) for name, values in taken.items()}


def convolution(precision: str, device: torch.device, side: int) -> tuple[Call, float]:
    """Return a large convolution, and the operations (FLOP) that it takes."""
    conv = nn.Conv2d(256, 256, 3, padding=1).to(device, memory_format=torch.channels_last)
    x = torch.randn(4, 256, side, side, device=device).to(memory_format=torch.channels_last)
    if precision == "bf16":
        conv = conv.bfloat16()
        x = x.bfloat16()

    def call() -> None:
        with torch.no_grad(), computing_in("float32" if precision == "float32" else "", device):
            conv(x)

    return call, 2.0 * 9 * 256 * 256 * x.numel() / 256


def operations(network: nn.Module, x: Tensor, t: Tensor) -> float:
    """Return the operations (FLOP) of one call."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x, t)
    return float(counter.get_total_flops())


def ways(network: nn.Module, shape: tuple[int, ...], compile: bool) -> Iterator[tuple[str, Any]]:
    """Yield the ways to compute a network of ours: their names and the networks."""
    for compiled in (False, True) if compile else (False,):
        for precision in ("float32", "bf16"):
            prior = NetworkDenoiser(network, shape, Schedule.linear())
            settings: dict[str, Any] = {"precision": precision, "compile": compiled}
            found = Execution(**settings).around(prior)
            assert isinstance(found, NetworkDenoiser)
            yield f"{precision}{', compiled' if compiled else ''}", found.network


def rows(
    label: str, networks: dict[str, nn.Module], size: int, channels: int, a: argparse.Namespace
) -> Iterator[str]:
    """Yield the lines of the table for networks that do the same, measured in turns with the peak."""
    x = torch.randn(a.batch, channels, size, size, device=a.device)
    t = torch.full((a.batch,), 500.0, device=a.device)
    flop = operations(next(iter(networks.values())), x, t)
    calls: dict[str, Call] = {}
    peaks: dict[str, float] = {}
    for precision in TENSORS:
        calls[precision], peaks[precision] = convolution(precision, a.device, a.peak_side)
    for name, network in networks.items():

        def call(network: nn.Module = network) -> None:
            with torch.no_grad():
                network(x, t)

        calls[f"way {name}"] = call
    found = in_turns(calls, a.repeats, a.device)
    plain = found[f"way {next(iter(networks))}"]
    for name in networks:
        seconds = found[f"way {name}"]
        precision = "bf16" if "bf16" in name else "float32"
        peak = peaks[precision] / found[precision]
        yield (
            f"| {label} | {size}x{size} | {a.batch} | {name} | {a.batch / seconds:.3g} | "
            f"{plain / seconds:.2f} | {flop / seconds / peak:.0%} |"
        )


def of_prior(name: str, a: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of a shipped prior."""
    prior = load_prior(name, a.device)
    if len(prior.shape) != 3 or not isinstance(prior, NetworkDenoiser):
        return
    for size in a.sizes:
        networks = {
            "plain": load_prior(name, a.device).network
        }  # its weights lie as they were read
        networks |= dict(ways(prior.network, prior.shape, a.compile))
        yield from rows(f"`{name}`", networks, size, prior.shape[0], a)


def of_peer(name: str, a: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of a peer's network, and of ours with its weights."""
    try:
        made, read = PEERS[name](a.width)
    except ImportError as error:
        print(f"{name}: left out: {error}", flush=True)
        return
    network = filled(made, torch.device("cpu"))
    found = read(network)
    settings = dict(found.network)
    ours = lookup("network", settings.pop("name"))(channels=3, **settings)
    ours.load_state_dict(found.weights)
    ours = ours.eval().requires_grad_(False).to(a.device)
    peer = Tensors(network.to(a.device))
    x = torch.randn(1, 3, 64, 64, device=a.device)
    t = torch.full((1,), 500.0, device=a.device)
    with torch.no_grad():
        expected = peer(x, t)
        error = float((ours(x, t) - expected).abs().max() / expected.abs().max())
    print(f"{name}: the same to {error:.1e} of the largest value", flush=True)
    parameters = sum(weight.numel() for weight in ours.parameters())
    for size in a.sizes:
        networks: dict[str, nn.Module] = {f"{name}, plain": peer}
        networks |= {f"ours, {way}": each for way, each in ways(ours, (3, size, size), a.compile)}
        yield from rows(f"ADM, {parameters / 1e6:.1f} M", networks, size, 3, a)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--priors", nargs="*", default=shipped_priors())
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--width", type=int, default=128, help="of the ADM network")
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak-side", type=int, default=64, help="of the large convolution")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", type=pick_device, default="auto")
    parser.add_argument("--out", type=Path, help="file of the table")
    a = parser.parse_args()
    lines = [COLUMNS, "|" + "---|" * (COLUMNS.count("|") - 1)]
    print("\n".join(lines), flush=True)
    for make, names in ((of_prior, a.priors), (of_peer, a.peers)):
        for name in names:
            for line in make(name, a):
                print(line, flush=True)
                lines.append(line)
    if a.out:
        a.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
