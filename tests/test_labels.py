"""Labels in training: where they are read from, how many are withheld, and what is learnt from them."""

from __future__ import annotations

import csv
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
from invdiff.prior.guidance import ClassifierFree
from invdiff.prior.reverse import generate
from invdiff.training import Trainer, TrainingData, TrainSettings, fit, load_data
from invdiff.training.trainer import held_out_accuracy

NETWORK = {"name": "unet", "width": 16, "multipliers": [1, 2], "blocks": 1, "patch": 2, "classes": 3}
CLASSIFIER = {**NETWORK, "name": "unet_classifier"}
SHADES = torch.tensor([40, 120, 210], dtype=torch.uint8)  # of the three classes


@pytest.fixture
def shades(tmp_path: Path) -> Path:
    """90 images 8x8 of one shade of gray each, that of their class, with a little noise; 30 are held out."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for part, n in {"train": 90, "test": 30}.items():
        labels = rng.permutation(np.arange(n) % 3)
        noise = rng.integers(-10, 11, (n, 8, 8))
        arrays |= {f"{part}_images": (SHADES.numpy()[labels][:, None, None] + noise).astype(np.uint8)}
        arrays |= {f"{part}_labels": labels.astype(np.uint8)}
    np.savez(tmp_path / "shades.npz", **arrays)
    return tmp_path / "shades.npz"


def settings(data: Path, **changes: object) -> TrainSettings:
    base = TrainSettings(
        data=str(data), network=NETWORK, T=50, steps=8, batch=30, lr=2e-3, warmup=3, cooldown=0, ema=0.9,
        precision="float32", log_every=4, eval_every=10**6, eval_images=6, save_every=10**6,
    )  # fmt: skip
    return replace(base, **changes)


def trainer(data: Path, out: Path, **changes: object) -> Trainer:
    return Trainer(settings(data, **changes), *load_data(str(data)), out)


def shade_classes(images: torch.Tensor) -> torch.Tensor:
    return (images.flatten(1).mean(1)[:, None] - SHADES / 255).abs().argmin(1)


# Where labels come from.


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_labels_of_an_npz(tmp_path: Path, dtype: type) -> None:
    images = np.arange(5, dtype=np.uint8)[:, None, None] * np.ones((5, 4, 4), np.uint8)
    for key, held_out in {"images": False, "train_images": True}.items():
        arrays = {key: images, key.replace("images", "labels"): np.array([3, 0, 2, 1, 3], dtype)}
        if held_out:
            arrays |= {"test_images": images[:2], "test_labels": np.array([1, 2], dtype)}
        np.savez(tmp_path / "a.npz", **arrays)
        train, apart = load_data(str(tmp_path / "a.npz"))
        assert train.label(torch.tensor([4, 2, 1])).tolist() == [3, 2, 0]
        if held_out:
            assert apart.label(torch.tensor([0, 1])).tolist() == [1, 2]


def test_the_twentieth_that_is_held_out_keeps_its_labels(tmp_path: Path) -> None:
    numbers = np.arange(60, dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=numbers[:, None, None] * np.ones((60, 4, 4), np.uint8), labels=numbers)
    for data, n in zip(load_data(str(tmp_path / "a.npz")), (57, 3), strict=True):
        values = ((data.batch(torch.arange(n))[:, 0, 0, 0] + 1) * 127.5).round()
        assert values.tolist() == data.label(torch.arange(n)).tolist()


@pytest.mark.parametrize("labels", [np.zeros((4, 40), int), np.array([0.5, 1, 2, 3]), np.array([-1, 0, 1, 2])])
def test_arrays_that_are_no_labels_do_no_harm(tmp_path: Path, labels: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((4, 8, 8), np.uint8), labels=labels)
    train, held_out = load_data(str(tmp_path / "a.npz"))
    assert train.labels is None and len(train) == 4
    with pytest.raises(InputError, match=r"a\.npz: found no labels, expected 0\.\.2, as network\.classes=3"):
        trainer(tmp_path / "a.npz", tmp_path / "run")


def test_labels_of_a_folder_are_its_sub_folders_sorted(tmp_path: Path) -> None:
    for name, value in {"owl": 200, "ant": 10, "fox": 100}.items():
        for place in (tmp_path / "train" / name / "deeper", tmp_path / "val" / name):
            place.mkdir(parents=True)
            for i in range(2):
                Image.fromarray(np.full((8, 8), value + i, np.uint8)).save(place / f"{i}.png")
    train, held_out = load_data(str(tmp_path / "train"), 8, 1, held_out=str(tmp_path / "val"))
    for data in (train, held_out):
        values = ((data.batch(torch.arange(6))[:, 0, 0, 0] + 1) * 127.5).round().long()
        assert torch.equal(data.label(torch.arange(6)), torch.bucketize(values, torch.tensor([50, 150])))
    # An unreadable file is replaced by the next one, label and all.
    (tmp_path / "train" / "ant" / "deeper" / "1.png").write_bytes(b"nothing")
    train, _ = load_data(str(tmp_path / "train"), 8, 1, held_out=str(tmp_path / "val"))
    with pytest.warns(UserWarning, match="unreadable"):
        assert train.label(torch.arange(6)).tolist() == [0, 1, 1, 1, 2, 2]
    # A held-out class that training does not know, and an image in no sub-folder, leave no labels.
    (tmp_path / "val" / "ant").rename(tmp_path / "val" / "emu")
    assert load_data(str(tmp_path / "train"), 8, 1, held_out=str(tmp_path / "val"))[1].labels is None
    Image.fromarray(np.full((8, 8), 0, np.uint8)).save(tmp_path / "train" / "0.png")
    assert load_data(str(tmp_path / "train"), 8, 1, held_out=str(tmp_path / "val"))[0].labels is None


# Training.


def test_labels_are_withheld_at_the_rate_p_uncond(shades: Path, tmp_path: Path) -> None:
    run = trainer(shades, tmp_path / "run", p_uncond=0.2, batch=60)
    batches = [run.draw(step) for step in range(100)]
    labels = torch.cat([b.label for b in batches])
    true = torch.cat([run.train.label(run.indices(step)) for step in range(100)])
    withheld = labels == 3
    assert abs(withheld.float().mean() - 0.2) < 5 * (0.2 * 0.8 / len(labels)) ** 0.5
    assert torch.equal(labels[~withheld], true[~withheld])
    pictures = shade_classes((torch.cat([b.x_0 for b in batches]) + 1) / 2)
    assert torch.equal(pictures, true)  # the labels are those of the images
    again = trainer(shades, tmp_path / "again", p_uncond=0.2, batch=60).draw(7)
    assert all(torch.equal(a, b) for a, b in zip(again, batches[7], strict=True))


def test_withholding_labels_leaves_all_other_draws_alone(shades: Path, tmp_path: Path) -> None:
    plain = trainer(shades, tmp_path / "a", network={k: v for k, v in NETWORK.items() if k != "classes"}).draw(3)
    for p_uncond, expected in {0.0: False, 1.0: True}.items():
        batch = trainer(shades, tmp_path / str(p_uncond), p_uncond=p_uncond).draw(3)
        assert all(torch.equal(a, b) for a, b in zip(plain[:3], batch[:3], strict=True))
        assert bool((batch.label == 3).all()) is expected


def test_a_conditional_prior_learns_to_use_the_label(shades: Path, tmp_path: Path) -> None:
    """After a short run samples of a class have its shade; before it they know nothing of classes."""
    run = settings(shades, steps=150, target="v", schedule="cosine")
    prior = fit(run, tmp_path / "run", progress=False)
    early = fit(replace(run, steps=1), tmp_path / "early", progress=False)

    def right(model: object) -> float:
        told = [shade_classes(generate(ClassifierFree(model, k, 1.0), 8, steps=10)) == k for k in range(3)]
        return float(torch.cat(told).float().mean())

    assert right(prior) > 0.9 and right(early) < 0.6
    shades_drawn = shade_classes(generate(prior, 24, steps=10))
    assert len(shades_drawn.unique()) >= 2  # withheld labels: the unconditional model has several classes
    assert load_prior(tmp_path / "run").classes == 3


def test_a_classifier_learns_and_is_looked_at(shades: Path, tmp_path: Path) -> None:
    run = settings(shades, network=CLASSIFIER, target="label", schedule="cosine", steps=60, eval_every=60, eval_images=30)
    classifier = fit(run, tmp_path / "run", progress=False)
    assert isinstance(classifier, NetworkClassifier)
    with (tmp_path / "run" / "log.csv").open() as file:
        logged = {name: float(value) for _, name, value in csv.reader(file)}
    assert {"accuracy_t1", "accuracy_t12", "accuracy_t25", "accuracy_t37"} < set(logged)
    assert logged["accuracy_t1"] > 0.95 and not any("bits" in name or "samples" in name for name in logged)
    early = fit(replace(run, steps=1), tmp_path / "early", progress=False)
    _, held_out = load_data(str(shades))
    assert held_out_accuracy(early, held_out, 30)[1] < 0.8
    stored = load_classifier(tmp_path / "run")
    found = stored((held_out.batch(torch.arange(30)) + 1) / 2, torch.tensor(0.01)).argmax(1)
    assert (found == held_out.label(torch.arange(30))).float().mean() > 0.95


def test_accuracy_by_noise_level_counts(tmp_path: Path) -> None:
    """A network that reads the sign of the mean of x_t: right on +-1 images until the noise drowns them."""

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


def test_a_conditional_run_begins_with_an_unconditional_prior(shades: Path, tmp_path: Path) -> None:
    plain = {k: v for k, v in NETWORK.items() if k != "classes"}
    fit(settings(shades, network=plain), tmp_path / "plain", progress=False)
    run = trainer(shades, tmp_path / "run", init=str(tmp_path / "plain"))
    x, sigma = torch.rand(4, 1, 8, 8), torch.tensor(0.3)
    prior, start = load_prior(tmp_path / "plain"), run.spec.around(run.averaged)
    assert not run.averaged.label.weight.any()
    for label in (None, torch.tensor([0, 1, 2, 2])):
        torch.testing.assert_close(start(x, sigma, label), prior(x, sigma))
    with pytest.raises(InputError, match=r"label\.weight"):  # not the other way round
        fit(settings(shades), tmp_path / "conditional", progress=False)
        trainer(shades, tmp_path / "other", network=plain, init=str(tmp_path / "conditional"))


def test_accumulated_labels_go_with_their_images(shades: Path, tmp_path: Path) -> None:
    """The loss of a batch is the same in one part and in three."""
    network = {**NETWORK, "dropout": 0.0}
    losses = [
        trainer(shades, tmp_path / str(parts), network=network, accumulate=parts).train_step() for parts in (1, 3)
    ]
    torch.testing.assert_close(*losses)


def test_a_run_from_before_there_were_labels_resumes(shades: Path, tmp_path: Path) -> None:
    plain = settings(shades, network={k: v for k, v in NETWORK.items() if k != "classes"})
    fit(plain, tmp_path, progress=False)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["settings"]["p_uncond"]
    torch.save(state, tmp_path / "state.pt")
    fit(replace(plain, steps=10), tmp_path, progress=False)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 10


def test_settings_that_do_not_fit_the_labels(shades: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found labels up to 2, expected 0\.\.1, as network\.classes=2"):
        trainer(shades, tmp_path / "run", network={**NETWORK, "classes": 2})
    with pytest.raises(InputError, match=r"network\.classes is missing"):
        settings(shades, target="label", network={"name": "unet_classifier"})
    with pytest.raises(InputError, match="p_uncond: found 1.5"):
        settings(shades, p_uncond=1.5)
