"""How a prior's network is computed: its precision, its memory format, and whether it is compiled.

Only networks are touched: the state of a solver, operators and D(x, sigma) around the network stay
in float32. Weights are never copied and keep their type; bfloat16 is autocast's, which leaves
normalisations, softmax and sums in float32. Convolutions of weights and features whose channels lie
together in memory (channels_last) are faster on CPUs (docs/results.md), and what GPUs take in bf16.

The rule of ``precision="auto"``: bf16 on a GPU that computes in it itself (compute capability 8.0 and
later), and float32 on everything else. On CPUs it is float32 even where they have instructions
for bf16: what bf16 gains there depends on the network (docs/results.md), and a seed gives the same
picture on every CPU. A solver that takes differences of D (``Solver.differences``) is always
given float32 by "auto": rounding in bf16 is as large as they are where a network predicts x_0.

Gradients through a network in float32 or tf32 on a GPU follow torch's own settings of tf32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from invdiff.errors import InputError, check_type, described, first_line, warn
from invdiff.prior.denoiser import Denoiser, check_denoiser, weights_like

Precision = Literal["auto", "float32", "bf16", "tf32"]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How networks are computed.

    Args:
        precision: of the network: float32; tf32, float32 whose convolutions and matrix products
            round their factors to 10 bits (on NVIDIA GPUs of compute capability 8.0 and later);
            bf16; or "auto", see the module. Networks with weights in another type than float32
            compute in theirs, and take nothing but "auto".
        compile: whether the network is compiled by ``torch.compile``, which takes up to minutes at
            the first call, and for every new size of images. Where that fails, a warning says so
            and the network runs as it is.

    Raises:
        InputError: a setting is none of these.

    Example:
        >>> from invdiff.prior import NetworkDenoiser, Schedule, UNet
        >>> network = UNet(1, width=8, multipliers=(1, 1)).eval()
        >>> prior = NetworkDenoiser(network, (1, 8, 8), Schedule.linear(), stride=2)
        >>> fast = Execution(precision="bf16").around(prior)
        >>> fast(torch.rand(2, 1, 8, 8), 0.1).dtype
        torch.float32
    """

    precision: Precision = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        choices = get_args(Precision)
        if not isinstance(self.precision, str) or self.precision not in choices:
            found = described(self.precision)
            raise InputError(f"precision: found {found}, expected one of {', '.join(choices)}")
        check_type("compile", self.compile, bool, "true or false")

    def around(self, prior: Denoiser, *, exact: bool = False) -> Denoiser:
        """Return a denoiser that computes the networks of a prior in this way.

        It shares all weights with the prior. Weights of four dimensions are brought into the
        memory format channels_last in place, which changes no value. A prior that was given to
        this function before is returned as it is by the defaults, and else is given new settings.

        Args:
            prior: the denoiser, or one around others.
            exact: whether "auto" keeps to float32.

        Raises:
            InputError: the weights or the device do not have the precision.
        """
        check_denoiser(prior)
        if self == Execution() and any(isinstance(m, Executed) for m in prior.modules()):
            return prior
        copied = with_networks(prior, lambda network: self._network(network, exact))
        assert isinstance(copied, Denoiser)
        return copied

    def resolved(self, prior: Denoiser, *, exact: bool = False) -> str:
        """Return the precision that a prior's networks are computed in: float32, bf16, tf32, ...

        Raises:
            InputError: the weights or the device do not have the precision.
        """
        weights = weights_like(prior)
        return self._resolved(weights, exact) if weights is not None else "float32"

    def _resolved(self, weights: Tensor, exact: bool) -> str:
        if weights.dtype != torch.float32:
            name = str(weights.dtype).removeprefix("torch.")
            if self.precision == "auto":
                return name
            raise InputError(
                f"precision: found {self.precision} for a prior with weights in {name}, expected "
                "auto, or weights in float32, as prior.float() makes them"
            )
        if self.precision == "auto":
            return "bf16" if has_bf16(weights.device) and not exact else "float32"
        if self.precision == "tf32" and not is_ampere(weights.device):
            raise InputError(
                f"precision: found tf32 on {weights.device}, expected an NVIDIA GPU of compute "
                "capability 8.0 or later; float32 and bf16 work everywhere"
            )
        return self.precision

    def _network(self, network: nn.Module, exact: bool) -> nn.Module:
        inner = network.network if isinstance(network, Executed) else network
        weights = weights_like(inner)
        if weights is None:
            return inner
        precision = self._resolved(weights, exact)
        return Executed(inner, precision, compiled=self.compile)


