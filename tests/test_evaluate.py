"""``python -m invdiff.evaluate``: same measurements for all, resuming, several processes, tables."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import NETWORK
from torch import Tensor

import invdiff.evaluate
from invdiff import config, solve
from invdiff.errors import InputError
from invdiff.evaluate import (
    ROW,
    Cell,
    EvaluateSettings,
    NumberedImage,
    content_hash,
    main,
    pose,
    read_cells,
    read_data,
    rows_of,
)
from invdiff.evaluation.ranking import COLUMNS, among_best, mean_ranks, summary
from invdiff.io.pictures import read_image
from invdiff.io.write import write_image
from invdiff.noise import Gaussian
from invdiff.operators import Denoise
from invdiff.posterior import Posterior
from invdiff.prior.checkpoint import PriorSpec, save_prior
from invdiff.problem import Problem


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images, one of another size and one in colour."""
    torch.manual_seed(1)
    (tmp_path / "data").mkdir()
    for number, shape in enumerate(
        [(1, 16, 16), (1, 16, 16), (1, 20, 16), (3, 16, 16), (1, 16, 16)]
    ):
        write_image(tmp_path / "data" / f"im{number}.png", torch.rand(shape))
    return tmp_path / "data"


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the images that are restored from now on."""
    restored: list[int] = []
    original = invdiff.evaluate.restore

    def counted(*arguments, numbers, **more):
        restored.extend(numbers)
        return original(*arguments, numbers=numbers, **more)

    monkeypatch.setattr(invdiff.evaluate, "restore", counted)
    return restored


def words(prior: Path, folder: Path, out: Path, *more: str) -> list[str]:
    given = {word.partition("=")[0] for word in more}
    base = [
        "task=inpaint,sr4",
        "solver=ddnm,ddrm",
        f"prior={prior}",
        f"data={folder}",
        f"out={out}",
        "solver.steps=3",
        "baselines=none",
    ]
    return [*(word for word in base if word.partition("=")[0] not in given), *more]


def results(out: Path, without: tuple[str, ...] = ("seconds",)) -> list[dict[str, str]]:
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    return [{key: value for key, value in row.items() if key not in without} for row in rows]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:misfit")
def test_a_stopped_run_goes_on_to_the_same_results(
    prior: Path, folder: Path, tmp_path: Path, restored
) -> None:
    main(words(prior, folder, tmp_path / "whole"))
    assert restored == [0, 1, 2, 3, 4] * 4
    restored.clear()
    main(words(prior, folder, tmp_path / "parts", "images=2", "solver=ddnm"))
    main(words(prior, folder, tmp_path / "parts", "images=2", "solver=ddnm"))
    assert restored == [0, 1] * 2
    restored.clear()
    main(words(prior, folder, tmp_path / "parts"))
    assert restored == [2, 3, 4, 0, 1, 2, 3, 4] * 2
    whole, parts = results(tmp_path / "whole"), results(tmp_path / "parts")
    assert len(whole) == 2 * 3 * 5
    for a, b in zip(whole, parts, strict=True):
        assert all(a[name] == b[name] for name in ("task", "solver", "image", "calls"))
        for name in ("PSNR", "SSIM", "LPIPS", "misfit"):
            assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-3)


def test_a_folder_that_settings_name_is_told_by_its_content(tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for name in ("0.png", "1.png"):
        write_image(masks / name, torch.ones(1, 4, 4))

    def identity() -> dict[str, Any]:
        operator = {"name": "mask_file", "mask": str(masks)}
        return EvaluateSettings(task="inpaint", operator=operator).identity()["files"]

    before = identity()
    assert list(before) == [str(masks)] and identity() == before
    (masks / ".hidden").write_text("")
    assert identity() == before
    write_image(masks / "1.png", torch.eye(4)[None])
    changed = identity()
    assert changed != before
    (masks / "1.png").rename(masks / "2.png")
    assert identity() not in (before, changed)


def test_rows_that_were_edited_by_hand(tmp_path: Path) -> None:
    """An empty file has no rows; another header or a line cut short is refused before the work."""
    settings = EvaluateSettings(task="inpaint", out=str(tmp_path))
    cell = Cell("inpaint", "ddnm", settings, "")
    cell.folder.mkdir(parents=True)
    header = ",".join(ROW)
    for text, message in (
        ("", None),
        (f"{header}\n", None),
        ("x", "found the columns x"),
        (f"{header[:20]}\n", "found the columns image"),
        (f"{header}\na,b\n", "a line without 8 columns"),
        (f"{header}\na{',1' * len(ROW)}\n", "a line without 8 columns"),
    ):
        (cell.folder / "0.csv").write_text(text)
        if message is None:
            assert rows_of(cell) == []
        else:
            with pytest.raises(InputError, match=message):
                rows_of(cell)


def test_a_prior_of_several_files_is_told_by_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("invdiff.prior.checkpoint.foreign.recognise", lambda path: True)
    unet = tmp_path / "model" / "unet"
    unet.mkdir(parents=True)
    (unet / "config.json").write_text("{}")
    (unet / "weights.bin").write_bytes(b"1")

    def weights() -> str:
        return next(read_cells(["task=inpaint", f"prior={tmp_path / 'model'}"])).weights

    before = weights()
    assert weights() == before
    (unet / "config.json").write_text('{"prediction_type": "sample"}')
    assert weights() != before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:misfit")
def test_processes_share_the_images(prior, folder, tmp_path, restored, monkeypatch, capsys) -> None:
    main(words(prior, folder, tmp_path / "one", "task=inpaint"))
    capsys.readouterr()
    restored.clear()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, numbers in (("1", [1, 3]), ("0", [0, 2, 4])):
        monkeypatch.setenv("RANK", rank)
        main(words(prior, folder, tmp_path / "two", "task=inpaint"))
        assert restored == numbers * 2
        restored.clear()
        # The table is printed once, by the process that finds it complete.
        assert ("### inpaint, 5 images" in capsys.readouterr().out) == (rank == "0")
    one, two = (
        results(tmp_path / out, ("seconds", "misfit", *COLUMNS[:3])) for out in ("one", "two")
    )
    assert one == two
    assert (tmp_path / "two" / "inpaint" / "ddnm" / "1.csv").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:misfit")
def test_what_is_kept(prior: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(words(prior, folder, out, "task=inpaint", "samples=2"))
    y = np.load(out / "inpaint" / "measurements" / "im2.npy")
    assert y.shape == (1, 20, 16)
    assert {path.name for path in (out / "inpaint" / "ddrm").iterdir()} == {
        *(f"im{n}.png" for n in range(5)),
        "0.csv",
        "config.yaml",
    }
    stored = config.load(out / "inpaint" / "ddrm" / "config.yaml")
    assert (
        stored["solver"]["name"] == "ddrm"
        and stored["solver"]["steps"] == 3
        and stored["samples"] == 2
    )
    assert (out / "summary.md").read_text().count("| ddrm |") == 1
    assert r"\begin{tabular}" in (out / "summary.tex").read_text()
    # The two samples of an image count for as much as one: their metrics are averaged.
    first = next(row for row in results(out) if row["solver"] == "ddnm")
    main(words(prior, folder, tmp_path / "one", "task=inpaint", "samples=1"))
    alone = next(row for row in results(tmp_path / "one") if row["solver"] == "ddnm")
    assert float(first["PSNR"]) == pytest.approx(float(alone["PSNR"]), rel=0.4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:misfit")
def test_masks_of_their_own(prior: Path, tmp_path: Path) -> None:
    """The mask of an image is that of its number, in whatever chunk."""
    for n in range(4):
        write_image(tmp_path / f"{n}.png", torch.full((1, 16, 16), 0.5))
    more = ["task=inpaint_random", "solver=ddnm", "operator.per_image=true", "noise.sigma=0"]
    main(words(prior, tmp_path, tmp_path / "one", *more, "batch=1"))
    main(words(prior, tmp_path, tmp_path / "all", *more))
    y = [
        [np.load(tmp_path / out / "inpaint_random" / "measurements" / f"{n}.npy") for n in range(4)]
        for out in ("one", "all")
    ]
    assert np.array_equal(y[0], y[1]) and not np.array_equal(y[0][0] > 0, y[0][1] > 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:misfit")
def test_refusals(prior: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(words(prior, folder, out, "task=inpaint", "solver=ddnm", "images=1"))
    with pytest.raises(InputError, match=r"inpaint/baseline: found results for seed=0, expected 1"):
        main(words(prior, folder, out, "task=inpaint", "solver=ddnm", "seed=1"))
    with pytest.raises(InputError, match="hdr.*ddrm|DDRM"):
        main(words(prior, folder, tmp_path / "other", "task=hdr", "solver=ddrm"))
    assert not (tmp_path / "other").exists()
    write_image(folder / "im0.png", torch.zeros(1, 16, 16))
    (out / "inpaint" / "baseline" / "0.csv").unlink()
    with pytest.raises(InputError, match="found another measurement"):
        main(words(prior, folder, out, "task=inpaint", "solver=ddnm", "images=1"))
    for word, message in [
        ("solver=baseline.yaml", "found the name 'baseline'"),
        ("task=inpaint,", "expected task=NAME"),
        ("task=inpaint,inpaint", "two of the name"),
        ("task=inpant", "inpaint"),
        ("solver=ddn", "ddnm"),
        ("images=0", "at least 1"),
        (f"data={tmp_path / 'no'}", "No such file"),
    ]:
        with pytest.raises(InputError, match=message):
            main(words(prior, folder, tmp_path / "never", word))
    assert not (tmp_path / "never").exists()


def other_prior(path: Path) -> Path:
    """Another network under a name."""
    torch.manual_seed(9)
    spec = PriorSpec((1, 16, 16), NETWORK, "cosine", 100, "v")
    save_prior(spec.build(), path)
    return path


ONE = ("task=denoise", "solver=ddnm", "solver.steps=1")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:misfit")
def test_other_weights_images_or_files_are_other_results(
    prior: Path, folder: Path, tmp_path: Path, restored: list[int]
) -> None:
    """Whatever their names are; and names alone are no matter."""
    out, own = tmp_path / "out", tmp_path / "own.safetensors"
    shutil.copy(prior, own)
    main(words(own, folder, out, *ONE))
    before = {path: path.read_bytes() for path in out.rglob("*.csv")}
    os.rename(folder, tmp_path / "moved")
    main(words(prior, tmp_path / "moved", out, *ONE))
    assert restored == [0, 1, 2, 3, 4]  # all of it in the first run
    os.rename(tmp_path / "moved", folder)
    for other in (other_prior(own), other_prior(tmp_path / "other.safetensors")):
        with pytest.raises(InputError, match="found results for weights=.*; choose another out"):
            main(words(other, folder, out, *ONE))
        with pytest.raises(InputError, match="weights"):
            main(words(other, folder, out, *ONE[::2], "solver=ddrm"))
    write_image(folder / "im3.png", torch.full((3, 16, 16), 0.25))
    with pytest.raises(InputError, match="results for another image under the name 'im3'"):
        main(words(prior, folder, out, *ONE))
    (folder / "im0.png").unlink()  # the others have other numbers now
    with pytest.raises(InputError, match="results for another image under the name 'im1'"):
        main(words(prior, folder, out, *ONE))
    assert {path: path.read_bytes() for path in out.rglob("*.csv")} == before


@pytest.mark.filterwarnings("ignore:misfit")
def test_another_mask_under_the_name_of_the_old_one(
    prior: Path, folder: Path, tmp_path: Path
) -> None:
    mask = torch.ones(1, 16, 16)
    write_image(tmp_path / "mask.png", mask)
    given = ["task=inpaint", "operator.name=mask_file", f"operator.mask={tmp_path}/mask.png"]
    more = [*given, "solver=ddnm", "solver.steps=1", "images=2"]
    main(words(prior, folder, tmp_path / "out", *more))
    main(words(prior, folder, tmp_path / "out", *more))
    mask[..., 3:9, 4:8] = 0
    write_image(tmp_path / "mask.png", mask)
    with pytest.raises(InputError, match="found results for files="):
        main(words(prior, folder, tmp_path / "out", *more))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:misfit")
def test_a_file_that_cannot_be_read_is_skipped(prior: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "im1.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match=r"skipped .*im1\.png"):
        main(words(prior, folder, tmp_path / "out", *ONE))
    names = [row["image"] for row in results(tmp_path / "out")]
    assert names == ["im0", "im2", "im3", "im4"] * 2
    assert "4 images" in (tmp_path / "out" / "summary.md").read_text()
    for path in folder.iterdir():
        path.write_bytes(b"no picture")
    with pytest.warns(UserWarning), pytest.raises(InputError, match="no image that can be read"):
        main(words(prior, folder, tmp_path / "none", *ONE))
    assert not (tmp_path / "none").exists()


@pytest.mark.filterwarnings("ignore:misfit")
def test_names_of_any_kind(prior: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    names = ["x" * 240, os.fsdecode(b"caf\xe9"), "a\nb", "a,b", 'a"b', "a\u2028b", "\U0001f600"]
    for number, name in enumerate(names):
        write_image(tmp_path / "image.png", torch.full((1, 16, 16), number / 10))
        os.rename(tmp_path / "image.png", tmp_path / "data" / f"{name}.png")
    for _ in range(2):
        main(words(prior, tmp_path / "data", tmp_path / "out", *ONE))
    text = io.StringIO((tmp_path / "out" / "results.csv").read_text(), newline="")
    found = [row["image"] for row in csv.DictReader(text)]
    assert len(set(found)) == len(names) and len(found) == 2 * len(names)


def test_tables_that_are_no_tables_are_one_line(prior: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "denoise" / "baseline"
    out.mkdir(parents=True)
    cases = {b"": None, b"a,b\n1,2\n": "columns a, b", b"\xff\xfe": "cannot be read"}
    for content, message in cases.items():
        (out / "0.csv").write_bytes(content)
        if message is not None:
            with pytest.raises(InputError, match=message):
                main(words(prior, folder, tmp_path / "out", *ONE))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:misfit")
def test_two_runs_at_once_do_not_meet(
    prior: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one is refused before it works; other solvers' cells have locks of their own."""
    original, tried = invdiff.evaluate.evaluate, []

    def meanwhile(*arguments: Any, **more: Any) -> None:
        if not tried:
            tried.append(1)
            with pytest.raises(
                InputError, match=r"out .*: another run \(pid \d+ on .*\) is writing"
            ):
                main(words(prior, folder, tmp_path / "out", *ONE))
            monkeypatch.setenv("RANK", "1")
            monkeypatch.setenv("WORLD_SIZE", "2")
            main(words(prior, folder, tmp_path / "out", *ONE))
        original(*arguments, **more)

    monkeypatch.setattr(invdiff.evaluate, "evaluate", meanwhile)
    main(words(prior, folder, tmp_path / "out", *ONE))
    rows = results(tmp_path / "out")
    assert [row["image"] for row in rows] == [f"im{n}" for n in range(5)] * 2
    assert not [path for path in (tmp_path / "out").rglob(".*")]


