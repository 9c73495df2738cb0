"""Words for what a file of weights does not tell: ``prior=FILE prior.heads=8 prior.schedule=cosine``.

The same words stand in presets, in a YAML file beside the weights, and in `told=` from Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from invdiff.errors import InputError, brief, shown
from invdiff.prior.ddpm import Target, Variance
from invdiff.prior.schedule import ScheduleName
from invdiff.ranges import COUNT
from invdiff.registry import nearest

Kind = Literal["denoiser", "consistency"]


@dataclass(frozen=True, kw_only=True)
class ClassifierWords:
    """A classifier by its name, and what its file does not tell.

    Attributes:
        name: the file or the run's folder.
        heads: number of attention heads on every level.
        head_channels: channels of an attention head, in place of `heads`.
        attention_order: "legacy" has queries, keys and values of a head side by side, "new" the
            queries of all heads first.
        schedule: the noise schedule of the training, by name.
        T: number of diffusion steps of the training.
        rescale_timesteps: whether the network is told t 1000 / T.
        size: height and width of the training images.

    Raises:
        InputError: a word of the wrong type, or out of range.

    Example:
        >>> ClassifierWords(name="64x64_classifier.pt", schedule="cosine").told
        {'schedule': 'cosine'}
    """

    name: str
    heads: int | None = None
    head_channels: int | None = None
    attention_order: Literal["legacy", "new"] | None = None
    schedule: ScheduleName | None = None
    T: int | None = None
    rescale_timesteps: bool | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for word, value in self.told.items():
            _check(word, value, [hint for hint in get_args(hints[word]) if hint is not NoneType])

    @property
    def told(self) -> dict[str, Any]:
        """The words that were given, without the name."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            word: value for word, value in given.items() if word != "name" and value is not None
        }


@dataclass(frozen=True, kw_only=True)
class PriorWords(ClassifierWords):
    """A prior by its name, and what its file does not tell.

    Attributes:
        name: one that ships, a file, a folder, hf:owner/name, or module:Class.
        target: what the network predicts.
        variance: of the reverse process.
        kind: "consistency" for a consistency model, which maps to the end of a trajectory.
        channels: of the images, where module:Class makes a network.
        check: false uses a prior that does not denoise a simple picture.

    Raises:
        InputError: a word of the wrong type, or out of range.

    Example:
        >>> PriorWords(name="model.pt", heads=0)
        Traceback (most recent call last):
        ...
        invdiff.errors.InputError: heads: found 0, expected at least 1
    """

    target: Target | None = None
    variance: Variance | None = None
    kind: Kind | None = None
    channels: int | None = None
    check: bool | None = None


Words = TypeVar("Words", bound=ClassifierWords)


def understood(kind: type[Words], name: str, told: Mapping[str, Any], where: str = "") -> Words:
    """Return words that a caller gave in Python, or that a YAML file holds.

    Args:
        kind: of words.
        name: of the prior or the classifier.
        told: the words by name; None is as good as no word.
        where: what the message begins with, by default what the words are for.

    Raises:
        InputError: an unknown word, or a value that it does not take.

    Example:
        >>> understood(PriorWords, "model.pt", {"heads": 4}).told
        {'heads': 4}
    """
    where = where or f"{'prior' if issubclass(kind, PriorWords) else 'classifier'} {name}"
    known = [field.name for field in fields(kind) if field.name != "name"]
    for word in told:
        if word not in known:
            hint = nearest(str(word), known)
            raise InputError(
                f"{where}: {brief(word)} is no setting{hint} (settings: {', '.join(known)})"
            )
    try:
        return kind(name=name, **told)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def with_words(
    kind: type[Words], name: str | Path | ClassifierWords, told: Mapping[str, Any] | None
) -> Words:
    """Return a name, which may come with words, with those that a caller gave in Python on top.

    Raises:
        InputError: an unknown word, or a value that it does not take.

    Example:
        >>> with_words(PriorWords, PriorWords(name="a.pt", T=10), {"heads": 4}).told
        {'heads': 4, 'T': 10}
    """
    before = name.told if isinstance(name, ClassifierWords) else {}
    text = name.name if isinstance(name, ClassifierWords) else str(name)
    if told is not None and not isinstance(told, Mapping):
        raise InputError(f"told: found {shown(told)}, expected words such as {{'heads': 4}}")
    return understood(kind, text, {**before, **(told or {})})


def name_of(prior: str | ClassifierWords) -> str:
    """Return the name of a prior or a classifier that may come with words.

    Example:
        >>> name_of("fashion"), name_of(PriorWords(name="model.pt", T=4000))
        ('fashion', 'model.pt')
    """
    return prior.name if isinstance(prior, ClassifierWords) else prior


def plain(prior: str | ClassifierWords) -> str | dict[str, Any]:
    """Return a setting as a configuration file has it.

    Example:
        >>> plain(PriorWords(name="model.pt", T=4000))
        {'name': 'model.pt', 'T': 4000}
    """
    if not isinstance(prior, ClassifierWords):
        return prior
    return {"name": prior.name, **prior.told} if prior.told else prior.name


def _check(word: str, value: Any, hints: list[Any]) -> None:
    """Raise InputError unless a value is of one of these types."""
    for hint in hints:
        if get_origin(hint) is Literal:
            choices = get_args(hint)
            if not isinstance(value, str) or value not in choices:
                raise InputError(
                    f"{word}: found {shown(value)}, expected one of {', '.join(choices)}"
                )
        elif hint is bool and not isinstance(value, bool):
            raise InputError(f"{word}: found {shown(value)}, expected true or false")
        elif hint is int:
            COUNT.check(word, value)
