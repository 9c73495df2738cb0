"""The scale of a picture's numbers: how stored values become [0, 1], and how they go back.

One rule holds for every file and every command:

* Integers are divided by their full scale: 255 for 8 bits, 65535 for 16, 2^b - 1 for samples that
  are packed into b bits.
* Floats are expected in [0, 1]. Values that leave it by at most 1/2 (noise, the overshoot of
  resampling) are taken as they are (`IMAGES`); in a measurement, whose noise may be strong, by at
  most 10 (`MEASUREMENTS`). Masks, kernels and other numbers that are no picture are taken as they
  are (`AS_STORED`).
* Other floats (0..255, [-1, 1], counts) and the values of medical files have `Units`: [0, 1] spans
  what the file, or all files of a folder together, hold. Floats that are rescaled so are told of in
  a warning. What is written is in the file's units again.

Nothing is clipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from invdiff.errors import InputError


@dataclass(frozen=True)
class FloatRule:
    """Which floats of a picture are taken as they are.

    Attributes:
        low: the lowest value.
        high: the highest value; where the picture goes beyond, it has units of its own range.
        missing: whether NaN may stand for what was not measured.

    Example:
        >>> IMAGES.holds(np.array([0.0, 1.2])), IMAGES.holds(np.array([0.0, 255.0]))
        (True, False)
    """

    low: float
    high: float
    missing: bool = False

    def holds(self, values: np.ndarray) -> bool:
        """Return whether all values are taken as they are; NaN is left out."""
        numbers = values[~np.isnan(values)]
        return bool(numbers.size == 0 or (numbers.min() >= self.low and numbers.max() <= self.high))


IMAGES = FloatRule(-0.5, 1.5)
MEASUREMENTS = FloatRule(-10.0, 11.0, missing=True)
AS_STORED = FloatRule(-math.inf, math.inf)


@dataclass(frozen=True)
class Units:
    """The physical values of an image x in [0, 1]: low + (high - low) x.

    A noise level of s physical units is sigma = s / |high - low|.

    Attributes:
        low: the value at 0, which is black.
        high: the value at 1, which is white; below `low` in files whose large values are dark.

    Example:
        >>> hounsfield = Units.of(np.array([-1000.0, 0.0, 3000.0]))
        >>> hounsfield.normalise(np.array([1000.0])).item()
        0.5
        >>> hounsfield.physical(np.array([0.25])).item()
        0.0
    """

    low: float
    high: float

    def normalise(self, values: np.ndarray) -> np.ndarray:
        """Map physical values to the [0, 1] scale."""
        scaled: np.ndarray = (values - self.low) / (self.high - self.low)
        return scaled

    def physical(self, x: np.ndarray) -> np.ndarray:
        """Map the [0, 1] scale back to physical values."""
        values: np.ndarray = self.low + (self.high - self.low) * x
        return values

    @property
    def width(self) -> float:
        """Distance of the two ends: a noise level on [0, 1], times this, is one in the units."""
        return abs(self.high - self.low)

    @property
    def inverted(self) -> bool:
        """Whether large values are dark."""
        return self.high < self.low

    def joined(self, other: Units) -> Units:
        """Return units that span both, in the direction of these."""
        ends = (self.low, self.high, other.low, other.high)
        low = min(ends)
        high = max(ends)
        return Units(high, low) if self.inverted else Units(low, high)

    @classmethod
    def of(cls, values: np.ndarray, *, inverted: bool = False) -> Units:
        """Return the units in which values span [0, 1].

        Args:
            values: finite numbers of any shape; none at all count as 0.
            inverted: whether the largest value is black.

        Raises:
            InputError: a value is infinite or NaN.
        """
        if not np.isfinite(values).all():
            raise InputError("found NaN or infinite values, expected finite ones")
        low = float(values.min()) if values.size else 0.0
        high = float(values.max()) if values.size else 1.0
        high = high if high > low else low + 1
        return cls(high, low) if inverted else cls(low, high)


def units_of_floats(values: np.ndarray, rule: FloatRule, *, inverted: bool = False) -> Units | None:
    """Return the units of a picture's floats, None where they are taken as they are.

    Args:
        values: the picture; NaN is left out.
        rule: which values are taken as they are.
        inverted: whether 0 is white.

    Raises:
        InputError: a value is infinite.

    Example:
        >>> units_of_floats(np.array([0.0, 254.0]), IMAGES)
        Units(low=0.0, high=254.0)
        >>> units_of_floats(np.array([-0.1, 1.2]), IMAGES) is None
        True
    """
    units = Units.of(values[~np.isnan(values)], inverted=inverted)
    if not rule.holds(values):
        return units
    return Units(1.0, 0.0) if inverted else None
