"""Classifiers of guided-diffusion: files of the reference network, read by our loader."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_files import written
from torch import nn

from invdiff import solve
from invdiff.errors import InputError
from invdiff.io.write import write_image
from invdiff.prior.checkpoint import load_classifier, load_prior
from invdiff.prior.classifier import NetworkClassifier
from invdiff.prior.loaders import foreign, guided
from invdiff.prior.unet2d import UNet2DClassifier

pytestmark = pytest.mark.slow

# Sizes of images are those that attention pooling over a map of 4x4 or 8x8 gives.
CASES: dict[str, dict[str, Any]] = {
    "as 256x256_classifier": dict(size=32, mult=(1, 1, 2), blocks=2, at=(2, 4)),
    "as 64x64_classifier": dict(size=32, mult=(1, 2, 3, 4), blocks=4, at=(2, 4)),
    "half width first": dict(size=32, width=64, mult=(0.5, 1, 2), blocks=1, at=(4,)),
    "a mean over pixels": dict(size=32, mult=(1, 2), blocks=2, at=(2,), pool="adaptive"),
    "convolutions halve": dict(size=16, mult=(1, 2), blocks=1, at=(2,), residual=False),
    "no scale": dict(size=16, mult=(1, 2), blocks=1, at=(), scale_shift=False),
    "gray": dict(size=16, mult=(1, 2), blocks=2, at=(1, 2), channels=1, classes=3),
}


def reference(case: dict[str, Any], seed: int = 0) -> nn.Module:
    unet = pytest.importorskip("azula.plugins.adm._src.unet")
    case = {"width": 32, "pool": "attention", "channels": 3, "classes": 10, **case}
    torch.manual_seed(seed)
    network = unet.EncoderUNetModel(
        image_size=case["size"],
        in_channels=case["channels"],
        model_channels=case["width"],
        out_channels=case["classes"],
        num_res_blocks=case["blocks"],
        attention_resolutions=case["at"],
        channel_mult=case["mult"],
        num_head_channels=16,
        use_scale_shift_norm=case.get("scale_shift", True),
        resblock_updown=case.get("residual", True),
        pool=case["pool"],
    )
    for weight in network.parameters():
        # Large enough for images to count in the logits.
        std = 1.5 / math.sqrt(weight[0].numel()) if weight.ndim > 1 else 0.2
        nn.init.normal_(weight, std=std)
    return network.eval()


def saved(folder: Path, network: nn.Module) -> Path:
    path = folder / "classifier.pt"
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.parametrize("name", CASES)
def test_a_file_becomes_the_classifier_of_its_network(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    network = reference(case)
    classifier, found = foreign.load_classifier(
        saved(tmp_path, network), {"head_channels": 16, "size": case["size"]}
    )
    shape = (case.get("channels", 3), case["size"], case["size"])
    assert classifier.shape == shape
    assert classifier.classes == case.get("classes", 10)
    assert [word.split("=")[0] for word in found.assumed] == ["attention_order", "schedule", "T"]
    # log p(label | x, sigma) at an integer timestep, from the network in the literature's coordinates.
    t = 30
    abar = float(classifier.schedule.abar[t])
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(1))
    x = torch.stack([x[0] * torch.linspace(0, 1, case["size"]), 1 - 0.3 * x[1]])  # not alike
    with torch.no_grad():
        logits = network((2 * x - 1) * math.sqrt(abar), torch.tensor([t - 1, t - 1]))
        expected = logits.log_softmax(1)
        seen = classifier(x, math.sqrt((1 - abar) / abar) / 2)
    assert (expected[0] - expected[1]).abs().max() > 0.05
    assert (seen - expected).abs().max() < 1e-4


def test_heads_and_their_order_are_words(tmp_path: Path) -> None:
    network = reference(CASES["as 256x256_classifier"])
    path = saved(tmp_path, network)
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with pytest.warns(UserWarning, match=r"assumed schedule=linear, T=1000 \(the defaults"):
        right = load_classifier(path, told={"head_channels": 16, "attention_order": "legacy"})
    with pytest.warns(
        UserWarning, match=r"guided-diffusion\); classifier.WORD=VALUE tells another"
    ):
        other = load_classifier(path, told={"head_channels": 16, "attention_order": "new"})
    heads = load_classifier(path, told={"heads": 1, "attention_order": "legacy"})
    with torch.no_grad():
        assert (right(x, 0.5) - other(x, 0.5)).abs().max() > 1e-4
        assert (right(x, 0.5) - heads(x, 0.5)).abs().max() > 1e-4


def test_the_table_of_public_classifiers() -> None:
    def known(mult: tuple[float, ...], blocks: int) -> tuple[guided.Untold, str]:
        widths = tuple(int(128 * m) for m in mult)
        found = guided.Architecture(
            128, widths, blocks, (False,) * len(mult), True, True, 3, 0, 1000
        )
        told, _, source = guided.untold(found, {})
        return told, source

    public = "as the public file of this shape"
    assert known((1, 2, 3, 4), 4) == (guided.Untold(schedule="cosine", size=64), public)
    assert known((1, 1, 2, 3, 4), 2) == (guided.Untold(size=128), public)
    assert known((1, 1, 2, 2, 4, 4), 2) == (guided.Untold(size=256), public)
    assert known((0.5, 1, 1, 2, 2, 4, 4), 2) == (guided.Untold(size=512), public)
    assert known((1, 2), 2)[1] == "the defaults of guided-diffusion"


@pytest.mark.parametrize(
    ("size", "mult", "blocks", "at"),
    [
        (64, (1, 2, 3, 4), 4, (2, 4, 8)),
        (128, (1, 1, 2, 3, 4), 2, (4, 8, 16)),
        (256, (1, 1, 2, 2, 4, 4), 2, (8, 16, 32)),
        (512, (0.5, 1, 1, 2, 2, 4, 4), 2, (16, 32, 64)),
    ],
)
def test_the_architecture_of_the_public_classifiers(
    size: int, mult: tuple[float, ...], blocks: int, at: tuple[int, ...]
) -> None:
    """Their own widths, on no memory: names and shapes are those of our network."""
    unet = pytest.importorskip("azula.plugins.adm._src.unet")
    with torch.device("meta"):
        network = unet.EncoderUNetModel(
            size,
            3,
            128,
            1000,
            blocks,
            at,
            channel_mult=mult,
            num_head_channels=64,
            use_scale_shift_norm=True,
            resblock_updown=True,
            pool="attention",
        )
    found = guided.load_classifier(network.state_dict(), {})
    settings = {key: value for key, value in found.network.items() if key != "name"}
    with torch.device("meta"):
        ours = UNet2DClassifier(3, **settings)
    assert found.shape == (3, size, size)
    expected = {name: weight.shape for name, weight in ours.state_dict().items()}
    assert {name: weight.shape for name, weight in found.weights.items()} == expected
    assert ours.size == size
    assert sum(each.numel() for each in ours.parameters()) == sum(
        each.numel() for each in network.parameters()
    )


def test_classifiers_and_priors_are_not_mistaken_for_each_other(tmp_path: Path) -> None:
    classifier = saved(tmp_path, reference(CASES["gray"]))
    with pytest.raises(InputError, match="without a way up, a classifier; expected a denoiser$"):
        load_prior(classifier)
    for kind, message in {
        "guided-diffusion": "found a network with a way up, a denoiser; expected a classifier",
        "diffusers": "found a folder of diffusers, a prior; expected a classifier",
        "pesser": "found weights such as '.*', expected those of a classifier of invdiff or",
        "EDM": "found a pickle that torch did not write, expected a classifier",
    }.items():
        path, _ = written(tmp_path, kind)
        with pytest.raises(InputError, match=rf"^classifier {re.escape(str(path))}: {message}"):
            load_classifier(path)
    with pytest.raises(InputError, match="found a prior, expected a classifier"):
        load_classifier("fashion")


def test_damaged_classifiers_are_one_line(tmp_path: Path) -> None:
    weights = reference(CASES["gray"]).state_dict()
    path = tmp_path / "classifier.pt"
    for damaged in (
        {k: v for k, v in weights.items() if not k.startswith("out.2.c_proj")},
        {k: v for k, v in weights.items() if "input_blocks.2" not in k},
        {**weights, "out.2.qkv_proj.weight": torch.zeros(7, 7, 1)},
        {**weights, "out.2.positional_embedding": torch.zeros(64, 12)},
        {**weights, "out.0.bias": torch.full((64,), torch.inf)},
        {k: v for k, v in weights.items() if not k.startswith("out.2.")},
    ):
        torch.save(damaged, path)
        with pytest.raises(InputError) as caught:
            load_classifier(path)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(f"classifier {path}: ")
    torch.save(weights, path)
    with pytest.raises(InputError, match="'target' is no setting.*settings: heads, head_channels"):
        load_classifier(path, told={"target": "v"})
    with pytest.raises(InputError, match="classifier fashion: found heads, expected no settings"):
        load_classifier("fashion", told={"heads": 2})


def test_learned_positions_are_for_one_size(tmp_path: Path) -> None:
    path = saved(tmp_path, reference(CASES["gray"]))
    classifier = load_classifier(path, told={"head_channels": 16})
    with pytest.raises(InputError, match="found images of 32x16, expected 16x16, for which it has"):
        classifier(torch.rand(1, 1, 32, 16), 0.1)
    mean = saved(tmp_path, reference(CASES["a mean over pixels"]))
    free = load_classifier(mean, told={"head_channels": 16})
    assert isinstance(free, NetworkClassifier) and free.network.size is None
    assert free(torch.rand(1, 3, 8, 6), 0.1).shape == (1, 10)


def test_solve_with_another_programs_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prior, _ = written(tmp_path, "guided-diffusion")
    classifier = saved(tmp_path, reference(dict(size=16, mult=(1, 2), blocks=1, at=(2,))))
    write_image(tmp_path / "a.png", torch.rand(3, 16, 16))
    words = [f"prior={prior}", "prior.check=false", f"classifier={classifier}", "label=3"]
    words += [
        "classifier.head_channels=16",
        "solver.steps=2",
        "samples=1",
        "input=a.png",
        "out=run",
    ]
    with pytest.warns(UserWarning, match="classifier .*: assumed attention_order=legacy"):
        solve.main(["task=inpaint", "operator.height=4", "operator.width=4", *words])
    stored = (tmp_path / "run" / "config.yaml").read_text()
    assert "head_channels: 16" in stored
    with pytest.raises(InputError, match="classifier has no setting 'target'"):
        solve.main(["task=inpaint", *words, "classifier.target=v"])
