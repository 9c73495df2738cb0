"""Guided priors: denoisers of p(x_0 | label) that samplers and solvers use like any other.

In x = x_0 + sigma n, Tweedie's formula D = x + sigma^2 grad log p(x) makes a denoiser and a score
equivalent. The papers state both kinds of guidance for eps = (x - D) / sigma; here they are stated
for D.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from numbers import Integral

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from invdiff.errors import InputError, check_type
from invdiff.prior.classifier import Classifier
from invdiff.prior.denoiser import Denoiser, levels, outside_inference_mode
from invdiff.prior.view import DenoiserView
from invdiff.summary import several


class Guided(DenoiserView):
    """Base of the denoisers that draw a prior towards one label; they take no labels themselves.

    Args:
        prior: the denoiser inside.
        label: in 0..classes - 1.
        classes: number of labels that are known.

    Raises:
        InputError: the label is none of them.

    Example:
        >>> issubclass(ClassifierFree, Guided) and issubclass(ClassifierGuided, Guided)
        True
    """

    def __init__(self, prior: Denoiser, label: int, classes: int) -> None:
        super().__init__(prior)
        check_type("label", label, Integral, f"an integer in 0..{classes - 1}")
        if not 0 <= label < classes:
            raise InputError(f"label: found {label}, expected 0..{classes - 1}")
        self.label = label
        self.classes = 0

    def clipped(self, x_0: Tensor) -> Tensor:
        """Return x_0 in [0, 1] where the prior clips: guidance can leave that range."""
        return x_0.clamp(0, 1) if self.clip else x_0


class ClassifierFree(Guided):
    """Classifier-free guidance, Ho & Salimans 2022, Eq. 6 (https://arxiv.org/abs/2207.12598).

    (1 + w) D(x | label) - w D(x), in the paper's convention: w = 0 is the conditional prior, w = -1
    the unconditional one, and a larger w trades variety for likeness to the label. A call makes two
    calls of the network, but one where w = 0 or w = -1.

    Args:
        prior: a denoiser with classes.
        label: in 0..classes - 1.
        weight: w.

    Raises:
        InputError: the prior knows no classes, the label is none of them, or w is not finite.

    Example:
        >>> from invdiff.prior import NetworkDenoiser, Schedule, UNet
        >>> network = UNet(1, width=8, multipliers=(1,), blocks=1, classes=10)
        >>> prior = NetworkDenoiser(network, (1, 8, 8), Schedule.linear(), classes=10)
        >>> ClassifierFree(prior, label=3, weight=2.0)(torch.rand(1, 1, 8, 8), 0.5).shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(self, prior: Denoiser, label: int, weight: float = 0.0) -> None:
        if prior.classes == 0:
            raise InputError(f"label: found {label}, expected none, as the prior has no classes")
        super().__init__(prior, label, prior.classes)
        if not math.isfinite(weight):
            raise InputError(f"guidance: found {weight}, expected a finite number")
        self.weight = weight

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return the guided estimate of x_0, Eq. 6."""
        if self.weight == -1:
            return self.prior(x, sigma)
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
        prior: a denoiser; of one with classes, the unconditional model is guided.
        classifier: of noisy images.
        label: in 0..classes - 1 of the classifier.
        scale: s in the paper.

    Raises:
        InputError: the classifier does not know the label, or is for images of other channels; the
            scale is not finite.

    Example:
        >>> from invdiff.prior import GaussianDenoiser
        >>> class Bright(Classifier):
        ...     shape, classes = (1, 1, 1), 2
        ...     def forward(self, x, sigma):  # log p(dark), log p(bright)
        ...         return torch.cat([-x.flatten(1), x.flatten(1)], 1).log_softmax(1)
        >>> prior = GaussianDenoiser(torch.zeros(1, 1, 1), torch.eye(1))
        >>> prior(torch.zeros(1, 1, 1, 1), 1.0).item()
        0.0
        >>> ClassifierGuided(prior, Bright(), label=1)(torch.zeros(1, 1, 1, 1), 1.0).item()
        1.0
    """

    def __init__(
        self, prior: Denoiser, classifier: Classifier, label: int, scale: float = 1.0
    ) -> None:
        super().__init__(prior, label, classifier.classes)
        if classifier.shape[0] != prior.shape[0]:
            raise InputError(
                f"classifier: found one for {several(classifier.shape[0], 'channel')}, expected "
                f"{prior.shape[0]}"
            )
        if not math.isfinite(scale):
            raise InputError(f"guidance: found {scale}, expected a finite number")
        self.classifier = classifier
        self.scale = scale

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return the guided estimate of x_0."""
        variance = levels(sigma, x) ** 2
        return self.clipped(self.prior(x, sigma) + self.scale * variance * self.gradient(x, sigma))

    def gradient(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return grad log p(label | x, sigma) in x, differentiable where x is tracked."""
        tracked = torch.is_grad_enabled() and x.requires_grad
        # Fused attention has no second derivative.
        kernel = sdpa_kernel(SDPBackend.MATH) if tracked else nullcontext()
        with torch.inference_mode(False), torch.enable_grad(), kernel:
            x = x if tracked else tracked_copy(x)
            classifier = outside_inference_mode(self.classifier)
            log_p = classifier(x, sigma)[:, self.label].sum()
            gradient: Tensor = torch.autograd.grad(log_p, x, create_graph=tracked)[0]
            return gradient


def tracked_copy(x: Tensor) -> Tensor:
    """Return x apart from its graph, tracked; a copy where it was made in inference mode."""
    return (x.clone() if x.is_inference() else x.detach()).requires_grad_()


def guided(
    prior: Denoiser,
    label: int | None,
    guidance: float | None = None,
    classifier: Classifier | None = None,
) -> Denoiser:
    """Return the prior of images of a label, the prior itself without a label.

    Args:
        prior: a denoiser, with classes unless there is a classifier.
        label: in 0..classes - 1.
        guidance: the scale of the classifier, if there is one (by default 1), else the weight w of
            classifier-free guidance (by default 0): either default is p(x_0 | label) as it was
            learnt.
        classifier: of noisy images.

    Raises:
        InputError: guidance or a classifier without a label; a label that neither prior nor
            classifier knows.

    Example:
        >>> from invdiff.prior import GaussianDenoiser
        >>> prior = GaussianDenoiser(torch.zeros(1, 2, 2), torch.eye(4))
        >>> guided(prior, label=None) is prior
        True
    """
    if label is None:
        if guidance is not None or classifier is not None:
            raise InputError("label is missing: guidance and a classifier need one")
        return prior
    if classifier is not None:
        return ClassifierGuided(prior, classifier, label, 1.0 if guidance is None else guidance)
    if prior.classes == 0:
        raise InputError(
            f"label: found {label}, expected none, as the prior has no classes and no classifier is given"
        )
    return ClassifierFree(prior, label, 0.0 if guidance is None else guidance)
