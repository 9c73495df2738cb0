"""Files in, files out: depth, alpha, pages and units are kept, known pixels to the bit; nothing is
half-written.
"""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import tifffile
import torch
from kills import killed_at, operations, some

from invdiff import files
from invdiff.adjustment import Adjustment
from invdiff.errors import InputError
from invdiff.files import restore_file, restore_folder
from invdiff.fingerprint import key_of
from invdiff.inference import restore
from invdiff.io.names import free_name
from invdiff.io.pictures import Picture, read_image, read_picture
from invdiff.io.whole import sweep
from invdiff.io.write import write_image, write_picture
from invdiff.noise import Gaussian
from invdiff.operators import Bicubic, Denoise, Mask, MaskFile
from invdiff.posterior import Posterior
from invdiff.prior import Denoiser
from invdiff.problem import Problem
from invdiff.solvers import DDNM

HEIGHT, WIDTH = 8, 9
DRAW = torch.Generator().manual_seed(0)
KEPT = torch.rand(HEIGHT, WIDTH, generator=DRAW) > 0.3
SETTINGS = {"noise": Gaussian(0.0), "solver": DDNM(steps=3)}


def prior(channels: int = 1, height: int = HEIGHT, width: int = WIDTH) -> Denoiser:
    shape = (channels, height, width)
    return oracles.denoiser(oracles.exponential_prior(shape), shape).float()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_known_pixels_are_those_of_the_file_to_the_bit(
    tmp_path: Path, suffix: str, channels: int, alpha: bool, bits: int
) -> None:
    """Inpainting of an exact measurement, under a colour prior for colour and, channel by channel,
    a gray one.
    """
    values = torch.rand(1, channels, HEIGHT, WIDTH, generator=DRAW)
    opacity = torch.rand(1, 1, HEIGHT, WIDTH, generator=DRAW) if alpha else None
    write_picture(tmp_path / f"y{suffix}", Picture(values, opacity, bits))
    write_image(tmp_path / "mask.png", KEPT.float())
    operator = partial(MaskFile, mask=str(tmp_path / "mask.png"))
    source, target = tmp_path / f"y{suffix}", tmp_path / f"x{suffix}"
    restore_file(source, target, operator=operator, prior=prior(), samples=2, **SETTINGS)
    y, x = read_picture(source), read_picture(target)
    assert x.bits == bits and torch.equal(x.values[..., KEPT], y.values[..., KEPT])
    assert not torch.equal(x.values[..., ~KEPT], y.values[..., ~KEPT])
    assert (x.alpha is None) == (y.alpha is None) and (
        y.alpha is None or torch.equal(x.alpha, y.alpha)
    )


@pytest.mark.parametrize("as_name", [False, True])
def test_a_mask_may_be_a_painted_copy_of_the_file(tmp_path: Path, as_name: bool) -> None:
    """In a colour that is not pure: the photograph tells what was painted, as for `solve`."""
    y = 0.2 + 0.1 * torch.rand(1, HEIGHT, WIDTH, generator=DRAW)
    write_image(tmp_path / "y.png", y)
    write_image(tmp_path / "copy.png", torch.where(KEPT, y, 0.6))
    mask = {"mask": str(tmp_path / "copy.png")}
    operator = {"name": "mask_file", **mask} if as_name else partial(MaskFile, **mask)
    posterior = restore_file(
        tmp_path / "y.png", tmp_path / "x.png", operator=operator, prior=prior(), **SETTINGS
    )
    assert torch.equal(posterior.problem.operator.s[0] == 1, KEPT)


