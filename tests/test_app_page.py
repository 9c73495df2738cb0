"""What the page of the app shows, part by part, and the sentences on it."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lines import refusal

from invdiff.app import AppSettings, page, server
from invdiff.app.form import Form, words_of
from invdiff.app.outcome import Look
from invdiff.app.shown import deviation
from invdiff.app.telling import as_html, doubts, told_of, told_of_size
from invdiff.errors import InputError
from invdiff.io.pictures import Picture
from invdiff.noise import Gaussian
from invdiff.operators import Denoise
from invdiff.posterior import Posterior
from invdiff.problem import Problem
from invdiff.solve import Part

SQUARE = (1, 4, 4)
HALF = torch.full((1, *SQUARE), 0.5)
PROBLEM = Problem(Denoise(SQUARE), Gaussian(0.1), HALF)

SEEN = ("value", "minimum", "maximum", "step", "height", "max_height", "min_width", "precision")
SEEN += ("visible", "interactive", "open", "filterable", "variant", "image_mode", "type")
SLIDER = {"visible": False, "min_width": 160}
PICTURE = {"interactive": False, "type": "numpy", "min_width": 160}
BUTTON = {"variant": "secondary", "visible": True}

# The parts of the page by what they are called, and what is set of them.
PARTS: dict[str, dict[str, Any]] = {
    "1. Your picture": {"height": 120, "type": "filepath", "visible": True, "min_width": 160},
    "2. What is wrong with it?": {
        "value": "remove",
        "filterable": False,
        "visible": True,
        "type": "value",
        "min_width": 160,
    },
    "3. Paint over it": {
        "visible": False,
        "type": "numpy",
        "height": 420,
        "image_mode": "RGBA",
        "min_width": 160,
    },
    "Your picture": {"visible": False, "image_mode": "RGB", **PICTURE},
    "Width of the blur, in pixels": {
        "minimum": 0.5,
        "maximum": 10,
        "value": 1.5,
        "step": 0.1,
        **SLIDER,
    },
    "Length of the movement, in pixels": {
        "minimum": 2,
        "maximum": 60,
        "value": 9,
        "step": 1,
        **SLIDER,
    },
    "Its angle, in degrees; 0 is sideways": {
        "minimum": 0,
        "maximum": 180,
        "value": 0,
        "step": 1,
        **SLIDER,
    },
    "Times larger": {"minimum": 2, "maximum": 4, "value": 2, "step": 1, **SLIDER},
    "Size, samples, seed": {"open": False, "visible": True},
    "Longest side, in pixels; time grows with its square": {
        "value": 700,
        "filterable": True,
        "visible": True,
        "type": "value",
        "min_width": 160,
    },
    "Samples: 19 have intervals of 90 %, 4 of 60 %, 1 has none": {
        "minimum": 1,
        "maximum": 19,
        "value": 3,
        "step": 1,
        "visible": True,
        "min_width": 160,
    },
    "Seed of the random numbers": {
        "value": 0,
        "minimum": 0,
        "step": 1,
        "precision": 0,
        "visible": True,
        "min_width": 160,
    },
    "Preview": {"value": "Preview", "min_width": 90, "interactive": True, **BUTTON},
    "Restore": {"value": "Restore", "min_width": 90, "interactive": True}
    | {**BUTTON, "variant": "primary"},
    "Stop": {"value": "Stop", "min_width": 90, "interactive": False}
    | {**BUTTON, "variant": "stop"},
    "Before | after": {"max_height": 640, "visible": True, "image_mode": "RGB", **PICTURE},
    "Where to doubt it (bright: the samples differ)": {
        "height": 320,
        "visible": False,
        "image_mode": "L",
        **PICTURE,
    },
    "Download the picture": {"interactive": False, "min_width": 120, **BUTTON},
    "Download the report": {"interactive": False, "min_width": 120, **BUTTON},
}


@pytest.mark.slow
def test_the_parts_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    built = page.page(AppSettings(size=700, samples=3))
    found = {}
    for component in built.get_config_file()["components"]:
        told = component["props"]
        name = told.get("label") or (told.get("value") if component["type"] == "button" else None)
        if name:
            found[name] = {key: told[key] for key in SEEN if told.get(key) is not None}
        if told.get("elem_id") == "canvas":
            assert (told["format"], told["buttons"]) == ("png", ["fullscreen"])
            assert (told["sources"], told["transforms"]) == ([], [])
            assert told["layers"]["disabled"] is True
            brush = told["brush"]
            assert (brush["default_size"], brush["colors"]) == (4, ["#ff0000"])
            assert brush["color_mode"] == "fixed"
        if name == "Longest side, in pixels; time grows with its square":
            sides = [side for _, side in told["choices"]]
            assert sides == [128, 256, 384, 512, 700, 768, 1024, 2048]
        if component["type"] == "markdown" and told.get("value"):
            assert told["value"] == (
                "# Restore a picture\nDrop it, say what is wrong with it, look at a preview, and "
                "restore it. Everything stays on this computer."
            )
    assert found == PARTS
    assert (built.title, built.delete_cache, built.analytics_enabled) == (
        "invdiff",
        (600, 86400),
        False,
    )


LOOKS: list[tuple[Look | None, str]] = [
    (None, '<div role="status">Drop a picture to begin.</div>'),
    (
        Look(["a < b"], None, 3.0),
        '<div role="status" aria-live="polite"></div><ul><li>a &lt; b</li></ul>',
    ),
    (
        Look([], 0.25, 30.0),
        '<div role="status" aria-live="polite"><progress max="1" value="0.2500" '
        'aria-label="progress"></progress><div>25 %, about 2 minutes left</div></div>',
    ),
    (
        Look([], 0.25, 1.0),
        '<div role="status" aria-live="polite"><progress max="1" value="0.2500" '
        'aria-label="progress"></progress><div>25 %</div></div>',
    ),
    (
        Look([], 0.5, 1.0, error="1 > 0"),
        '<div role="status" aria-live="polite"><div class="error">1 &gt; 0</div></div>',
    ),
    (
        Look([], 1.0, 90.0, outcome=object()),  # type: ignore[arg-type]
        '<div role="status" aria-live="polite">Done in 2 minutes.</div>',
    ),
]


@pytest.mark.parametrize(("look", "html"), LOOKS)
def test_how_far_a_run_is(look: Look | None, html: str) -> None:
    assert as_html(look) == html


def size_line(picture: tuple[int, int], work: tuple[int, int], task: str, size: int = 512) -> str:
    form = Form(source="a.png", task=task, size=size)
    problem = Problem(Denoise((1, *work)), Gaussian(0.1), torch.zeros(1, 1, *work))
    at_work = Picture(torch.zeros(1, 1, *work))
    part = Part([at_work], [0], None, problem)
    return told_of_size(Picture(torch.zeros(1, 1, *picture)), part, form)


def test_the_size_that_is_worked_on() -> None:
    assert size_line((8, 9), (8, 9), "denoise") == "worked on at 9x8, the picture as it is"
    assert size_line((16, 18), (8, 9), "denoise") == (
        "worked on at 9x8: made smaller from 18x16 (a larger size can be chosen)"
    )
    assert size_line((16, 18), (8, 9), "remove") == (
        "worked on at 9x8: made smaller from 18x16 (a larger size can be chosen); what is filled is "
        "put into the picture at its full size"
    )
    assert size_line((8, 8), (12, 12), "outpaint", 8) == (
        "worked on at 12x12, the picture as it is"
    )
    assert size_line((8, 9), (12, 12), "outpaint", 8) == (
        "worked on at 12x12: made smaller from 9x8 (a larger size can be chosen)"
    )


def test_what_the_samples_say_of_the_error() -> None:
    samples = torch.full((4, 1, *SQUARE), 0.5)
    samples[:, 0, 0, 0, 0] = torch.tensor([0.2, 0.4, 0.6, 0.8])
    samples[:, 0, 0, 0, 1] = torch.tensor([0.4, 0.5, 0.6, 0.5])
    found = Posterior(samples, PROBLEM, 1, 0.0)
    assert doubts(found) == [
        "White in the picture of doubt is a standard deviation of 66 of 255",
        "Where the samples differ, on 12 % of the picture, an interval (60 %, not calibrated) is "
        "±25.5 of 255 wide in the median",
    ]
    assert doubts(replace(found, samples=samples[:1])) == []
    assert doubts(replace(found, samples=samples[:1], estimate="mmse")) == [
        "This is the mean itself, by one network call; more samples show where to doubt it"
    ]
    levels = deviation(found)
    assert levels is not None
    assert levels[0].tolist()[0] == 255
    assert levels[2].tolist() == [0, 0, 0, 0]
    assert deviation(replace(found, samples=samples[:1])) is None


def test_what_is_told_of_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert told_of(InputError("one  line\nof two")) == "one line of two"
    assert capsys.readouterr().err == ""
    assert told_of(KeyError("x")) == ("this did not work (KeyError: 'x'); the terminal tells more")
    assert "KeyError" in capsys.readouterr().err


WORDS = {
    "deblur": ["operator.sigma=2.5"],
    "deblur_motion": ["operator.kernel.length=7.0", "operator.kernel.angle=30.0"],
    "upscale": ["operator.factor=3"],
    "denoise": [],
    "jpeg": [],
}


@pytest.mark.parametrize("task", WORDS)
def test_the_words_for_a_task(task: str, tmp_path: Path) -> None:
    form = Form(
        source="a.png", task=task, samples=2, seed=5, blur=2.5, length=7.0, angle=30.0, factor=3
    )
    picture = Picture(HALF, name="a")
    words = words_of(form, picture, tmp_path)
    assert [word for word in words if word.startswith(("operator.", "estimate"))] == WORDS[task]
    assert {"samples=2", "seed=5", f"task={task}"} <= set(words)
    one = words_of(replace(form, samples=1), picture, tmp_path)
    assert ("estimate=mmse" in one) == (task == "denoise")


def test_a_port_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    class Page:
        def queue(self, **_: Any) -> Page:
            return self

        def launch(self, **_: Any) -> None:
            raise OSError("taken\nreally")

    pytest.importorskip("gradio", reason="gradio is not installed")
    monkeypatch.setattr(server, "page", lambda settings: Page())
    for port, other in ((7860, 7861), (65535, 1)):
        assert refusal(partial(server.serve, AppSettings(port=port))) == (
            f"port: found {port}, which cannot be used (taken), expected another: invdiff app "
            f"port={other}"
        )


def test_how_the_page_is_served(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """To this computer alone, and without a word to anybody else."""
    told: dict[str, Any] = {}

    class Page:
        def queue(self, **settings: Any) -> Page:
            told.update(settings)
            return self

        def launch(self, **settings: Any) -> None:
            told.update(settings)

    gradio = SimpleNamespace(themes=SimpleNamespace(Default=lambda **fonts: fonts))
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    monkeypatch.setattr(server, "page", lambda settings: Page())
    server.serve(AppSettings(port=7861, at_once=3, open=True), block=False)
    assert told.pop("theme") == {
        "font": ["system-ui", "sans-serif"],
        "font_mono": ["ui-monospace", "monospace"],
    }
    assert told.pop("css") == server.CSS
    assert told == {
        "default_concurrency_limit": 3,
        "server_name": "127.0.0.1",
        "server_port": 7861,
        "share": False,
        "inbrowser": False,
        "prevent_thread_lock": True,
        "quiet": True,
        "footer_links": [],
        "max_file_size": server.MOST_BYTES,
        "ssr_mode": False,
        "enable_monitoring": False,
    }
    assert capsys.readouterr().out == "invdiff app: http://127.0.0.1:7861 (Ctrl-C ends it)\n"