def test_solve_and_evaluate_measure_alike(tmp_path: Path) -> None:
    """The same file meets the same mask and noise in both commands, whatever its name and number."""
    draw = torch.Generator().manual_seed(3)
    for name in ("img1", "img2", "img10", ".hidden"):
        write_image(tmp_path / f"{name}.png", torch.rand(1, 12, 12, generator=draw))
    operator = {"name": "mask_random", "missing": 0.5, "per_image": True}
    noise = {"name": "gaussian", "sigma": 0.1}
    common: dict[str, Any] = {"operator": operator, "noise": noise, "seed": 3}
    (part,) = solve.pose(solve.SolveSettings(input=str(tmp_path), **common))
    settings = EvaluateSettings(task="t", data=str(tmp_path), **common)
    images = read_data(settings)
    assert [image.name for image in images] == part.names == ["img1", "img2", "img10"]
    cell = Cell("t", "ddnm", settings, "")
    for b, image in enumerate(images):
        alone = pose(cell, image.item.read()[None], [image])
        assert torch.equal(alone.y[0], part.problem.y[b])
        assert torch.equal(alone.measured()[0], part.problem.measured()[b])


def test_among_the_best_is_decided_by_paired_differences() -> None:
    """Images differ far more than solvers do: only their differences tell."""
    generator = np.random.default_rng(0)
    image = 10 * generator.standard_normal(400)
    values = np.stack(
        [
            image + offset + 0.1 * generator.standard_normal(400)
            for offset in (0.0, 0.0, -0.05, 1e-9)
        ]
    )
    best = among_best(values)
    assert best[values.mean(1).argmax()] and not best[2]
    assert among_best(np.array([[1.0], [0.0]])) == [True, False]


