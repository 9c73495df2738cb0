"""Judging restorations: metrics, tables of compared solvers, calibration, and the page of a run."""
