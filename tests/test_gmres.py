"""GMRES against SciPy's, against the least squares that define it, and where it must not fail."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
import torch
from scipy.sparse.linalg import gmres as reference
from torch import Tensor

from invdiff.errors import InputError
from invdiff.operators.conjugate import conjugate_gradient
from invdiff.operators.gmres import combined, gmres, krylov

SIZE = 12


def system(seed: int) -> tuple[Tensor, Tensor]:
    """A batch of three systems that are not symmetric, (3, n, n), and right-hand sides (3, 1, 3, 4)."""
    matrices = torch.eye(SIZE, dtype=torch.float64) + 0.4 * oracles.normal(3, SIZE, SIZE, seed=seed)
    return matrices, oracles.normal(3, 1, 3, 4, seed=seed + 1)


def solved(matrices: Tensor, b: Tensor, iterations: int) -> Tensor:
    def apply(x: Tensor) -> Tensor:
        return (matrices @ x.flatten(1)[..., None]).view_as(x)

    return gmres(apply, b, iterations)


@pytest.mark.parametrize("iterations", [1, 2, 3, 7, SIZE])
def test_it_is_scipys(iterations: int) -> None:
    matrices, b = system(iterations)
    found = solved(matrices, b, iterations)
    for matrix, right, x in zip(matrices, b, found, strict=True):
        expected, _ = reference(
            matrix.numpy(), right.flatten().numpy(), restart=iterations, maxiter=1, rtol=1e-14
        )
        np.testing.assert_allclose(x.flatten().numpy(), expected, atol=1e-9)


def test_it_has_the_least_residual_of_its_krylov_space() -> None:
    matrices, b = system(20)
    found = solved(matrices, b, 3).flatten(1)
    for matrix, right, x in zip(matrices, b.flatten(1), found, strict=True):
        space = torch.stack([right, matrix @ right, matrix @ matrix @ right], 1)
        weights = torch.linalg.lstsq(matrix @ space, right[:, None]).solution
        torch.testing.assert_close(x, (space @ weights)[:, 0], rtol=1e-8, atol=1e-10)


def test_residuals_never_grow_where_those_of_conjugate_gradients_do() -> None:
    matrices, b = system(30)

    def apply(x: Tensor) -> Tensor:
        return (matrices @ x.flatten(1)[..., None]).view_as(x)

    def residual(x: Tensor) -> Tensor:
        return (b - apply(x)).flatten(1).norm(dim=1)

    start = residual(torch.zeros_like(b))
    sizes = torch.stack([start, *(residual(gmres(apply, b, n)) for n in range(1, 9))])
    assert bool((sizes.diff(dim=0) <= 1e-12).all())
    assert bool((residual(conjugate_gradient(apply, b, iterations=8)) > start).any())


def test_an_image_does_not_depend_on_its_batch() -> None:
    matrices, b = system(40)
    both = solved(matrices, b, 3)
    for i in range(3):
        torch.testing.assert_close(solved(matrices[[i]], b[[i]], 3)[0], both[i], atol=1e-12, rtol=0)


def test_spaces_that_end_early() -> None:
    b = oracles.normal(2, 1, 3, 4, seed=5)
    b[1] = 0
    found = gmres(lambda x: 4 * x, b, 5)
    torch.testing.assert_close(found, b / 4)
    projection = torch.zeros(SIZE, dtype=torch.float64)
    projection[:3] = 2
    found = gmres(lambda x: (projection * x.flatten(1)).view_as(x), b, 4)
    expected = (projection / 4 * b.flatten(1)).view_as(b)
    torch.testing.assert_close(projection * found.flatten(1), projection * expected.flatten(1))
    assert torch.equal(found[1], torch.zeros_like(b[1]))


def test_no_iterations() -> None:
    with pytest.raises(InputError, match="iterations: found 0, expected at least 1"):
        gmres(lambda x: x, torch.ones(1, 2), 0)


def test_a_linear_map_of_the_solution_is_known_from_the_vectors() -> None:
    """What moments.py relies on: values that were computed on the way are not computed again."""
    matrix = torch.randn(9, 9, generator=torch.Generator().manual_seed(1)).double()
    b = torch.randn(3, 9, generator=torch.Generator().manual_seed(2)).double()
    called = []

    def apply(x: Tensor) -> Tensor:
        called.append(x)
        return x @ matrix.T

    basis, weights = krylov(apply, b, 4)
    assert len(called) == len(basis) == 4 and all(map(torch.equal, called, basis))
    solution = gmres(lambda x: x @ matrix.T, b, 4)
    images = [x @ matrix.T for x in basis]
    torch.testing.assert_close(combined(images, weights), solution @ matrix.T)


def test_an_image_that_has_overflown_spoils_no_other_and_says_so() -> None:
    matrices, b = system(3)
    expected = solved(matrices, b, 4)
    for wrong in (torch.nan, torch.inf):
        spoilt = matrices.clone()
        spoilt[1, 2, 3] = wrong
        found = solved(spoilt, b, 4)
        assert torch.equal(found[[0, 2]], expected[[0, 2]]) and bool(found[1].isnan().all())
