"""Whole lines of what files, commands and the loaders of other programs' priors refuse or warn of."""

from __future__ import annotations

import gzip
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lines import refusal, warnings_of
from PIL import Image

from invdiff import (
    arguments,
    calibrate,
    check,
    convert,
    held,
    likelihood,
    resources,
    sample,
    solve,
)
from invdiff import files as restored
from invdiff import list as listed
from invdiff.adjustment import Adjustment
from invdiff.app.form import opened
from invdiff.config import files as yaml_files
from invdiff.config.build import _check_leaves
from invdiff.io import (
    collection,
    dicom,
    fastmri,
    formats,
    layout,
    pictures,
    units,
    whole,
    write,
)
from invdiff.io.pictures import Picture, read_image
from invdiff.io.whole import WholeFolder
from invdiff.named import shape_of
from invdiff.noise import Gaussian
from invdiff.operators import Blur, Denoise, Grayscale, MaskFile
from invdiff.posterior import Posterior
from invdiff.prior import GaussianDenoiser
from invdiff.prior.loaders import ddpm_pytorch, diffusers, edm, foreign, guided, pesser
from invdiff.problem import Problem

SQUARE = (1, 4, 4)
HALF = torch.full((1, *SQUARE), 0.5)
STACK = torch.zeros(2, 1, 4, 5)
CONV = torch.zeros(8, 3, 3, 3)
NAN = float("nan")


def wrong_alpha() -> Picture:
    return Picture(HALF, HALF, bits=8)


def calibrated(**facts: Any) -> Adjustment:
    made = object.__new__(Adjustment)
    told = {"images": 9, "factors": {"mean": {0.9: 1.5, 0.5: 1.0}}, "groups": {}, "directions": {}}
    for name, value in {**told, **facts}.items():
        object.__setattr__(made, name, value)
    return made


def posterior(images: int = 1) -> Posterior:
    y = HALF.repeat(images, 1, 1, 1)
    return Posterior(y[None], Problem(Denoise(SQUARE), Gaussian(0.1), y), 1, 0.0)


def loaded(name: str, **config: Any) -> None:
    """`network_settings` of a folder of diffusers with a configuration."""
    diffusers.network_settings(Path(name), config)


def way_up(**weights: torch.Tensor) -> dict[str, torch.Tensor]:
    """Weights by which `architecture` takes a file for a denoiser of guided-diffusion."""
    named = {"out.2.weight": torch.zeros(3, 8, 3, 3), "input_blocks.0.0.weight": CONV}
    return {**named, "output_blocks.0.0.in_layers.0.weight": torch.zeros(8), **weights}


def convert_to(out: str, **settings: Any) -> None:
    made = convert.ConvertSettings(out=out, **settings)
    convert.check_free(made, Path(made.out))


def record(kind: str, **given: Any) -> Any:
    return SimpleNamespace(kind=kind, state={"_init_kwargs": given})


def sampled(**settings: Any) -> sample.SampleSettings:
    return sample.SampleSettings(**settings)


def prepared(**settings: Any) -> None:
    told = {
        "operator": {"name": "denoise"},
        "noise": {"name": "gaussian", "sigma": 0.1},
        "prior": "swissroll",
    }
    calibrate.prepared(calibrate.CalibrateSettings(**{**told, **settings}))  # type: ignore[arg-type]


