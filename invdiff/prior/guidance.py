"""Guided priors: denoisers of p(x_0 | label) that samplers and solvers use like any other.

In x = x_0 + sigma n a denoiser and a score are one thing, D = x + sigma^2 grad log p(x) (Tweedie's
formula), so that both kinds of guidance, stated for eps = (x - D) / sigma in the papers, are one
line for D.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from invdiff.errors import InputError
from invdiff.prior.classifier import Classifier
from invdiff.prior.denoiser import Denoiser, levels


class Guided(Denoiser):
    """A denoiser around another one, which draws it towards a label."""

    def __init__(self, prior: Denoiser, label: int, classes: int) -> None:
        super().__init__()
        if not 0 <= label < classes:
            raise InputError(f"label: found {label}, expected 0..{classes - 1}")
        self.prior, self.label = prior, label
        self.shape, self.schedule, self.clip, self.stride = (
            prior.shape,
            prior.schedule,
            prior.clip,
            prior.stride,
        )

    def clipped(self, x_0: Tensor) -> Tensor:
        """Guidance can leave the range that the prior keeps to."""
        return x_0.clamp(0, 1) if self.clip else x_0


class ClassifierFree(Guided):
    """Classifier-free guidance, Ho & Salimans 2022, Eq. 6 (https://arxiv.org/abs/2207.12598).

    (1 + w) D(x | label) - w D(x), in the paper's convention: w = 0 is the conditional prior, w = -1
    the unconditional one, and a larger w trades variety for likeness to the label. A call is two
    calls of the network, but for w = 0.

    Args:
        prior: one with classes.
        label: in 0..classes - 1.
        weight: w.

    Raises:
        InputError: the prior knows no classes, or the label is none of them.
    """

    def __init__(self, prior: Denoiser, label: int, weight: float = 0.0) -> None:
        if prior.classes == 0:
            raise InputError(f"label: found {label}, but the prior is an unconditional one")
        super().__init__(prior, label, prior.classes)
        self.weight = weight

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        labels = torch.full((len(x),), self.label, device=x.device)
        conditional = self.prior(x, sigma, labels)
        if self.weight == 0:
            return conditional
        return self.clipped((1 + self.weight) * conditional - self.weight * self.prior(x, sigma))


class ClassifierGuided(Guided):
    """Classifier guidance, Dhariwal & Nichol 2021, Sec. 4 (https://arxiv.org/abs/2105.05233).

    D(x) + scale sigma^2 grad log p(label | x, sigma): at scale 1, by Bayes' rule, the conditional
    prior (of an exact classifier); a larger scale trades variety for likeness to the label.

    Args:
        prior: an unconditional prior, or the unconditional model of one with classes.
        classifier: of noisy images.
        label: in 0..classes - 1 of the classifier.
        scale: s in the paper.

    Raises:
        InputError: the classifier does not know the label, or is for images of other channels.
    """

    def __init__(
        self, prior: Denoiser, classifier: Classifier, label: int, scale: float = 1.0
    ) -> None:
        super().__init__(prior, label, classifier.classes)
        if classifier.shape[0] != prior.shape[0]:
            raise InputError(
                f"classifier: found one for {classifier.shape[0]} channels, expected {prior.shape[0]}"
            )
        self.classifier, self.scale = classifier, scale

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        variance = levels(sigma, x) ** 2
        return self.clipped(self.prior(x, sigma) + self.scale * variance * self.gradient(x, sigma))

    def gradient(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """grad log p(label | x, sigma) with respect to x, differentiable where x is tracked."""
        tracked = torch.is_grad_enabled() and x.requires_grad
        # Fused attention has no second derivative.
        kernel = sdpa_kernel(SDPBackend.MATH) if tracked else nullcontext()
        with torch.enable_grad(), kernel:
            x = x if tracked else x.detach().requires_grad_()
            log_p = self.classifier(x, sigma)[:, self.label].sum()
            return torch.autograd.grad(log_p, x, create_graph=tracked)[0]


def guided(
    prior: Denoiser,
    label: int | None,
    guidance: float | None = None,
    classifier: Classifier | None = None,
) -> Denoiser:
    """The prior of images of a label, as the command lines have it; without a label, the prior
    itself.

    Args:
        label: in 0..classes - 1.
        guidance: the scale of the classifier, if there is one (by default 1), else the weight w of
            classifier-free guidance (by default 0): either default is p(x_0 | label) as it was
            learnt.
        classifier: of noisy images.

    Raises:
        InputError: guidance or a classifier without a label; a label that neither prior nor
            classifier knows.
    """
    if label is None:
        if guidance is not None or classifier is not None:
            raise InputError("label is missing: guidance and a classifier need one")
        return prior
    if classifier is not None:
        return ClassifierGuided(prior, classifier, label, 1.0 if guidance is None else guidance)
    if prior.classes == 0:
        raise InputError(
            f"label: found {label}, but the prior is an unconditional one and there is no classifier="
        )
    return ClassifierFree(prior, label, 0.0 if guidance is None else guidance)
