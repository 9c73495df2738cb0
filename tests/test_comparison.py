"""The table of docs/comparison.md: what it says of other libraries, where these are installed."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest

from invdiff import listing
from invdiff.resources import shipped_priors

PAGE = (Path(__file__).parents[1] / "docs" / "comparison.md").read_text(encoding="utf-8")
COLUMNS = ("invdiff", "deepinv", "azula", "diffusers")
ROWS = {
    cells[0]: dict(zip(COLUMNS, cells[1:], strict=True))
    for line in PAGE.splitlines()
    if line.startswith("| ")
    and len(cells := [c.strip() for c in line.strip("|").split(" | ")]) == 5
}
# Where in a package each method, kind of physics or plugin of the table is defined.
DEFINED = {
    "deepinv": {
        "deepinv/sampling/diffusion.py": ("class DDRM", "class DiffPIR", "class DPS"),
        "deepinv/sampling/noisy_datafidelity.py": (
            "class ALD",
            "class ScoreSDE",
            "class ILVR",
            "class PiGDM",
            "class MomentMatching",
        ),
        "deepinv/sampling/langevin.py": ("class ULA",),
        "deepinv/sampling/diffusion_sde.py": ("rng: torch.Generator",),
        "deepinv/sampling/utils.py": ("class Welford",),
        "deepinv/physics/nufft.py": ("class ",),
        "deepinv/physics/pet.py": ("class ",),
        "deepinv/physics/radio.py": ("class ",),
        "deepinv/physics/unmixing.py": ("class ",),
        "deepinv/physics/lidar.py": ("class ",),
        "deepinv/physics/ultrasound.py": ("class ",),
        "deepinv/physics/forward.py": ("class DecomposablePhysics",),
        "deepinv/models/drunet.py": ("class DRUNet",),
        "deepinv/models/diffunet.py": ("class DiffUNet",),
    },
    "azula": {
        "azula/guidance/dps.py": ("class DPS",),
        "azula/guidance/diffpir.py": ("class DiffPIR",),
        "azula/guidance/pgdm.py": ("class PGDM",),
        "azula/guidance/mmps.py": ("class MMPS",),
        "azula/guidance/tmpd.py": ("class TMPD",),
        "azula/guidance/tds.py": ("class TDS",),
        "azula/guidance/jfps.py": ("class JFPS",),
        "azula/guidance/repaint.py": ("class RePaint",),
        "azula/plugins/adm/cards.yaml": ("",),
        "azula/plugins/edm/cards.yaml": ("",),
        "azula/plugins/sd/cards.yaml": ("",),
        "azula/plugins/flux/cards.yaml": ("",),
        "azula/denoise.py": ("def loss",),
    },
    "diffusers": {
        "diffusers/pipelines/deprecated/repaint/pipeline_repaint.py": ("class RePaintPipeline",),
        "diffusers/utils/torch_utils.py": ("isinstance(generator, list)",),
    },
}


def of(name: str) -> metadata.Distribution:
    """The installed package in the version that the page speaks of; the test is skipped otherwise."""
    told = re.search(rf"\[{name}\]\([^)]*\) ([\d.]+)", PAGE)
    assert told is not None
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    if found.version != told[1]:
        pytest.skip(f"{name} is {found.version}, and the page speaks of {told[1]}")
    return found


@pytest.mark.parametrize("name", COLUMNS[1:])
def test_licence_python_and_command_line(name: str) -> None:
    found = of(name)
    licence, python = ROWS["licence; Python"][name].split("; ")
    said = found.metadata.get("License-Expression") or found.metadata["License"]
    assert said.startswith(licence)
    assert python in found.metadata["Requires-Python"]
    scripts = [e.name for e in found.entry_points if e.group == "console_scripts"]
    cell = ROWS["command line"][name]
    assert (cell == "no") == (not scripts)
    assert all(script in cell for script in scripts)


@pytest.mark.parametrize("name", COLUMNS[1:])
def test_what_a_library_has_is_there(name: str) -> None:
    found = of(name)
    for path, parts in DEFINED[name].items():
        text = Path(str(found.locate_file(path))).read_text(encoding="utf-8")
        for part in parts:
            assert part in text, f"{path}: {part}"


def test_the_column_of_this_library() -> None:
    assert f"{len(listing.list('operator'))}, " in ROWS["operators"]["invdiff"]
    assert "four small priors" in ROWS["pretrained networks"]["invdiff"]
    assert len(shipped_priors()) == 4
    methods = {name.split("_2")[0].removesuffix("_one") for name in listing.list("solver")}
    assert len(methods) > 20
