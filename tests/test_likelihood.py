"""The rate-distortion curve against closed forms for a Gaussian, and ``python -m invdiff.likelihood`` from outside."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from invdiff import config, load_prior
from invdiff.errors import InputError
from invdiff.io.write import write_image
from invdiff.likelihood import LikelihoodSettings, main
from invdiff.prior.checkpoint import PriorSpec, save_prior
from invdiff.prior.ddpm import DDPM, strata
from invdiff.prior.schedule import Schedule
from invdiff.rng import Streams

MEAN, STD, T = 0.1, 0.15, 20
SCHEDULE = Schedule.linear(T)


def ideal(x: Tensor, timestep: Tensor) -> Tensor:
    """E[x_0 | x_t] of independent N(MEAN, STD^2) pixels; at six standard deviations, clipping does
    nothing.
    """
    abar = SCHEDULE.abar[timestep.long() + 1].view(-1, 1, 1, 1)
    return MEAN + abar.sqrt() * STD**2 / (abar * STD**2 + 1 - abar) * (x - abar.sqrt() * MEAN)


def exact_curve() -> tuple[Tensor, Tensor]:
    """Expected rate in bits/dim and squared distortion at t = 1..T, (T,) each.

    L_{t-1} is 1/2 (SNR_{t-1} - SNR_t) Var[x_0 | x_t] with the variance beta-tilde_t, for which the
    means alone differ; L_T is that of N(sqrt(abar) x_0, 1 - abar), averaged over x_0.
    """
    abar = SCHEDULE.abar[1:]
    snr = abar / (1 - abar)
    error = 1 / (1 / STD**2 + snr)
    step = -0.5 * snr.diff() * error[1:]  # L_1 .. L_{T-1}
    last = 0.5 * (abar[-1] * (MEAN**2 + STD**2) - abar[-1] - (1 - abar[-1]).log())
    rate = last + torch.cat([step.flip(0).cumsum(0).flip(0), torch.zeros(1).double()])
    return rate / math.log(2), 127.5**2 * error


def gaussian_images(n: int) -> Tensor:
    return MEAN + STD * torch.randn(
        n, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )


def assert_mean(values: Tensor, expected: Tensor) -> None:
    error = values.std(0) / len(values) ** 0.5
    assert bool(((values.mean(0) - expected).abs() < 5 * error + 1e-12).all()), (
        values.mean(0),
        expected,
        error,
    )


def test_the_curve_of_a_gaussian() -> None:
    x_0 = gaussian_images(200)
    found = DDPM(ideal, SCHEDULE, "x0").rate_distortion(x_0, Streams([(0, b) for b in range(200)]))
    rate, error = exact_curve()
    assert torch.equal(found.t, torch.arange(T + 1).expand(200, -1))
    assert_mean(found.rate[:, 1:], rate)
    assert_mean(found.distortion[:, 1:] ** 2, error)
    assert bool((found.distortion[:, 0] == 0).all())
    torch.testing.assert_close(found.rate[:, 0], found.bits.total, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        found.rate[:, 1], found.bits.L_T + found.bits.L_steps, rtol=1e-12, atol=0
    )
    torch.testing.assert_close(found.rate[:, T], found.bits.L_T, rtol=1e-12, atol=0)
    assert bool((found.rate.diff(dim=1) < 0).all())


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 3, 7])
def test_the_estimated_curve_is_unbiased(k: int) -> None:
    """The mean point of a stratum of 2..T is the mean of the exact curve over it."""
    n = 1000
    found = DDPM(ideal, SCHEDULE, "x0").rate_distortion(
        gaussian_images(n), Streams([(1, b) for b in range(n)]), k
    )
    rate, error = exact_curve()
    strata = [set(column.tolist()) for column in found.t.T]
    assert strata[:2] == [{0}, {1}] and len(strata) == k + 2
    assert sorted(t for stratum in strata[2:] for t in stratum) == list(range(2, T + 1))
    for column, stratum in list(enumerate(strata))[1:]:
        at = torch.tensor(sorted(stratum)) - 1
        assert_mean(found.rate[:, column], rate[at].mean())
        assert_mean(found.distortion[:, column] ** 2, error[at].mean())


@pytest.mark.parametrize(
    ("T", "k"), [(1, 3), (2, None), (7, 3), (30, 6), (1000, 1), (1000, 4), (1000, 50)]
)
def test_strata_are_wider_where_t_is_large(T: int, k: int | None) -> None:
    bounds = strata(T, k)
    width = bounds.diff()
    assert int(bounds[0]) == 2 and int(bounds[-1]) == T + 1 and len(width) == min(k or T - 1, T - 1)
    assert bool((width >= 1).all())
    # Rounding down moves either bound by less than one timestep.
    ratio = ((T + 1) / 2) ** (1 / max(1, len(width)))
    assert bool(((width == 1) | ((width - (ratio - 1) * bounds[:-1]).abs() < 1 + ratio)).all())


def test_four_timesteps_tell_most_of_the_bits() -> None:
    """For a Gaussian, whose terms are known, the random t make less than half of the sum uncertain."""
    abar = Schedule.cosine(1000).abar[1:]
    snr = abar / (1 - abar)
    step = torch.cat(
        [torch.zeros(1).double(), -0.5 * snr.diff() / (1 / STD**2 + snr[1:])]
    )  # of t = 1..T
    parts = [step[first - 1 : end - 1] for first, end in strata(1000, 4).unfold(0, 2, 1).tolist()]
    variance = sum(len(part) ** 2 * part.var(correction=0) for part in parts)
    assert float(variance) ** 0.5 < float(step.sum()) / 2


# The command line.


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = {"name": "unet", "width": 8, "multipliers": [1, 2], "blocks": 1, "patch": 2}
    spec = PriorSpec((1, 16, 16), network, "linear", 30, "eps", "learned")
    made = spec.build().network
    torch.nn.init.normal_(made.head[2].weight, std=0.05)
    path = tmp_path_factory.mktemp("prior") / "small.safetensors"
    save_prior(spec.around(made), path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five pictures in colour, in a folder."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    torch.manual_seed(1)
    for i in range(5):
        write_image(folder / f"{i}.png", torch.rand(1, 16, 16).expand(3, -1, -1))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("k", [None, 6])
def test_the_command_prints_the_split_and_writes_the_curve(
    prior: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], k: int | None
) -> None:
    out = tmp_path / "out"
    steps = "null" if k is None else str(k)
    main(
        [
            f"prior={prior}",
            f"data={pictures}",
            "images=4",
            f"steps_per_image={steps}",
            "batch=3",
            f"out={out}",
        ]
    )
    printed = capsys.readouterr().out
    rows = dict(re.findall(r"^(L_\S+) +(\d+\.\d+ \+- \d+\.\d+) bits/dim$", printed, re.MULTILINE))

    x_0 = torch.stack(
        [torch.round(255 * picture(pictures / f"{i}.png")) / 127.5 - 1 for i in range(4)]
    )
    found = load_prior(prior).ddpm.rate_distortion(x_0, Streams([(0, b) for b in range(4)]), k)
    terms = {
        "L_T": found.bits.L_T,
        "L_1..T-1": found.bits.L_steps,
        "L_0": found.bits.L_0,
        "L_vlb": found.bits.total,
    }
    assert list(rows) == list(terms)
    for name, values in terms.items():
        numbers = [float(number) for number in rows[name].split(" +- ")]
        assert numbers == pytest.approx(
            [float(values.mean()), float(values.std()) / 2], rel=1e-3, abs=1e-4
        )

    with (out / "rate_distortion.csv").open() as file:
        table = torch.tensor([[float(v) for v in row.values()] for row in csv.DictReader(file)])
    expected = [
        f(values) for values in (found.rate, found.distortion) for f in (mean, standard_error)
    ]
    torch.testing.assert_close(
        table.T, torch.stack([found.t.float().mean(0), *expected]), rtol=1e-3, atol=1e-4
    )
    assert (out / "rate_distortion.png").read_bytes()[:4] == b"\x89PNG"


def picture(path: Path) -> Tensor:
    from invdiff.io.pictures import read_image

    return read_image(path)[:1]


def mean(values: Tensor) -> Tensor:
    return values.mean(0)


def standard_error(values: Tensor) -> Tensor:
    return values.std(0) / len(values) ** 0.5


def test_bad_input_is_one_line(
    prior: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "odd.png", torch.rand(1, 18, 16))
    write_image(tmp_path / "one.png", torch.rand(1, 16, 16))
    (tmp_path / "file").write_text("")
    cases = {
        "found 18x16, expected multiples of 4": [f"data={tmp_path / 'odd.png'}"],
        "expected at least 2 for a standard error": [f"data={tmp_path / 'one.png'}"],
        "images: found 1, expected at least 2": ["images=1"],
        "steps_per_image: found 0, expected at least 1": ["steps_per_image=0"],
        "is one of points": ["prior=swissroll"],
        "has no example images": [],
        "cannot be written": [f"data={pictures}", f"out={tmp_path / 'file' / 'x'}"],
    }
    for expected, given in cases.items():
        words = (
            given
            if any(word.startswith("prior=") for word in given)
            else [f"prior={prior}", *given]
        )
        with pytest.raises(SystemExit) as error:
            config.run_command(main, words)
        assert error.value.code == 2 and expected in capsys.readouterr().err


def test_defaults_are_valid_settings() -> None:
    assert (
        config.validate(LikelihoodSettings, config.resolve([], LikelihoodSettings)).prior
        == "fashion"
    )
    with pytest.raises(InputError):
        LikelihoodSettings(batch=0)