@pytest.mark.parametrize(("errors", "expected"), [(1.9, True), (2.1, False)])
def test_the_best_are_within_two_standard_errors(errors: float, expected: bool) -> None:
    signs = np.tile([1.0, -1.0], 50)
    error = signs.std(ddof=1) / 10
    image = 10 * np.random.default_rng(0).standard_normal(100)
    assert among_best(np.stack([image, image - errors * error + signs])) == [True, expected]


def test_ranks_share_ties() -> None:
    values = np.array([[3.0, 1.0], [2.0, 1.0], [1.0, 5.0]])
    assert mean_ranks(values).tolist() == [(1 + 2.5) / 2, (2 + 2.5) / 2, (3 + 1) / 2]


def test_a_summary_says_what_the_rows_say() -> None:
    def row(psnr: float, lpips: float) -> dict[str, str]:
        return dict(zip(COLUMNS, [str(psnr), "", str(lpips), "1", "5", "0.5"], strict=True))

    found = {
        ("a_task", "x"): [row(20, 0.2), row(22, 0.4)],
        ("a_task", "y"): [row(25, 0.5), row(27, 0.7)],
    }
    markdown, latex = summary(found)
    assert (
        "| solver | PSNR | LPIPS | misfit | calls | seconds | rank PSNR | rank LPIPS |" in markdown
    )
    assert (
        "| x | 21.00 ± 1.00 | **0.300 ± 0.100** | 1.00 ± 0.00 | 5 | 0.5 | 2.00 | 1.00 |" in markdown
    )
    assert r"y & \textbf{26.00 $\pm$ 1.00} & 0.600 $\pm$ 0.100" in latex


