"""Posterior samplers, one file per method."""

from invdiff.solvers.ald import ALD
from invdiff.solvers.base import Solver, Step
from invdiff.solvers.c_pigdm import CPiGDM
from invdiff.solvers.daps import DAPS
from invdiff.solvers.ddnm import DDNM
from invdiff.solvers.ddnm_plus import DDNMPlus
from invdiff.solvers.ddrm import DDRM
from invdiff.solvers.dds import DDS
from invdiff.solvers.diffpir import DiffPIR
from invdiff.solvers.dps import DPS
from invdiff.solvers.fast_dips import FastDIPS
from invdiff.solvers.gibbs import Gibbs
from invdiff.solvers.ilvr import ILVR
from invdiff.solvers.mcg import MCG
from invdiff.solvers.mcgdiff import MCGDiff
from invdiff.solvers.mmps import MMPS
from invdiff.solvers.mmps_2m import MMPS2M
from invdiff.solvers.pigdm import PiGDM
from invdiff.solvers.pnpdm import PnPDM
from invdiff.solvers.presets import DEFAULT, preset, preset_of, presets, solver_for, solver_named
from invdiff.solvers.red_diff import REDDiff
from invdiff.solvers.repaint import RePaint
from invdiff.solvers.score_sde import ScoreSDE
from invdiff.solvers.sitcom import SITCOM
from invdiff.solvers.tds import TDS
from invdiff.solvers.tmpd import TMPD

__all__ = [
    "ALD",
    "CPiGDM",
    "DEFAULT",
    "DAPS",
    "DDNM",
    "DDNMPlus",
    "DDRM",
    "DDS",
    "DPS",
    "DiffPIR",
    "FastDIPS",
    "Gibbs",
    "ILVR",
    "MCG",
    "MCGDiff",
    "MMPS",
    "MMPS2M",
    "PiGDM",
    "PnPDM",
    "REDDiff",
    "RePaint",
    "SITCOM",
    "ScoreSDE",
    "Solver",
    "Step",
    "TDS",
    "TMPD",
    "preset",
    "preset_of",
    "presets",
    "solver_for",
    "solver_named",
]