LINES: list[tuple[Callable[[], object], str]] = [
    # io/
    (
        lambda: layout.recognise(np.zeros((4, 4, 4)), (4, 4, 4), torch.float32),
        "measurement: found shape (4, 4, 4), which is CHW or HWC for (4, 4, 4); expected (B, "
        "4, 4, 4)",
    ),
    (
        lambda: layout.recognise(np.ma.masked_array([1.0, 2.0], [0, 1]), SQUARE, torch.float32),
        "measurement: found a masked array, expected a plain one: fill what is missing with "
        "NaN, y.filled(np.nan), where an operator's mask hides it",
    ),
    (
        lambda: layout.recognise(np.zeros(2, np.int32), SQUARE, torch.float32),
        "measurement: found values of type int32, expected uint8, uint16, bool or floats in [0, 1]",
    ),
    (
        lambda: layout.recognise(torch.zeros(2).long(), SQUARE, torch.float32),
        "measurement: found values of type torch.int64, expected uint8, uint16, bool or "
        "floats in [0, 1]",
    ),
    (
        lambda: layout.recognise([0.5], SQUARE, torch.float32),
        "measurement: found a list, expected a tensor or a NumPy array",
    ),  # type: ignore[arg-type]
    (
        lambda: formats._channels_last(np.zeros(3)),
        "found an array of shape (3,), expected (H, W), (H, W, C), (C, H, W), a stack",
    ),
    (
        lambda: formats._channels_last(np.zeros((1, 2, 3, 4, 5))),
        "found an array of shape (1, 2, 3, 4, 5), expected (H, W), (H, W, C), (C, H, W), a stack",
    ),
    (
        lambda: formats._check_netpbm(b"P6 2 2 256 "),
        "found a PPM of 16-bit colour, expected PNG or TIFF for more than 8 bits",
    ),
    (
        lambda: formats._decode_npz(b"PK"),
        "damaged .npz (File is not a zip file), expected an archive with an array named images",
    ),
    (
        lambda: formats.decode(b"nothing"),
        "not an image in a known format, expected PNG, JPEG, WebP, TIFF, .npy, .npz, NIfTI, "
        "DICOM, FITS, HDF5, EXR or camera RAW",
    ),
    (
        lambda: pictures._picture(formats.Pixels(np.zeros((0, 4))), "a", units.IMAGES),
        "found an array of shape (0, 4), expected at least one pixel",
    ),
    (
        lambda: pictures._picture(formats.Pixels(np.zeros((1, 2, 2, 1), "i4")), "a", units.IMAGES),
        "found values of type int32, expected uint8, uint16, bool or floats (stored as "
        "float32, they keep their range)",
    ),
    (
        lambda: pictures._picture(formats.Pixels(np.full((1, 2, 2, 1), NAN)), "a", units.IMAGES),
        "found 4 NaN values, expected finite ones; in a measurement they may lie where a "
        "mask hides them",
    ),
    (lambda: units.Units.of(np.array([NAN])), "found NaN or infinite values, expected finite ones"),
    (
        lambda: write.write_image("x.png", HALF[0].long()),
        "x.png: found values of type torch.int64, expected floats in [0, 1]",
    ),
    (
        lambda: write.write_image("x.png", torch.zeros(5, 2, 2)),
        "x.png: found shape (5, 2, 2), expected (C, H, W) with C from 1 to 4",
    ),
    (
        lambda: write.write_image("x.png", [0.5]),  # type: ignore[arg-type]
        "x.png: found a list, expected a tensor (C, H, W)",
    ),
    (
        lambda: write.check_target(Path("x.jpg"), wrong_alpha(), overwrite=True),
        "x.jpg: found an alpha channel, which .jpg does not hold, expected .png or .tif",
    ),
    (
        lambda: write.check_target(Path("a\0.png"), Picture(HALF, bits=8), overwrite=True),
        "'a\\x00.png': found a null character, expected the name of a file",
    ),
    (
        lambda: dicom._colours(np.zeros((1, 2, 2, 4), np.uint8), None),
        "found 4 samples of uint8 per pixel, expected unsigned RGB",
    ),
    (
        lambda: dicom._colours(np.zeros((1, 2, 2, 3), np.int8), None),
        "found 3 samples of int8 per pixel, expected unsigned RGB",
    ),
    (
        lambda: formats._frame(Image.fromarray(np.full((2, 2), 70000, np.int32))),
        "found 32-bit integers, expected 8 or 16 bits, or floats",
    ),
    (
        lambda: arguments.real_array("x", np.ma.masked_array([1.0, 2.0], [0, 1])),
        "x: found a masked array with masked values, expected an array of real numbers",
    ),
    # adjustment, posterior, commands
    (
        lambda: calibrated(key=SimpleNamespace(differences=lambda key: ["prior", "noise"])).check(
            None
        ),
        "calibration: was made for another prior, another noise, expected one for this "
        "solve: invdiff calibrate makes it",
    ),  # type: ignore[arg-type]
    (
        lambda: check.main([]),
        "operator is missing: expected operator=NAME or operator.name=module:Class",
    ),
    (
        lambda: solve.solve_together(solve.SolveSettings(estimate="mmse"), *[None] * 4),
        "estimate: found mmse and several processes, expected one: it is one call",
    ),  # type: ignore[arg-type]
    (
        lambda: calibrated().interval(HALF[None], 0.8, "mean"),
        "level: found 0.8, expected one of those that calibration on 9 images has by the "
        "rule 'mean': 0.5, 0.9",
    ),
    (
        lambda: calibrated().interval(HALF[None], 0.8, "groups"),
        "level: found 0.8, expected one of those that calibration on 9 images has by the "
        "rule 'groups': none",
    ),
    (
        lambda: calibrated().interval(HALF[None], 0.8, "half"),
        "rule: found 'half' (str), expected one of samples, pooled, mean, image, sure, "
        "groups, scale",
    ),  # type: ignore[arg-type]
    (
        lambda: calibrated().principal(HALF[None], 3),
        "count: found 3, expected one of those that calibration on 9 images has: none",
    ),
    (
        lambda: calibrated(directions={1: 1.0, 3: 1.0}).principal(HALF[None], 2),
        "count: found 2, expected one of those that calibration on 9 images has: 1, 3",
    ),
    (
        lambda: restored._level_of(calibrated(factors={})),
        "calibration: found no level from 9 images, expected more images",
    ),
    (
        lambda: posterior().interval(0.9, "mean"),
        "rule: found 'mean' (str) without a calibration, expected one in restore(..., "
        "calibration=FILE); invdiff calibrate makes it",
    ),
    (
        lambda: posterior(2).save("out", ["a", "a"]),
        "names: found a, a, expected a different one per image",
    ),
    (
        lambda: restored.check_settings(Blur, {}),
        "operator Blur: missing a required argument: 'kernel'; functools.partial gives it settings",
    ),
    (
        lambda: listed("sovler"),
        "kind 'sovler' is unknown; did you mean 'solver'? (known: task, solver, prior, "
        "operator, noise, kernel, network, train); expected one of these",
    ),
    (
        lambda: listed(3),
        "kind: found 3 (int), expected one of task, solver, prior, operator, noise, kernel, "
        "network, train",
    ),  # type: ignore[call-overload]
    (
        lambda: shape_of(np.zeros((2, 4, 4)), "x"),
        "x: found shape (2, 4, 4), expected a tensor or an array of pictures of 1 or 3 "
        "channels, or an Operator made for its shape in place of a name",
    ),
    (
        lambda: _check_leaves(2**63, "out"),
        "out: found 9223372036854775808 (int), expected an integer below 2^63",
    ),
    (lambda: _check_leaves({"a": [NAN]}, "out"), "out.a: found nan (float), expected a number"),
    (lambda: _check_leaves("", "out"), "out: found no text, expected some (null for none)"),
    (
        lambda: yaml_files.read("a\0b"),
        "'a\\x00b': found a NUL character, expected the name of a file",
    ),
    (
        lambda: yaml_files.read("/dev/null"),
        "/dev/null: found a device or a pipe, expected a YAML file",
    ),
    (lambda: convert_to("a.safetensors"), "prior, classifier: found neither, expected one of them"),
    (
        lambda: convert_to("a.safetensors", prior="b", classifier="c"),
        "prior, classifier: found both, expected one of them",
    ),
    (
        lambda: convert_to("a.safetensors", classifier="c", expert="b"),
        "expert: found it without a prior, expected prior=... for high noise",
    ),
    (
        lambda: convert_to("a.pt", prior="b"),
        "out: found 'a.pt', expected a name that ends in .safetensors",
    ),
    (lambda: sampled(n=0), "n: found 0, expected at least 1"),
    (
        lambda: sampled(sampler="langevin", show="progressive"),
        "sampler: found langevin, expected one that follows the schedule for show=progressive",
    ),
    (
        lambda: sampled(sampler="langevin", eta=0.5),
        "eta: found 0.5, expected none, since langevin has no such setting",
    ),
    (
        lambda: sampled(show="interpolate", n=3),
        "n: found 3, expected none, since show=interpolate draws one row",
    ),
    (
        lambda: sampled(t=3),
        "t: found 3, expected none, since only show=interpolate has such a setting",
    ),
    (
        lambda: sample.check_points(sampled(sampler="ddim")),
        "show, sampler: found samples, ddim, expected samples, ddpm for a prior of points",
    ),
    (
        lambda: sample.check_points(sampled(steps=3)),
        "steps: found 3, expected none, since a prior of points takes all its steps",
    ),
    (
        lambda: sample.check_out(
            Path("a" * 256 + ".png"), GaussianDenoiser(HALF[0], torch.eye(16))
        ),
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaa.png: cannot be written (File name too long): choose a shorter name",
    ),
    (
        lambda: sample.check_out(Path("a.txt"), GaussianDenoiser(torch.zeros(2), torch.eye(2))),
        "a.txt: cannot draw '.txt', expected one of .png, .pdf, .svg",
    ),
    (
        lambda: likelihood.held_out(
            likelihood.LikelihoodSettings(prior="swissroll"), SimpleNamespace(shape=(2,))
        ),
        "prior 'swissroll': is one of points, expected one of images",
    ),  # type: ignore[arg-type]
    (lambda: prepared(operator={}), "task is missing: expected task=NAME or operator.name=NAME"),
    (
        lambda: prepared(noise={"sigma": "auto"}),
        "noise.sigma: found 'auto', expected a number: one level is calibrated",
    ),
    (lambda: prepared(), "prior 'swissroll': is one of points, expected one of images"),
    (
        lambda: prepared(prior="fashion", size=9),
        "size: found 9 without data, expected none: the prior draws 32",
    ),
    (
        lambda: solve.get_ready(["task=denoise", "input=a.png", "measurement=b.png"]),
        "input, measurement: found both, expected one: clean images or real measurements",
    ),
    (
        lambda: solve.get_ready(["prior=fashion"]),
        "task is missing: expected task=NAME or operator.name=NAME",
    ),
    (
        lambda: solve.SolveSettings(preview=0),
        "preview: found 0, expected true or a number of pixels",
    ),
    (
        lambda: solve.SolveSettings(batch="all"),
        "batch: found 'all' (str), expected an integer or 'auto'",
    ),  # type: ignore[arg-type]
    # prior/loaders/
    (lambda: pesser.load({}, {}), "found 0 levels of 0 blocks, expected a whole U-Net"),
    (
        lambda: ddpm_pytorch.load({"time_mlp.0.weights": CONV}, {}),
        "found learned frequencies of the timestep, expected sinusoidal ones",
    ),
    (
        lambda: ddpm_pytorch.load(
            {"final_conv.weight": CONV[:3], "init_conv.weight": CONV[:, :2]}, {}
        ),
        "found a network that is told its last estimate (self_condition), expected one without",
    ),
    (
        lambda: loaded("f", down_block_types=["Down"], up_block_types=[]),
        "prior f: found blocks of type Down, expected DownBlock2D, AttnDownBlock2D, "
        "ResnetDownsampleBlock2D, UpBlock2D, AttnUpBlock2D, ResnetUpsampleBlock2D",
    ),
    (lambda: loaded("f", act_fn="relu"), "prior f: found act_fn='relu', expected 'silu'"),
    (
        lambda: loaded("f", class_embed_type="timestep"),
        "prior f: found class_embed_type='timestep', expected None",
    ),
    (
        lambda: loaded("f", resnet_time_scale_shift="scale_shift"),
        "prior f: found attention without a norm in the middle, expected attn_norm_num_groups",
    ),
    (
        lambda: loaded("f", downsample_type="pool"),
        "prior f: found downsample_type='pool', expected conv or resnet",
    ),
    (
        lambda: loaded("f", upsample_type="pool"),
        "prior f: found upsample_type='pool', expected conv or resnet",
    ),
    (
        lambda: diffusers.schedule_of({"beta_schedule": "x"}),
        "beta_schedule: found 'x', expected linear, scaled_linear, squaredcos_cap_v2 or sigmoid",
    ),
    (
        lambda: edm._variant(Path("a.pkl"), "UNet", {}),
        "prior a.pkl: found a UNet, expected SongUNet or DhariwalUNet",
    ),
    (
        lambda: edm._variant(Path("a.pkl"), "SongUNet", {"encoder_type": "skip"}),
        "prior a.pkl: found the parts ('positional', 'skip', 'standard', [1, 1]), expected "
        "those of DDPM++ or NCSN++",
    ),
    (
        lambda: guided.architecture({}),
        "found a guided-diffusion network without a way up, a classifier; expected a denoiser",
    ),
    (
        lambda: guided.architecture(way_up(**{"a.attn2.weight": CONV})),
        "found a network that is told a text or another image, expected an unconditional one",
    ),
    (
        lambda: guided.architecture(way_up(**{"out.2.weight": torch.zeros(4, 8, 3, 3)})),
        "found 3 channels in and 4 out: an upsampler or a latent model; expected 3 or 6 out",
    ),
    (
        lambda: guided.architecture(way_up()),
        "found 1 blocks down and 1 up on 1 levels, expected as many on each level",
    ),
    (
        lambda: foreign._check_values({"a": torch.zeros(1).int()}),
        "weight 'a': found int32, expected floats",
    ),
    (
        lambda: foreign._check_values({"a": torch.tensor([NAN])}),
        "weight 'a': found NaN or infinite values",
    ),
    (
        lambda: foreign._check_heads({"heads": 2, "head_channels": 8}),
        "found heads=2 and head_channels=8, expected one of them",
    ),
    (
        lambda: foreign._check_variance(
            SimpleNamespace(shape=(3, 8, 8), variance="learned", network={})
        ),
        "variance: found 'learned' for a network of 3 channels out, expected 6; small and "
        "large need no more channels",
    ),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("call", "line"), LINES, ids=range(len(LINES)))
