"""Tools that several solvers share."""
