"""What is chosen where nobody says: the prior by the picture, the solver by the operator, the range."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from invdiff import files, operators, registry, solve, solvers
from invdiff.choice import (
    example_of,
    introduced,
    may_stretch,
    mismatch,
    other_size,
    prior_for,
    shows_clothing,
    told_of_stretch,
    used_range,
)
from invdiff.errors import InputError
from invdiff.files import restore_file
from invdiff.io.collection import read_images
from invdiff.io.jpeg import coding_error
from invdiff.io.pictures import Picture, read_image
from invdiff.io.units import Units
from invdiff.noise import Gaussian
from invdiff.noise.level import estimate_sigma
from invdiff.operators import LinearOperator
from invdiff.posterior import Posterior
from invdiff.prior import GaussianDenoiser
from invdiff.problem import Problem
from invdiff.resources import EXAMPLES
from invdiff.solvers import DDNM


def test_clothing_is_told_from_photographs() -> None:
    clothes, _ = read_images(EXAMPLES / "fashion")
    assert bool(shows_clothing(clothes).all())
    assert prior_for([clothes]).name == "fashion"
    noise = torch.randn(clothes.shape, generator=torch.Generator().manual_seed(0))
    assert float(shows_clothing(clothes + 0.1 * noise).float().mean()) > 0.95
    photos, _ = read_images(EXAMPLES / "photos")
    squares = photos.mean(1, keepdim=True).unfold(2, 32, 16).unfold(3, 32, 16)
    assert float(shows_clothing(squares.reshape(-1, 1, 32, 32)).float().mean()) < 0.002
    assert prior_for([clothes, photos]).name == "photos"  # one prior serves a run
    assert prior_for([photos]).name == "photos" and "colour" in prior_for([photos]).why
    assert "gray" in prior_for([torch.rand(1, 1, 64, 64)]).why


def test_every_shipped_prior_says_what_it_is_of_and_its_licence() -> None:
    assert (
        introduced("fashion")
        == "prior fashion, what pictures are like: gray pictures of clothing, 32x32"
    )
    for name in ("photos", "faces64"):
        assert "non-commercial research" in introduced(name)
    chosen = introduced("photos", "for the picture is in colour")
    assert "; chosen for the picture is in colour; licence: BSDS500" in chosen
    assert introduced("mine.safetensors") == ""


def test_what_coding_as_jpeg_changed_counts_where_noise_is_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every door, whoever says auto; of other files, and of a level that is known, nothing is added."""
    noise = np.random.default_rng(0).normal(128, 20, (32, 32)).clip(1, 254).astype(np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(noise).save(tmp_path / "in" / "a.jpg", quality=50)
    with Image.open(tmp_path / "in" / "a.jpg") as coded:
        coded.save(tmp_path / "in" / "b.png")  # the same pixels
    read = float(estimate_sigma(read_image(tmp_path / "in" / "b.png")[None]))
    changed = coding_error(tmp_path / "in" / "a.jpg")
    assert changed is not None and changed > read / 10
    seen: list[float] = []

    def drawn(problem: Problem, *_: object, **__: object) -> Posterior:
        assert isinstance(problem.noise, Gaussian)
        seen.append(float(torch.as_tensor(problem.noise.sigma)))
        return Posterior(problem.y[None], problem, 1, 1.0)

    monkeypatch.setattr(files, "restore", drawn)
    prior = GaussianDenoiser(torch.full((1, 32, 32), 0.5), torch.eye(32 * 32))
    expected = {"a.jpg": math.hypot(read, changed), "b.png": read}
    for name, level in expected.items():
        for given in ("auto", 0.3):
            target = tmp_path / f"{given}_{name}"
            restore_file(
                tmp_path / "in" / name, target, operator="denoise", noise=given, prior=prior
            )
            assert seen.pop() == pytest.approx(level if given == "auto" else given, rel=1e-4)
    settings = solve.SolveSettings(
        operator={"name": "denoise"},
        noise={"name": "gaussian", "sigma": "auto"},
        measurement=str(tmp_path / "in"),
    )
    (part,) = solve.pose(settings)
    levels = part.problem.noise.sigma  # type: ignore[attr-defined]
    assert levels.tolist() == pytest.approx([*expected.values()], rel=1e-4)


def test_a_prior_of_something_else_is_told_of() -> None:
    message = mismatch("fashion", (3, 256, 256))
    assert message is not None and "clothing, 32x32" in message and "3x256x256" in message
    assert mismatch("faces64", (3, 100, 64)) is not None
    for name, shape in (("photos", (3, 7, 9)), ("faces64", (3, 64, 64)), ("mine", (1, 2, 2))):
        assert mismatch(name, shape) is None


def test_a_prior_of_ones_own_that_saw_another_size_is_told_of() -> None:
    for name, trained, shape, said in (
        ("runs/mine", (1, 32, 32), (3, 48, 64), "on 32x32, and the picture is 48x64"),
        ("runs/mine", (1, 32, 32), (3, 32, 32), None),
        ("runs/mine", (2,), (2,), None),
        ("photos", (3, 64, 64), (3, 128, 128), None),
    ):
        line = other_size(name, trained, shape)
        assert line is None if said is None else line is not None and line.endswith(said)


@pytest.mark.parametrize("name", registry.names("operator"))
def test_the_default_solver_takes_the_operator(name: str) -> None:
    kind = registry.lookup("operator", name)
    chosen = solvers.preset(solvers.solver_for(kind))
    if kind is operators.Jpeg:
        y = torch.full((1, 3, 16, 16), 0.5)
        exact = Problem(operators.Jpeg((3, 16, 16)), Gaussian(0.0), y)
        assert solvers.solver_named(None, exact) == chosen == solvers.preset("diffpir_jpeg")
        chosen.check(exact)
        noisy = Problem(exact.operator, Gaussian(0.01), y)
        assert solvers.solver_named(None, noisy) == solvers.preset("dps")
        return
    assert issubclass(kind, chosen.requires)
    assert solvers.solver_for(kind) == (
        solvers.DEFAULT if issubclass(kind, LinearOperator) else "dps"
    )


def dim(low: float, high: float, bits: int = 16) -> Picture:
    values = torch.linspace(low, high, 4096)[torch.randperm(4096)].view(1, 1, 64, 64)
    return Picture(values, bits=bits)


def test_the_range_that_is_used() -> None:
    identity = operators.Denoise((1, 64, 64))
    found = used_range([dim(0.1, 0.3)], identity)
    assert found is not None
    assert found.low == pytest.approx(0.1, abs=1e-3) and found.high == pytest.approx(0.3, abs=1e-3)
    assert used_range([dim(0.1, 0.3, bits=8)], identity) is None
    assert used_range([dim(0.0, 0.8)], identity) is None
    # A blur that is dark beyond the edge changes constants: the range begins at 0.
    dark = operators.GaussianBlur((1, 64, 64), sigma=1.0, boundary="zero")
    found = used_range([dim(0.1, 0.3)], dark)
    assert found is not None and found.low == 0
    # What a mask hides does not count, nor does the operator of a clean image's pixels.
    hidden = dim(0.1, 0.3)
    hidden.values[..., :8, :] = 1.0
    mask = torch.ones(64, 64)
    mask[:8] = 0
    assert used_range([hidden], operators.Mask((1, 64, 64), mask)) is not None
    assert used_range([hidden], operators.Mask((1, 64, 64), mask), simulated=True) is None
    assert used_range([dim(0.1, 0.3)], operators.Quantise((1, 64, 64))) is None


def test_stretching_is_a_change_of_units(tmp_path: Path) -> None:
    """A Gaussian prior of stretched images, and the same prior in the file's units, agree."""
    side = 8
    y = (0.1 + 0.2 * torch.rand(side, side, generator=torch.Generator().manual_seed(0))).numpy()
    tifffile.imwrite(tmp_path / "y.tif", y.astype(np.float32), photometric="minisblack")
    shape = (1, side, side)
    part = used_range([Picture(torch.from_numpy(y)[None, None], bits=32)], operators.Denoise(shape))
    assert part is not None
    of_stretched = GaussianDenoiser(torch.full(shape, 0.5), 0.04 * torch.eye(side**2))
    of_file = GaussianDenoiser(
        torch.full(shape, 0.5 * part.width + part.low), 0.04 * part.width**2 * torch.eye(side**2)
    )
    settings = {"operator": operators.Denoise(shape), "noise": 0.02, "seed": 0}
    settings["solver"] = DDNM(steps=400, eta=0.0)
    with pytest.warns(UserWarning, match=r"stretched to \[0, 1\].*sigma .* divided by"):
        restore_file(
            tmp_path / "y.tif", tmp_path / "a.tif", prior=of_stretched, stretch=True, **settings
        )
    restore_file(tmp_path / "y.tif", tmp_path / "b.tif", prior=of_file, **settings)
    a, b = (tifffile.imread(tmp_path / name) for name in ("a.tif", "b.tif"))
    assert a.dtype == np.float32 and 0.05 < a.min() and a.max() < 0.35
    np.testing.assert_allclose(a, b, atol=0.01)


def test_names_in_python(tmp_path: Path) -> None:
    y = np.random.default_rng(0).integers(0, 255, (8, 8), np.uint8)
    from PIL import Image

    Image.fromarray(y).save(tmp_path / "y.png")
    prior = GaussianDenoiser(torch.full((1, 8, 8), 0.5), 0.04 * torch.eye(64))
    for number, noise in enumerate((Gaussian(0.1), 0.1)):
        target = tmp_path / f"x{number}.png"
        restore_file(
            tmp_path / "y.png", target, operator="denoise", noise=noise, prior=prior, solver="ddnm"
        )
    assert (tmp_path / "x0.png").read_bytes() == (tmp_path / "x1.png").read_bytes()
    with pytest.raises(InputError, match="denois"):
        restore_file(
            tmp_path / "y.png", tmp_path / "z.png", operator="denois", noise=0.1, prior=prior
        )


def test_a_stretched_picture_is_written_in_its_range(tmp_path: Path) -> None:
    from invdiff.io.pictures import read_picture
    from invdiff.io.write import write_picture

    picture = dim(0.1, 0.3)
    for name in ("x.tif", "x.png"):
        write_picture(tmp_path / name, picture.stretched(Units(0.1, 0.3)))
        found = read_picture(tmp_path / name)
        assert found.bits == 16
        torch.testing.assert_close(found.values, picture.values, rtol=0, atol=1.01 / 65535)


def test_lines_about_choices() -> None:
    research = "for non-commercial research"
    assert introduced("photos", "for the picture is in colour") == (
        "prior photos, what pictures are like: photographs in colour, of any size; chosen for the "
        f"picture is in colour; licence: BSDS500 and ImageNet are {research}"
    )
    assert introduced("faces64") == (
        "prior faces64, what pictures are like: aligned faces in colour, 64x64; licence: CelebA is "
        f"{research}; photos, which it "
        f"begins with, was trained on BSDS500 and ImageNet, {research} too"
    )
    assert mismatch("faces64", (3, 100, 64)) == (
        "the prior 'faces64' is of aligned faces in colour, 64x64, and the picture is 3x100x64; "
        "prior=auto chooses one"
    )
    assert told_of_stretch(Units(0.12345, 0.34567)) == (
        "0.123 to 0.346 of the file's [0, 1] is stretched to [0, 1], and written back as it was; a "
        "sigma on the file's scale is divided by 0.222 (stretch=false leaves it)"
    )
    clothing = "for the picture is gray, 32x32 and black along its edge"
    in_gray = "for the picture is gray: of the prior its gray part is used"
    assert prior_for([pictured(0.5, 0.0)]) == ("fashion", clothing)
    assert prior_for([torch.ones(2, 1, 32, 32)]) == ("photos", in_gray)
    assert prior_for([torch.ones(2, 3, 32, 32)]) == ("photos", "for the picture is in colour")
    mixed = [torch.ones(1, 1, 9, 9), torch.ones(1, 3, 9, 9)]
    assert prior_for(mixed) == prior_for([]) == ("photos", "for the picture is in colour")


def pictured(middle: float, edge: float, shape: tuple[int, ...] = (1, 1, 32, 32)) -> torch.Tensor:
    x = torch.full(shape, edge)
    x[..., 2:-2, 2:-2] = 0.0
    x[..., 6:26, 6:26] = middle
    return x


@pytest.mark.parametrize(
    ("image", "shown"),
    [
        (pictured(0.051, 0.0), True),
        (pictured(0.049, 0.0), False),
        (pictured(0.5, 0.029), True),
        (pictured(0.5, 0.031), False),
        (pictured(0.5, -0.029), True),
        (pictured(0.5, -0.031), False),
        (pictured(0.5, 0.0, (1, 3, 32, 32)), False),
        (pictured(0.5, 0.0, (1, 1, 32, 33)), False),
    ],
    ids=range(8),
)
def test_what_is_clothing_at_the_ends(image: torch.Tensor, shown: bool) -> None:
    assert shows_clothing(image).tolist() == [shown]


def test_which_priors_may_stretch() -> None:
    for prior in ("auto", "photos", "faces64", "fashion"):
        assert may_stretch(None, prior) is True and may_stretch(False, prior) is False
    for own in ("mine.safetensors", GaussianDenoiser(torch.zeros(1, 2, 2), torch.eye(4))):
        assert may_stretch(None, own) is False and may_stretch(True, own) is True


def test_a_thousandth_of_the_pixels_may_lie_outside() -> None:
    """Of 4,096 pixels 4: the fourth one from either end is the end."""
    identity = operators.Denoise((1, 64, 64))
    picture = dim(0.1, 0.3)
    flat = picture.values.view(-1)
    ordered = flat.sort().values
    flat[ordered[-1] == flat] = 1.0
    flat[ordered[-2] == flat] = torch.inf  # no value
    found = used_range([picture], identity)
    assert found is not None
    assert found.low == float(ordered[3]) and found.high == float(ordered[-5])
    for high, part in ((0.1 + 0.499, True), (0.1 + 0.503, False)):
        assert (used_range([dim(0.1, high)], identity) is not None) is part
    assert used_range([dim(0.2, 0.2)], identity) is None
    below = used_range([dim(-0.1, 0.2)], identity)
    assert below is not None and below.low == 0.0
    few = Picture(torch.linspace(0.1, 0.2, 9).view(1, 1, 3, 3), bits=16)
    assert used_range([few], operators.Denoise((1, 3, 3))) == Units(
        float(few.values.min()), float(few.values.max())
    )
    scaled = Picture(few.values, bits=32, units=Units(0.0, 2.0))
    assert used_range([scaled], operators.Denoise((1, 3, 3))) is None


def test_the_example_of_a_task() -> None:
    found = example_of("remove")
    assert found is not None and [path.name for path in found] == ["photo.png", "mask.png"]
    assert all(path.is_file() for path in found)
    assert example_of("sr4") is None and example_of(None) is None
