"""Guided priors and their networks.

The oracle is a mixture of Gaussians whose classes are its components: its conditional denoisers,
its classifier of noisy images, and its posteriors are closed forms.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from invdiff import load_prior, registry, restore
from invdiff.errors import InputError
from invdiff.io.pictures import read_image
from invdiff.io.write import write_image
from invdiff.noise import Gaussian
from invdiff.operators.mask import MaskBox
from invdiff.prior.checkpoint import ClassifierSpec, PriorSpec, load_classifier, save_prior
from invdiff.prior.classifier import Classifier, NetworkClassifier, UNetClassifier, cross_entropy
from invdiff.prior.ddpm import DDPM
from invdiff.prior.denoiser import (
    Denoiser,
    GaussianDenoiser,
    MixtureDenoiser,
    NetworkDenoiser,
    levels,
)
from invdiff.prior.guidance import ClassifierFree, ClassifierGuided, guided
from invdiff.prior.reverse import generate
from invdiff.prior.schedule import Schedule
from invdiff.prior.unet import UNet
from invdiff.problem import Problem
from invdiff.sample import main as sample
from invdiff.solve import main as solve

SHAPE = (1, 2, 4)
LABELS = range(3)
# The left half of all modes is the same: a measurement of it cannot tell the classes.
LEFT, RIGHT = [0.3, 0.6], ([0.2, 0.2], [0.8, 0.3], [0.5, 0.9])
WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
MEANS = torch.tensor([[[[*LEFT, *right]] * 2] for right in RIGHT], dtype=torch.float64)
VARIANCES = torch.tensor([0.002, 0.004, 0.003], dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class ConditionalMixture(Denoiser):
    """E[x_0 | x] of the mixture, or of the components that labels name."""

    classes = 3

    def __init__(self) -> None:
        super().__init__()
        self.mixture = MixtureDenoiser(WEIGHTS, MEANS, VARIANCES)
        self.shape, self.schedule = SHAPE, self.mixture.schedule

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        if label is None:
            return self.mixture(x, sigma)
        variance = VARIANCES[label].view(-1, 1, 1, 1)
        share = variance / (variance + levels(sigma, x) ** 2)
        return MEANS[label] + share * (x - MEANS[label])


class ExactClassifier(Classifier):
    """Bayes' rule for the noisy components N(m_k, (v_k + sigma^2) I)."""

    shape, classes = SHAPE, 3

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        std = (VARIANCES.view(1, 3, 1, 1, 1) + levels(sigma, x)[:, None] ** 2).sqrt()
        joint = Normal(MEANS, std).log_prob(x[:, None]).flatten(2).sum(2) + WEIGHTS.log()
        return joint - joint.logsumexp(1, keepdim=True)


def towards(kind: str, label: int, strength: float | None = None) -> Denoiser:
    """The guided mixture; by default exactly p(x_0 | label)."""
    return guided(
        ConditionalMixture(), label, strength, ExactClassifier() if kind == "classifier" else None
    )


def nearest(x: Tensor) -> Tensor:
    """The class whose mean is nearest to each image, (B,)."""
    return (x[:, None] - MEANS).flatten(2).norm(dim=2).argmin(1)


def sampled_variance(variance: Tensor, sigmas: Tensor) -> Tensor:
    """Of the samples that DDPM's transitions draw of N(m, variance I): each is affine in x and
    fresh noise.
    """
    v = sigmas[0] ** 2
    for s, s_next in pairwise(sigmas):
        share, kept = variance / (variance + s**2), s_next**2 / s**2
        v = (share + kept * (1 - share)) ** 2 * v + s_next**2 * (1 - s_next**2 / s**2)
    return v