def test_a_calibration_widens_the_intervals_of_files(tmp_path: Path) -> None:
    """The result of one file has it; of a folder the ends are written beside the means."""
    (tmp_path / "y").mkdir()
    values = torch.rand(1, HEIGHT, WIDTH, generator=DRAW)
    write_image(tmp_path / "y" / "a.tif", values, bits=32)
    y = read_image(tmp_path / "y" / "a.tif")[None]
    operator = Mask((1, HEIGHT, WIDTH), KEPT.float())
    given = {"operator": operator, "prior": prior(), "noise": Gaussian(0.05), "samples": 3}
    solver = DDNM(steps=3)
    key = key_of(Problem(operator, given["noise"], y), given["prior"], solver, 3)
    found = Adjustment(key, 64, "64 images", {"mean": {0.5: 1.5, 0.8: 3.0}}, 1.0, 0.1)
    found.write(tmp_path / "c.json")
    again = {**given, "solver": solver, "calibration": tmp_path / "c.json"}
    posterior = restore_file(tmp_path / "y" / "a.tif", tmp_path / "x.tif", **again)
    interval = posterior.interval(0.8)
    assert interval.label == "80 %, calibrated on 64 images"
    [mean] = restore_folder(tmp_path / "y", tmp_path / "x", **again)
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["a.tif", "high", "low"]
    for end, values in (("low", interval.low), ("high", interval.high)):
        written = read_picture(mean.parent / end / "a.tif").physical()
        torch.testing.assert_close(written, values, rtol=0, atol=1e-6)
    for function, source in ((restore_file, "y/a.tif"), (restore_folder, "y")):
        with pytest.raises(InputError, match="another samples|samples .3, not 4"):
            function(tmp_path / source, tmp_path / "z.tif", **{**again, "samples": 4})
    assert not (tmp_path / "z.tif").exists()


def test_float_tiff_stays_float_and_pages_stay_pages(tmp_path: Path) -> None:
    array = (
        (0.5 + 0.7 * oracles.normal(3, HEIGHT, WIDTH)).float().numpy()
    )  # also below 0 and above 1
    tifffile.imwrite(tmp_path / "y.tif", array, photometric="minisblack")
    operator = Mask((1, HEIGHT, WIDTH), KEPT.float())
    posterior = restore_file(
        tmp_path / "y.tif", tmp_path / "x.tif", operator=operator, prior=prior(), **SETTINGS
    )
    found = tifffile.imread(tmp_path / "x.tif")
    assert found.dtype == np.float32 and found.shape == array.shape
    np.testing.assert_allclose(found[:, KEPT], array[:, KEPT], atol=1e-6)
    assert np.array_equal(found, posterior.mean[:, 0].numpy())


def test_hounsfield_units_come_back(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel", reason="the optional reader of NIfTI")
    volume = (
        np.linspace(-1000, 2000, HEIGHT * WIDTH * 2).reshape(HEIGHT, WIDTH, 2).astype(np.float32)
    )
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([1.0, 2.0, 3.0, 1.0])), tmp_path / "y.nii")
    operator = Mask((1, HEIGHT, WIDTH), KEPT.float())
    restore_file(
        tmp_path / "y.nii", tmp_path / "x.nii.gz", operator=operator, prior=prior(), **SETTINGS
    )
    found = nibabel.load(tmp_path / "x.nii.gz")
    np.testing.assert_allclose(found.get_fdata()[KEPT], volume[KEPT], atol=0.01)
    assert found.affine[2, 2] == 3


def test_operators_for_the_shape(tmp_path: Path) -> None:
    """A class with settings infers the image's shape from the measurement's; a function gets the
    latter.
    """
    write_picture(
        tmp_path / "y.png", Picture(torch.rand(1, 3, 4, 5, generator=DRAW), torch.ones(1, 1, 4, 5))
    )
    for number, operator in enumerate(
        (partial(Bicubic, factor=2), lambda shape: Bicubic((3, 8, 10), 2))
    ):
        target = tmp_path / f"x{number}.png"
        restore_file(
            tmp_path / "y.png", target, operator=operator, prior=prior(1, 8, 10), **SETTINGS
        )
        larger = read_picture(target)
        assert (
            larger.values.shape == (1, 3, 8, 10)
            and larger.alpha is not None
            and larger.alpha.shape[2:] == (8, 10)
        )
    restore_file(
        tmp_path / "y.png", tmp_path / "z.tif", operator=Denoise, prior=prior(1, 4, 5), **SETTINGS
    )
    assert read_picture(tmp_path / "z.tif").bits == 8


