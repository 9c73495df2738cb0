"""Masks and kernels as pictures in files, which are opaque."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from invdiff.arguments import path_text
from invdiff.errors import InputError

if TYPE_CHECKING:
    from invdiff.io.pictures import Picture


def opaque_pictures(name: str, path: str) -> Tensor:
    """Return the pictures of a file, folder or stack as (B, C, H, W) in float64.

    Integers are divided by their full scale, and floats are taken as they are, but for those of
    files whose zero is white, which are subtracted from the largest.

    Args:
        name: of what the pictures are, for messages.
        path: of a picture, an .npy file, or a folder or stack of them.

    Raises:
        InputError: a picture cannot be read, is not opaque, or has another size than the first.
    """
    from invdiff.io.pictures import to_channels

    pictures = pictures_in(name, path)
    for picture in pictures:
        if picture.alpha is not None and bool((picture.alpha < 1).any()):
            raise InputError(
                f"{name} {path}: found transparent pixels in {picture.name}, expected an opaque "
                "picture; save its alpha channel as a gray picture if that is meant"
            )
    values = [picture.brightness() for picture in pictures]
    if len({x.shape[1] for x in values}) > 1:
        values = [to_channels(x, 3) for x in values]
    return torch.cat(values).double()


def pictures_in(name: str, path: str) -> list[Picture]:
    """Return the pictures of a file, folder or stack, which have one size.

    Args:
        name: of what the pictures are, for messages.
        path: of a picture, an .npy file, or a folder or stack of them.

    Raises:
        InputError: a picture cannot be read, or has another size than the first.
    """
    # Nothing else in this room reads pictures.
    from invdiff.io.collection import read_pictures

    path = path_text(name, path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*: found floats from")
        pictures = read_pictures(path)
    size = pictures[0].values.shape[2:]
    for picture in pictures:
        if picture.values.shape[2:] != size:
            found, expected = ("x".join(map(str, s)) for s in (picture.values.shape[2:], size))
            raise InputError(
                f"{name} {path}: found {found} pixels in {picture.name}, "
                f"expected {expected} as in {pictures[0].name}"
            )
    return pictures
