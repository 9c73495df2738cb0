"""ICC profiles of RGB and gray whose colours are curves and a matrix: to sRGB, in float arithmetic.

ICC.1:2022 (https://www.color.org/specification/ICC.1-2022-05.pdf), for profiles of versions 2 and 4:
"three-component matrix-based" ones (F.3; tags rTRC, gTRC, bTRC, rXYZ, gXYZ, bXYZ) and "monochrome"
ones (F.2; tag kTRC). Their curves are tables (``curv``, 10.6) or functions (``para``, 10.18). Colours
of the connection space are seen under D50; those of sRGB (IEC 61966-2-1) are brought there from D65
by Bradford's matrix (Annex E).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Curve = Callable[[np.ndarray], np.ndarray]

D50 = np.array([0.9642, 1.0, 0.8249])  # 7.2.16
_D65 = np.array([0.3127, 0.3290])  # chromaticity x, y
_SRGB_PRIMARIES = np.array([[0.64, 0.33], [0.30, 0.60], [0.15, 0.06]])
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_LARGEST_BLACK = ((50 + 16) / 116) ** 3  # Y of L* = 50: what is lighter is no black
_HEADER = 128
_TAGS_OF_TABLES = ("A2B0", "D2B0")  # colours by tables of several dimensions


@dataclass(frozen=True)
class MatrixProfile:
    """What the numbers of a profile are as linear colours of sRGB.

    Attributes:
        curves: of each channel, from [0, 1] to the light in [0, 1].
        matrix: (3, 3) from the light of RGB to that of sRGB; None for gray, whose light is that of
            sRGB already.

    Example:
        >>> MatrixProfile((np.square,), None).to_srgb(np.array([[0.0], [1.0]])).ravel().round(6).tolist()
        [0.0, 1.0]
    """

    curves: tuple[Curve, ...]
    matrix: np.ndarray | None

    def to_srgb(self, values: np.ndarray) -> np.ndarray:
        """Return colours of sRGB in [0, 1], (..., C), of numbers in [0, 1], (..., C).

        Colours that sRGB does not have become the nearest value of each channel.
        """
        light = self._light(values)
        # The black of a profile is that of sRGB: ISO 18619, black point compensation.
        black = min(
            float(self._light(np.zeros(len(self.curves))) @ self._luminance), _LARGEST_BLACK
        )
        return srgb_encoded(((light - black) / (1 - black)).clip(0, 1))

    def _light(self, values: np.ndarray) -> np.ndarray:
        """The linear colours of sRGB, (..., C), which may leave [0, 1]."""
        light = np.stack([curve(values[..., c]) for c, curve in enumerate(self.curves)], -1)
        return light if self.matrix is None else light @ self.matrix.T

    @property
    def _luminance(self) -> np.ndarray:
        """The shares of the channels of linear sRGB, (C,), in the luminance Y."""
        return np.ones(1) if self.matrix is None else srgb_to_xyz()[1]


def read_matrix_profile(profile: bytes) -> MatrixProfile | None:
    """Return the curves and the matrix of a profile, None where it is of another kind.

    Raises:
        ValueError: the profile is damaged.
    """
    if len(profile) < _HEADER + 4:
        raise ValueError("it is too short")
    tags = _tags(profile)
    if any(name in tags for name in _TAGS_OF_TABLES):
        return None
    space = profile[16:20]
    if space == b"GRAY" and "kTRC" in tags:
        curve = _curve(tags["kTRC"])
        if profile[20:24] == b"Lab ":
            return MatrixProfile((lambda v: _light_of_lightness(curve(v)),), None)
        return MatrixProfile((curve,), None)
    if space == b"RGB " and all(f"{c}{what}" in tags for c in "rgb" for what in ("TRC", "XYZ")):
        to_xyz = np.stack([_xyz(tags[f"{c}XYZ"]) for c in "rgb"], -1)
        curves = tuple(_curve(tags[f"{c}TRC"]) for c in "rgb")
        return MatrixProfile(curves, np.linalg.inv(srgb_to_xyz()) @ to_xyz)
    return None


def srgb_to_xyz() -> np.ndarray:
    """Return the matrix (3, 3) from linear sRGB to XYZ under D50.

    Example:
        >>> srgb_to_xyz().sum(1).round(4).tolist()  # white
        [0.9642, 1.0, 0.8249]
    """
    x, y = _SRGB_PRIMARIES.T
    primaries = np.stack([x / y, np.ones(3), (1 - x - y) / y])
    white = np.array([_D65[0] / _D65[1], 1.0, (1 - _D65.sum()) / _D65[1]])
    under_d65 = primaries * np.linalg.solve(primaries, white)
    gains = (_BRADFORD @ D50) / (_BRADFORD @ white)
    adapted: np.ndarray = np.linalg.inv(_BRADFORD) @ np.diag(gains) @ _BRADFORD @ under_d65
    return adapted


def srgb_encoded(light: np.ndarray) -> np.ndarray:
    """Return the numbers of sRGB for light in [0, 1], IEC 61966-2-1.

    Example:
        >>> srgb_encoded(np.array([0.0, 0.214041, 1.0])).round(4).tolist()
        [0.0, 0.5, 1.0]
    """
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _tags(profile: bytes) -> Mapping[str, bytes]:
    """The tags' contents by signature."""
    [count] = struct.unpack_from(">I", profile, _HEADER)
    if _HEADER + 4 + 12 * count > len(profile):
        raise ValueError(f"it ends before its {count} tags")
    tags: dict[str, bytes] = {}
    for number in range(count):
        name, start, size = struct.unpack_from(">4sII", profile, _HEADER + 4 + 12 * number)
        if start + size > len(profile):
            raise ValueError(f"it ends before its tag {name!r}")
        tags[name.decode("latin-1")] = profile[start : start + size]
    return tags


