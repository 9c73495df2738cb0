"""Priors that other programs wrote: one module per format, each a map to `invdiff.prior.unet2d`.

Nothing here imports the program that wrote a file, and nothing in a file is executed.
"""
