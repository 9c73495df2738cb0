"""Checks of one's own measurement that need no truth: of the samples, the solver and the prior."""
