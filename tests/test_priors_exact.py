"""Priors around the network: sizes, shares and refusals, written out."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from invdiff.errors import InputError
from invdiff.prior import GaussianDenoiser
from invdiff.prior.classifier import UNetClassifier
from invdiff.prior.ddpm import strata
from invdiff.prior.loaders import edm
from invdiff.prior.ncsn import geometric, score
from invdiff.prior.view import DenoiserView


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("multipliers", [(1,), (1, 2), (1, 1, 2)])
def test_the_levels_of_a_classifier(patch: int, multipliers: tuple[int, ...]) -> None:
    network = UNetClassifier(
        1, 3, width=64, multipliers=multipliers, blocks=1, patch=patch, attention=(2,)
    )
    depth = len(multipliers) - 1
    assert network.stride == patch * 2**depth
    assert network.stem.in_channels == patch**2
    assert network.head.in_features == 64 * multipliers[-1]
    assert network.norm.num_groups == 1
    # Attention is where one pixel of the features is two of the image.
    plain = UNetClassifier(1, 3, width=64, multipliers=multipliers, blocks=1, patch=patch)
    more = len(network.middle.state_dict()) > len(plain.middle.state_dict())
    assert more == (patch * 2**depth == 2)
    x = torch.rand(1, 1, 4 * network.stride, 2 * network.stride)
    assert network(x, torch.zeros(1)).shape == (1, 3)


def test_a_classifier_has_two_classes_or_more() -> None:
    assert UNetClassifier(1, 2, width=8, multipliers=(1,), blocks=1).classes == 2
    for classes in (1, 0, 2.5):
        with pytest.raises(InputError, match="classes: found"):
            UNetClassifier(1, classes, width=8, multipliers=(1,), blocks=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("T", [2, 3, 10, 1000])
@pytest.mark.parametrize("k", [1, 2, 7, 999, None])
def test_parts_of_the_timesteps(T: int, k: int | None) -> None:
    bounds = strata(T, k)
    parts = min(k or T - 1, T - 1)
    assert bounds.dtype == torch.int64
    assert len(bounds) == parts + 1
    assert int(bounds[0]) == 2
    assert int(bounds[-1]) == T + 1
    assert bool((bounds.diff() > 0).all())
    if parts == 7:  # geometric: from 2 to T + 1
        expected = [int(2 * ((T + 1) / 2) ** (i / 7)) for i in range(7)]
        expected = [max(bound, 2 + i) for i, bound in enumerate(expected)]
        assert bounds[:-1].tolist() == expected
    for bad in (0, -1, 1.5):
        with pytest.raises(InputError, match="steps_per_image: found"):
            strata(T, bad)  # type: ignore[arg-type]


def test_the_score_of_a_gaussian_and_what_has_none() -> None:
    prior = GaussianDenoiser(torch.full((1, 1, 2), 0.5), 0.04 * torch.eye(2))
    x = torch.tensor([[0.1, 0.9], [0.3, 0.4]]).view(2, 1, 1, 2)
    levels = torch.tensor([0.1, 0.5])
    expected = (0.5 - x) / (0.04 + levels.square()).view(2, 1, 1, 1)
    torch.testing.assert_close(score(prior, x, levels), expected)
    torch.testing.assert_close(score(prior, x[1:], 0.5), expected[1:])
    torch.testing.assert_close(score(prior, x[1:], torch.tensor(0.5)), expected[1:])
    for bad in (0.0, -1.0, torch.tensor([0.1, 0.0])):
        with pytest.raises(InputError, match="expected a noise level > 0"):
            score(prior, x, bad)
    for shape in ((1,), (3,), (2, 1)):
        with pytest.raises(InputError, match=r"found shape .*, expected one level, or \(2,\)"):
            score(prior, x, torch.ones(shape))
    for given in (x[0], x[None], x.expand(2, 2, 1, 2)):
        with pytest.raises(InputError, match=r"x: found shape .*, expected \(B, 1, 1, 2\)"):
            score(prior, given, 0.1)
    assert geometric(2.0, 2.0, 1) == (2.0,)
    assert geometric(4.0, 1.0, 3) == (4.0, 2.0, 1.0)
    with pytest.raises(InputError, match="expected sigma_1 >= sigma_L"):
        geometric(1.0, 1.001, 2)


def test_a_view_takes_images_in_any_dtype() -> None:
    assert DenoiserView.any_dtype


class Canary:
    """An object whose unpickling makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.mkdir, (self.path,)


def test_code_in_the_storage_of_an_edm_pickle_is_not_run(tmp_path: Path) -> None:
    for protocol in (False, True):
        path = tmp_path / f"{protocol}.pt"
        torch.save([Canary(tmp_path / "ran")], path, _use_new_zipfile_serialization=protocol)
        with pytest.raises(pickle.UnpicklingError):
            edm._storage(path.read_bytes())
    assert not (tmp_path / "ran").exists()
    torch.save(torch.arange(3.0), tmp_path / "good.pt")
    assert edm._storage((tmp_path / "good.pt").read_bytes()).tolist() == [0, 1, 2]


def test_what_an_edm_pickle_is_made_of(tmp_path: Path) -> None:
    for meta in (3, {}, {"state": 3}, {"state": [1]}):
        with pytest.raises(pickle.UnpicklingError, match="an object without attributes"):
            edm._reconstructed(meta)
    made = edm._reconstructed({"class_name": "A", "state": {"x": 1}})
    assert (made.kind, made.state) == ("A", {"x": 1})
    assert edm._reconstructed({"state": {}}).kind == ""
    record = edm.Record()
    record.__setstate__((1, 2))
    assert record.state == {}
    weight = torch.zeros(2, requires_grad=True)
    part = edm.Record("B", {"_parameters": {"w": weight, "none": None}, "_buffers": None})
    whole = edm.Record("A", {"_modules": {"b": part, "c": None}, "_buffers": {"x": weight}})
    found = edm.state_dict(whole)
    assert sorted(found) == ["b.w", "x"]
    assert not any(value.requires_grad for value in found.values())
    assert edm.state_dict(edm.Record("A", {"_parameters": {"w": nn.Parameter(weight)}})).keys() == {
        "w"
    }