def test_the_whole_summary() -> None:
    """Two tasks; one image has no error; what no row has is no column; `_` and the sign for TeX."""

    def row(*cells: str) -> dict[str, str]:
        return dict(zip(COLUMNS, cells, strict=True))

    found = {
        ("one", "baseline"): [row("20.126", "0.5", "", "1.25", "0", "0")],
        ("one", "a_b"): [row("19", "0.75", "", "0.5", "10", "0.123")],
        ("two", "a_b"): [
            row("10", "0.5", "0.25", "1", "10", "2"),
            row("12", "0.7", "0.75", "3", "10", "4"),
        ],
    }
    markdown, latex = summary(found)
    assert markdown.splitlines() == [
        "### one, 1 image",
        "",
        "| solver | PSNR | SSIM | misfit | calls | seconds | rank PSNR | rank SSIM |",
        "|---|---|---|---|---|---|---|---|",
        "| baseline | **20.13** | 0.500 | 1.25 | 0 | 0 | 1.00 | 2.00 |",
        "| a_b | 19.00 | **0.750** | 0.50 | 10 | 0.12 | 2.00 | 1.00 |",
        "",
        "### two, 2 images",
        "",
        "| solver | PSNR | SSIM | LPIPS | misfit | calls | seconds | rank PSNR | rank SSIM | rank LPIPS |",
        "|---|---|---|---|---|---|---|---|---|---|",
        "| a_b | **11.00 ± 1.00** | **0.600 ± 0.100** | **0.500 ± 0.250** | 2.00 ± 1.00 "
        "| 10 | 3 | 1.00 | 1.00 | 1.00 |",
        "",
        "Bold: not worse than the best mean by more than two standard errors of the paired "
        "differences.",
        "",
        "Of fewer than 5 images standard errors are rough, and bold says little: take more, such as "
        "images=20.",
    ]
    enough, _ = summary({("two", "a_b"): 3 * found["two", "a_b"]})
    assert enough.endswith("differences.\n")
    assert latex.splitlines() == [
        "% one, 1 image",
        r"\begin{tabular}{lrrrrrrr}",
        r"\toprule",
        r"solver & PSNR & SSIM & misfit & calls & seconds & rank PSNR & rank SSIM \\",
        r"\midrule",
        r"baseline & \textbf{20.13} & 0.500 & 1.25 & 0 & 0 & 1.00 & 2.00 \\",
        r"a\_b & 19.00 & \textbf{0.750} & 0.50 & 10 & 0.12 & 2.00 & 1.00 \\",
        r"\bottomrule",
        r"\end{tabular}",
        "",
        "% two, 2 images",
        r"\begin{tabular}{lrrrrrrrrr}",
        r"\toprule",
        r"solver & PSNR & SSIM & LPIPS & misfit & calls & seconds & rank PSNR & rank SSIM "
        r"& rank LPIPS \\",
        r"\midrule",
        r"a\_b & \textbf{11.00 $\pm$ 1.00} & \textbf{0.600 $\pm$ 0.100} "
        r"& \textbf{0.500 $\pm$ 0.250} & 2.00 $\pm$ 1.00 & 10 & 3 & 1.00 & 1.00 & 1.00 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


class Stored:
    """An image of the data in memory, or one that cannot be read any more."""

    def __init__(self, name: str, x: Tensor | None) -> None:
        self.name = name
        self.x = x

    def read(self) -> Tensor:
        if self.x is None:
            raise InputError(f"{self.name}: gone")
        return self.x


def numbered_images(*values: Tensor | None) -> list[Any]:
    names = [f"im{n}" for n in range(len(values))]
    return [
        NumberedImage(n, len(values), Stored(name, x), f"print{n}")  # type: ignore[arg-type]
        for n, (name, x) in enumerate(zip(names, values, strict=True))
    ]


def test_images_are_restored_in_chunks_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = torch.rand(1, 2, 3), torch.rand(1, 3, 2)
    images = numbered_images(small, small, None, small, large, small, small)

    def sizes(batch: int | None) -> list[list[int]]:
        with pytest.warns(UserWarning, match="^skipped im2: im2: gone$"):
            room = invdiff.evaluate.images_at_once(batch or "auto", torch.nn.Identity())
            found = list(invdiff.evaluate.chunks(images, room))
        for chunk, values in found:
            assert torch.equal(values, torch.stack([image.item.read() for image in chunk]))
        return [[image.number for image in chunk] for chunk, _ in found]

    assert sizes(None) == [[0, 1, 3], [4], [5, 6]]
    assert sizes(2) == [[0, 1], [3], [4], [5, 6]]
    assert sizes(1) == [[0], [1], [3], [4], [5], [6]]
    monkeypatch.setattr(invdiff.evaluate, "VALUES_AT_ONCE", 13)  # two images of six pixels
    assert sizes(None) == [[0, 1], [3], [4], [5, 6]]
    monkeypatch.setattr(invdiff.evaluate, "VALUES_AT_ONCE", 1)
    assert sizes(None) == [[0], [1], [3], [4], [5], [6]]
    assert list(invdiff.evaluate.chunks([], lambda values: 1)) == []


def cell_of(tmp_path: Path, solver: str = "ddnm", **more: Any) -> Cell:
    settings = EvaluateSettings(
        task="denoise",
        operator={"name": "denoise"},
        noise={"name": "gaussian", "sigma": 0.1},
        out=str(tmp_path / "out"),
        **more,
    )
    cell = Cell("denoise", solver, settings, "w")
    for folder in (cell.folder, cell.measurements):
        folder.mkdir(parents=True, exist_ok=True)
    return cell


def test_the_row_of_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every number of it, and the files: the first sample, and y; of the solver and the baseline."""
    draw = torch.Generator().manual_seed(0)
    truth = torch.rand(2, 1, 12, 13, generator=draw)
    noise = 0.2 * torch.randn(3, 2, 1, 12, 13, generator=draw)
    asked: list[dict[str, Any]] = []

    def restored(problem: Problem, prior: object, solver: object, **given: Any) -> Posterior:
        asked.append({"solver": type(solver).__name__, "prior": prior, **given})
        return Posterior(truth + noise, problem, 9, 5.0)

    def judged(samples: Tensor, truth: Tensor) -> dict[str, Tensor]:
        assert 0 <= float(samples.min()) and float(samples.max()) <= 1
        return {"PSNR": -10 * (samples - truth).square().mean((2, 3, 4)).log10()}

    monkeypatch.setattr(invdiff.evaluate, "restore", restored)
    monkeypatch.setattr(invdiff.evaluate, "scores", judged)
    images = numbered_images(*truth)[1:] + numbered_images(*truth)[:1]
    truth = truth.flip(0)
    noise = noise.flip(1)
    cell = cell_of(tmp_path, samples=3, seed=6, batch=4)
    rows = invdiff.evaluate.measure(cell, "prior", images, truth)  # type: ignore[arg-type]
    assert asked == [
        {
            "solver": "MMPS2M",
            "prior": "prior",
            "samples": 3,
            "seed": 6,
            "numbers": [1, 0],
            "batch": 4,
        }
        | {"precision": "auto", "compile": False}
    ]
    y = Problem.simulate(truth, Denoise((1, 12, 13)), Gaussian(0.1), 6, [1, 0]).y
    drawn = truth + noise
    psnr = judged(drawn.clamp(0, 1), truth)["PSNR"].mean(0)
    misfit = ((y - drawn).square().mean((2, 3, 4)) / 0.01).mean(0)
    for b, name in enumerate(("im1", "im0")):
        numbers = [f"{float(psnr[b]):.6g}", "", "", f"{float(misfit[b]):.6g}", "9", "2.5"]
        assert rows[b][:2] == [name, f"print{name[2]}"]
        for found, expected in zip(rows[b][2:], numbers, strict=True):
            assert found == expected or float(found) == pytest.approx(float(expected), rel=1e-4)
        assert torch.equal(torch.from_numpy(np.load(cell.measurements / f"{name}.npy")), y[b])
        first = read_image(cell.folder / f"{name}.png")
        assert float((first - drawn[0, b].clamp(0, 1)).abs().max()) < 0.51 / 255
    baseline = cell_of(tmp_path, "baseline", samples=3, seed=6)
    rows = invdiff.evaluate.measure(baseline, "prior", images, truth)  # type: ignore[arg-type]
    x = y / (1 + 4 * 0.01)
    misfit = (y - x).square().mean((1, 2, 3)) / 0.01
    psnr = judged(x[None].clamp(0, 1), truth)["PSNR"][0]
    for b in range(2):
        expected = [float(psnr[b]), float(misfit[b]), 0, 0]
        assert [float(c) for c in rows[b][2:] if c] == pytest.approx(expected, rel=1e-4)
        first = read_image(baseline.folder / f"im{1 - b}.png")
        assert float((first - x[b].clamp(0, 1)).abs().max()) < 0.51 / 255
    assert len(asked) == 1


def test_what_evaluate_says_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """How many images of a cell are done, those of earlier runs too; rows are appended."""
    cell = cell_of(tmp_path, batch=2)
    images = numbered_images(*torch.rand(4, 1, 2, 2))

    def measured(cell: Cell, prior: object, chunk: Any, truth: Tensor) -> list[list[str]]:
        return [[image.name, "f", *"123456"] for image in chunk]

    monkeypatch.setattr(invdiff.evaluate, "measure", measured)
    (cell.folder / "1.csv").write_text(f"{','.join(ROW)}\nim1,f,1,2,3,4,5,6\n")
    invdiff.evaluate.evaluate(cell, None, images, 0, chatty=True)  # type: ignore[arg-type]
    assert capsys.readouterr().out.splitlines() == ["denoise ddnm: 3 of 4", "denoise ddnm: 4 of 4"]
    header = ",".join(ROW)
    lines = [header, *(f"im{n},f,1,2,3,4,5,6" for n in (0, 2, 3))]
    assert (cell.folder / "0.csv").read_text().splitlines() == lines
    (cell.folder / "0.csv").write_text("\n".join(lines[:2]))  # the last line is cut short
    invdiff.evaluate.evaluate(cell, None, images, 0, chatty=False)  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""
    assert (cell.folder / "0.csv").read_text().splitlines() == lines


def test_cells_are_every_task_with_every_solver(prior: Path) -> None:
    cells = list(read_cells(["task=inpaint,sr4", "solver=ddnm,ddrm", f"prior={prior}", "seed=2"]))
    assert [(cell.task, cell.solver) for cell in cells] == [
        (task, solver) for task in ("inpaint", "sr4") for solver in ("baseline", "ddnm", "ddrm")
    ]
    for cell in cells:
        expected = {"baseline": "ddnm"}.get(cell.solver, cell.solver)
        assert cell.settings.solver["name"] == expected and cell.settings.seed == 2
        assert cell.weights == content_hash(prior)
        assert ("solver" in cell.identity()) == (cell.solver != "baseline")
        assert {"prior", "data", "images", "out", "batch", "device"} & set(cell.identity()) == set()
    assert cells[0].settings.operator["name"] != cells[3].settings.operator["name"]
    (_, one) = read_cells(["task=inpaint", f"prior={prior}"])
    assert one.solver == "mmps_2m_sde"
    for words, message in (
        (["task=inpaint", "task=sr4"], "expected task=NAME,NAME once"),
        (["solver=ddnm"], "expected task=NAME,NAME once"),
        (["task=inpaint", "solver=measurements.yaml"], "found the name 'measurements'"),
    ):
        with pytest.raises(InputError, match=message):
            list(read_cells([*words, f"prior={prior}"]))


def test_images_that_have_results_are_not_tried(tmp_path: Path) -> None:
    """Only the others; those that cannot be read do not count, neither do those above the limit."""
    for n in range(4):
        write_image(tmp_path / f"im{n}.png", torch.full((1, 4, 4), n / 4))
    (tmp_path / "im1.png").write_bytes(b"none")
    (tmp_path / "im2.png").write_bytes(b"none")
    settings = EvaluateSettings(task="t", data=str(tmp_path))
    with pytest.warns(UserWarning) as caught:
        images = read_data(settings, {"im2"})
    assert len(caught) == 1 and "im1.png" in str(caught[0].message)
    assert [(i.name, i.number, i.among) for i in images] == [
        ("im0", 0, 3),
        ("im2", 1, 3),
        ("im3", 2, 3),
    ]
    assert len({image.fingerprint for image in images}) == 3
    two = EvaluateSettings(task="t", data=str(tmp_path), images=1)
    (first,) = read_data(two)
    assert first.name == "im0" and first.among == 4


@pytest.mark.parametrize(
    ("relative", "absolute", "same"), [(0.5e-4, 0, True), (2e-4, 0, False), (0, 2e-5, False)]
)
def test_a_stored_measurement_may_differ_by_rounding(
    relative: float, absolute: float, same: bool, tmp_path: Path
) -> None:
    y = torch.linspace(0, 1, 12).view(1, 3, 4)
    np.save(tmp_path / "y.npy", (y * (1 + relative) + absolute).numpy())
    check = partial(invdiff.evaluate.check_measurement, tmp_path / "y.npy")
    if same:
        check(y)
    else:
        with pytest.raises(InputError, match="found another measurement"):
            check(y)
    with pytest.raises(InputError, match="found another measurement"):
        check(y[:, :2])
    invdiff.evaluate.check_measurement(tmp_path / "none.npy", y)


def test_the_files_that_settings_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("a")
    Path("folder/sub").mkdir(parents=True)
    Path("folder/.git").mkdir()
    for name in ("folder/b.txt", "folder/sub/c.txt", "folder/.git/d.txt", "folder/.e"):
        Path(name).write_text(name)
    assert invdiff.evaluate.files_in(Path("folder")) == [
        Path("folder/b.txt"),
        Path("folder/sub/c.txt"),
    ]
    settings = {
        "name": "a.txt",
        "x": {"y": "a.txt", "n": 3, "no": "none.txt", "": ""},
        "z": "folder",
    }
    found = dict(invdiff.evaluate.named_files(settings))
    assert list(found) == ["a.txt", "folder"]
    assert found["a.txt"] == content_hash(Path("a.txt")) and len(found["folder"]) == 16
    assert found["a.txt"] == hashlib.sha256(b"a").hexdigest()[:16]
    one = invdiff.evaluate.hash_of_all([Path("a.txt")])
    assert one == found["a.txt"] != found["folder"]
    with pytest.raises(InputError, match=r"none: cannot be read \(No such file"):
        content_hash(Path("none"))


@pytest.mark.parametrize(
    ("key", "value"),
    [("prior", "faces64"), ("data", "photos"), ("images", 3), ("out", "there"), ("device", "cpu")],
)
def test_tasks_that_share_no_table(
    key: str, value: Any, tmp_path: Path, prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of two tasks that set another prior, say: none of them would be ignored in silence."""
    monkeypatch.chdir(tmp_path)
    task = "operator: {name: denoise}\nnoise: {name: gaussian, sigma: 0.1}\n"
    Path("a.yaml").write_text(task)
    Path("b.yaml").write_text(f"{task}{key}: {value}\n")
    words = ["task=a.yaml,b.yaml"]
    if key != "prior":
        words.append(f"prior={prior}")
    before = EvaluateSettings(task="t", prior="auto" if key == "prior" else str(prior))
    message = f"task b.yaml: found {key}={value}, expected {getattr(before, key)}, as in the first"
    with pytest.raises(InputError) as caught:
        list(read_cells(words))
    assert str(caught.value).startswith(message)
    cells = list(read_cells([*words, f"{key}={prior if key == 'prior' else value}"]))
    assert [cell.task for cell in cells] == ["a", "a", "b", "b"]


def test_a_folder_that_another_run_claimed_meanwhile(tmp_path: Path) -> None:
    """Between the checks and the work: its settings stay, and the run is refused."""
    mine, other = cell_of(tmp_path, seed=1), cell_of(tmp_path, seed=2)
    invdiff.evaluate.claim(other)
    stored = (other.folder / "config.yaml").read_text()
    with pytest.raises(InputError, match="found results for seed=2, expected 1; choose another"):
        invdiff.evaluate.claim(mine)
    assert (other.folder / "config.yaml").read_text() == stored
    invdiff.evaluate.claim(other)
    (tmp_path / "file").write_text("")
    nowhere = cell_of(tmp_path)
    nowhere = Cell("t", "s", dataclasses.replace(nowhere.settings, out=f"{tmp_path}/file"), "w")
    with pytest.raises(InputError, match=r"out .*file/t/s: cannot be written"):
        invdiff.evaluate.claim(nowhere)


@pytest.mark.slow
def test_what_a_person_would_use_has_rows(prior: Path, folder: Path, tmp_path: Path) -> None:
    """Of each task the methods that are for its operator, computed once, with no call."""
    out = tmp_path / "out"
    given = words(prior, folder, out, *ONE[1:], "task=denoise,sr4", "baselines=auto", "images=2")
    main(given)
    with (out / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    methods = {
        task: [r["solver"] for r in rows if r["task"] == task] for task in ("denoise", "sr4")
    }
    solver = next(word.partition("=")[2] for word in given if word.startswith("solver="))
    assert list(dict.fromkeys(methods["denoise"])) == ["baseline", "tv", "wiener", "nlm", solver]
    assert list(dict.fromkeys(methods["sr4"])) == ["baseline", "tv", "bicubic", solver]
    assert all(r["calls"] == "0" for r in rows if r["solver"] != solver)
    tv = next(r for r in rows if r["solver"] == "tv")
    assert float(tv["misfit"]) == pytest.approx(1, abs=0.05)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.csv") if path.parent != out}
    main([*(word for word in given if not word.startswith("baselines=")), "baselines=none"])
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for name in ("tv", "nlm"):
        with pytest.raises(InputError, match=f"found the name {name!r}"):
            main(words(prior, folder, out, "task=denoise", f"solver={name}"))


def test_one_sample_of_an_image_is_drawn_by_default(tmp_path: Path) -> None:
    assert cell_of(tmp_path).settings.samples == 1


def test_the_time_of_a_method_is_shared_by_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """6 s of two images are 3 s each; the baseline, which is one formula, has none."""
    asked: list[str] = []

    def computed(problem: Problem, name: str) -> Tensor:
        asked.append(name)
        return problem.y

    times = iter([10.0, 16.0, 20.0, 21.0])
    monkeypatch.setattr(invdiff.evaluate, "computed", computed)
    monkeypatch.setattr(invdiff.evaluate.time, "perf_counter", lambda: next(times))
    truth = torch.full((2, 1, 12, 13), 0.5)
    for solver, seconds in (("tv", "3"), ("baseline", "0")):
        cell = cell_of(tmp_path, solver)
        rows = invdiff.evaluate.measure(cell, None, numbered_images(*truth), truth)  # type: ignore[arg-type]
        assert [row[ROW.index("seconds")] for row in rows] == [seconds, seconds]
        assert [row[ROW.index("calls")] for row in rows] == ["0", "0"]
    assert asked == ["tv"]
