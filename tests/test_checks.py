"""``operators.check`` passes what is right and catches what is wrong; adapters of other libraries'
operators.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.sparse.linalg import aslinearoperator
from torch import Tensor, nn

from invdiff import config
from invdiff.check import main
from invdiff.errors import InputError
from invdiff.operators import (
    BlockAverage,
    CircularBlur,
    Denoise,
    GaussianBlur,
    LinearOperator,
    MaskRandom,
    Operator,
    Separable,
    check,
)
from invdiff.operators.adapters import DeepInvLinearOperator, DeepInvOperator, PylopsOperator

SHAPE = (2, 8, 12)
KERNEL = torch.tensor([[0.1, 0.5, 0.4]])


class Gradient(LinearOperator):
    def forward(self, x: Tensor) -> Tensor:
        return x[..., 1:] - 0.5 * x[..., :-1]


class Square(Operator):
    def forward(self, x: Tensor) -> Tensor:
        return x.square()


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: Denoise(SHAPE),
        lambda: MaskRandom(SHAPE, 0.4),
        lambda: BlockAverage(SHAPE, 2),
        lambda: Gradient(SHAPE),
        lambda: CircularBlur(SHAPE, KERNEL),
        lambda: GaussianBlur(SHAPE, 0.7),
        lambda: Square(SHAPE),
        lambda: MaskRandom(SHAPE, 0.4) @ CircularBlur(SHAPE, KERNEL),
    ],
)
def test_what_is_right_passes(make: Callable[[], Operator]) -> None:
    report = check(make())
    assert report.ok and "nothing failed" in str(report), str(report)


class WrongAdjoint(CircularBlur):
    """The kernel is not mirrored: a correlation where a convolution is meant."""

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)


class SlightlyWrongAdjoint(Gradient):
    def adjoint(self, y: Tensor) -> Tensor:
        return 1.0001 * super().adjoint(y)


class Affine(LinearOperator):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.01


class BatchCoupled(LinearOperator):
    def forward(self, x: Tensor) -> Tensor:
        return x - 0.1 * x.mean(0, keepdim=True)


class AdjointAsInverse(Gradient):
    def pinv(self, y: Tensor, damp: float | Tensor = 0.0, rtol: float | None = None) -> Tensor:
        return self.adjoint(y)


class IgnoresDamping(Gradient):
    def pinv(self, y: Tensor, damp: float | Tensor = 0.0, rtol: float | None = None) -> Tensor:
        return super().pinv(y)


class SkewBasis(BlockAverage):
    def v(self, c: Tensor) -> Tensor:
        return 1.01 * super().v(c)


class SkewMeasurementBasis(BlockAverage):
    def u_t(self, y: Tensor) -> Tensor:
        return 1.01 * super().u_t(y)


class OtherSpectrum(Separable):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape, torch.eye(8), torch.eye(12))
        self.register_exact("s", 1.01 * torch.ones(1, 8, 12))


class FixedDtype(LinearOperator):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.matrix = torch.eye(shape[-1])  # no buffer: .to() leaves it behind

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix


class Miscounted(Denoise):
    def count(self, y: Tensor) -> int:
        return 7


class Detached(Operator):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach().square()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "failed"),
    [
        (lambda: WrongAdjoint(SHAPE, KERNEL), "dot test"),
        (lambda: SlightlyWrongAdjoint(SHAPE), "dot test"),
        (lambda: Affine(SHAPE), "linearity"),
        (lambda: BatchCoupled(SHAPE), "batch independence"),
        (lambda: AdjointAsInverse(SHAPE), "pinv"),
        (lambda: IgnoresDamping(SHAPE), "damped pinv"),
        (lambda: SkewBasis(SHAPE, 2), "V orthonormal"),
        (lambda: SkewMeasurementBasis(SHAPE, 2), "U orthonormal"),
        (lambda: OtherSpectrum(SHAPE), "U diag(s) V^T = A"),
        (lambda: FixedDtype(SHAPE), "shape and dtype, float64"),
        (lambda: Miscounted(SHAPE), "shape and dtype"),
        (lambda: Detached(SHAPE), "gradient"),
    ],
)
def test_what_is_wrong_is_caught(make: Callable[[], Operator], failed: str) -> None:
    report = check(make())
    found = [line.name for line in report.lines if line.passed is False]
    assert any(name.startswith(failed) for name in found), str(report)
    assert not report.ok and f"FAILED  {failed}" in str(report)


def found(operator: Operator, name: str) -> str:
    return next(line.found for line in check(operator).lines if line.name == name)


def test_what_is_said_about_scale_and_border() -> None:
    norm = float(torch.linalg.matrix_norm(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), 2))
    double = Separable((1, 2, 2), torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.eye(2))
    assert f"largest singular value {norm:.6g}" in found(double, "norm")
    assert "0.25 on average" in found(
        Separable((1, 2, 2), 0.25 * torch.eye(2), torch.eye(2)), "constant image"
    )
    assert "in the far half: periodic" in found(
        GaussianBlur(SHAPE, 0.7, boundary="circular"), "border"
    )
    reflected = found(GaussianBlur(SHAPE, 0.7), "border")
    assert "none of it in the far half" in reflected
    blur = GaussianBlur(SHAPE, 0.7).double()
    assert f"{2 * float(blur.cols[:, 0].sum() * blur.rows[:, 4].sum()):.4g} in all" in reflected
    if not torch.cuda.is_available():
        assert "leaves behind the attributes matrix" in found(FixedDtype(SHAPE), "device")


def test_check_leaves_the_operator_alone() -> None:
    operator = GaussianBlur(SHAPE, 0.7)
    check(operator)
    assert operator.s.dtype == torch.float32


def test_the_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["operator=blur_gaussian", "operator.sigma=1", "shape=[1,9,12]"])
    printed = capsys.readouterr().out
    assert (
        "GaussianBlur (SpectralOperator) of images (1, 9, 12)" in printed
        and "ratio 1.000000" in printed
    )
    (tmp_path / "a_wrong_one.py").write_text(
        "from invdiff.operators import LinearOperator\nclass Wrong(LinearOperator):\n"
        "    def forward(self, x): return 2 * x\n    def adjoint(self, y): return y\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit) as error:
        main(["operator.name=a_wrong_one:Wrong", "shape=[1,4,4]"])
    assert error.value.code == 1 and "ratio 2.0000" in capsys.readouterr().out
    with pytest.raises(SystemExit) as error:
        config.run_command(main, ["shape=[1,4,4]"])
    assert error.value.code == 2 and "operator is missing" in capsys.readouterr().err


# Adapters.


class FakePhysics(nn.Module):
    """DeepInverse's interface: a mask after a blur along the rows, or any function."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", (torch.arange(12) % 3 > 0).float())

    def A(self, x: Tensor) -> Tensor:
        return self.mask * (x + 0.5 * x.roll(1, -1))

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.mask * y + 0.5 * (self.mask * y).roll(-1, -1)


