"""Second implementations that the tests of the solvers trust.

``Paper`` and the functions that take it are the solvers' papers written out in the papers' own
coordinates: images u = 2 x - 1 in [-1, 1], x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, timesteps
t > s >= 0, the network eps_theta(x_t, t), dense float64 matrices and their SVD; one row of a (B, D)
matrix per image. They share nothing with ``invdiff.solvers``.

``Normal``, ``posterior`` and ``output`` are closed forms for Gaussian priors: the exact posterior,
and the exact distribution of what a method that is affine in its noise returns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from invdiff.operators import LinearOperator
from invdiff.prior import GaussianDenoiser
from invdiff.prior.schedule import Schedule

Eps = Callable[[Tensor, int], Tensor]  # (B, D), t -> (B, D)
Shape = tuple[int, int, int]
Draw = Callable[[], Tensor]  # standard normal (B, D), in image space


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear_abar(T: int = 1000) -> Tensor:
    """abar_0..abar_T of Ho et al.: beta from 1e-4 to 0.02, scaled by 1000 / T."""
    beta = torch.linspace(1e-4, 0.02, T, dtype=torch.float64) * 1000 / T
    return torch.cat([torch.ones(1, dtype=torch.float64), (1 - beta).cumprod(0)])


def uniform_timesteps(steps: int, T: int = 1000) -> list[int]:
    """T = t_1 > ... > t_steps = 1, then 0."""
    return [*torch.linspace(T, 1, steps, dtype=torch.float64).round().long().tolist(), 0]


def root_timesteps(steps: int, T: int = 1000) -> list[int]:
    """DiffPIR's ("quad" in its code): T - sqrt(linspace(0, T^2)), here from T to 1, then 0."""
    root = torch.linspace(0, (T - 1) ** 2, steps, dtype=torch.float64).sqrt()
    return [*(T - root).round().long().tolist(), 0]


def langevin_timesteps(timesteps: list[int], T: int) -> list[int]:
    """Every level but 0 T times, then the last one again, and 0."""
    return [t for t in timesteps[:-1] for _ in range(T)] + timesteps[-2:]


def travelled(timesteps: list[int], length: int, repeat: int) -> list[int]:
    """Timesteps in the order of RePaint's and DDNM's visits: before every level that is a multiple
    of ``length`` away from the last but one, and at least ``length`` from the first, up and down
    again repeat - 1 times.
    """
    order = []
    for i, t in enumerate(timesteps):
        order.append(t)
        if i >= length and i < len(timesteps) - 1 and (len(timesteps) - 2 - i) % length == 0:
            up = timesteps[i - length : i][::-1]
            order += (repeat - 1) * [*up, *timesteps[i - length + 1 : i + 1]]
    return order


def dense(operator: LinearOperator) -> Tensor:
    """A as a float64 matrix (m, D), made of its own columns."""
    size = math.prod(operator.shape)
    return operator(torch.eye(size, dtype=torch.float64).view(size, *operator.shape)).flatten(1).T


# Priors.


class Normal(NamedTuple):
    """N(mean, covariance) of flattened images: (..., D) and (D, D)."""

    mean: Tensor
    covariance: Tensor


def exponential_prior(shape: Shape, variance: float = 0.06, length: float = 3.0) -> Normal:
    """Images in [0, 1] of mean 1/2 whose pixels are correlated as variance exp(-distance / length)."""
    channels, height, width = shape
    grid = torch.cartesian_prod(torch.arange(height), torch.arange(width)).double()
    covariance = variance * torch.exp(-torch.cdist(grid, grid) / length)
    covariance = torch.block_diag(*[covariance] * channels)
    return Normal(torch.full((len(covariance),), 0.5, dtype=torch.float64), covariance)


def denoiser(prior: Normal, shape: Shape, schedule: Schedule | None = None) -> GaussianDenoiser:
    return GaussianDenoiser(prior.mean.view(shape), prior.covariance, schedule)


def gaussian_eps(prior: Normal, abar: Tensor) -> Eps:
    """The ideal eps_theta for images u = 2 x - 1, x ~ prior: sqrt(1 - abar) Cov(x_t)^-1 (x_t - E
    x_t).
    """
    mean, covariance = 2 * prior.mean - 1, 4 * prior.covariance
    eye = torch.eye(len(mean), dtype=torch.float64)
    inverse: dict[int, Tensor] = {}

    def eps(x_t: Tensor, t: int) -> Tensor:
        if t not in inverse:
            inverse[t] = torch.linalg.inv(abar[t] * covariance + (1 - abar[t]) * eye)
        return (1 - abar[t]).sqrt() * (x_t - abar[t].sqrt() * mean) @ inverse[t]

    return eps


class EpsNetwork(nn.Module):
    """eps_theta as a DDPM network: images (B, C, H, W) and its timesteps t - 1, equal in a batch."""

    def __init__(self, eps: Eps) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x_t: Tensor, timestep: Tensor) -> Tensor:
        t = int(timestep[0].round()) + 1
        assert bool((timestep - (t - 1)).abs().max() < 1e-6)
        return self.eps(x_t.flatten(1), t).view_as(x_t)


class SmoothNetwork(nn.Module):
    """The ideal eps_theta as a DDPM network for fractional timesteps too, between which log sigma
    is linear.
    """

    def __init__(self, prior: Normal, T: int = 1000) -> None:
        super().__init__()
        abar = linear_abar(T)[1:]
        self.log_sigma, self.denoise = ((1 - abar) / abar).log() / 2, ideal_denoiser(prior)

    def forward(self, x_t: Tensor, timestep: Tensor) -> Tensor:
        low = min(int(timestep[0]), len(self.log_sigma) - 2)
        share = float(timestep[0]) - low
        sigma = float(((1 - share) * self.log_sigma[low] + share * self.log_sigma[low + 1]).exp())
        u = math.sqrt(1 + sigma**2) * x_t.flatten(1)
        return ((u - self.denoise(u, sigma)) / sigma).view_as(x_t)