# The formulas.


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("sigma", [0.01, 0.1, 1.0, 30.0])
def test_the_exact_classifier_makes_the_conditional_denoiser(label: int, sigma: float) -> None:
    x = 0.5 + (0.3 + sigma) * normal(6, *SHAPE)
    sigmas = sigma * torch.linspace(0.5, 1, 6, dtype=torch.float64)
    expected = ConditionalMixture()(x, sigmas, torch.full((6,), label))
    assert float((expected - ConditionalMixture()(x, sigmas)).abs().max()) > 1e-3
    torch.testing.assert_close(
        towards("classifier", label)(x, sigmas), expected, rtol=1e-10, atol=1e-10
    )
    twice = towards("classifier", label, 2.0)(x, sigmas)  # linear in the scale
    torch.testing.assert_close(
        twice, 2 * expected - ConditionalMixture()(x, sigmas), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("label", LABELS)
def test_classifier_free_guidance_is_equation_6(label: int) -> None:
    """eps~ = (1 + w) eps(z, c) - w eps(z), for eps = (x - D) / sigma."""
    x, sigma = 0.5 + 0.5 * normal(5, *SHAPE), torch.tensor(0.4, dtype=torch.float64)
    prior = ConditionalMixture()
    told, untold = prior(x, sigma, torch.full((5,), label)), prior(x, sigma)
    assert torch.equal(ClassifierFree(prior, label, 0)(x, sigma), told)
    torch.testing.assert_close(
        ClassifierFree(prior, label, -1)(x, sigma), untold, rtol=0, atol=1e-14
    )
    eps = (1 + 2.5) * (x - told) / sigma - 2.5 * (x - untold) / sigma
    torch.testing.assert_close(
        ClassifierFree(prior, label, 2.5)(x, sigma), x - sigma * eps, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("kind", ["free", "classifier"])
def test_a_guided_prior_can_be_differentiated(kind: str) -> None:
    """DPS and PiGDM need its Jacobian: against finite differences."""
    x, sigma = (0.5 + 0.3 * normal(2, *SHAPE)).requires_grad_(), torch.tensor(0.3)
    assert torch.autograd.gradcheck(
        lambda x: towards(kind, 1, 1.5)(x, sigma), (x,), eps=1e-6, atol=1e-7
    )


def test_a_guided_prior_is_clipped_where_its_prior_is() -> None:
    spec = PriorSpec(
        (1, 8, 8), {"name": "unet", "width": 8, "multipliers": (1,), "blocks": 1, "classes": 2}
    )
    prior = awake(spec.build())
    x, sigma = 0.5 + normal(4, 1, 8, 8).float(), torch.tensor(0.5)
    with torch.no_grad():
        clipped = ClassifierFree(prior, 1, 20.0)(x, sigma)
        prior.clip = False
        free = ClassifierFree(prior, 1, 20.0)(x, sigma)
    assert clipped.min() == 0 and clipped.max() == 1 and free.min() < 0 < 1 < free.max()


# What guided priors are for.


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["free", "classifier"])
@pytest.mark.parametrize("label", LABELS)
def test_guided_samples_are_samples_of_the_class(kind: str, label: int) -> None:
    n = 300
    samples = generate(towards(kind, label), n, steps=60, seed=5)
    assert (nearest(samples) == label).all()
    assert set(nearest(generate(ConditionalMixture(), n, steps=60, seed=5)).tolist()) == set(LABELS)
    error = (samples.mean(0) - MEANS[label]).abs().max()
    assert error < 5 * (VARIANCES[label] / n).sqrt()
    expected = sampled_variance(VARIANCES[label], towards(kind, label).ladder(60))
    assert abs(samples.var(0).mean() / expected - 1) < 5 * (2 / (8 * n)) ** 0.5


@pytest.mark.parametrize("kind", ["free", "classifier"])
def test_more_guidance_leads_away_from_the_other_classes(kind: str) -> None:
    """Stronger than Bayes' rule, samples of class 1 lie farther from the other classes than class 1
    itself.
    """
    away = MEANS[1] - (WEIGHTS[0] * MEANS[0] + WEIGHTS[2] * MEANS[2]) / (WEIGHTS[0] + WEIGHTS[2])
    exact, strong = (generate(towards(kind, 1, w), 200, steps=30, seed=2) for w in (None, 6.0))
    move = ((strong - exact) * away).flatten(1).sum(1) / away.norm()
    assert move.mean() > 10 * move.std() / 200**0.5 and move.mean() > 0.01
    assert (nearest(strong) == 1).all()


# Other than the default: where 60 steps are too few for the method, or more than it needs.
SETTINGS = {
    "ald": {"steps": 60, "T": 10, "epsilon": 0.2},
    "daps": {"steps": 20},
    "dps": {"steps": 60, "zeta": 1.0},
    "gibbs": {"steps": 10, "particles": 4},
    "mcg": {"steps": 60, "zeta": 0.05},
    "pnpdm": {"steps": 40, "levels": 20, "rho_min": 0.1},
    "repaint": {"steps": 20},
}


@pytest.mark.slow
@pytest.mark.parametrize("solver", registry.names("solver"))
@pytest.mark.parametrize("kind", ["free", "classifier"])
def test_a_restoration_picks_the_mode_of_the_class(solver: str, kind: str) -> None:
    """The left half is measured and the same in all classes; the right half is the prior's choice."""
    operator = MaskBox(SHAPE, top=0, left=2, height=2, width=2)
    problem = Problem.simulate(MEANS[:1], operator, Gaussian(0.02), seed=0)
    method = registry.lookup("solver", solver)(**SETTINGS.get(solver, {"steps": 60}))
    for label in LABELS:
        found = restore(problem, towards(kind, label), method, samples=8, seed=1).samples[:, 0]
        assert (nearest(found) == label).all()
        assert (found - MEANS[label]).abs().max() < 6 * VARIANCES[label].sqrt()


# The networks.


def awake(model: torch.nn.Module) -> torch.nn.Module:
    """With random weights where training starts at zero."""
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        if not bool(p.any()):
            p.data.copy_(0.2 * torch.randn(p.shape, generator=generator))
    return model


SMALL = {"width": 16, "multipliers": (1, 2), "blocks": 1, "attention": (2,), "head_channels": 8}


def test_a_conditional_network_starts_as_the_unconditional_one_and_learns_every_label() -> None:
    torch.manual_seed(0)
    plain = awake(UNet(1, **SMALL))
    network = UNet(1, **SMALL, classes=3)
    missing, unexpected = network.load_state_dict(plain.state_dict(), strict=False)
    assert missing == ["label.weight"] and not unexpected
    x, t = torch.randn(5, 1, 8, 8), torch.tensor([0.0, 3.0, 70.5, 400.0, 999.0])
    labels = torch.tensor([0, 1, 2, 3, 0])
    out = network(x, t, labels)
    assert torch.equal(out, plain(x, t)) and torch.equal(network(x, t), out)
    out.square().sum().backward()
    assert (network.label.weight.grad.abs().amax(1) > 1e-3).all()


def test_a_label_reaches_its_own_image_and_no_label_is_the_last() -> None:
    torch.manual_seed(0)
    network = awake(UNet(1, **SMALL, classes=3))
    x, t = torch.randn(4, 1, 8, 8), torch.full((4,), 300.0)
    with torch.no_grad():
        out = network(x, t, torch.tensor([2, 0, 3, 1]))
        torch.testing.assert_close(network(x, t)[2], out[2])
        for b, label in enumerate([2, 0, 3, 1]):
            alone = network(x[b : b + 1], t[:1], torch.tensor([label]))[0]
            torch.testing.assert_close(
                alone, out[b], rtol=1e-4, atol=1e-4
            )  # batches round differently
            other = network(x[b : b + 1], t[:1], torch.tensor([(label + 1) % 4]))[0]
            assert (other - out[b]).abs().max() > 1e-3


def test_labels_need_classes() -> None:
    with pytest.raises(InputError, match="label: found one for a network without classes"):
        UNet(1, **SMALL)(torch.zeros(1, 1, 8, 8), torch.zeros(1), torch.zeros(1, dtype=torch.long))
    for network, classes in ((UNet, -1), (UNetClassifier, 1)):
        with pytest.raises(InputError, match=f"classes: found {classes}"):
            network(1, classes=classes)


@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
def test_the_denoiser_hands_labels_to_its_network(size: tuple[int, int]) -> None:
    """Also for images whose sides are no multiples of the stride."""
    spec = PriorSpec((1, 8, 8), {"name": "unet", **SMALL, "classes": 3}, target="x0")
    prior = awake(spec.build())
    assert prior.classes == 3
    x, sigma, label = (
        0.5 + 0.1 * normal(3, 1, *size).float(),
        torch.tensor(0.2),
        torch.tensor([2, 0, 1]),
    )
    seen = []
    prior.network.register_forward_hook(lambda module, args, out: seen.append(args))
    with torch.no_grad():
        told, untold = prior(x, sigma, label), prior(x, sigma)
    assert told.shape == x.shape and (told - untold).abs().max() > 1e-3
    assert torch.equal(seen[0][2], label) and len(seen[1]) == 2


def test_every_weight_of_the_classifier_learns_and_it_starts_undecided() -> None:
    torch.manual_seed(0)
    network = UNetClassifier(2, 5, **{**SMALL, "width": 64}, patch=2)
    x, t = torch.randn(3, 2, 8, 12), torch.tensor([0.0, 300.0, 999.0])
    assert torch.equal(network(x, t), torch.zeros(3, 5)) and network.stride == 4
    awake(network)
    logits = network(x, t)
    alone = torch.cat([network(x[b : b + 1], t[b : b + 1]) for b in range(3)])
    torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-5)
    (logits * torch.randn(3, 5)).sum().backward()
    for name, p in network.named_parameters():
        assert float(p.grad.abs().max()) > 1e-6, name


