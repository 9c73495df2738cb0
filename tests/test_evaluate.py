"""``python -m invdiff.evaluate``: same measurements for all, resuming, several processes, tables."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

import invdiff.evaluate
from invdiff import config
from invdiff.errors import InputError
from invdiff.evaluate import main
from invdiff.evaluation.ranking import COLUMNS, among_best, mean_ranks, summary
from invdiff.io.write import write_image


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