def ideal_denoiser(prior: Normal) -> Callable[[Tensor, float], Tensor]:
    """D(u; sigma) = E[u_0 | u_0 + sigma n = u] of images u_0 = 2 x - 1, x ~ prior, (B, D)."""
    mean, covariance = 2 * prior.mean - 1, 4 * prior.covariance
    eye = torch.eye(len(mean), dtype=torch.float64)
    return lambda u, sigma: (
        mean + torch.linalg.solve(covariance + sigma**2 * eye, (u - mean).T).T @ covariance
    )


# The papers.


@dataclass(frozen=True)
class Paper:
    """y = A u + sigma_y n for images u in [-1, 1], and a network.

    Attributes:
        eps: eps_theta(x_t, t).
        abar: (T + 1,), abar_0 = 1.
        A: (m, D).
        y: (B, m).
        sigma_y: on the scale of [-1, 1].
        clip: whether the method's code clips x_0 to [-1, 1].
    """

    eps: Eps
    abar: Tensor
    A: Tensor
    y: Tensor
    sigma_y: float
    clip: bool = False

    @classmethod
    def of(
        cls,
        eps: Eps,
        operator: LinearOperator,
        y: Tensor,
        sigma: float,
        T: int = 1000,
        clip: bool = False,
    ) -> Paper:
        """From a measurement of images in [0, 1]: A (2 x - 1) = 2 A x - A 1."""
        A = dense(operator)
        return cls(eps, linear_abar(T), A, 2 * y.flatten(1) - A.sum(1), 2 * sigma, clip)

    def x_0(self, x_t: Tensor, t: int) -> Tensor:
        x_0 = (x_t - (1 - self.abar[t]).sqrt() * self.eps(x_t, t)) / self.abar[t].sqrt()
        return x_0.clamp(-1, 1) if self.clip else x_0

    @cached_property
    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """U (m, D), s (D,), V (D, D), s and the columns of U padded with zeros."""
        U, s, V_t = torch.linalg.svd(self.A, full_matrices=True)
        rank, D = int((s > 1e-12 * s[0]).sum()), self.A.shape[1]
        U_padded, s_padded = s.new_zeros(len(self.A), D), s.new_zeros(D)
        U_padded[:, :rank], s_padded[:rank] = U[:, :rank], s[:rank]
        return U_padded, s_padded, V_t.T

    def seen(self, s: Tensor) -> bool:
        """Whether DDRM and DDNM+ use a coefficient: noise sigma_y / s of at most 1 on [0, 1], 2 on
        [-1, 1].
        """
        return bool(s > 0) and bool(self.sigma_y / s <= 2)

    def damped(self, r: Tensor, damp: float) -> Tensor:
        """A^T (A A^T + damp I)^-1 r, and A^+ r for damp = 0."""
        if damp == 0:
            return r @ torch.linalg.pinv(self.A, rtol=1e-12).T
        gram = self.A @ self.A.T + damp * torch.eye(len(self.A), dtype=r.dtype)
        return torch.linalg.solve(gram, r.T).T @ self.A


def ddpm(p: Paper, x_t: Tensor, x_0: Tensor, t: int, s: int, z: Tensor) -> Tensor:
    """Ho et al., Eq. 6 and 7: a draw of q(x_s | x_t, x_0), whose variance is beta-tilde."""
    abar, previous = p.abar[t], p.abar[s]
    alpha = abar / previous
    beta = 1 - alpha
    mean = (
        alpha.sqrt() * (1 - previous) / (1 - abar) * x_t + previous.sqrt() * beta / (1 - abar) * x_0
    )
    return mean + (beta * (1 - previous) / (1 - abar)).sqrt() * z


def dps(p: Paper, x_t: Tensor, t: int, s: int, draw: Draw, zeta: float = 1.0) -> Tensor:
    """Chung et al., Alg. 1: the DDPM step, then - zeta grad ||y - A x_0||."""
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_()
        x_0 = p.x_0(x_t, t)
        distance = (p.y - x_0 @ p.A.T).norm(dim=1)
        g = torch.autograd.grad(distance.sum(), x_t)[0]
    return ddpm(p, x_t.detach(), x_0.detach(), t, s, draw()) - zeta * g


def dps_poisson(
    p: Paper, x_t: Tensor, t: int, s: int, draw: Draw, zeta: float = 1.0, peak: float = 30.0
) -> Tensor:
    """Chung et al., Alg. 2: the norm is that of Lambda = diag(1 / (2 y)), y on [0, 1] and at least
    one photon.

    zeta is brought to the scale of Alg. 1 by the mean of 2 y, which cancels Lambda where y is
    constant.
    """
    y, measured = ((p.y + p.A.sum(1)) / 2).clamp_min(1 / peak), p.A.abs().sum(1) > 0
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_()
        x_0 = p.x_0(x_t, t)
        distance = ((p.y - x_0 @ p.A.T).square() / (2 * y)).sum(1).sqrt()
        g = torch.autograd.grad(distance.sum(), x_t)[0]
    zeta_i = zeta * (2 * y[:, measured]).mean(1, keepdim=True).sqrt()
    return ddpm(p, x_t.detach(), x_0.detach(), t, s, draw()) - zeta_i * g


def diffused(p: Paper, x_s: Tensor, t: int, s: int, z: Tensor) -> Tensor:
    """(I - A^+ A) x_s + A^+ y_s, with y_s = sqrt(abar_s) y + sqrt(1 - abar_s) A z the measurement
    diffused along.

    Where y is noisy, A^+ is damped by sigma_y^2 / r_t^2 as in PiGDM (unpublished).
    """
    y_s = p.abar[s].sqrt() * p.y + (1 - p.abar[s]).sqrt() * z @ p.A.T
    damp = p.sigma_y**2 / float(1 - p.abar[t])
    return x_s - p.damped(x_s @ p.A.T, damp) + p.damped(y_s, damp)