@pytest.mark.slow
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_classifier_with_attention_guides_differentiably(layout: torch.memory_format) -> None:
    """Its Jacobian is a second derivative of the network, which fused attention does not have."""
    torch.manual_seed(0)
    network = awake(
        UNetClassifier(
            1, 3, width=8, multipliers=(1, 1), blocks=1, attention=(1, 2), head_channels=8
        )
    )
    classifier = NetworkClassifier(
        network.double().to(memory_format=layout), (1, 4, 4), Schedule.linear(), 3, stride=2
    )
    prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5).double(), 0.05 * torch.eye(16).double())
    tilted = ClassifierGuided(prior, classifier, 2, 3.0)
    x = (0.5 + 0.2 * normal(1, 1, 4, 4)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: tilted(x, torch.tensor(0.5)), (x,), eps=1e-5, atol=1e-5
    )
    with torch.no_grad():  # without tracking, the same numbers
        torch.testing.assert_close(
            tilted(x.detach(), torch.tensor(0.5)), tilted(x, torch.tensor(0.5))
        )
    assert not tilted(x.detach(), torch.tensor(0.5)).requires_grad


def test_a_network_classifier_is_asked_as_it_was_trained() -> None:
    """cross_entropy shows the network x_t and the timestep that NetworkClassifier shows it at the
    same sigma.
    """
    schedule, seen = Schedule.cosine(50), []

    class Recorder(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            seen.append((x, t))
            return torch.stack([x.flatten(1).sum(1), t / 10], dim=1)

    ddpm = DDPM(Recorder(), schedule)
    x_0, t, label = 0.5 * normal(50, *SHAPE).float(), torch.arange(1, 51), torch.arange(50) % 2
    eps = normal(50, *SHAPE, seed=1).float()
    loss = cross_entropy(ddpm, x_0, t, eps, label)
    x_t = ddpm.q_sample(x_0, t, eps)
    sigma = schedule.sigma[t] / 2
    noisy = (x_t / schedule.abar[t].sqrt().view(-1, 1, 1, 1).float() + 1) / 2
    log_p = NetworkClassifier(ddpm.network, SHAPE, schedule, 2)(noisy, sigma)
    torch.testing.assert_close(seen[0][0], x_t)
    torch.testing.assert_close(seen[1], seen[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loss, -log_p[torch.arange(50), label], rtol=1e-4, atol=1e-4)


# Files.

CLASSIFIER = ClassifierSpec(
    (1, 8, 8), {"name": "unet_classifier", **SMALL, "classes": 3}, "cosine", 100
)
CONDITIONAL = PriorSpec((1, 8, 8), {"name": "unet", **SMALL, "classes": 3}, "cosine", 100, "v")


def test_conditional_priors_and_classifiers_are_saved_and_loaded(tmp_path: Path) -> None:
    x, sigma, label = (
        0.5 + 0.1 * normal(2, 1, 8, 8).float(),
        torch.tensor(0.2),
        torch.tensor([0, 2]),
    )
    prior, classifier = (
        awake(CONDITIONAL.build()).half().float(),
        awake(CLASSIFIER.build()).half().float(),
    )
    save_prior(CONDITIONAL.around(prior.network), tmp_path / "p.safetensors")
    save_prior(CLASSIFIER.around(classifier.network), tmp_path / "c.safetensors")
    loaded = load_prior(tmp_path / "p.safetensors")
    assert loaded.classes == 3 and torch.equal(loaded(x, sigma, label), prior(x, sigma, label))
    found = load_classifier(tmp_path / "c.safetensors")
    assert (
        found.classes == 3
        and not found.training
        and torch.equal(found(x, sigma), classifier(x, sigma))
    )
    torch.testing.assert_close(found(x, sigma).exp().sum(1), torch.ones(2))
    with pytest.raises(
        InputError, match=r"prior .*c\.safetensors.*found a classifier, expected a prior"
    ):
        load_prior(tmp_path / "c.safetensors")
    with pytest.raises(
        InputError, match=r"classifier .*p\.safetensors.*found a prior, expected a classifier"
    ):
        load_classifier(tmp_path / "p.safetensors")
    with pytest.raises(InputError, match="classifier 'nowhere': no such file"):
        load_classifier("nowhere")


def test_a_prior_from_before_there_were_classes_is_unconditional() -> None:
    prior = load_prior("fashion")
    assert isinstance(prior, NetworkDenoiser) and prior.classes == 0


# Errors.


def test_what_does_not_fit_is_refused() -> None:
    plain, mixture, exact = (
        MixtureDenoiser(WEIGHTS, MEANS, VARIANCES),
        ConditionalMixture(),
        ExactClassifier(),
    )
    assert guided(mixture, None) is mixture
    for label in (-1, 3):
        for classifier in (None, exact):
            with pytest.raises(InputError, match=rf"label: found {label}, expected 0\.\.2"):
                guided(mixture, label, 1.0, classifier)
    with pytest.raises(
        InputError, match="label: found 1, expected none, as the prior has no classes"
    ):
        guided(plain, 1)
    with pytest.raises(InputError, match="label is missing"):
        guided(mixture, None, 2.0)
    with pytest.raises(InputError, match="label is missing"):
        guided(mixture, None, None, exact)
    with pytest.raises(InputError, match="classifier: found one for 1 channel, expected 3"):
        guided(MixtureDenoiser(WEIGHTS, MEANS.expand(-1, 3, -1, -1), VARIANCES), 1, 1.0, exact)


# The command lines.


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """conditional.safetensors, plain.safetensors, classifier.safetensors of random weights, and
    picture.png.
    """
    plain = replace(CONDITIONAL, network={"name": "unet", **SMALL})
    for name, spec in {
        "conditional": CONDITIONAL,
        "plain": plain,
        "classifier": CLASSIFIER,
    }.items():
        torch.manual_seed(0)
        save_prior(awake(spec.build()), tmp_path / f"{name}.safetensors")
    write_image(tmp_path / "picture.png", torch.rand(1, 16, 16))
    return tmp_path


@pytest.mark.slow
def test_solve_and_sample_under_guidance(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    free = [f"prior={files / 'conditional.safetensors'}"]
    tilted = [
        f"prior={files / 'plain.safetensors'}",
        f"classifier={files / 'classifier.safetensors'}",
    ]
    for prior in (free, tilted):
        pictures = []
        for more in (["label=0"], ["label=1"], ["label=1", "guidance=9"]):
            sample([*prior, *more, "n=2", "steps=3", f"out={files / 'grid.png'}"])
            pictures.append(read_image(files / "grid.png"))
        assert not any(torch.equal(a, b) for a, b in combinations(pictures, 2))

    task = ["task=inpaint", f"measurement={files / 'picture.png'}", "solver.steps=3", "samples=1"]
    task += ["operator.height=14"]
    for run, words in {
        "free": [*free, "label=1"],
        "tilted": [*tilted, "label=1", "guidance=2"],
    }.items():
        solve([*words, *task, f"out={files / run}"])
    solve([f"task={files / 'tilted' / 'config.yaml'}", f"out={files / 'again'}"])
    assert "of label 1" in capsys.readouterr().out
    found = {
        run: np.load(files / run / "posterior.npz")["samples"]
        for run in ("free", "tilted", "again")
    }
    assert np.array_equal(found["tilted"], found["again"])
    assert not np.array_equal(found["free"], found["tilted"])


@pytest.mark.slow
def test_the_command_lines_say_what_is_wrong_with_a_label(files: Path) -> None:
    free, plain = (
        f"prior={files / 'conditional.safetensors'}",
        f"prior={files / 'plain.safetensors'}",
    )
    task = ["task=inpaint", f"input={files / 'picture.png'}", f"out={files / 'run'}"]
    cases = {
        r"label: found 3, expected 0\.\.2": [free, "label=3"],
        "label: found 1, expected none": [plain, "label=1"],
        "label is missing": [free, "guidance=2"],
        "found a prior, expected a classifier": [
            plain,
            "label=1",
            f"classifier={files / 'plain.safetensors'}",
        ],
        "found a classifier, expected a prior": [f"prior={files / 'classifier.safetensors'}"],
        "label: found 'shoe'": [free, "label=shoe"],
    }
    for message, words in cases.items():
        with pytest.raises(InputError, match=message):
            solve([*task, *words])
        with pytest.raises(InputError, match=message):
            sample([f"out={files / 'grid.png'}", *words])
    assert not (files / "run").exists() and not (files / "grid.png").exists()
