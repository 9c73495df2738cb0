"""Write another program's prior, or classifier, as a file of this package, with a card.

    python -m invdiff.convert prior=ffhq_10m.pt out=ffhq.safetensors licence=MIT
    python -m invdiff.convert prior=hf:google/ddpm-cat-256 out=cats.safetensors
    python -m invdiff.convert classifier=256x256_classifier.pt out=classifier.safetensors
    python -m invdiff.convert prior=photos expert=runs/low_noise out=photos_low.safetensors

The file holds all that was told or assumed, so that it needs no words: prior=ffhq.safetensors. The
card beside it, ffhq.json, records the source with its SHA-256, the licence and what was assumed. With
expert=, a prior of ours and an expert for low noise become one prior.
"""

from __future__ import annotations

if __name__ == "__main__":
    from invdiff.config.help import print_help_if_asked

    print_help_if_asked(__file__)  # before the imports, which take seconds

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from invdiff import config
from invdiff.errors import InputError
from invdiff.prior.checkpoint import (
    load_card,
    load_classifier,
    load_network,
    load_prior,
    prior_files,
    save_prior,
)
from invdiff.prior.classifier import Classifier
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.experts import joined
from invdiff.prior.loaders import hub
from invdiff.prior.loaders.words import ClassifierWords, PriorWords, name_of

SUFFIX = ".safetensors"
UNKNOWN = "not known: see the source"


@dataclass(frozen=True, kw_only=True)
class ConvertSettings:
    """Settings of ``python -m invdiff.convert``.

    Attributes:
        out: the file to write, NAME.safetensors; the card is NAME.json beside it.
        prior: the prior, with its words, as in ``python -m invdiff.solve``.
        classifier: a classifier of noisy images, in place of a prior.
        expert: a prior that takes over at low noise, from a training run with sigma_range; it takes
            the place of an expert that the prior has already.
        mix: [low, high], the noise levels of pixels in [0, 1] between which expert and prior are
            mixed.
        licence: under which the weights may be used, for the card; by default that of the source's
            card, where it has one.
        precision: of the weights in the file; float16 takes half the space.
        overwrite: replace a file that exists.

    Raises:
        InputError: both a prior and a classifier, or neither; or `out` is no name for such a file.

    Example:
        >>> ConvertSettings(prior="model.pt", out="model.pt")
        Traceback (most recent call last):
        ...
        invdiff.errors.InputError: out: found 'model.pt', expected a name that ends in .safetensors
    """

    out: str
    prior: str | PriorWords | None = None
    classifier: str | ClassifierWords | None = None
    expert: str | None = None
    mix: tuple[float, float] = (0.15, 0.3)
    licence: str | None = None
    precision: Literal["float32", "float16"] = "float32"
    overwrite: bool = False

    def __post_init__(self) -> None:
        if (self.prior is None) == (self.classifier is None):
            found = "neither" if self.prior is None else "both"
            raise InputError(f"prior, classifier: found {found}, expected one of them")
        if self.expert is not None and self.prior is None:
            raise InputError("expert: found it without a prior, expected prior=... for high noise")
        if not self.out.endswith(SUFFIX):
            raise InputError(f"out: found {self.out!r}, expected a name that ends in {SUFFIX}")

    @property
    def source(self) -> str | ClassifierWords:
        """What is converted."""
        found = self.classifier if self.prior is None else self.prior
        assert found is not None
        return found


def main(words: list[str]) -> None:
    """Convert what the words of a command line name."""
    settings = config.validate(ConvertSettings, config.resolve(words, ConvertSettings))
    out = Path(settings.out)
    card_file = out.with_suffix(".json")
    check_free(settings, out, card_file)
    found: Denoiser | Classifier
    if settings.prior is not None:
        found = load_prior(settings.prior)
        if settings.expert is not None:
            found = joined(load_network(settings.expert), found, settings.mix)
    else:
        assert settings.classifier is not None
        found = load_classifier(settings.classifier)
    card = card_of(settings, found)
    save_prior(found, out, card, dtype=getattr(torch, settings.precision))
    print(f"{'prior' if settings.prior is not None else 'classifier'}: {out}, card: {card_file}")


def check_free(settings: ConvertSettings, *places: Path) -> None:
    """Raise InputError for a place that is taken, or cannot be written to."""
    for place in places:
        if os.path.isdir(place):
            raise InputError(f"out {place}: found a folder, expected the name of a file")
        if os.path.lexists(place) and not settings.overwrite:
            raise InputError(f"out {place}: exists already (overwrite=true replaces it)")
    if (
        os.path.exists(places[0])
        and places[0].resolve() == Path(name_of(settings.source)).resolve()
    ):
        raise InputError(f"out {places[0]}: is the source itself, expected another name")


def card_of(settings: ConvertSettings, found: Denoiser | Classifier) -> dict[str, Any]:
    """Return the card of what is converted: source, SHA-256, licence, words and assumptions."""
    name = name_of(settings.source)
    files = prior_files(name)
    before = load_card(files[0]) if files and files[0].suffix == SUFFIX else {}
    card = {
        **hub.origin(name, files),
        **before,
        "licence": settings.licence or before.get("licence", UNKNOWN),
        "shape": list(found.shape),
        "parameters": sum(weight.numel() for weight in found.parameters()),
    }
    told = settings.source.told if isinstance(settings.source, ClassifierWords) else {}
    if settings.expert is not None:
        (file,) = prior_files(settings.expert)
        card["expert"] = {
            "source": settings.expert,
            "sha256": hub.checksums(file),
            "mix": list(settings.mix),
        }
    if told:
        card["told"] = told
    assumed = list(found.assumed)
    if assumed:
        card["assumed"] = assumed
    return card


if __name__ == "__main__":
    config.run_command(main)