def _xyz(tag: bytes) -> np.ndarray:
    if len(tag) < 20 or tag[:4] != b"XYZ ":
        raise ValueError("a colorant is no XYZ")
    return _fixed(tag[8:20])


def _fixed(content: bytes) -> np.ndarray:
    """Numbers of type s15Fixed16."""
    return np.frombuffer(content, ">i4") / 65536


def _curve(tag: bytes) -> Curve:
    """The curve of a tag."""
    if len(tag) >= 12 and tag[:4] == b"curv":
        [count] = struct.unpack_from(">I", tag, 8)
        return _table(np.frombuffer(tag[12 : 12 + 2 * count], ">u2"), count)
    if len(tag) >= 12 and tag[:4] == b"para":
        [kind] = struct.unpack_from(">H", tag, 8)
        numbers = _PARAMETERS.get(kind, 0)
        if numbers and len(tag) >= 12 + 4 * numbers:
            return _function(kind, _fixed(tag[12 : 12 + 4 * numbers]))
    raise ValueError("a curve is neither a table nor a function that is known")


def _table(entries: np.ndarray, count: int) -> Curve:
    """10.6: no entry is the identity, one is an exponent, more are values between which lines run."""
    if len(entries) != count:
        raise ValueError("a curve ends too early")
    if count == 0:
        return lambda v: v
    if count == 1:
        exponent = int(entries[0]) / 256
        return lambda v: np.power(v, exponent)
    places = np.linspace(0, 1, count)
    values = entries / 65535
    return lambda v: np.interp(v, places, values)


_PARAMETERS = {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}  # kind of function -> how many numbers


def _function(kind: int, numbers: np.ndarray) -> Curve:
    """10.18, table 68: (a v + b)^g + e from v = d on, and c v + f below, in [0, 1]."""
    g, a, b, c, d, e, f = np.pad(numbers, (0, 7 - len(numbers))).tolist()
    if kind == 0:
        a, d = 1.0, 0.0
    elif kind in (1, 2):
        # The third number of kind 2 is added on both sides; below, the curve is flat.
        e = f = c
        c = 0.0
        d = -b / a if a else 0.0

    def curve(v: np.ndarray) -> np.ndarray:
        above = np.power(np.maximum(a * v + b, 0), g) + e
        light: np.ndarray = np.where(v < d, c * v + f, above).clip(0, 1)
        return light

    return curve


def _light_of_lightness(share: np.ndarray) -> np.ndarray:
    """Y of L* = 100 share, CIE 1976."""
    root = (100 * share + 16) / 116
    return np.where(root > 6 / 29, root**3, 3 * (6 / 29) ** 2 * (root - 4 / 29))
