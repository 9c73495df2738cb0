"""Check an operator: its linearity, adjoint, pseudo-inverse and singular value decomposition.

    python -m invdiff.check operator=blur_gaussian operator.sigma=2 shape=[3,64,64]
    python -m invdiff.check operator.name=my_module:MyOperator shape=[1,32,32]

Prints a table, and exits with status 1 where something fails.
"""

from __future__ import annotations

if __name__ == "__main__":
    from invdiff.config.help import print_help_if_asked

    print_help_if_asked(__file__)  # before the imports, which take seconds

import math
from dataclasses import dataclass, field
from typing import Any

from invdiff import config
from invdiff.errors import InputError
from invdiff.operators import check
from invdiff.operators.base import numbered
from invdiff.operators.checks import IMAGES
from invdiff.rng import Seed

LARGEST = 2**24  # values of an image; on a smaller one the same is seen


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """Settings of ``python -m invdiff.check``.

    Attributes:
        operator: a name and its settings.
        shape: (C, H, W) of the images that it is for.
        seed: of the random images that it is tried on.

    Raises:
        InputError: the shape is too large to check.

    Example:
        >>> CheckSettings(shape=(3, 10**6, 10**6))
        Traceback (most recent call last):
        ...
        invdiff.errors.InputError: shape: found (3, 1000000, 1000000), expected at most 2^24 values
    """

    operator: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, int, int] = (3, 64, 64)
    seed: Seed = 0

    def __post_init__(self) -> None:
        if math.prod(self.shape) > LARGEST:
            raise InputError(f"shape: found {self.shape}, expected at most 2^24 values")


def main(words: list[str]) -> None:
    """Check the operator that the words of a command line name, and print the table."""
    settings = config.validate(CheckSettings, config.resolve(words, CheckSettings))
    if not settings.operator:
        raise InputError(
            "operator is missing: expected operator=NAME or operator.name=module:Class"
        )
    described = numbered(settings.operator, range(IMAGES))
    operator = config.build("operator", described, shape=settings.shape)
    report = check(operator, seed=settings.seed)
    print(report)
    if not report.ok:
        raise SystemExit(1)


if __name__ == "__main__":
    config.run_command(main)