def score_sde(
    p: Paper, x_t: Tensor, t: int, s: int, draw: Draw, corrections: int = 1, snr: float = 0.16
) -> Tensor:
    """Song et al., Alg. 2: ancestral sampling, then Langevin steps as in Alg. 4 and 5 (without its
    factor alpha).
    """
    x = ddpm(p, x_t, p.x_0(x_t, t), t, s, draw())
    x = diffused(p, x, t, s, draw())
    for _ in range(corrections if s > 0 else 0):
        z, g = draw(), -p.eps(x, s) / (1 - p.abar[s]).sqrt()
        if p.clip:  # the score of the x_0 that is clipped
            g = (p.abar[s].sqrt() * p.x_0(x, s) - x) / (1 - p.abar[s])
        epsilon = 2 * (snr * z.norm(dim=1) / g.norm(dim=1)) ** 2
        x = diffused(p, x + epsilon[:, None] * g + (2 * epsilon[:, None]).sqrt() * z, s, s, draw())
    return x


def ilvr(p: Paper, x_t: Tensor, t: int, s: int, draw: Draw, last: int = 0) -> Tensor:
    """Choi et al., Alg. 1, as far as timestep `last`: phi = A^+ A, and the reference is A^+ y."""
    x = ddpm(p, x_t, p.x_0(x_t, t), t, s, draw())
    if s < last:
        return x
    damp = p.sigma_y**2 / float(1 - p.abar[t])
    y_s = p.abar[s].sqrt() * p.damped(p.y, 0.0) + (1 - p.abar[s]).sqrt() * draw()  # q(y_s | y_0)
    return x + p.damped(y_s @ p.A.T, damp) - p.damped(x @ p.A.T, damp)


def mcg(p: Paper, x_t: Tensor, t: int, s: int, draw: Draw, zeta: float = 1.0) -> Tensor:
    """Chung et al. 2022, Alg. 1, with alpha = zeta / ||y - A x_0|| and half the gradient of the
    squared norm.
    """
    x = dps(p, x_t, t, s, draw, zeta)
    return diffused(p, x, t, s, draw())


def pigdm(
    p: Paper, x_t: Tensor, t: int, s: int, draw: Draw, eta: float = 1.0, adaptive: bool = True
) -> Tensor:
    """Song et al., for noisy y: r_t^2 = 1 - abar_t. DDIM on the score of p(x_t | y), or Alg. 1 with
    its weights.
    """
    z = draw()
    a_t, a_s = p.abar[t], p.abar[s]
    c_1 = eta * ((1 - a_t / a_s) * (1 - a_s) / (1 - a_t)).sqrt()
    c_2 = (1 - a_s - c_1**2).clamp_min(0).sqrt()
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_()
        x_0 = p.x_0(x_t, t)
        v = p.damped(p.y - x_0.detach() @ p.A.T, p.sigma_y**2 / float(1 - a_t))
        g = torch.autograd.grad((v * x_0).sum(), x_t)[0]
    e, x_0, x_t = p.eps(x_t.detach(), t), x_0.detach(), x_t.detach()
    if adaptive:
        return a_s.sqrt() * x_0 + c_1 * z + c_2 * e + a_s.sqrt() * a_t.sqrt() * g
    e = e - (1 - a_t).sqrt() * g / (
        1 - a_t
    )  # eps = -sqrt(1 - abar) score, and grad log p(y | x_t) = g / r_t^2
    x_0 = (x_t - (1 - a_t).sqrt() * e) / a_t.sqrt()
    return a_s.sqrt() * x_0 + c_1 * z + c_2 * e


def ddrm_start(p: Paper, T: int, z: Tensor, z_unseen: Tensor) -> Tensor:
    """Kawar et al., Eq. 7."""
    U, s, V = p.svd
    sigma_T = ((1 - p.abar[T]) / p.abar[T]).sqrt()
    x, z = sigma_T * z_unseen @ V, z @ V
    for i in range(len(s)):
        if p.seen(s[i]) and p.sigma_y / s[i] < sigma_T:
            x[:, i] = p.y @ U[:, i] / s[i] + (sigma_T**2 - (p.sigma_y / s[i]) ** 2).sqrt() * z[:, i]
    return p.abar[T].sqrt() * x @ V.T


def ddrm(
    p: Paper, x_t: Tensor, t: int, s: int, draw: Draw, eta: float = 0.85, eta_b: float = 1.0
) -> Tensor:
    """Kawar et al., Eq. 8, coefficient by coefficient."""
    z = draw()
    U, gain, V = p.svd
    sigma = (
        (1 - p.abar[s]) / p.abar[s]
    ).sqrt()  # sigma_t of the paper, which steps from t + 1 to t
    x_0, e, z = p.x_0(x_t, t) @ V, p.eps(x_t, t) @ V, z @ V
    x = torch.empty_like(x_0)
    kept = math.sqrt(1 - eta**2)
    for i in range(len(gain)):
        if not p.seen(gain[i]):
            x[:, i] = x_0[:, i] + kept * sigma * e[:, i] + eta * sigma * z[:, i]
            continue
        y, std = p.y @ U[:, i] / gain[i], p.sigma_y / gain[i]
        if sigma < std:
            x[:, i] = x_0[:, i] + kept * sigma * (y - x_0[:, i]) / std + eta * sigma * z[:, i]
        else:
            x[:, i] = (
                (1 - eta_b) * x_0[:, i]
                + eta_b * y
                + (sigma**2 - (eta_b * std) ** 2).sqrt() * z[:, i]
            )
    return p.abar[s].sqrt() * x @ V.T


def ddnm(p: Paper, x_t: Tensor, t: int, s: int, draw: Draw, eta: float = 0.85) -> Tensor:
    """Wang et al., Alg. 1; where y is noisy, A^+ is damped by sigma_y^2 / r_t^2 as in PiGDM
    (unpublished).
    """
    z = draw()
    a_t, a_s = p.abar[t], p.abar[s]
    e, x_0 = p.eps(x_t, t), p.x_0(x_t, t)
    x_0 = x_0 - p.damped(x_0 @ p.A.T - p.y, p.sigma_y**2 / float(1 - a_t))
    return a_s.sqrt() * x_0 + (1 - a_s).sqrt() * (eta * z + math.sqrt(1 - eta**2) * e)


