"""Labels in training: where they are read from, how many are withheld, and what is learnt from
them.
"""

from __future__ import annotations

import csv
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from invdiff import load_prior
from invdiff.errors import InputError
from invdiff.prior.checkpoint import load_classifier
from invdiff.prior.classifier import NetworkClassifier
from invdiff.prior.denoiser import Denoiser, NetworkDenoiser
from invdiff.prior.guidance import ClassifierFree
from invdiff.prior.reverse import generate
from invdiff.training import Trainer, TrainingData, TrainSettings, fit, load_data
from invdiff.training.trainer import draw_samples, held_out_accuracy

NETWORK = {
    "name": "unet",
    "width": 16,
    "multipliers": [1, 2],
    "blocks": 1,
    "patch": 2,
    "classes": 3,
}
CLASSIFIER = {**NETWORK, "name": "unet_classifier"}
# The three classes: bright on the left, above, in a checkerboard; the networks' normalisation hides
# a mere shade.
PATTERNS = torch.zeros(3, 8, 8, dtype=torch.bool)
PATTERNS[0, :, :4] = PATTERNS[1, :4] = True
PATTERNS[2] = (torch.arange(8)[:, None] // 2 + torch.arange(8) // 2) % 2 == 0


@pytest.fixture
def patterns(tmp_path: Path) -> Path:
    """90 images 8x8 of the three classes, with noise; 30 are held out."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for part, n in {"train": 90, "test": 30}.items():
        labels = rng.permutation(np.arange(n) % 3)
        images = 60 + 130 * PATTERNS.numpy()[labels] + rng.integers(-30, 31, (n, 8, 8))
        arrays |= {
            f"{part}_images": images.astype(np.uint8),
            f"{part}_labels": labels.astype(np.uint8),
        }
    np.savez(tmp_path / "patterns.npz", **arrays)
    return tmp_path / "patterns.npz"


def settings(data: Path, **changes: object) -> TrainSettings:
    base = TrainSettings(
        data=str(data),
        network=NETWORK,
        T=50,
        steps=8,
        batch=30,
        lr=2e-3,
        warmup=3,
        cooldown=0,
        ema=0.9,
        precision="float32",
        log_every=4,
        eval_every=10**6,
        eval_images=6,
        save_every=10**6,
    )
    return replace(base, **changes)


def trainer(data: Path, out: Path, **changes: object) -> Trainer:
    return Trainer(settings(data, **changes), *load_data(str(data)), out)


def trained(run: Trainer, steps: int) -> NetworkDenoiser | NetworkClassifier:
    """The averaged weights after some steps, without looking and saving."""
    for _ in range(steps):
        run.train_step()
        run.step += 1
    return run.spec.around(run.averaged)


def classes(images: torch.Tensor) -> torch.Tensor:
    """The class of the nearest pattern, (B,)."""
    signs = 2.0 * PATTERNS - 1
    return torch.einsum(
        "bchw,khw->bk", images - images.mean((1, 2, 3), keepdim=True), signs
    ).argmax(1)


# Where labels come from.


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_labels_of_an_npz(tmp_path: Path, dtype: type) -> None:
    images = np.arange(5, dtype=np.uint8)[:, None, None] * np.ones((5, 4, 4), np.uint8)
    np.savez(
        tmp_path / "a.npz",
        train_images=images,
        train_labels=np.array([3, 0, 2, 1, 3], dtype),
        test_images=images[:2] + 100,
        test_labels=np.array([1, 2], dtype),
    )
    train, held_out = load_data(str(tmp_path / "a.npz"))
    assert train.label(torch.tensor([4, 2, 1])).tolist() == [3, 2, 0]
    assert held_out.label(torch.tensor([0, 1])).tolist() == [1, 2]


def test_the_twentieth_that_is_held_out_keeps_its_labels(tmp_path: Path) -> None:
    numbers = np.arange(60, dtype=np.uint8)
    np.savez(
        tmp_path / "a.npz",
        images=numbers[:, None, None] * np.ones((60, 4, 4), np.uint8),
        labels=numbers,
    )
    for data, n in zip(load_data(str(tmp_path / "a.npz")), (57, 3), strict=True):
        values = ((data.batch(torch.arange(n))[:, 0, 0, 0] + 1) * 127.5).round()
        assert values.tolist() == data.label(torch.arange(n)).tolist()


@pytest.mark.parametrize(
    "labels",
    [
        np.zeros((4, 40), int),
        np.array([0.5, 1, 2, 3]),
        np.array([-1, 0, 1, 2]),
        np.zeros(3, int),
        np.array(["a", "b", "a", "b"]),
        np.array(["a", "b", "a", None], object),
    ],
)
def test_arrays_that_are_no_labels_do_no_harm(tmp_path: Path, labels: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((4, 8, 8), np.uint8), labels=labels)
    train, held_out = load_data(str(tmp_path / "a.npz"))
    assert train.labels is None and len(train) == 4
    with pytest.raises(
        InputError, match=r"a\.npz: found no labels, expected 0\.\.2, as network\.classes=3"
    ):
        trainer(tmp_path / "a.npz", tmp_path / "run")


def test_labels_of_a_folder_are_its_sub_folders_sorted(tmp_path: Path) -> None:
    for name, value in {"owl": 200, "ant": 10, "fox": 100}.items():
        for place in (tmp_path / "train" / name / "deeper", tmp_path / "val" / name):
            place.mkdir(parents=True)
            for i in range(2):
                shade = value + i + 5 * ("val" in place.parts)
                Image.fromarray(np.full((8, 8), shade, np.uint8)).save(place / f"{i}.png")
    train, held_out = load_data(str(tmp_path / "train"), 8, 1, held_out=str(tmp_path / "val"))
    for data in (train, held_out):
        values = ((data.batch(torch.arange(6))[:, 0, 0, 0] + 1) * 127.5).round().long()
        assert torch.equal(
            data.label(torch.arange(6)), torch.bucketize(values, torch.tensor([50, 150]))
        )
    # An unreadable file is replaced by the next one, label and all.
    (tmp_path / "train" / "ant" / "deeper" / "1.png").write_bytes(b"nothing")
    train, _ = load_data(str(tmp_path / "train"), 8, 1, held_out=str(tmp_path / "val"))
    with pytest.warns(UserWarning, match="unreadable"):
        assert train.label(torch.arange(6)).tolist() == [0, 1, 1, 1, 2, 2]
    # A held-out class that training does not know, and an image in no sub-folder, leave no labels.
    (tmp_path / "val" / "ant").rename(tmp_path / "val" / "emu")
    assert (
        load_data(str(tmp_path / "train"), 8, 1, held_out=str(tmp_path / "val"))[1].labels is None
    )
    Image.fromarray(np.full((8, 8), 0, np.uint8)).save(tmp_path / "train" / "0.png")
    assert (
        load_data(str(tmp_path / "train"), 8, 1, held_out=str(tmp_path / "val"))[0].labels is None
    )


def test_other_numbers_of_sub_folders_are_named(tmp_path: Path) -> None:
    for name in ("owl", "ant", "fox", "bee"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "data" / name / "0.png")
    data = load_data(str(tmp_path / "data"), 8, 1)
    s = settings(tmp_path / "data")
    with pytest.raises(
        InputError, match=r"4 sub-folders \(ant, bee, fox, owl\), expected network.classes=3"
    ):
        Trainer(s, *data, tmp_path / "run")
    with pytest.warns(UserWarning, match="4 sub-folders .* for network.classes=5"):
        Trainer(replace(s, network={**NETWORK, "classes": 5}), *data, tmp_path / "run")


# Training.


def test_labels_are_withheld_at_the_rate_p_uncond(patterns: Path, tmp_path: Path) -> None:
    run = trainer(patterns, tmp_path / "run", p_uncond=0.2, batch=60)
    batches = [run.draw_batch(step) for step in range(30)]
    labels = torch.cat([b.label for b in batches])
    true = torch.cat([run.train.label(run.indices(step)) for step in range(30)])
    withheld = labels == 3
    assert abs(withheld.float().mean() - 0.2) < 5 * (0.2 * 0.8 / len(labels)) ** 0.5
    assert torch.equal(labels[~withheld], true[~withheld])
    pictures = classes((torch.cat([b.x_0 for b in batches]) + 1) / 2)
    assert torch.equal(pictures, true)  # the labels are those of the images
    again = trainer(patterns, tmp_path / "again", p_uncond=0.2, batch=60).draw_batch(7)
    assert all(torch.equal(a, b) for a, b in zip(again, batches[7], strict=True))


def test_withholding_labels_leaves_all_other_draws_alone(patterns: Path, tmp_path: Path) -> None:
    plain = trainer(
        patterns, tmp_path / "a", network={k: v for k, v in NETWORK.items() if k != "classes"}
    ).draw_batch(3)
    for p_uncond, expected in {0.0: False, 1.0: True}.items():
        batch = trainer(patterns, tmp_path / str(p_uncond), p_uncond=p_uncond).draw_batch(3)
        assert all(torch.equal(a, b) for a, b in zip(plain[:3], batch[:3], strict=True))
        assert bool((batch.label == 3).all()) is expected


@pytest.mark.slow
def test_a_conditional_prior_learns_to_use_the_label(patterns: Path, tmp_path: Path) -> None:
    """After a short run samples of a class are of that class; before it they know nothing of
    classes.
    """
    run = trainer(patterns, tmp_path, target="v", schedule="cosine", lr=5e-3)
    early = deepcopy(trained(run, 1))
    prior = trained(run, 70)

    def right(model: Denoiser) -> float:
        told = [
            classes(generate(ClassifierFree(model, k, 1.0), 8, steps=10)) == k for k in range(3)
        ]
        return float(torch.cat(told).float().mean())

    assert right(prior) > 0.9 and right(early) < 0.7
    # Thanks to the withheld labels the unconditional model has several classes.
    assert len(classes(generate(prior, 24, steps=10)).unique()) >= 2
    rows = draw_samples(prior)
    assert len(rows) == 24 and (classes(rows) == torch.arange(24) // 8).float().mean() > 0.8
    run.save()
    assert load_prior(tmp_path).classes == 3


@pytest.mark.slow
def test_a_classifier_learns(patterns: Path, tmp_path: Path) -> None:
    run = trainer(patterns, tmp_path, network=CLASSIFIER, target="label", schedule="cosine")
    _, held_out = load_data(str(patterns))
    early = held_out_accuracy(deepcopy(trained(run, 1)), held_out, 30)
    late = held_out_accuracy(trained(run, 20), held_out, 30)
    assert early[1] < 0.8 and late[1] > 0.95 and late[25] > 0.6
    run.save()
    found = load_classifier(tmp_path)(
        (held_out.batch(torch.arange(30)) + 1) / 2, torch.tensor(0.01)
    ).argmax(1)
    assert (found == held_out.label(torch.arange(30))).float().mean() > 0.95


def test_a_look_at_a_classifier_is_its_accuracy(patterns: Path, tmp_path: Path) -> None:
    run = settings(patterns, network=CLASSIFIER, target="label", steps=2)
    classifier = fit(run, tmp_path, progress=False)
    with (tmp_path / "log.csv").open() as file:
        logged = {name: float(value) for _, name, value in csv.reader(file)}
    assert isinstance(classifier, NetworkClassifier)
    found = held_out_accuracy(classifier, load_data(str(patterns))[1], run.eval_images)
    assert {name: v for name, v in logged.items() if name not in ("loss", "images_per_second")} == {
        f"accuracy_t{t}": pytest.approx(a, abs=1e-5) for t, a in found.items()
    }


def test_accuracy_by_noise_level_counts(tmp_path: Path) -> None:
    """A network that reads the sign of the mean of x_t: right on +-1 images until the noise drowns
    them.
    """

    class Sign(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = torch.nn.Parameter(torch.tensor(50.0))

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            mean = self.gain * x.flatten(1).mean(1)
            return torch.stack([-mean, mean], 1)

    n = 600
    items = (torch.arange(n) % 2 * 255).byte().view(n, 1, 1, 1)
    data = TrainingData(items, torch.arange(n) % 2)
    schedule = settings(tmp_path).spec((1, 1, 1)).build().schedule
    found = held_out_accuracy(NetworkClassifier(Sign(), (1, 1, 1), schedule, 2), data, n)
    for t, accuracy in found.items():
        signal = (schedule.abar[t] / (1 - schedule.abar[t])).sqrt()
        expected = float(torch.special.ndtr(signal))
        assert abs(accuracy - expected) <= 5 * (expected * (1 - expected) / n) ** 0.5 + 1e-9
    assert list(found) == [1, 12, 25, 37] and found[1] == 1 > found[37]


@pytest.mark.slow
def test_a_conditional_run_begins_with_an_unconditional_prior(
    patterns: Path, tmp_path: Path
) -> None:
    plain = {k: v for k, v in NETWORK.items() if k != "classes"}
    first = trainer(patterns, tmp_path / "plain", network=plain)
    trained(first, 3)
    first.save()
    run = trainer(patterns, tmp_path / "run", init=str(tmp_path / "plain"))
    x, sigma = torch.rand(4, 1, 8, 8), torch.tensor(0.3)
    prior, start = load_prior(tmp_path / "plain"), run.spec.around(run.averaged)
    assert not run.averaged.label.weight.any()
    for label in (None, torch.tensor([0, 1, 2, 2])):
        torch.testing.assert_close(start(x, sigma, label), prior(x, sigma))
    run.save()
    with pytest.raises(InputError, match=r"label\.weight"):  # not the other way round
        trainer(patterns, tmp_path / "other", network=plain, init=str(tmp_path / "run"))


def test_accumulated_labels_go_with_their_images(patterns: Path, tmp_path: Path) -> None:
    """The loss of a batch is the same in one part and in three."""
    network = {**NETWORK, "dropout": 0.0}
    losses = [
        trainer(patterns, tmp_path / str(parts), network=network, accumulate=parts).train_step()
        for parts in (1, 3)
    ]
    torch.testing.assert_close(*losses)


@pytest.mark.slow
def test_a_run_from_before_there_were_labels_resumes(patterns: Path, tmp_path: Path) -> None:
    network = {k: v for k, v in NETWORK.items() if k != "classes"}
    run = trainer(patterns, tmp_path, network=network)
    trained(run, 2)
    run.save()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["settings"]["p_uncond"]
    torch.save(state, tmp_path / "state.pt")
    assert trainer(patterns, tmp_path, network=network).step == 2
    with pytest.raises(InputError, match=r"p_uncond=0\.1, this one has 0\.5"):
        trainer(patterns, tmp_path, network=network, p_uncond=0.5)


def test_settings_that_do_not_fit_the_labels(patterns: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"found labels up to 2, expected 0\.\.1, as network\.classes=2"
    ):
        trainer(patterns, tmp_path / "run", network={**NETWORK, "classes": 2})
    with pytest.raises(InputError, match=r"network\.classes is missing"):
        settings(patterns, target="label", network={"name": "unet_classifier"})
    with pytest.raises(InputError, match="p_uncond: found 1.5"):
        settings(patterns, p_uncond=1.5)
