"""Presets of solvers in Python, the defaults of classes that are held to them, and the default solver."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import oracles
import pytest
import torch
from torch import Tensor

from invdiff import Gaussian, Problem, config, registry, restore, solvers
from invdiff.calibrate import CalibrateSettings
from invdiff.errors import InputError
from invdiff.evaluate import EvaluateSettings, read_cells
from invdiff.operators import Blur, MaskRandom
from invdiff.prior import GaussianDenoiser
from invdiff.solve import SolveSettings
from invdiff.solvers import (
    DDNM,
    DEFAULT,
    DPS,
    MMPS,
    MMPS2M,
    DiffPIR,
    Solver,
    preset,
    preset_of,
    presets,
)

SHAPE = (1, 8, 8)


@pytest.mark.parametrize("name", registry.names("solver"))
def test_the_defaults_of_a_class_are_its_preset(name: str) -> None:
    assert preset(name) == registry.lookup("solver", name)()


@pytest.mark.parametrize("name", presets())
def test_a_preset_is_what_the_command_line_makes_of_it(name: str) -> None:
    for task in [None, *config.preset_names("task")]:
        expected = config.build("solver", config.component("solver", name, task))
        assert preset(name, task=task) == expected


def test_presets_are_the_files() -> None:
    assert presets() == config.preset_names("solver")
    assert {"mmps_2m", "mmps_2m_sde", "diffpir_20", "dps_1000"} < set(presets())


def test_settings_of_presets_by_task() -> None:
    assert preset("dps") == DPS(steps=50, zeta=2.0)
    assert preset("dps", task="sr4") == DPS(steps=50, zeta=4.0)
    assert preset("dps", task="inpaint") == preset("dps")
    assert preset("diffpir_20", task="sr4") == DiffPIR(
        steps=20, spacing="quadratic", lam=0.3, zeta=1.0
    )
    assert preset("mmps") == MMPS(steps=20, eta=1.0, iterations=3, sigma_max=20.0, sigma_min=0.04)
    assert preset("ddnm") == DDNM(steps=100, eta=1.0)


@pytest.mark.parametrize("name", presets())
@pytest.mark.parametrize("task", [None, "sr4"])
def test_a_preset_is_known_by_its_settings(name: str, task: str | None) -> None:
    found = preset_of(preset(name, task=task), task)
    assert found is not None and preset(found, task=task) == preset(name, task=task)


def test_other_settings_have_no_preset() -> None:
    assert preset_of(MMPS2M(steps=7)) is None
    assert preset_of(preset(task="sr4"), "sr4") == DEFAULT
    assert preset_of(preset(), "mine.yaml") == DEFAULT


def test_the_default_is_a_preset() -> None:
    assert preset() == preset(DEFAULT)
    assert preset() == MMPS2M(steps=10, eta=1.0, draw_last=True, iterations=5)
    for task in ("inpaint", "denoise"):
        assert preset(task=task) == MMPS2M(steps=10, eta=1.0, draw_last=True, iterations=3)


@pytest.mark.parametrize(
    ("name", "task", "words"),
    [
        ("mmsp", None, ["solver 'mmsp' is unknown", "did you mean 'mmps'?"]),
        ("../solver/mmps", None, ["is unknown"]),
        ("mmps", "sr5", ["task 'sr5' is unknown", "did you mean 'sr4'?"]),
        (3, None, ["preset: found 3", "expected the name of a preset"]),
        ("mmps", 3, ["task: found 3", "expected the name of a task"]),
    ],
)
def test_names_that_are_none(name: str, task: str | None, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        preset(name, task=task)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("command", [SolveSettings, CalibrateSettings, EvaluateSettings])
@pytest.mark.parametrize("task", ["sr4", "inpaint"])
def test_the_default_of_a_command_has_the_settings_of_the_task(command: type, task: str) -> None:
    left_out = config.resolve([f"task={task}"], command)
    named = config.resolve([f"task={task}", f"solver={DEFAULT}"], command)
    assert left_out == named
    assert config.build("solver", left_out["solver"]) == preset(task=task)
    changed = config.resolve([f"task={task}", "solver.steps=7"], command)
    assert config.build("solver", changed["solver"]) == dataclasses.replace(
        preset(task=task), steps=7
    )


def test_settings_made_in_python_have_the_default() -> None:
    for made in (SolveSettings(), CalibrateSettings(), EvaluateSettings(task="inpaint")):
        assert config.build("solver", made.solver) == preset()


def test_the_table_of_evaluate_has_the_default() -> None:
    assert [cell.solver for cell in read_cells(["task=sr4"])] == ["baseline", DEFAULT]


def gaussian_problem(sigma: float = 0.05) -> Problem:
    truth = oracles.normal(2, *SHAPE, seed=1) * 0.2 + 0.5
    return Problem.simulate(truth, MaskRandom(SHAPE, missing=0.5).double(), Gaussian(sigma))


def test_restore_without_a_solver_takes_the_default() -> None:
    prior = oracles.denoiser(oracles.exponential_prior(SHAPE), SHAPE)
    problem = gaussian_problem()
    found = restore(problem, prior, samples=2, seed=3)
    expected = restore(problem, prior, preset(), samples=2, seed=3)
    assert torch.equal(found.samples, expected.samples) and found.nfe == 14


# What a sample of every preset costs: calls of the prior, and passes backwards through it.
COSTS = {
    "ald": (301, 0),
    "c_pigdm": (5, 5),
    "daps": (100, 0),
    "ddnm": (100, 0),
    "ddnm_plus": (100, 0),
    "ddrm": (100, 0),
    "dds": (50, 0),
    "diffpir": (100, 0),
    "diffpir_20": (20, 0),
    "diffpir_jpeg": (10, 0),
    "dps": (50, 50),
    "dps_1000": (1000, 1000),
    "fast_dips": (75, 0),
    "gibbs": (2736, 66),
    "gibbs_one": (267, 67),
    "ilvr": (100, 0),
    "mcg": (100, 100),
    "mcgdiff": (6400, 0),
    "mmps": (20, 60),
    "mmps_2m": (10, 30),
    "mmps_2m_sde": (14, 47),
    "pigdm": (50, 50),
    "pnpdm": (630, 0),
    "red_diff": (300, 0),
    "repaint": (210, 0),
    "score_sde": (99, 0),
    "sitcom": (467, 447),
    "tds": (800, 100),
    "tmpd": (100, 200),
}


class Tracked(GaussianDenoiser):
    """A prior that counts the passes backwards through it."""

    def __init__(self) -> None:
        place = torch.arange(16.0).double()
        cov = 0.04 * (-(place[:, None] - place).abs() / 4).exp()
        super().__init__(torch.full((1, 4, 4), 0.5).double(), cov)
        self.backwards = 0

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        out = super().forward(x, sigma)
        if out.requires_grad:
            out.register_hook(self.passed)
        return out

    def passed(self, _: Tensor) -> None:
        self.backwards += 1


def test_every_preset_has_its_cost_in_the_table() -> None:
    assert sorted(COSTS) == sorted(presets())


@pytest.mark.parametrize("name", COSTS)
def test_what_a_sample_costs(name: str) -> None:
    operator = MaskRandom((1, 4, 4), missing=0.5).double()
    truth = torch.full((1, 1, 4, 4), 0.6).double()
    problem = Problem.simulate(truth, operator, Gaussian(0.05))
    prior = Tracked()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of misfits: a constant is measured
        found = restore(problem, prior, name)
    assert (found.nfe, prior.backwards) == COSTS[name]


# In few steps, from Python: each is above the baseline without a prior, on a smooth field under a blur.
@pytest.mark.parametrize(
    "solver",
    [DiffPIR(steps=20), DDNM(steps=20), DPS(), solvers.PiGDM(steps=20), MMPS(), MMPS2M()],
    ids=lambda solver: type(solver).__name__,
)
def test_a_class_without_settings_is_better_than_no_prior(solver: Solver) -> None:
    covariance = oracles.exponential_prior(SHAPE)
    prior = oracles.denoiser(covariance, SHAPE)
    draws = torch.linalg.cholesky(covariance.covariance) @ oracles.normal(64, 8, seed=2)
    truth = (covariance.mean[:, None] + draws).T.reshape(8, *SHAPE)
    blur = Blur(SHAPE, torch.full((3, 3), 1 / 9, dtype=torch.float64)).double()
    problem = Problem.simulate(truth, blur, Gaussian(0.05), seed=1)
    found = restore(problem, prior, solver, samples=4)
    without = float((problem.baseline() - truth).square().mean())
    assert float((found.mean - truth).square().mean()) < 0.8 * without


def test_a_preset_of_the_class_of_the_default_has_its_own_settings(tmp_path: Path) -> None:
    """mmps_2m is of the class of the default mmps_2m_sde, and has no fresh noise."""
    default = config.resolve(["task=inpaint"], SolveSettings)["solver"]
    assert default["name"] == "mmps_2m" and default["eta"] == 1.0
    flow = {"name": "mmps_2m", "steps": 10, "sigma_max": 20.0, "sigma_min": 0.04, "iterations": 3}
    assert config.resolve(["task=inpaint", "solver=mmps_2m"], SolveSettings)["solver"] == flow
    typed = config.resolve(["task=inpaint", "solver.name=mmps_2m"], SolveSettings)["solver"]
    assert typed == {"name": "mmps_2m"}
    changed = config.resolve(["task=inpaint", "solver.steps=5"], SolveSettings)["solver"]
    assert changed == {**default, "steps": 5}
    # A stored config repeats its run.
    stored = config.resolve(["task=inpaint", "solver=mmps_2m"], SolveSettings)
    config.dump(stored, tmp_path / "config.yaml")
    again = config.resolve([f"task={tmp_path}/config.yaml"], SolveSettings)
    assert again["solver"] == flow