def ddnm_plus(p: Paper, x_t: Tensor, t: int, s: int, draw: Draw, eta: float = 0.85) -> Tensor:
    """Wang et al., Eq. 17 to 19: a = sqrt(abar_s), sigma = sqrt(1 - abar_s)."""
    z = draw()
    U, gain, V = p.svd
    a, sigma, kept = p.abar[s].sqrt(), (1 - p.abar[s]).sqrt(), math.sqrt(1 - eta**2)
    e, z, x_0 = p.eps(x_t, t) @ V, z @ V, p.x_0(x_t, t) @ V
    x = torch.empty_like(x_0)
    for i in range(len(gain)):
        if not p.seen(gain[i]):
            x[:, i] = a * x_0[:, i] + sigma * (eta * z[:, i] + kept * e[:, i])
            continue
        correction, noise = p.y @ U[:, i] / gain[i] - x_0[:, i], a * p.sigma_y / gain[i]
        if sigma >= noise:
            x[:, i] = a * (x_0[:, i] + correction) + (sigma**2 - noise**2).sqrt() * z[:, i]
        else:
            x[:, i] = a * (x_0[:, i] + sigma * kept / noise * correction) + eta * sigma * z[:, i]
    return x @ V.T


def diffpir(
    p: Paper, x_t: Tensor, t: int, s: int, draw: Draw, lam: float = 7.0, zeta: float = 0.3
) -> Tensor:
    """Zhu et al., Alg. 1; as in its code sigma_n and the proximal step are on [0, 1], sbar_t is on
    [-1, 1].

    The code has no proximal step at the last index; Alg. 1 has.
    """
    z = draw()
    a_t, a_s = p.abar[t], p.abar[s]
    sbar, sigma_n = ((1 - a_t) / a_t).sqrt(), max(0.001, p.sigma_y / 2)
    rho = lam * sigma_n**2 / sbar**2
    half, y = p.x_0(x_t, t) / 2 + 0.5, (p.y + p.A.sum(1)) / 2
    # argmin ||y - A x||^2 + rho ||x - half||^2, in the form that stays well conditioned as rho
    # vanishes.
    x_0 = 2 * (half + p.damped(y - half @ p.A.T, float(rho))) - 1
    e = (x_t - a_t.sqrt() * x_0) / (1 - a_t).sqrt()
    return a_s.sqrt() * x_0 + (1 - a_s).sqrt() * (math.sqrt(1 - zeta) * e + math.sqrt(zeta) * z)


def repaint(p: Paper, x_t: Tensor, t: int, s: int, draw: Draw) -> Tensor:
    """Lugmayr et al., Alg. 1, lines 4 to 8, the mask m softened to m / (1 + sigma_y^2 / r_t^2)
    where y is noisy.
    """
    unknown = ddpm(p, x_t, p.x_0(x_t, t), t, s, draw())
    known = p.abar[s].sqrt() * p.y + (1 - p.abar[s]).sqrt() * draw()
    m = p.A.diagonal() / (1 + p.sigma_y**2 / (1 - p.abar[t]))
    return m * known + (1 - m) * unknown


def ald(
    p: Paper, x_t: Tensor, t: int, s: int, draw: Draw, epsilon: float = 0.02, gamma: float = 1.0
) -> Tensor:
    """Jalal et al., Eq. 4, in u = x_t / sqrt(abar_t) with noise sigma_t; the step to s = 0 is
    Tweedie's formula.
    """
    sigma_t = ((1 - p.abar[t]) / p.abar[t]).sqrt()
    if s == 0:
        return p.x_0(x_t, t)
    u, eta, gamma_t = x_t / p.abar[t].sqrt(), epsilon * sigma_t**2, gamma * sigma_t
    score = -p.eps(x_t, t) / sigma_t
    u = (
        u
        + eta * (score + (p.y - u @ p.A.T) @ p.A / (p.sigma_y**2 + gamma_t**2))
        + (2 * eta).sqrt() * draw()
    )
    return p.abar[s].sqrt() * u


def red_diff(
    p: Paper, timesteps: list[int], draw: Draw, lam: float = 0.25, lr: float = 0.1
) -> Iterator[Tensor]:
    """Mardani et al., Alg. 1: the loss as it is written there, and torch's Adam."""
    mu = p.damped(p.y, p.sigma_y**2).requires_grad_()
    optimizer = torch.optim.Adam([mu], lr=lr, betas=(0.9, 0.99))
    for t in timesteps[:-1]:
        abar, eps = p.abar[t], draw()
        x_t = abar.sqrt() * mu.detach() + (1 - abar).sqrt() * eps
        eps_theta = (x_t - abar.sqrt() * p.x_0(x_t, t)) / (
            1 - abar
        ).sqrt()  # of the x_0 that may be clipped
        with torch.enable_grad():
            optimizer.zero_grad()
            weight = lam * (1 - abar).sqrt() / abar.sqrt()
            loss = (p.y - mu @ p.A.T).square().sum() / 2 + weight * ((eps_theta - eps) * mu).sum()
            loss.backward()
        optimizer.step()
        yield (mu.detach().clone() + 1) / 2


def jacobian(p: Paper, x_t: Tensor, t: int) -> tuple[Tensor, Tensor]:
    """x_0(x_t), (B, D), and its Jacobian d x_0 / d x_t, (B, D, D), row by row."""
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_()
        x_0 = p.x_0(x_t, t)
        rows = [
            torch.autograd.grad(x_0[:, i].sum(), x_t, retain_graph=True)[0]
            for i in range(x_0.shape[1])
        ]
    return x_0.detach(), torch.stack(rows, 1)


def ddim(p: Paper, x_t: Tensor, x_0: Tensor, t: int, s: int, z: Tensor, eta: float) -> Tensor:
    """Song, Meng & Ermon 2021, Eq. 12, eps_theta of this x_0."""
    a_t, a_s = p.abar[t], p.abar[s]
    sigma = eta * ((1 - a_s) / (1 - a_t)).sqrt() * (1 - a_t / a_s).sqrt()
    e = (x_t - a_t.sqrt() * x_0) / (1 - a_t).sqrt()
    return a_s.sqrt() * x_0 + (1 - a_s - sigma**2).clamp_min(0).sqrt() * e + sigma * z


