"""Posterior samplers, one file per method."""

from .base import Solver, Step
from .ddnm import DDNM, DDNMPlus
from .ddrm import DDRM
from .diffpir import DiffPIR
from .dps import DPS
from .pigdm import PiGDM

__all__ = ["DDNM", "DDNMPlus", "DDRM", "DPS", "DiffPIR", "PiGDM", "Solver", "Step"]
