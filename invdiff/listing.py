"""What can be named: ``invdiff.list("solver")``, from Python, as ``invdiff list solvers`` prints it."""

from __future__ import annotations

import builtins

from invdiff import registry
from invdiff.errors import InputError, check_type
from invdiff.resources import PRESETS, TASKS, shipped_priors
from invdiff.solvers import presets

KINDS = ("task", "solver", "prior", "operator", "noise", "kernel", "network", "train")


def list(kind: str) -> builtins.list[str]:  # noqa: A001 - its name is invdiff.list
    """Return the names of everything of a kind, sorted: what ships, and what plug-ins add.

    Args:
        kind: task, solver, prior, operator, noise, kernel, network or train; "solvers" is "solver".

    Raises:
        InputError: there is no such kind.

    Example:
        >>> "poisson" in list("noise")
        True
        >>> "pigdm" in list("solver"), "photos" in list("priors")
        (True, True)
    """
    check_type("kind", kind, str, f"one of {', '.join(KINDS)}")
    one = kind.removesuffix("s")
    if one not in KINDS:
        raise InputError(registry.unknown("kind", kind, KINDS) + "; expected one of these")
    if one == "task":
        return sorted(path.stem for path in TASKS.glob("*.yaml"))
    if one == "train":
        return sorted(path.stem for path in (PRESETS / "train").glob("*.yaml"))
    if one == "prior":
        return shipped_priors()
    if one == "solver":  # a preset has the name of the class that it is for, or one of its own
        return sorted({*presets(), *registry.names("solver")})
    return registry.names(one)
