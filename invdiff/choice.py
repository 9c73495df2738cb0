"""What suits a picture, where nobody says: its prior, whether it is stretched, and its noise.

A prior is chosen by this rule. A gray picture of 32x32 pixels that is black along its edge, as a
picture of clothing of Fashion-MNIST is, gets `fashion`; every other picture gets `photos`, which
takes any size, and gray pictures, too. `faces64` knows aligned faces alone, which nothing here
recognises: it has to be named.

Of 5,000 test images of Fashion-MNIST the rule takes 99.9 % for clothing, and of 5,424 squares of
32x32 of 24 photographs one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.io.jpeg import coding_error
from invdiff.io.pictures import Picture
from invdiff.io.units import Units
from invdiff.noise import Gaussian, NoiseModel
from invdiff.operators import LinearOperator, Operator
from invdiff.prior.checkpoint import load_card
from invdiff.problem import Problem
from invdiff.resources import LETTERED, shipped_priors

AUTO = "auto"
EXAMPLES_OF = "photos"  # whose examples are restored where neither picture nor prior is given

CLOTHING = (1, 32, 32)  # the shape of Fashion-MNIST's pictures
EDGE = 2  # pixels along the edge of Fashion-MNIST's pictures of 32x32 that are black
BLACK = 0.03  # on average, of a picture with noise
SOMETHING = 0.05  # mean of the middle of a picture that shows something

USED_RANGE = 0.5  # share of [0, 1] below which a picture of 16 bits or floats is stretched
FEW = 0.001  # share of the pixels at either end that may lie outside of [0, 1] then
# Of the colours of the samples' mean. What brought the answer nearest to photographs that the prior
# was not trained on was 0.59 +- 0.16 on 16 of them with two samples each (benchmarks/colours.py
# --find); on 10 others 0.6 lost 0.4 +- 0.5 dB on gray, so that less is kept.
COLOURS = {"photos": 0.35}

CONSTANT = 1e-3  # how near to 1 the measurement of a white picture is, if A keeps constants


class Choice(NamedTuple):
    """A prior by name, and why it was chosen.

    Attributes:
        name: of a prior that ships.
        why: the rest of a sentence that begins with the name.

    Example:
        >>> Choice("photos", "for the picture is in colour").name
        'photos'
    """

    name: str
    why: str


def prior_for(images: Sequence[Tensor]) -> Choice:
    """Return the prior that suits images.

    Args:
        images: batches (B, C, H, W) on the [0, 1] scale: the pictures, or estimates of them.

    Example:
        >>> prior_for([torch.rand(1, 3, 32, 32)]).name
        'photos'
    """
    if images and all(bool(shows_clothing(batch).all()) for batch in images):
        return Choice("fashion", "for the picture is gray, 32x32 and black along its edge")
    shapes = {tuple(batch.shape[1:]) for batch in images}
    if {shape[0] for shape in shapes} == {1}:
        return Choice("photos", "for the picture is gray: of the prior its gray part is used")
    return Choice("photos", "for the picture is in colour")


def shows_clothing(images: Tensor) -> Tensor:
    """Return which of the images (B, C, H, W) look like those of Fashion-MNIST, (B,).

    Example:
        >>> x = torch.zeros(1, 1, 32, 32)
        >>> x[..., 6:26, 6:26] = 0.5
        >>> shows_clothing(x).tolist(), shows_clothing(1 - x).tolist()
        ([True], [False])
    """
    if tuple(images.shape[1:]) != CLOTHING:
        return torch.zeros(len(images), dtype=torch.bool)
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[EDGE:-EDGE, EDGE:-EDGE] = True
    edge = images[:, 0, ~inside].mean(1).abs()
    middle = images[:, 0, 6:26, 6:26].mean((1, 2))
    return (edge < BLACK) & (middle > SOMETHING)


def colours_for(name: str) -> float:
    """Return how strong the colours of an answer are to be under a prior, in units of the samples' mean.

    The mean of the posterior itself would need no factor. Solvers follow a prior that is not sure of
    colours as if it were: their samples agree with each other more than with the photograph. For a
    prior of which nothing is known it is 1.

    Example:
        >>> colours_for("mine.safetensors")
        1.0
    """
    return COLOURS.get(name, 1.0)


def looks(problem: Problem) -> Tensor:
    """Return what images look like before they are restored, (B, C, H, W).

    Of a size that `prior_for` asks nothing more of they are black: an estimate of a large image
    from its y may take minutes.

    Example:
        >>> from invdiff import Gaussian, operators
        >>> y = torch.rand(1, 1, 4, 4)
        >>> looks(Problem(operators.Denoise((1, 4, 4)), Gaussian(0.1), y)).shape
        torch.Size([1, 1, 4, 4])
    """
    is_asked = tuple(problem.operator.shape) == CLOTHING
    if is_asked and isinstance(problem.operator, LinearOperator):
        return problem.baseline()
    return problem.y.new_zeros(len(problem), *problem.operator.shape)


def introduced(name: str, why: str = "") -> str:
    """Return the line that tells which prior that ships is used, and its licence if that forbids something.

    It is empty for a prior of one's own.

    Args:
        name: of the prior.
        why: it was chosen; nothing where one named it.

    Example:
        >>> introduced("fashion")
        'prior fashion, what pictures are like: gray pictures of clothing, 32x32'
        >>> introduced("mine.safetensors")
        ''
    """
    if name not in shipped_priors():
        return ""
    card = load_card(name)
    chosen = f"; chosen {why}" if why else ""
    free = "non-commercial" not in card["licence"]
    licence = "" if free else f"; licence: {card['licence']}"
    return f"prior {name}, what pictures are like: {card['subject']}{chosen}{licence}"


def mismatch(name: str, shape: Sequence[int]) -> str | None:
    """Return in what a prior that ships is of something else than pictures (C, H, W); None if not.

    Example:
        >>> mismatch("fashion", (3, 64, 64)).partition(";")[0]
        "the prior 'fashion' is of gray pictures of clothing, 32x32, and the picture is 3x64x64"
        >>> mismatch("fashion", (1, 32, 32)) is None
        True
    """
    if name not in shipped_priors():
        return None
    card = load_card(name)
    if card.get("any_size") or list(shape) == card["shape"]:
        return None
    return (
        f"the prior {name!r} is of {card.get('subject', 'other pictures')}, and the picture is "
        f"{'x'.join(map(str, shape))}; prior=auto chooses one"
    )


def other_size(name: str, trained: Sequence[int], picture: Sequence[int]) -> str | None:
    """Return that a prior of one's own saw pictures of another size than (C, H, W); None if not.

    Args:
        name: of the prior; what ships tells it by `mismatch`.
        trained: the shape that it was trained on.
        picture: the shape of the pictures.

    Example:
        >>> other_size("runs/mine", (1, 32, 32), (1, 64, 64))
        "the prior 'runs/mine' was trained on 32x32, and the picture is 64x64"
        >>> other_size("runs/mine", (1, 32, 32), (3, 32, 32)) is None
        True
    """
    if name in shipped_priors() or len(trained) != 3 or list(trained[1:]) == list(picture[1:]):
        return None
    sides = ["x".join(map(str, each[1:])) for each in (trained, picture)]
    return f"the prior {name!r} was trained on {sides[0]}, and the picture is {sides[1]}"


def may_stretch(stretch: bool | None, prior: object) -> bool:
    """Return whether pictures that use a part of their range are to be stretched.

    Args:
        stretch: as one was told; None is yes for the priors that ship, which know pictures on all of
            [0, 1]. A prior of one's own may know them as they are.
        prior: its name, or the denoiser.

    Example:
        >>> may_stretch(None, "photos"), may_stretch(None, "mine.safetensors")
        (True, False)
    """
    if stretch is not None:
        return stretch
    return isinstance(prior, str) and prior in (AUTO, *shipped_priors())


def used_range(
    pictures: Sequence[Picture], operator: Operator, simulated: bool = False
) -> Units | None:
    """Return the part of [0, 1] that pictures of 16 bits or floats use; None for most of it.

    Their measurement can be stretched to [0, 1] and solved there, for A is linear and, unless the
    part begins at 0, leaves a constant as it is: A(a x + b) = a A(x) + b.

    Args:
        pictures: the measurements, or the clean images.
        operator: A.
        simulated: whether they are clean images.

    Example:
        >>> from invdiff.operators import Denoise
        >>> dim = Picture(torch.linspace(0, 0.25, 64).view(1, 1, 8, 8), bits=16)
        >>> used_range([dim], Denoise((1, 8, 8))).high < 0.26
        True
    """
    if not isinstance(operator, LinearOperator) or not operator.picture:
        return None
    if any(picture.bits == 8 or picture.units is not None for picture in pictures):
        return None
    values = torch.cat([picture.values for picture in pictures])
    with torch.no_grad():
        of_white = operator(values.new_ones(len(values), *operator.shape))
    measured = operator.measured(torch.ones_like(of_white)) > 0
    found = values.flatten() if simulated else values[measured]
    found = found[torch.isfinite(found)]
    if not found.numel():
        return None
    few = max(1, round(FEW * found.numel()))
    low = max(0.0, float(found.kthvalue(few).values))
    high = float(found.kthvalue(found.numel() + 1 - few).values)
    if bool((of_white[measured] - 1).abs().max() > CONSTANT):
        low = 0.0
    return Units(low, high) if 0 < high - low < USED_RANGE else None


def stretched(
    pictures: Sequence[Picture], noise: NoiseModel, operator: Operator, simulated: bool = False
) -> tuple[list[Picture], NoiseModel, Units | None]:
    """Return pictures that use a part of their range on all of [0, 1], their noise likewise, and the part.

    They are returned as they are, without a part, where they use most of their range, or where the
    noise is not Gaussian.

    Args:
        pictures: as in `used_range`.
        noise: its sigma is on the scale of the files.
        operator: A.
        simulated: as in `used_range`.

    Example:
        >>> from invdiff.noise import Gaussian
        >>> from invdiff.operators import Denoise
        >>> dim = Picture(torch.linspace(0, 0.25, 64).view(1, 1, 8, 8), bits=16)
        >>> stretched([dim], Gaussian(0.05), Denoise((1, 8, 8)))[1]
        Gaussian(sigma=0.2)
    """
    part = used_range(pictures, operator, simulated) if isinstance(noise, Gaussian) else None
    if part is None or not isinstance(noise, Gaussian):
        return list(pictures), noise, None
    if not isinstance(noise.sigma, str):
        noise = Gaussian(noise.sigma / part.width)
    return [picture.stretched(part) for picture in pictures], noise, part


def check_level(sigma: object, pictures: Sequence[Picture]) -> None:
    """Raise InputError for a noise level that is that of another scale, where white is 255.

    Args:
        sigma: of Gaussian noise; what is no number passes.
        pictures: the measurements; of 16 bits or floats any level passes.
    """
    if not isinstance(sigma, int | float) or sigma <= 1:
        return
    if all(picture.bits == 8 for picture in pictures):
        raise InputError(
            f"noise.sigma: found {sigma:g}, expected 1 at most, which is white: "
            f"noise.sigma={sigma / 255:.3g} is {sigma:g} of 255"
        )


def with_coding(problem: Problem, noise: NoiseModel, pictures: Sequence[Picture]) -> Problem:
    """Return a problem in whose estimated noise is, too, what coding as JPEG changed in its pictures.

    Hardly any of that is seen where noise is read, so that both are added. A problem is returned as
    it is where the level of the noise is known, or no picture came from a JPEG file.

    Args:
        problem: of the pictures.
        noise: as it was given.
        pictures: the measurements.
    """
    estimated = problem.noise
    if not isinstance(noise, Gaussian) or not isinstance(noise.sigma, str):
        return problem
    changed = [_coding_of(picture) for picture in pictures for _ in range(len(picture))]
    if not any(changed) or not isinstance(estimated, Gaussian):
        return problem
    read = torch.as_tensor(estimated.sigma)
    return Problem(problem.operator, Gaussian(read.hypot(read.new_tensor(changed))), problem.y)


def _coding_of(picture: Picture) -> float:
    """The standard deviation of what coding changed, 0 of what came from no JPEG file."""
    return 0.0 if picture.file is None else coding_error(picture.file) or 0.0


def told_of_stretch(part: Units) -> str:
    """Return the line that tells of a stretch.

    Example:
        >>> told_of_stretch(Units(0.0, 0.25)).partition(", and")[0]
        "0 to 0.25 of the file's [0, 1] is stretched to [0, 1]"
    """
    return (
        f"{part.low:.3g} to {part.high:.3g} of the file's [0, 1] is stretched to [0, 1], and written "
        f"back as it was; a sigma on the file's scale is divided by {part.width:.3g} "
        "(stretch=false leaves it)"
    )


def example_of(task: str | None) -> tuple[Path, Path] | None:
    """Return the picture and the mask that show what a task does, None where there are none.

    Example:
        >>> example_of("sr4") is None
        True
    """
    if task != "remove":
        return None
    return LETTERED / "photo.png", LETTERED / "mask.png"