class FakeNonlinearPhysics(nn.Module):
    def A(self, x: Tensor) -> Tensor:
        return x.square() if len(x) < 9 else [x]  # type: ignore[return-value]


def test_physics_of_deepinv() -> None:
    operator = DeepInvLinearOperator(SHAPE, FakePhysics())
    assert check(operator).ok, str(check(operator))
    assert operator.count(torch.zeros(1, *SHAPE)) == 2 * 8 * 8
    spoilt = torch.full((1, *SHAPE), torch.nan)
    assert bool((operator.measured(spoilt)[..., ::3] == 0).all())
    nonlinear = DeepInvOperator(SHAPE, FakeNonlinearPhysics())
    assert check(nonlinear).ok and not isinstance(nonlinear, LinearOperator)
    with pytest.raises(InputError, match="found measurements of type list"):
        nonlinear(torch.zeros(9, *SHAPE))


@pytest.mark.parametrize(("channels", "values"), [(2, 96), (2, 192)])
def test_linear_operators_of_scipy(channels: int, values: int) -> None:
    matrix = sparse.random(
        50, values, density=0.1, random_state=np.random.default_rng(0), format="csr"
    )
    operator = PylopsOperator(SHAPE, aslinearoperator(matrix))
    assert check(operator).ok, str(check(operator))
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.from_numpy(x.reshape(-1, values).numpy() @ matrix.toarray().T)
    y = operator(x)
    assert tuple(y.shape) == ((3, 50) if values == 192 else (3, channels, 50))
    torch.testing.assert_close(y.view(-1, 50), expected)


def test_linear_operators_that_do_not_fit() -> None:
    for matrix, words in (
        (np.eye(95), "found 95 columns, expected 192"),
        (1j * np.eye(96), "found complex128"),
    ):
        with pytest.raises(InputError, match=words):
            PylopsOperator(SHAPE, aslinearoperator(matrix))


def test_a_real_pylops_operator() -> None:
    pylops = pytest.importorskip("pylops", reason="pylops is optional")
    operator = PylopsOperator(SHAPE, pylops.FirstDerivative((8, 12), axis=0))
    assert operator.measurement_shape == SHAPE and check(operator).ok


@pytest.mark.slow
def test_a_real_deepinv_physics() -> None:
    deepinv = pytest.importorskip("deepinv", reason="deepinv is optional")
    physics = deepinv.physics.Inpainting(SHAPE, mask=0.5)
    operator = DeepInvLinearOperator(SHAPE, physics)
    assert check(operator).ok and 0 < operator.count(torch.zeros(1, *SHAPE)) < 192