def conjugate_gradients(M: Tensor, r: Tensor, iterations: int) -> Tensor:
    """M^-1 r, nearly: M (B, m, m) or (m, m), r (B, m)."""
    v, d, rr = torch.zeros_like(r), r, r.square().sum(1)
    for _ in range(iterations):
        Md = (M @ d[..., None])[..., 0]
        alpha = (rr / (d * Md).sum(1))[:, None]
        v, r = v + alpha * d, r - alpha * Md
        rr, before = r.square().sum(1), rr
        d = r + (rr / before)[:, None] * d
    return v


def mmps(
    p: Paper, x_t: Tensor, t: int, s: int, draw: Draw, eta: float = 1.0, iterations: int = 3
) -> Tensor:
    """Rozet et al., Alg. 2 and 3: V[x | x_t] = Sigma_t grad^T d(x_t), the system by conjugate
    gradients.
    """
    x_0, J = jacobian(p, x_t, t)
    V = (
        (1 - p.abar[t]) / p.abar[t].sqrt() * J.mT
    )  # of x_t / sqrt(abar): (1 - abar) / abar, and sqrt(abar) for d x_t
    M = max(p.sigma_y, 0.01) ** 2 * torch.eye(len(p.A), dtype=x_0.dtype) + p.A @ V @ p.A.T
    v = conjugate_gradients(M, p.y - x_0 @ p.A.T, iterations)
    x_0 = x_0 + (V @ (v @ p.A)[..., None])[..., 0]
    return ddim(p, x_t, x_0, t, s, draw(), eta)


def tmpd(p: Paper, x_t: Tensor, t: int, s: int, draw: Draw, eta: float = 1.0) -> Tensor:
    """Boys et al.: as MMPS, with diag(A V A^T 1) for A V A^T."""
    x_0, J = jacobian(p, x_t, t)
    V = (1 - p.abar[t]) / p.abar[t].sqrt() * J.mT
    sums = (p.A @ V @ p.A.T).sum(2).clamp_min(0)
    v = (p.y - x_0 @ p.A.T) / (max(p.sigma_y, 0.01) ** 2 + sums)
    x_0 = x_0 + (V @ (v @ p.A)[..., None])[..., 0]
    return ddim(p, x_t, x_0, t, s, draw(), eta)


def sitcom(
    p: Paper,
    x_t: Tensor,
    t: int,
    s: int,
    draw: Draw,
    lr: float = 0.02,
    iterations: int = 30,
    lam: float = 0.0,
    margin: float = 0.001,
) -> Tensor:
    """Alkhouri et al., Alg. 1, image by image with torch's own Adam."""
    m = int((p.A.abs().sum(1) > 0).sum())
    x_0 = []
    for start, y in zip(x_t, p.y, strict=True):
        v = start.clone().requires_grad_()
        adam = torch.optim.Adam([v], lr=lr)
        for _ in range(iterations):
            with torch.enable_grad():
                fit = (p.x_0(v[None], t)[0] @ p.A.T - y).square().sum()
                loss = fit + lam * (v - start).square().sum()
            if float(fit.detach()) <= m * (p.sigma_y + margin) ** 2:
                break
            adam.zero_grad()
            loss.backward()
            adam.step()
        x_0.append(p.x_0(v.detach()[None], t)[0])
    return p.abar[s].sqrt() * torch.stack(x_0) + (1 - p.abar[s]).sqrt() * draw()


def c_pigdm_start(p: Paper, T: int, z: Tensor) -> Tensor:
    """Pandey et al.: mu A^+ y + tau z."""
    return p.abar[T].sqrt() * p.damped(p.y, 0.0) + (1 - p.abar[T]).sqrt() * z