def is_ampere(device: torch.device) -> bool:
    """Return whether a device is an NVIDIA GPU of compute capability 8.0 or later."""
    is_nvidia = device.type == "cuda" and torch.version.hip is None
    return is_nvidia and torch.cuda.get_device_capability(device) >= (8, 0)


def has_bf16(device: torch.device) -> bool:
    """Return whether a device is a GPU that computes in bfloat16 itself."""
    return is_ampere(device) or (device.type == "cuda" and torch.version.hip is not None)


class Executed(nn.Module):
    """A network, computed in a chosen way; settings of the network inside are its own.

    Args:
        network: maps (B, C, H, W), timesteps (B,) and maybe labels to an image.
        precision: "float32", "bf16" or "tf32"; anything else leaves the network as it is.
        compiled: whether it is compiled at its first call.

    Example:
        >>> network = nn.Conv2d(1, 1, 3)
        >>> Executed(network, "bf16")(torch.zeros(1, 1, 4, 4)).dtype
        torch.float32
    """

    def __init__(self, network: nn.Module, precision: str, compiled: bool = False) -> None:
        super().__init__()
        self.network = network
        self.precision = precision
        self._format = torch.channels_last
        # Not the module itself, which would be registered as one more part of this one.
        self._compiled: Callable[..., Any] | None = (
            cast(nn.Module, torch.compile(network)).__call__ if compiled else None
        )
        for parameter in network.parameters():
            if parameter.ndim == 4 and not parameter.is_inference():
                parameter.data = parameter.data.contiguous(memory_format=self._format)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the network inside, such as ``stride``."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def forward(self, x: Tensor, *told: Tensor) -> Any:
        """Return what the network returns, in the type of x."""
        with computing_in(self.precision, x.device):
            out = self._called(x, *told)
        return out.to(x.dtype) if isinstance(out, Tensor) else out

    def _called(self, x: Tensor, *told: Tensor) -> Any:
        """Call the network as it was compiled, or as it is from the first failure on."""
        if self._compiled is None:
            return self._plain(x, *told)
        try:
            return self._compiled(self._laid_out(x), *told)
        except Exception as error:  # of many kinds: no compiler, no Triton, an unknown operation
            out = self._plain(x, *told)  # an error of the network itself is raised here
            self._compiled = None
            warn(f"compile: not done, the network runs as it is ({first_line(error)[:200]})")
            return out

    def _plain(self, x: Tensor, *told: Tensor) -> Any:
        """Call the network as it is; one that looks at memory in the usual order is given that."""
        try:
            return self.network(self._laid_out(x), *told)
        except RuntimeError as error:
            if self._format == torch.contiguous_format or "view size" not in str(error):
                raise
            self._format = torch.contiguous_format
            return self.network(self._laid_out(x), *told)

    def _laid_out(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=self._format) if x.ndim == 4 else x


@contextmanager
def computing_in(precision: str, device: torch.device) -> Iterator[None]:
    """Compute inside the block in bf16 by autocast, in tf32, or in all bits of float32."""
    with ExitStack() as stack:
        if precision == "bf16":
            stack.enter_context(torch.autocast(device.type, torch.bfloat16))
        elif device.type == "cuda" and precision in ("float32", "tf32"):
            stack.enter_context(_tf32(precision == "tf32"))
        yield


@contextmanager
def _tf32(on: bool) -> Iterator[None]:
    """Allow, or forbid, tf32 in matrix products and convolutions on NVIDIA GPUs."""
    matmul = torch.backends.cuda.matmul.allow_tf32
    cudnn = torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
        torch.backends.cudnn.allow_tf32 = cudnn


def with_networks(module: nn.Module, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Return a denoiser whose networks, and those of denoisers inside it, are changed.

    A network is what a denoiser has under the name ``network``. The denoiser that is given stays as
    it is, and all tensors are shared with it. One without a network is returned itself.
    """
    changed: dict[str, nn.Module] = {}
    for name, inner in module._modules.items():
        if isinstance(inner, Denoiser):
            changed[name] = with_networks(inner, change)
        elif name == "network" and inner is not None:
            changed[name] = change(inner)
    if all(new is module._modules[name] for name, new in changed.items()):
        return module
    made = module.__new__(type(module))
    made.__dict__ = module.__dict__.copy()
    made._modules = {**module._modules, **changed}
    return made
