"""Draw heads at random, as an MRI scanner sees them: magnitude images in [0, 1], as slices or as whole volumes.

    python benchmarks/heads.py --out runs/heads --count 4000 --side 64

writes slices of as many heads as PNG files, to train a prior on. A head is a function of place: ellipsoids of scalp,
skull and brain, a folded cortex between two levels of a smooth random field, a fissure, ventricles, nuclei and lesions,
each with a fine random texture, times a smooth bias of the coils. All sizes, places, brightnesses and fields are
random; a third of the heads have a bright fluid, as in T2-weighted images. A seed names a head: the same at any
resolution.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

WAVES = 48  # plane waves of a random field
LOWEST, HIGHEST = -0.55, 0.6  # of z, in units of half the width of an image
HELD_OUT = 10**6  # the first seed of the heads that no prior is trained on


@dataclass(frozen=True)
class Field:
    """Smooth random field of mean 0 and variance 1, a sum of plane waves.

    Attributes:
        waves: wave vectors, (WAVES, 3).
        phases: (WAVES,).
    """

    waves: Tensor
    phases: Tensor

    @classmethod
    def drawn(cls, wavelength: float, generator: torch.Generator) -> Field:
        """Return a field whose waves are about as long as ``wavelength``."""
        directions = torch.randn(WAVES, 3, generator=generator)
        directions = directions / torch.linalg.vector_norm(directions, dim=1, keepdim=True)
        lengths = wavelength * (0.7 + 0.6 * torch.rand(WAVES, 1, generator=generator))
        phases = 2 * math.pi * torch.rand(WAVES, generator=generator)
        return cls(2 * math.pi * directions / lengths, phases)

    def at(self, places: Tensor) -> Tensor:
        """Return the values at places (..., 3)."""
        found = torch.zeros(places.shape[:-1])
        for wave, phase in zip(self.waves, self.phases, strict=True):
            found += torch.cos(places @ wave + phase)
        return found * math.sqrt(2 / WAVES)


@dataclass(frozen=True)
class Ellipsoid:
    """Ellipsoid with its own axes.

    Attributes:
        center, radii: (3,), as x, y, z.
        axes: rotation, (3, 3).
    """

    center: Tensor
    radii: Tensor
    axes: Tensor

    def depth(self, places: Tensor) -> Tensor:
        """Return about how far places (..., 3) are inside, negative outside."""
        along = (places - self.center) @ self.axes
        reach = torch.linalg.vector_norm(along / self.radii, dim=-1)
        return (1 - reach) * float(self.radii.min())


def rotation(angle: float) -> Tensor:
    """Return a rotation around z, (3, 3)."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def head(seed: int, side: int, heights: Tensor) -> Tensor:
    """Return slices of a head, (D, side, side) in [0, 1].

    Args:
        seed: of the head.
        side: pixels of a slice.
        heights: z of the slices, (D,), from LOWEST to HIGHEST; the image's half width is 1.
    """
    generator = torch.Generator().manual_seed(seed)

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    pixel = 2 / side
    line = (torch.arange(side) + 0.5) * pixel - 1
    z, y, x = torch.meshgrid(heights, line, line, indexing="ij")
    places = torch.stack([x - between(-0.06, 0.06), y - between(-0.06, 0.06), z], -1)
    turned = rotation(between(-0.15, 0.15))

    def inside(depth: Tensor, width: float = 1.0) -> Tensor:
        return torch.sigmoid(4 * depth / (width * pixel))

    outer = torch.tensor([between(0.72, 0.82), between(0.86, 0.95), between(0.85, 1.0)])
    middle = torch.zeros(3)
    scalp = Ellipsoid(middle, outer, turned)
    skull = Ellipsoid(middle, outer - between(0.03, 0.07), turned)
    inner = Ellipsoid(middle, skull.radii - between(0.035, 0.07), turned)
    own = (places - middle) @ turned
    is_t2 = between(0, 1) < 1 / 3
    fluid = between(0.75, 0.95) if is_t2 else between(0.08, 0.2)
    gray = between(0.45, 0.6)
    white = between(0.28, 0.42) if is_t2 else between(0.65, 0.85)

    image = torch.zeros_like(x)

    def cover(share: Tensor, value: float | Tensor) -> None:
        image.mul_(1 - share).add_(share * value)

    cover(inside(scalp.depth(places)), between(0.5, 0.95))
    cover(inside(skull.depth(places)), between(0.02, 0.12))
    brain = inner.depth(places)
    cover(inside(brain), fluid)
    # The cortex: sulci where the field is near 0, gray matter around them, both near the surface alone.
    folds = Field.drawn(between(0.3, 0.42), generator).at(places).abs()
    shallow = (1 - (brain / between(0.3, 0.5))).clamp(0, 1)
    deep = 0.4 * (1 - shallow)
    sulci = between(0.1, 0.25)
    ribbon = between(0.8, 1.1)
    tissue = inside(brain - between(0.01, 0.03))
    cover(tissue, white)
    scale = 0.06  # of a field of this wavelength, the length on which its values change by one
    cover(tissue * inside(scale * (ribbon * shallow - deep - folds), 1.5), gray)
    cover(tissue * inside(between(0.03, 0.05) - brain), gray)
    cover(tissue * inside(scale * (sulci * shallow - deep - folds)), fluid)
    is_apart = inside(between(0.2, 0.35) - brain)
    cover(tissue * is_apart * inside(between(0.008, 0.018) - own[..., 0].abs()), fluid)
    tilt, wide = between(0.15, 0.4), between(0.03, 0.08)
    long, front = between(0.16, 0.3), between(-0.12, 0.05)
    for sign in (-1, 1):
        center = torch.tensor([sign * between(0.09, 0.14), front, between(0.02, 0.12)]) @ turned.T
        radii = torch.tensor([wide, long, between(0.12, 0.2)])
        nucleus = torch.tensor([sign * between(0.2, 0.26), front - 0.02, between(-0.1, 0.0)])
        size = torch.tensor([between(0.05, 0.09), between(0.1, 0.17), between(0.1, 0.15)])
        around = turned @ rotation(sign * tilt)
        cover(inside(Ellipsoid(nucleus @ turned.T, size, around).depth(places)), gray)
        cover(inside(Ellipsoid(center, radii, around).depth(places)), fluid)
    third = torch.tensor([between(0.012, 0.03), between(0.08, 0.14), between(0.1, 0.2)])
    below = torch.tensor([0.0, front, -0.15]) @ turned.T
    cover(inside(Ellipsoid(below, third, turned).depth(places)), fluid)
    for _ in range(int(between(0, 4))):
        place = torch.tensor([between(-0.45, 0.45), between(-0.55, 0.55), between(-0.4, 0.5)])
        radii = torch.tensor([between(0.02, 0.12), between(0.02, 0.12), between(0.02, 0.12)])
        spot = Ellipsoid(place, radii, rotation(between(0, 3)))
        cover(tissue * inside(spot.depth(places)), between(0.1, 0.95))
    texture = between(0.02, 0.06) * Field.drawn(between(0.08, 0.16), generator).at(places)
    bias = between(0.05, 0.2) * Field.drawn(between(1.5, 3.0), generator).at(places)
    return (image * (1 + texture) * bias.exp()).clamp(0, 1)


def volume(seed: int, shape: tuple[int, int, int]) -> Tensor:
    """Return the middle of a head, (D, H, W) with H = W; all of it at 64 slices."""
    depth, side, _ = shape
    apart = (HIGHEST - LOWEST) / 63
    middle = (HIGHEST + LOWEST) / 2
    return head(seed, side, middle + apart * (torch.arange(depth) - (depth - 1) / 2))


def piece(seed: int, side: int) -> Tensor:
    """Return one slice of a head at a random height, (side, side)."""
    generator = torch.Generator().manual_seed(seed + 1)
    height = LOWEST + (HIGHEST - LOWEST) * torch.rand(1, generator=generator)
    return head(seed, side, height)[0]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--first", type=int, default=0, help="seed of the first head")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.first, arguments.first + arguments.count):
        values = (255 * piece(seed, arguments.side)).round().byte()
        Image.fromarray(values.numpy()).save(arguments.out / f"{seed:07d}.png")


if __name__ == "__main__":
    main()