def c_pigdm(p: Paper, x_t: Tensor, t: int, s: int, draw: Draw, weight: float = 15.0) -> Tensor:
    """Pandey et al. for exact y, lambda = 0, in VP time: A_t = exp(b / 2) (I + (exp(-w b / 2) - 1) P).

    b = int beta dt = -log abar; the one-dimensional integrals over [t, s] are taken in sqrt(b).
    """
    pinv = torch.linalg.pinv(p.A, rtol=1e-12)
    P = pinv @ p.A
    eye = torch.eye(len(P), dtype=P.dtype)
    b_t, b_s = (float(-p.abar[each].log()) for each in (t, s))
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_()
        eps = p.eps(x_t, t)
        m = (p.y @ pinv.T - p.x_0(x_t, t) @ P.T).detach()
        g = torch.autograd.grad((m * eps).sum(), x_t)[0]
    eps, x = eps.detach(), x_t.detach()
    y_0, nodes, shares, w = p.y @ pinv.T, *gauss_legendre(300, b_t**0.5, b_s**0.5), weight

    def phi(rate: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        b = nodes**2  # d b = 2 sqrt(b) d sqrt(b)
        mu, tau = (-b / 2).exp(), (1 - (-b).exp()).sqrt()
        return (2 * nodes * shares * rate((b / 2).exp(), (-w * b / 2).exp(), mu, tau)).sum()

    def A(b: float) -> Tensor:
        return math.exp(b / 2) * (eye + (math.exp(-w * b / 2) - 1) * P)

    of_y = phi(lambda e1, e2, mu, tau: -w / 2 * e1 * e2 * mu)
    of_eps = phi(lambda e1, e2, mu, tau: e1 / (2 * tau))
    of_P_eps = phi(lambda e1, e2, mu, tau: e1 * (e2 - 1) / (2 * tau) - w / 2 * tau * e1 * e2)
    of_g = phi(lambda e1, e2, mu, tau: w / 2 * e1 * tau * mu)
    of_P_g = phi(lambda e1, e2, mu, tau: w / 2 * e1 * (e2 - 1) * tau * mu)
    moved = of_y * y_0 + of_eps * eps + of_P_eps * eps @ P + of_g * g + of_P_g * g @ P
    return torch.linalg.solve(A(b_s), (x @ A(b_t) + moved).T).T


def gauss_legendre(count: int, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Nodes and weights of an integral from low to high."""
    nodes, weights = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(count))
    return low + (high - low) * (1 + nodes) / 2, (high - low) / 2 * weights


# Papers in VE coordinates, u + sigma n on [-1, 1], and with ladders of their own.

Denoise = Callable[[Tensor, float], Tensor]  # (B, D), sigma -> (B, D)


def poly_7(high: float, low: float, steps: int) -> list[float]:
    """Karras et al. 2022, Eq. 5, and 0."""
    share = [i / (steps - 1) for i in range(steps)]
    return [*((high ** (1 / 7) + i * (low ** (1 / 7) - high ** (1 / 7))) ** 7 for i in share), 0.0]


def daps(
    p: Paper,
    denoise: Denoise,
    draw: Draw,
    steps: int = 200,
    sigma_max: float = 100.0,
    sigma_min: float = 0.1,
    ode_steps: int = 5,
    inner_steps: int = 100,
    lr: float = 1e-4,
    beta: float | None = None,
    momentum: float | None = None,
) -> Iterator[Tensor]:
    """Zhang et al., Alg. 1, with the step sizes of its code; momentum: its HMC."""
    least = float(((1 - p.abar[1]) / p.abar[1]).sqrt())  # 0.01
    precision = 1 / (beta if beta is not None else max(p.sigma_y, 0.01)) ** 2
    sigmas = poly_7(sigma_max, sigma_min, steps)
    x = sigma_max * draw()
    for k, (sigma_k, sigma_next) in enumerate(pairwise(sigmas)):
        x_0 = x
        for sigma, lower in pairwise(poly_7(sigma_k, least, ode_steps)):
            x_0 = x_0 + (lower - sigma) * (x_0 - denoise(x_0, sigma)) / sigma
        w, eta = x_0, lr * (1 - (1 - 0.01) * k / (steps + 1))
        v = draw() if momentum is not None else w
        for _ in range(inner_steps):
            score = precision * (p.y - w @ p.A.T) @ p.A - (w - x_0) / sigma_k**2
            if momentum is None:
                w = w + eta * score + math.sqrt(2 * eta) * draw()
            else:
                v = momentum * v + math.sqrt(eta) * score + math.sqrt(2 * (1 - momentum)) * draw()
                w = w + math.sqrt(eta) * v
        x = w + sigma_next * draw()
        yield (x + 1) / 2


def pnpdm(
    p: Paper,
    denoise: Denoise,
    draw: Draw,
    draw_y: Draw,
    steps: int = 100,
    levels: int = 100,
    rho_max: float = 10.0,
    decay: float = 0.9,
    rho_min: float = 0.3,
    langevin: tuple[int, float] | None = None,
) -> Iterator[Tensor]:
    """Wu et al., Alg. 1: z ~ N(m, C), or Langevin dynamics (steps, gamma); then ancestral sampling
    in VE.
    """
    high, least = (float(((1 - p.abar[t]) / p.abar[t]).sqrt()) for t in (-1, 1))
    x = torch.zeros(len(p.y), p.A.shape[1], dtype=p.y.dtype)
    draw()  # no start is needed
    for k in range(steps):
        rho = max(rho_max * decay**k, rho_min)
        if langevin is None:
            C = torch.linalg.inv(
                p.A.T @ p.A / p.sigma_y**2 + torch.eye(p.A.shape[1], dtype=x.dtype) / rho**2
            )
            drawn_x, drawn_y = draw(), draw_y()
            z = (
                (p.y - p.sigma_y * drawn_y) @ p.A / p.sigma_y**2 + (x + rho * drawn_x) / rho**2
            ) @ C
        else:
            z, (count, gamma) = x, langevin
            for _ in range(count):
                step = (z @ p.A.T - p.y) @ p.A / p.sigma_y**2 + (z - x) / rho**2
                z = z - gamma * step + math.sqrt(2 * gamma) * draw()
        x = z
        below = [sigma for sigma in poly_7(high, least, levels) if sigma < rho]
        for sigma, lower in pairwise([rho, *below]):
            x_0, share = denoise(x, sigma), (lower / sigma) ** 2
            x = x_0 + share * (x - x_0) + lower * math.sqrt(1 - share) * draw()
        yield (x + 1) / 2


def mmps_2m(
    p: Paper,
    denoise: Denoise,
    draw: Draw,
    steps: int,
    sigma_max: float,
    sigma_min: float,
    iterations: int,
    fresh: bool = False,
) -> Iterator[Tensor]:
    """Lu et al. 2022, Alg. 2, in VP coordinates, its data prediction that of Rozet et al., Alg. 3.

    With fresh noise, their SDE-DPM-Solver++(2M).
    """
    eye, sigmas = torch.eye(p.A.shape[1], dtype=p.y.dtype), poly_7(sigma_max, sigma_min, steps)
    alpha = [1 / math.sqrt(1 + sigma**2) for sigma in sigmas]
    s = [sigma * a for sigma, a in zip(sigmas, alpha, strict=True)]
    lam = [math.log(a / b) if b > 0 else math.inf for a, b in zip(alpha, s, strict=True)]
    x, previous = s[0] * draw(), None
    for i, sigma in enumerate(sigmas[:-1]):
        u = x / alpha[i]
        x_0, V = denoise(u, sigma), sigma**2 * (denoise(eye, sigma) - denoise(0 * eye, sigma))
        M = max(p.sigma_y, 0.01) ** 2 * torch.eye(len(p.A), dtype=x.dtype) + p.A @ V @ p.A.T
        D = x_0 + conjugate_gradients(M, p.y - x_0 @ p.A.T, iterations) @ p.A @ V
        h, combined = lam[i + 1] - lam[i], D
        if previous is not None and i + 2 < len(sigmas):
            r = (lam[i] - lam[i - 1]) / h
            combined = (1 + 1 / (2 * r)) * D - previous / (2 * r)
        if fresh:
            gain = 1 - math.exp(-2 * h)
            kept = s[i + 1] / s[i] * math.exp(-h) * x
            x = kept + alpha[i + 1] * gain * combined + s[i + 1] * math.sqrt(gain) * draw()
        else:
            x = s[i + 1] / s[i] * x - alpha[i + 1] * (math.exp(-h) - 1) * combined
        previous = D
        yield (x / alpha[i + 1] + 1) / 2


def fast_dips(
    p: Paper,
    denoise: Denoise,
    draw: Draw,
    steps: int = 75,
    sigma_max: float = 100.0,
    sigma_min: float = 0.1,
    passes: int = 3,
    inner_steps: int = 1,
    rho: float = 200.0,
    radius: float | None = 0.05,
    published: bool = True,
) -> Iterator[Tensor]:
    """Kim et al., image by image, with the exact line search of a linear A; radius None: sigma_y sqrt(m)."""
    m = int((p.A.abs().sum(1) > 0).sum())
    radius = p.sigma_y * math.sqrt(m) if radius is None else radius
    sigmas = poly_7(sigma_max, sigma_min, steps)

    def ball(w: Tensor, y: Tensor) -> Tensor:
        return y + (w - y) * min(1.0, radius / max(float((w - y).norm()), 1e-30))

    def corrected(x_0: Tensor, y: Tensor, gamma: float) -> Tensor:
        x, u, v = x_0, torch.zeros_like(y), p.A @ x_0
        if not published:
            v = ball(v, y)
        for _ in range(passes):
            for _ in range(inner_steps):
                b = v - u
                F = lambda x, b=b: (  # noqa: E731
                    (x - x_0).square().sum() / (2 * gamma) + rho / 2 * (p.A @ x - b).square().sum()
                )
                g = (x - x_0) / gamma + rho * p.A.T @ (p.A @ x - b)
                alpha = g @ g / (g @ g / gamma + rho * (p.A @ g).square().sum() + 1e-12)
                alpha = alpha.clamp(0, 1)
                assert F(x - alpha * g) <= F(x) * (1 + 1e-12)  # no step is halved
                x = x - alpha * g
            v = ball(p.A @ x + u, y)
            u = u + p.A @ x - v
        return x

    x = sigma_max * draw()
    for sigma, sigma_next in pairwise(sigmas):
        x_0 = denoise(x, sigma)
        if sigma_next == 0:
            yield (x_0 + 1) / 2
            return
        moved = [corrected(row, y, sigma**2) for row, y in zip(x_0, p.y, strict=True)]
        x = torch.stack(moved) + sigma_next * draw()
        yield (x + 1) / 2


PaperStep = Callable[..., Tensor]
STEPS: dict[str, PaperStep] = {
    "dps": dps,
    "dps_poisson": dps_poisson,
    "pigdm": pigdm,
    "ddrm": ddrm,
    "ddnm": ddnm,
    "ddnm_plus": ddnm_plus,
    "diffpir": diffpir,
    "score_sde": score_sde,
    "ilvr": ilvr,
    "mcg": mcg,
    "repaint": repaint,
    "ald": ald,
    "mmps": mmps,
    "tmpd": tmpd,
    "sitcom": sitcom,
    "c_pigdm": c_pigdm,
}


def trajectory(
    p: Paper, method: str, timesteps: list[int], draw: Draw, **settings: float
) -> Iterator[Tensor]:
    """Every x_t of a method, mapped to images in [0, 1] with noise: (x_t / sqrt(abar_t) + 1) / 2.

    x_T = sqrt(1 - abar_T) z, the end of the forward process of a gray image; papers drop the
    factor, 0.99998.
    """
    T = timesteps[0]
    x_t = (1 - p.abar[T]).sqrt() * (first := draw())
    if method == "ddrm":
        x_t = ddrm_start(p, T, draw(), first)
    if method == "c_pigdm":
        x_t = c_pigdm_start(p, T, first)
    if method == "red_diff":
        yield from red_diff(p, timesteps, draw, **settings)
        return
    for t, s in pairwise(timesteps):
        if s > t:  # q(x_s | x_t)
            x_t = (p.abar[s] / p.abar[t]).sqrt() * x_t + (1 - p.abar[s] / p.abar[t]).sqrt() * draw()
            continue
        x_t = STEPS[method](p, x_t, t, s, draw, **settings)
        yield (x_t / p.abar[s].sqrt() + 1) / 2


# Populations of P particles: what is drawn has one row per particle, those of an image together.


def resample(log_w: Tensor, u: Tensor) -> Tensor:
    """Systematic resampling of log-weights (B, P) by one uniform number per image, (B,): rows of a
    (B P, D) matrix.
    """
    images, P = log_w.shape
    rows = []
    for b in range(images):
        w, total, p = (log_w[b] - log_w[b].max()).exp(), 0.0, -1
        for i in range(P):
            while p < P - 1 and total <= (i + float(u[b])) / P:
                p += 1
                total += float(w[p] / w.sum())
            rows.append(b * P + p)
    return torch.tensor(rows)


def pick(log_w: Tensor, u: Tensor) -> Tensor:
    """One particle per image by weight: rows of a (B P, D) matrix."""
    edges = log_w.softmax(1).cumsum(1)
    return (edges < u[:, None]).sum(1).clamp_max(log_w.shape[1] - 1) + log_w.shape[
        1
    ] * torch.arange(len(log_w))


def tds(p: Paper, P: int, timesteps: list[int], draw: Draw, uniform: Draw) -> Iterator[Tensor]:
    """Wu et al., Alg. 1, with p(y | x_t) ~ N(y; A x_0(x_t), sigma_y^2 + (1 - abar_t) / abar_t):
    first particles, VP.
    """

    def log_density(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return torch.distributions.Normal(mean, variance.sqrt()).log_prob(x).sum(1)

    def twisted(x_t: Tensor, t: int) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x_t = x_t.detach().requires_grad_()
            variance = p.sigma_y**2 + (1 - p.abar[t]) / p.abar[t]
            log_p = log_density(p.y, (x_t if t == 0 else p.x_0(x_t, t)) @ p.A.T, variance)
            return log_p.detach(), torch.autograd.grad(log_p.sum(), x_t)[0]

    x = (1 - p.abar[timesteps[0]]).sqrt() * draw()
    log_p, g = twisted(x, timesteps[0])
    log_w = log_p
    for t, s in pairwise(timesteps):
        rows = resample(log_w.view(-1, P), uniform())
        x, log_p, g = x[rows], log_p[rows], g[rows]
        score = -p.eps(x, t) / (1 - p.abar[t]).sqrt()
        x_0, twisted_x_0 = (
            (x + (1 - p.abar[t]) * each) / p.abar[t].sqrt()
            for each in (score, score + g if s > 0 else score)
        )
        z, zero = draw(), torch.zeros_like(x)
        new = ddpm(p, x, twisted_x_0, t, s, z)
        ratio = torch.zeros(len(x), dtype=x.dtype)
        if s > 0:
            beta = (1 - p.abar[t] / p.abar[s]) * (1 - p.abar[s]) / (1 - p.abar[t])
            means = (ddpm(p, x, each, t, s, zero) for each in (x_0, twisted_x_0))
            model, proposal = (log_density(new, mean, beta) for mean in means)
            ratio = model - proposal
        x = new
        before, (log_p, g) = log_p, twisted(x, s)
        log_w = ratio + log_p - before
        if s > 0:
            yield x[::P] / p.abar[s].sqrt()
    yield x[pick(log_w.view(-1, P), uniform())]


def mcgdiff(
    p: Paper, P: int, timesteps: list[int], draw: Draw, uniform: Draw, kappa: float = 1e-4
) -> Iterator[Tensor]:
    """Cardoso et al., coefficient by coefficient: ybar_i is known at tau_i, abar_tau = 1 / (1 +
    sigma_y^2 / s_i^2).

    The potential of coefficient i at t >= tau_i is N(sqrt(abar_t) ybar_i; x_t, 1 - (1 - kappa)
    abar_t / abar_tau).
    """
    U, gain, V = p.svd
    level = ((1 - p.abar[timesteps]) / p.abar[timesteps]).sqrt()
    tau = [timesteps[int((level - p.sigma_y / s).abs().argmin())] if s > 0 else None for s in gain]
    y = [p.y @ U[:, i] / gain[i] if gain[i] > 0 else None for i in range(len(gain))]

    def width(i: int, t: int) -> Tensor:
        return 1 - (1 - kappa) * p.abar[t] / p.abar[tau[i]]

    def active(t: int) -> list[int]:
        return [i for i in range(len(gain)) if tau[i] is not None and tau[i] <= t]

    T = timesteps[0]
    x = (1 - p.abar[T]).sqrt() * draw() @ V
    for i in active(T):
        K = (1 - p.abar[T]) / (1 - p.abar[T] + width(i, T))
        x[:, i] = K * p.abar[T].sqrt() * y[i] + (1 - K).sqrt() * x[:, i]
    for t, s in pairwise(timesteps):
        x_t = x @ V.T
        m = ddpm(p, x_t, p.x_0(x_t, t), t, s, torch.zeros_like(x_t)) @ V
        beta = (1 - p.abar[t] / p.abar[s]) * (1 - p.abar[s]) / (1 - p.abar[t])
        log_w = torch.zeros(len(x), dtype=x.dtype)
        for i in active(s):
            Normal_ = torch.distributions.Normal
            log_w += Normal_(m[:, i], (beta + width(i, s)).sqrt()).log_prob(p.abar[s].sqrt() * y[i])
            log_w -= Normal_(x[:, i], width(i, t).sqrt()).log_prob(p.abar[t].sqrt() * y[i])
        m = m[resample(log_w.view(-1, P), uniform())]
        z = draw() @ V
        x = m + beta.sqrt() * z
        for i in active(s):
            K = beta / (beta + width(i, s))
            x[:, i] = (
                K * p.abar[s].sqrt() * y[i] + (1 - K) * m[:, i] + (K * width(i, s)).sqrt() * z[:, i]
            )
        if s > 0:
            yield x[::P] @ V.T / p.abar[s].sqrt()
    yield x[pick(torch.zeros(len(p.y) // P, P), uniform())] @ V.T


# Closed forms.


def posterior(prior: Normal, A: Tensor, y: Tensor, sigma: float) -> Normal:
    """p(x | y) for x ~ prior and y = A x + sigma n, y (B, m): means (B, D), one covariance."""
    noise = sigma**2 * torch.eye(len(A), dtype=A.dtype)
    gain = prior.covariance @ A.T @ torch.linalg.inv(A @ prior.covariance @ A.T + noise)
    covariance = prior.covariance - gain @ A @ prior.covariance
    return Normal(prior.mean + (y - prior.mean @ A.T) @ gain.T, (covariance + covariance.T) / 2)


DRAWS = {"ilvr": 2, "repaint": 2}  # of the noise in a step, where there are more than one


def output(p: Paper, method: str, timesteps: list[int], **settings: float) -> Normal:
    """Exact distribution of a method's results in [0, 1], for a method whose steps are affine in
    x_t and z.

    A step x_s = F x_t + H z + c(y), z all the noise that it draws, is measured by applying it to
    zeros and to unit vectors; then mean' = F mean + c and covariance' = F covariance F^T + H H^T.
    """
    images, D, draws = len(p.y), p.A.shape[1], DRAWS.get(method, 1)
    eye, blank = torch.eye(D, dtype=torch.float64), torch.zeros(images, D, dtype=torch.float64)
    states = torch.cat([blank, eye, *[0 * eye] * draws])
    noises = [
        torch.cat([blank, 0 * eye, *(eye if i == k else 0 * eye for i in range(draws))])
        for k in range(draws)
    ]
    rows = Paper(
        p.eps, p.abar, p.A, torch.cat([p.y, p.y[:1].expand((1 + draws) * D, -1)]), p.sigma_y
    )

    def split(out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        offset, F, H = out.split([images, D, draws * D])
        return offset, F - offset[:1], H - offset[:1]

    T = timesteps[0]
    mean, covariance = blank, (1 - p.abar[T]) * eye
    if method == "ddrm":
        mean, unseen, seen = split(ddrm_start(rows, T, noises[0], states))
        covariance = unseen.T @ unseen + seen.T @ seen
    for t, s in pairwise(timesteps):
        if s > t:
            alpha = p.abar[s] / p.abar[t]
            mean, covariance = alpha.sqrt() * mean, alpha * covariance + (1 - alpha) * eye
            continue
        offset, F, H = split(STEPS[method](rows, states, t, s, iter(noises).__next__, **settings))
        mean, covariance = offset + mean @ F, F.T @ covariance @ F + H.T @ H
    return Normal((mean + 1) / 2, covariance / 4)