def test_nothing_is_overwritten_or_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be written is refused before the work, and what fails later leaves nothing."""
    write_image(tmp_path / "y.png", torch.rand(1, HEIGHT, WIDTH, generator=DRAW))
    write_image(tmp_path / "x.png", torch.zeros(1, 2, 2))
    write_picture(
        tmp_path / "alpha.png",
        Picture(torch.zeros(1, 1, HEIGHT, WIDTH), torch.ones(1, 1, HEIGHT, WIDTH)),
    )

    write_image(tmp_path / "deep.png", torch.rand(1, HEIGHT, WIDTH, generator=DRAW), bits=16)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    before = sorted(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(files, "restore", never)
        for source, target, message in (
            ("y.png", "x.png", "exists already"),
            ("y.png", "x.gif", "cannot write '.gif'"),
            ("deep.png", "x.jpg", "16 bits, which .jpg does not hold"),
            ("alpha.png", "x.jpg", "alpha channel, which .jpg does not hold"),
            ("y.png", "missing/x.png", "is no folder"),
            ("alpha.png", "x.npy", "alpha"),
            ("missing.png", "z.png", "No such file"),
            ("y.png", "y.png", "exists already"),
        ):
            with pytest.raises(InputError, match=message):
                restore_file(
                    tmp_path / source,
                    tmp_path / target,
                    operator=Denoise,
                    prior=prior(),
                    **SETTINGS,
                )
    with pytest.raises(InputError, match="expected at least one"):
        bad = partial(Mask, mask=torch.zeros(HEIGHT, WIDTH))
        restore_file(
            tmp_path / "y.png", tmp_path / "z.png", operator=bad, prior=prior(), **SETTINGS
        )
    assert sorted(tmp_path.iterdir()) == before and read_image(tmp_path / "x.png").shape == (
        1,
        2,
        2,
    )
    restore_file(
        tmp_path / "y.png",
        tmp_path / "x.png",
        operator=Denoise,
        prior=prior(),
        overwrite=True,
        **SETTINGS,
    )
    assert torch.equal(read_image(tmp_path / "x.png"), read_image(tmp_path / "y.png"))


def test_folder_in_folder_out(tmp_path: Path) -> None:
    """Of several sizes and depths; an image does not depend on the others, but for its number."""
    (tmp_path / "y").mkdir()
    sizes = {
        "a.png": (1, 1, HEIGHT, WIDTH),
        "b.tif": (2, 1, HEIGHT, WIDTH),
        "c.tif": (1, 1, HEIGHT, WIDTH),
    }
    bits = {"a.png": 16, "b.tif": 8, "c.tif": 32}
    for name, size in sizes.items():
        write_picture(
            tmp_path / "y" / name, Picture(torch.rand(size, generator=DRAW), bits=bits[name])
        )
    (tmp_path / "y" / "notes.txt").write_text("no image")
    settings = {"noise": Gaussian(0.1), "solver": DDNM(steps=3), "prior": prior()}
    written = restore_folder(tmp_path / "y", tmp_path / "x", operator=Denoise, **settings)
    assert [path.name for path in written] == ["a.png", "b.tif", "c.tif"]
    assert sorted(written) == sorted((tmp_path / "x").iterdir())
    assert [read_picture(path).bits for path in written] == [16, 8, 32]
    assert read_picture(written[1]).values.shape == (2, 1, HEIGHT, WIDTH)
    for name, numbers in (("a.png", [0]), ("b.tif", [1, 2]), ("c.tif", [3])):
        y = read_picture(tmp_path / "y" / name)
        problem = Problem(Denoise((1, HEIGHT, WIDTH)), settings["noise"], y.values)
        alone = restore(problem, settings["prior"], settings["solver"], numbers=numbers).mean
        top = 2 ** bits[name] - 1 if bits[name] < 32 else 2**23
        found = read_picture(tmp_path / "x" / name).values
        assert ((found - alone.clamp(0, 1)).abs() <= 0.501 / top + 1e-6).all(), name
    restore_file(tmp_path / "y" / "a.png", tmp_path / "a.png", operator=Denoise, **settings)
    assert torch.equal(read_image(tmp_path / "a.png"), read_image(written[0]))
    with pytest.raises(InputError, match="exists already"):
        restore_folder(tmp_path / "y", tmp_path / "x", operator=Denoise, **settings)
    write_image(tmp_path / "y" / "d.png", torch.zeros(1, 2, 2))
    whole = Mask((1, HEIGHT, WIDTH), KEPT.float())
    with pytest.raises(InputError, match=r"expected \(B, 1, 8, 9\)"):
        restore_folder(tmp_path / "y", tmp_path / "z", operator=whole, **settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "x", "y"]


def test_a_posterior_is_saved_like_its_pictures(tmp_path: Path) -> None:
    """What the command line does: a 16-bit picture with alpha, a float one, and the pages of one
    file.
    """
    gray = torch.rand(4, 1, HEIGHT, WIDTH, generator=DRAW)
    problem = Problem(Denoise((1, HEIGHT, WIDTH)), Gaussian(0.1), gray)
    shift = torch.linspace(0, 0.2, WIDTH)
    posterior = Posterior(torch.stack([gray - shift, gray + shift]), problem, 1, 0.0)
    pictures = [
        Picture(gray[:1], torch.ones(1, 1, HEIGHT, WIDTH), 16, "deep"),
        Picture(gray[1:2], bits=32, name="float"),
        Picture(gray[2:], bits=8, name="pages", stack=True),
    ]
    posterior.save(tmp_path, pictures=pictures)
    kinds = ("measurement", "sample_0", "sample_1", "mean", "std")
    suffixes = {"deep": ".png", "float": ".tif", "pages": ".tif"}
    expected = {
        f"{name}_{kind}{suffix}"
        for name, suffix in suffixes.items()
        for kind in kinds
        if kind != "std"
    }
    expected |= {"deep_std.png", "float_std.png", "pages_std.tif", "posterior.npz"}
    expected |= {f"{name}_measurement.npy" for name in suffixes}
    assert {path.name for path in tmp_path.iterdir()} == expected
    deep = read_picture(tmp_path / "deep_mean.png")
    assert (
        deep.bits == 16 and deep.alpha is not None and (deep.values - gray[:1]).abs().max() < 1e-5
    )
    stored = read_picture(tmp_path / "float_sample_1.tif").physical()
    assert torch.allclose(stored, gray[1:2] + shift, atol=1e-6)
    white = read_picture(tmp_path / "deep_std.png").values  # white is 1/4
    expected_std = (4 * 2**0.5 * shift).clamp(max=1).expand_as(white)
    assert (white - expected_std).abs().max() < 0.6 / 255
    assert read_picture(tmp_path / "pages_mean.tif").values.shape == (2, 1, HEIGHT, WIDTH)


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-1000, 3000), (-40, 40)])
def test_floats_of_any_range_come_back_on_it(tmp_path: Path, low: float, high: float) -> None:
    array = np.random.default_rng(0).uniform(low, high, (HEIGHT, WIDTH)).astype(np.float32)
    tifffile.imwrite(tmp_path / "y.tif", array)
    operator = Mask((1, HEIGHT, WIDTH), KEPT.float())
    with pytest.warns(UserWarning, match="found floats from"):
        posterior = restore_file(
            tmp_path / "y.tif", tmp_path / "x.tif", operator=operator, prior=prior(), **SETTINGS
        )
    assert -1 < posterior.samples.min() and posterior.samples.max() < 2
    found = tifffile.imread(tmp_path / "x.tif")
    np.testing.assert_allclose(found[KEPT], array[KEPT], atol=1e-4 * (high - low))


def test_missing_pixels_of_a_picture_may_be_nan(tmp_path: Path) -> None:
    array = np.random.default_rng(0).uniform(0, 1, (HEIGHT, WIDTH)).astype(np.float32)
    array[~KEPT.numpy()] = np.nan
    np.save(tmp_path / "y.npy", array)
    operator = Mask((1, HEIGHT, WIDTH), KEPT.float())
    restore_file(
        tmp_path / "y.npy", tmp_path / "x.npy", operator=operator, prior=prior(), **SETTINGS
    )
    found = np.load(tmp_path / "x.npy")
    np.testing.assert_allclose(found[KEPT], array[KEPT], atol=1e-6)
    assert np.isfinite(found).all()
    with pytest.raises(InputError, match="found .* NaN"):
        restore_file(
            tmp_path / "y.npy", tmp_path / "z.npy", operator=Denoise, prior=prior(), **SETTINGS
        )


def test_a_volume_keeps_its_header_and_its_background(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel", reason="the optional reader of NIfTI")
    volume = np.linspace(-9, 9, HEIGHT * WIDTH * 2).reshape(HEIGHT, WIDTH, 2).astype(np.float32)
    volume[0] = np.nan
    image = nibabel.Nifti1Image(volume, np.diag([1.0, 2.0, 3.0, 1.0]))
    image.header["descrip"] = b"kept"
    image.set_sform(image.affine, code=3)
    nibabel.save(image, tmp_path / "y.nii.gz")
    (tmp_path / "in").mkdir()
    (tmp_path / "y.nii.gz").rename(tmp_path / "in" / "y.nii.gz")
    [written] = restore_folder(
        tmp_path / "in", tmp_path / "out", operator=Denoise, prior=prior(), **SETTINGS
    )
    assert written == tmp_path / "out" / "y.nii.gz"
    found = nibabel.load(written)
    np.testing.assert_allclose(found.get_fdata(), volume, atol=1e-3)  # sigma is 0
    assert found.header["descrip"] == b"kept" and found.header["sform_code"] == 3


def test_a_folder_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is the last picture that does not fit."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr(files, "restore", never)
    (tmp_path / "y").mkdir()
    write_image(tmp_path / "y" / "1.png", torch.zeros(1, HEIGHT, WIDTH))
    write_image(tmp_path / "y" / "2.png", torch.zeros(1, 2, 2))
    whole = Mask((1, HEIGHT, WIDTH), KEPT.float())
    for source, target, message in (
        ("y", "x", "expected .B, 1, 8, 9"),
        ("y", "y", "exists already; expected a new folder"),
        ("y/1.png", "x", "found no folder"),
        ("none", "x", "found no folder"),
    ):
        with pytest.raises(InputError, match=message):
            restore_folder(
                tmp_path / source, tmp_path / target, operator=whole, prior=prior(), **SETTINGS
            )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["y"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "first"), [(signal.SIGKILL, 0), (signal.SIGTERM, 1), (signal.SIGINT, 2)]
)
def test_a_folder_whose_process_dies_is_there_whole_or_not_at_all(
    tmp_path: Path, number: int, first: int
) -> None:
    """At every file operation; samples that are finished stay, and the next run goes on from them."""
    source = tmp_path / "y"
    source.mkdir()
    for name in ("a.png", "b.tif"):
        write_image(source / name, torch.rand(1, HEIGHT, WIDTH, generator=DRAW))
    denoiser = prior()

    def work(target: Path) -> None:
        restore_folder(source, target, operator=Denoise, prior=denoiser, **SETTINGS)

    count = operations(lambda: work(tmp_path / "count" / "x"))
    assert count > 6
    names = ["a.png", "b.tif"]
    whole = 0
    for n in some(count + 3, first):
        folder = tmp_path / f"{number}-{n}"
        folder.mkdir()
        code = killed_at(n, number, partial(work, folder / "x"))
        if number != signal.SIGKILL:
            assert set(os.listdir(folder)) <= {"x", "x.unfinished"}, n
        sweep(folder)
        left = os.listdir(folder)
        assert set(left) <= {"x", "x.unfinished", ".x.finish.lock"}, n
        assert code != 0 or left == ["x"], n
        if "x" in left:
            whole += 1
            assert sorted(os.listdir(folder / "x")) == names, n
            for name in names:
                found = read_image(folder / "x" / name)
                assert torch.equal(found, read_image(tmp_path / "count" / "x" / name)), n
        else:
            work(folder / "x")  # nothing is in its way
            assert os.listdir(folder) == ["x"], n
            for name in names:
                found = read_image(folder / "x" / name)
                assert torch.equal(found, read_image(tmp_path / "count" / "x" / name)), n
    assert 0 < whole <= count


@pytest.mark.parametrize(
    ("name", "taken", "free"),
    [
        ("x.png", [], "x-2.png"),
        ("x.npy", ["x-2.npy", "x-3.npy"], "x-4.npy"),
        ("x.tif", ["x-3.tif"], "x-2.tif"),
    ],
)
def test_a_target_that_exists_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, taken: list[str], free: str
) -> None:
    """Both are kept: the result has the next free name, and a warning says which."""
    original = files.restore
    target = tmp_path / name

    def meanwhile(*given: object, **more: object) -> Posterior:
        for each in (name, *taken):
            (tmp_path / each).write_text("other")
        return original(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "restore", meanwhile)
    write_image(tmp_path / "y.png", torch.rand(1, HEIGHT, WIDTH, generator=DRAW))
    given = {"operator": Denoise, "prior": prior(), **SETTINGS}
    with pytest.warns(UserWarning, match=rf"{name}: exists meanwhile; the result is in .*{free}$"):
        posterior = restore_file(tmp_path / "y.png", target, **given)
    assert {path.name for path in tmp_path.iterdir()} == {"y.png", name, free, *taken}
    assert target.read_text() == "other"
    found = read_picture(tmp_path / free).values
    torch.testing.assert_close(found, posterior.mean.clamp(0, 1), rtol=0, atol=0.51 / 255)
    restore_file(tmp_path / "y.png", target, overwrite=True, **given)
    assert read_picture(target).values.shape == found.shape


def test_the_free_name_of_two_suffixes(tmp_path: Path) -> None:
    for name in ("a.b.nii.gz", "a.b-2.nii.gz"):
        (tmp_path / name).write_text("")
    assert free_name(tmp_path / "a.b.nii.gz") == tmp_path / "a.b-3.nii.gz"


def test_samples_and_seed_of_a_file_are_those_of_restore(tmp_path: Path) -> None:
    write_image(tmp_path / "y.png", torch.rand(1, HEIGHT, WIDTH, generator=DRAW))
    y = read_image(tmp_path / "y.png")[None]
    operator, model = Denoise((1, HEIGHT, WIDTH)), prior()
    given = {"operator": operator, "noise": Gaussian(0.2), "prior": model, "solver": DDNM(steps=3)}
    found = restore_file(tmp_path / "y.png", tmp_path / "x.npy", samples=2, seed=5, **given)
    problem = Problem(operator, Gaussian(0.2), y)
    expected = restore(problem, model, DDNM(steps=3), samples=2, seed=5).samples
    torch.testing.assert_close(found.samples, expected, rtol=0, atol=1e-6)
    assert np.allclose(np.load(tmp_path / "x.npy"), expected.mean(0)[0, 0], atol=1e-6)
    zero = restore_file(tmp_path / "y.png", tmp_path / "z.npy", **given)
    one = restore(problem, model, DDNM(steps=3), samples=1, seed=0).samples
    torch.testing.assert_close(zero.samples, one, rtol=0, atol=1e-6)


def test_which_prior_was_chosen_is_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nowhere else: Python code prints nothing."""
    monkeypatch.setattr(files, "load_prior", lambda name: prior(3) if name == "photos" else None)
    write_image(tmp_path / "y.png", torch.full((3, HEIGHT, WIDTH), 0.5))
    with caplog.at_level("INFO", logger="invdiff"):
        restore_file(
            tmp_path / "y.png",
            tmp_path / "x.png",
            operator="denoise",
            noise=0.1,
            solver=DDNM(steps=1),
        )
    (record,) = caplog.records
    assert (
        record.getMessage().startswith("prior photos, what") and "chosen for" in record.getMessage()
    )
    assert "non-commercial" in record.getMessage()


def test_a_prior_by_its_file_is_that_prior(prior: Path) -> None:
    problem = Problem(Denoise((1, 16, 16)), Gaussian(0.1), torch.full((1, 1, 16, 16), 0.5))
    assert files._loaded(str(prior), [problem]).shape == (1, 16, 16)
    assert files._loaded("fashion", [problem]).shape == (1, 32, 32)
    assert files._loaded("auto", [problem]).shape[-1] > 16  # one of those that ship


@pytest.mark.parametrize("noise", [25, {"name": "gaussian", "sigma": 25.0}, Gaussian(25.0)])
def test_a_noise_level_of_255_is_told_what_is_meant(noise: Any, tmp_path: Path) -> None:
    write_image(tmp_path / "y.png", torch.full((1, 8, 8), 0.5))
    with pytest.raises(InputError, match="found 25, expected 1 at most.*=0.098 is 25 of 255"):
        restore_file(tmp_path / "y.png", tmp_path / "x.png", operator="denoise", noise=noise)