def test_the_whole_line(call: Callable[[], object], line: str) -> None:
    assert refusal(call) == line


def set_up() -> None:
    """Make, in the current folder, the files that are refused below."""
    for name in ("empty", "full", "model", "bad", "made.png"):
        Path(name).mkdir()
    Path("full/a").write_text("")
    Path("file").write_text("x")
    Path("bad/a.npy").write_bytes(b"x")
    os.mkfifo("pipe")
    Path("none.png").write_bytes(b"")
    np.save("two.npy", np.zeros((2, 8, 9, 1)))
    np.save("objects.npy", np.array([{}], object), allow_pickle=True)
    Path("list.yaml").write_text("[1]")
    Path("large.yaml").write_text("#" * (yaml_files.MAX_BYTES + 1))
    Path("held.json").write_text("{")
    Path("model/config.json").write_text("{}")
    Path("text.h5").write_text("x")
    Path("other").mkdir()
    Path("other/config.json").write_text('{"_class_name": "Flux"}')
    np.save("channels.npy", np.zeros((2, 90, 90)))
    for name, value in (("code.pkl", os.getcwd), ("plain.pkl", {"ema": 3})):
        with open(name, "wb") as file:
            pickle.dump(value, file)
    Path("torn.pkl").write_bytes(b"\x80")
    Image.new("RGB", (3, 3)).save("small.png")
    Path("dots").symlink_to("/")


