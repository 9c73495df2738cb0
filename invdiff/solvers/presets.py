"""Presets of solvers from Python: the settings in ``configs/solver/NAME.yaml``, by name and by task.

The command line knows the same by ``solver=NAME``. The defaults of a solver's class are those of the
preset of its name, which may have other settings for some tasks.
"""

from __future__ import annotations

import torch
import yaml

from invdiff import registry
from invdiff.errors import InputError, check_type, described
from invdiff.operators import Jpeg, LinearOperator, Operator
from invdiff.problem import Problem
from invdiff.resources import PRESETS, TASKS
from invdiff.solvers.base import Solver

DEFAULT = "mmps_2m_sde"  # of every command, and of `restore`: docs/defaults.md says why
NONLINEAR = "dps"  # in place of it, for operators that are not linear
CODED = "diffpir_jpeg"  # in place of both, for JPEG, which is best known as rounding without noise


def presets() -> list[str]:
    """Return the names of the presets that come with the package, sorted.

    Example:
        >>> "diffpir_20" in presets()
        True
    """
    return sorted(path.stem for path in (PRESETS / "solver").glob("*.yaml"))


def preset(name: str = DEFAULT, *, task: str | None = None) -> Solver:
    """Return a solver with the settings of a preset.

    Single settings of it can be changed by ``dataclasses.replace(preset(NAME), steps=50)``.

    Args:
        name: of the preset, such as "mmps" or "diffpir_20"; by default that of the default solver.
        task: the name of a task, for which the preset may have settings of its own, such as "sr4".

    Raises:
        InputError: there is no such preset or task.

    Example:
        >>> preset("diffpir_20").steps
        20
        >>> preset("mmps_2m", task="sr4").iterations
        2
    """
    check_type("preset", name, str, "the name of a preset")
    if name not in presets():
        raise InputError(registry.unknown("solver", name, presets()))
    if task is not None:
        check_type("task", task, str, "the name of a task")
    tasks = sorted(path.stem for path in TASKS.glob("*.yaml"))
    if task is not None and task not in tasks:
        raise InputError(registry.unknown("task", task, tasks))
    path = PRESETS / "solver" / f"{name}.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    by_task = settings.pop("tasks", {})
    kind = registry.lookup("solver", settings.pop("name"))
    found: Solver = kind(**{**settings, **by_task.get(task, {})})
    return found


def preset_of(solver: Solver, task: str | None = None) -> str | None:
    """Return the name of the first preset that a solver has the settings of, None if there is none.

    Args:
        solver: the method.
        task: for which presets may have settings of their own; one that does not come with the
            package has none.

    Example:
        >>> preset_of(preset("diffpir_20")), preset_of(preset("mmps_2m", task="sr4"), "sr4")
        ('diffpir_20', 'mmps_2m')
    """
    named = task if task is not None and (TASKS / f"{task}.yaml").is_file() else None
    return next((name for name in presets() if preset(name, task=named) == solver), None)


def solver_for(operator: type[Operator], exact: bool = True) -> str:
    """Return the name of the default solver for a class of operators.

    Args:
        operator: the class.
        exact: whether y has no noise beside what the operator does, such as rounding.

    Raises:
        InputError: it is no class of operators.

    Example:
        >>> from invdiff.operators import Jpeg, MaskBox
        >>> solver_for(MaskBox), solver_for(Jpeg)
        ('mmps_2m_sde', 'diffpir_jpeg')
    """
    if not isinstance(operator, type) or not issubclass(operator, Operator):
        found = described(operator)
        raise InputError(f"operator: found {found}, expected a class, such as operators.MaskBox")
    if issubclass(operator, Jpeg) and exact:
        return CODED
    return DEFAULT if issubclass(operator, LinearOperator) else NONLINEAR


def solver_named(solver: Solver | str | None = None, problem: Problem | None = None) -> Solver:
    """Return a solver that is given as such, by the name of a preset, or the default one for None.

    Args:
        solver: such as "pigdm"; ``package.module:Class`` is imported.
        problem: which the default one has to suit; any of a linear operator if it is not given.

    Raises:
        InputError: there is no such preset.

    Example:
        >>> type(solver_named("pigdm")).__name__, type(solver_named()).__name__
        ('PiGDM', 'MMPS2M')
    """
    if isinstance(solver, Solver):
        return solver
    if solver is None:
        if problem is None:
            return preset(DEFAULT)
        check_type("problem", problem, Problem, "a Problem, or None")
        exact = bool((torch.as_tensor(problem.variance()) == 0).all())
        return preset(solver_for(type(problem.operator), exact))
    check_type("solver", solver, str, "a Solver, such as solvers.DDNM(steps=100), or its name")
    if solver in presets():
        return preset(solver)
    if not registry.names_code(solver) and solver not in registry.names("solver"):
        hint = registry.nearest(solver, presets())
        raise InputError(
            f"solver: found {described(solver)}, expected a Solver or its name{hint} "
            "(invdiff.list('solver') lists them)"
        )
    kind = registry.lookup("solver", solver)
    found: Solver = kind()
    return found
