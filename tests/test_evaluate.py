"""``python -m invdiff.evaluate``: same measurements for all, resuming, several processes, tables."""

from __future__ import annotations

import csv
import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import NETWORK

import invdiff.evaluate
from invdiff import config, solve
from invdiff.errors import InputError
from invdiff.evaluate import (
    ROW,
    Cell,
    EvaluateSettings,
    main,
    pose,
    read_cells,
    read_data,
    rows_of,
)
from invdiff.evaluation.ranking import COLUMNS, among_best, mean_ranks, summary
from invdiff.io.write import write_image
from invdiff.prior.checkpoint import PriorSpec, save_prior


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
        (f"{header}\na,b\n", "a line that has not"),
        (f"{header}\na{',1' * len(ROW)}\n", "a line that has not"),
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
    save_prior(path, spec.build().network, spec)
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