def not_drawn(path: Path) -> None:
    raise ValueError("Format 'x' is not supported\nhere")


FILES: list[tuple[Callable[[], object], str]] = [
    (
        lambda: opened("two.npy"),
        "two.npy: found 2 pictures in one file, expected one; save the one that you mean, or "
        "restore all of them by invdiff solve",
    ),
    (
        lambda: opened("small.png"),
        "small.png: found 3x3 (height x width), expected at least 16 pixels a side",
    ),
    (
        lambda: opened("channels.npy"),
        "channels.npy: found 2 channels, expected 1 (gray) or 3 (colour)",
    ),
    (lambda: opened(None), "there is no picture yet: drop one above"),
    (
        lambda: write.save_figure(SimpleNamespace(savefig=not_drawn), "a.png"),
        "a.png: cannot be drawn (Format 'x' is not supported)",
    ),  # type: ignore[arg-type]
    (
        lambda: diffusers.load(Path("other"), {}),
        "prior other: found a Flux, expected a UNet2DModel, which is told no text",
    ),
    (
        lambda: solve._found_in_file([], "inpaint", MaskFile, "small.png"),
        "task inpaint: found a measurement and no mask, expected operator.mask=FILE of what "
        "is to be filled: black and white, a transparent layer, or a copy of the picture "
        "with strokes in one colour",
    ),
    (
        lambda: read_image("two.npy"),
        "two.npy: found 2 images of 8x9 (height x width), expected one image",
    ),
    (
        lambda: read_image("none.png"),
        "none.png: found an empty file (0 bytes), expected PNG, JPEG, WebP, TIFF, .npy, "
        ".npz, NIfTI, DICOM, FITS, HDF5, EXR or camera RAW",
    ),
    (
        lambda: read_image("pipe"),
        "pipe: found a pipe, a socket or a device, expected an image file (PNG, JPEG, WebP, "
        "TIFF, .npy, .npz, NIfTI, DICOM, FITS, HDF5, EXR or camera RAW)",
    ),
    (
        lambda: read_image("a\0.png"),
        "'a\\x00.png': embedded null byte, expected the name of a file",
    ),
    (
        lambda: read_image("objects.npy"),
        "objects.npy: cannot be read (holds objects, which could run code), expected PNG, "
        "JPEG, WebP, TIFF, .npy, .npz, NIfTI, DICOM, FITS, HDF5, EXR or camera RAW",
    ),
    (
        lambda: collection.image_files("empty"),
        "empty: found no image, expected files ending in .png, .jpg, .jpeg, .webp, .tif, "
        ".tiff, .bmp, .npy, .nii, .nii.gz, .dcm, .fits, .fit, .fts, .fits.gz, .h5, "
        ".hdf5, .exr, .zarr, .dng, .cr2, .cr3, .nef, .arw, .raf, .orf, .rw2",
    ),
    (
        lambda: collection.image_files("no"),
        "no: No such file or directory, expected a folder of images",
    ),
    (
        lambda: collection.image_files("a\0"),
        "'a\\x00': embedded null byte, expected a folder of images",
    ),
    (
        lambda: fastmri.read_kspace("text.h5"),
        "measurement text.h5: cannot be read as HDF5 (Unable to synchronously open file "
        "(file signature not found))",
    ),
    (
        lambda: whole.write_whole(Path("a\0"), b""),
        "'a\\x00': cannot be written (a name cannot hold the character NUL)",
    ),
    (
        lambda: WholeFolder("file", label="to"),
        "to file: exists already and is no folder, expected another name",
    ),
    (
        lambda: WholeFolder("dots", label="to"),
        "to dots: found the current folder or one above it, expected a folder in it, such as "
        "to=results/run",
    ),
    (
        lambda: WholeFolder("full", label="to"),
        "to full: exists already; expected another folder, or overwrite=true",
    ),
    (
        lambda: WholeFolder("full", label="to", overwrite=True),
        "to full: holds no config.yaml and so no run, which alone overwrite=true replaces; "
        "expected another folder",
    ),
    (
        lambda: WholeFolder("a" * 300, label="to"),
        "to "
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa: found a name of 300 bytes, "
        "expected at most 220",
    ),
    (
        lambda: restored.restore_folder("no", "new", operator=Denoise, noise=0.1),
        "no: found no folder, expected one of measurements",
    ),
    (
        lambda: restored.restore_folder("empty", "full", operator=Denoise, noise=0.1),
        "target full: exists already; expected a new folder",
    ),
    (
        lambda: yaml_files.read("list.yaml"),
        "list.yaml: found a list, expected settings (key: value)",
    ),
    (
        lambda: yaml_files.read("large.yaml"),
        "large.yaml: found more than 200000 bytes, expected settings",
    ),
    (lambda: yaml_files.read("pipe"), "pipe: found a device or a pipe, expected a YAML file"),
    (lambda: yaml_files.read("no.yaml"), "no.yaml: No such file or directory"),
    (lambda: yaml_files.read("empty"), "empty: Is a directory"),
    (
        lambda: held.read_held(Path("held.json")),
        "held.json: is damaged (Expecting property name enclosed in double quotes: line 1 "
        "column 2 (char 1))",
    ),
    (
        lambda: convert.check_free(
            convert.ConvertSettings(out="a.safetensors", prior="b"), Path("empty")
        ),
        "out empty: found a folder, expected the name of a file",
    ),
    (
        lambda: convert.check_free(
            convert.ConvertSettings(out="a.safetensors", prior="b"), Path("file")
        ),
        "out file: exists already (overwrite=true replaces it)",
    ),
    (
        lambda: convert.check_free(
            convert.ConvertSettings(out="a.safetensors", prior="./file", overwrite=True),
            Path("file"),
        ),
        "out file: is the source itself, expected another name",
    ),
    (
        lambda: sample.check_out(Path("made.png"), GaussianDenoiser(torch.zeros(2), torch.eye(2))),
        "made.png: found a folder, expected the name of a picture",
    ),
    (
        lambda: diffusers.unet_folder(Path("empty")),
        "prior empty: found no config.json, expected the folder of a diffusers model",
    ),
    (
        lambda: diffusers.weight_file(Path("model")),
        "prior model: found no weights, expected diffusion_pytorch_model.safetensors",
    ),
    (
        lambda: edm.read(Path("code.pkl")),
        "prior code.pkl: not an EDM pickle: found posix.getcwd, which is not read since it "
        "could run code",
    ),
    (
        lambda: edm.read(Path("plain.pkl")),
        "prior plain.pkl: found no network named 'ema', expected an EDM pickle",
    ),
    (
        lambda: edm.read(Path("torn.pkl")),
        "prior torn.pkl: not a readable pickle (pickle data was truncated)",
    ),
]


