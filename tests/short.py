"""Every solver with so few steps that its mathematics, not its quality, is what a test sees."""

from __future__ import annotations

from typing import Any

from invdiff import registry
from invdiff.solvers import Solver

SETTINGS: dict[str, dict[str, Any]] = {
    "dps": {"steps": 6, "zeta": 0.3},
    "pigdm": {"steps": 6},
    "ddrm": {"steps": 6},
    "ddnm": {"steps": 6},
    "ddnm_plus": {"steps": 6},
    "diffpir": {"steps": 6},
    "dds": {"steps": 6, "tv": 5.0},
    "score_sde": {"steps": 6},
    "ilvr": {"steps": 6},
    "mcg": {"steps": 6, "zeta": 0.3},
    "repaint": {"steps": 6, "travel_length": 2, "travel_repeat": 2},
    "ald": {"steps": 2, "T": 3},
    "red_diff": {"steps": 6},
    "mmps": {"steps": 3, "iterations": 2},
    "mmps_2m": {"steps": 3, "iterations": 2},
    "tmpd": {"steps": 3},
    "daps": {"steps": 3, "ode_steps": 2, "inner_steps": 3},
    "pnpdm": {"steps": 4, "decay": 0.3, "levels": 4},
    "c_pigdm": {"steps": 3},
    "fast_dips": {"steps": 4, "passes": 2},
    "sitcom": {"steps": 3, "iterations": 2},
    "tds": {"steps": 6, "particles": 3},
    "mcgdiff": {"steps": 6, "particles": 3},
    "gibbs": {
        "steps": 2,
        "particles": 2,
        "inner": 2,
        "start": 2,
        "rounds": 1,
        "reach": 0.4,
        "sweeps": 1,
    },
}
SHORT: list[Solver] = [
    registry.lookup("solver", name)(**settings) for name, settings in SETTINGS.items()
]

assert sorted(SETTINGS) == registry.names("solver"), "a solver is missing"
