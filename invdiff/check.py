"""Check an operator: is it linear, is its adjoint its adjoint, its pseudo-inverse, its singular
value decomposition?

    python -m invdiff.check operator=blur_gaussian operator.sigma=2 shape=[3,64,64]
    python -m invdiff.check operator.name=my_module:MyOperator shape=[1,32,32]

Prints a table, and exits with status 1 where something fails.
"""

from __future__ import annotations

if __name__ == "__main__":
    from invdiff.config.help import print_help_if_asked

    print_help_if_asked(__file__)  # before the imports, which take seconds

from dataclasses import dataclass, field
from typing import Any

from invdiff import config
from invdiff.errors import InputError
from invdiff.operators import check
from invdiff.operators.base import numbered
from invdiff.operators.checks import IMAGES
from invdiff.rng import Seed


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """Settings of ``python -m invdiff.check``.

    Attributes:
        operator: a name and its settings.
        shape: (C, H, W) of the images that it is for.
        seed: of the random images that it is tried on.
    """

    operator: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, int, int] = (3, 64, 64)
    seed: Seed = 0


def main(words: list[str]) -> None:
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