WARNINGS: list[tuple[Callable[[], object], str]] = [
    (
        lambda: solve.in_gray(Picture(torch.eye(3)[None, :, :, None], bits=8, name="a"), Grayscale),
        "a: is in colour; its gray values are coloured anew",
    ),
    (
        lambda: solve.judge(torch.zeros(1, 1, 1, 12, 12), torch.zeros(2, 1, 12, 12)),
        "metrics: left out: scores: found shapes (1, 1, 1, 12, 12) and (2, 1, 12, 12), "
        "expected (K, B, C, H, W) and (B, C, H, W)",
    ),
    (
        lambda: prepared(prior="fashion", images=3),
        "images: found 3, expected at least 10 for a factor that is worth something, and 9 "
        "for an interval of 90 %",
    ),
]


@pytest.mark.parametrize(("call", "line"), WARNINGS, ids=range(len(WARNINGS)))
def test_the_whole_warning(call: Callable[[], object], line: str) -> None:
    assert warnings_of(call) == [line]


def test_what_unpacks_to_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_MAX_BYTES", 300)
    line = "found more than 300 bytes in a compressed file"
    held = io.BytesIO()
    np.savez_compressed(held, images=np.zeros((20, 20)))
    assert refusal(lambda: formats._gunzip(gzip.compress(b"a" * 301))) == line
    assert refusal(lambda: formats._decode_npz(held.getvalue())) == line
    assert formats._gunzip(gzip.compress(b"a" * 300)) == b"a" * 300


def test_a_mount_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os.path, "ismount", lambda place: True)
    assert refusal(lambda: WholeFolder("disk", label="to")) == (
        "to disk: found a mount point, expected a folder in it"
    )


def test_whole_lines_about_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    set_up()
    for call, line in FILES:
        assert refusal(call) == line


@pytest.mark.parametrize(("ranks", "processes"), [((2, 0), 2), ((0, 2), 2)])
def test_a_rank_beyond_the_processes(
    monkeypatch: pytest.MonkeyPatch, ranks: tuple[int, int], processes: int
) -> None:
    for name, value in zip(("RANK", "LOCAL_RANK", "WORLD_SIZE"), (*ranks, processes), strict=True):
        monkeypatch.setenv(name, str(value))
    assert refusal(resources.this_process) == (
        f"RANK, LOCAL_RANK, WORLD_SIZE: found {ranks[0]}, {ranks[1]}, {processes} in the "
        "environment, expected ranks below the number of processes, as torchrun sets them; or unset "
        "all three"
    )
