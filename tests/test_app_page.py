"""What the page of the app shows, part by part, and the sentences on it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lines import refusal
from PIL import Image

from invdiff.app import AppSettings, page, server
from invdiff.app.form import Form, form_of, words_of
from invdiff.app.outcome import Desk, Look, Outcome
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


@pytest.fixture(scope="module")
def built() -> Any:
    """The page, which nobody serves."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        return page.page(AppSettings(size=700, samples=3, at_once=2))


def named(built: Any) -> dict[int, str]:
    """What the parts of a page are called, by their numbers."""
    components = built.get_config_file()["components"]
    return {
        each["id"]: each["props"].get("elem_id") or each["props"].get("label") or each["type"]
        for each in components
    }


@pytest.mark.slow
def test_the_parts_of_the_page(built: Any) -> None:
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


IMAGES = {"canvas": ["fullscreen"], "Your picture": ["fullscreen"], "doubt": ["fullscreen"]}
IMAGES["both"] = ["download", "fullscreen"]
STYLED = {"source", "task", "canvas", "preview", "restore", "stop", "status", "both", "said"}
STYLED |= {"doubt", "answer", "report"}

CHOSEN = ["source", "task", "canvas", "Longest side, in pixels; time grows with its square"]
CHOSEN += [
    "Samples: 19 have intervals of 90 %, 4 of 60 %, 1 has none",
    "Seed of the random numbers",
]
DETAILS = ["Width of the blur, in pixels", "Length of the movement, in pixels"]
DETAILS += ["Its angle, in degrees; 0 is sideways", "Times larger"]
BUTTONS = ["preview", "restore", "stop"]
RESULTS = ["status", "both", "said", "doubt", "answer", "report"]
RUNS = ("then", None, ["state", *CHOSEN, *DETAILS], RESULTS, True, "minimal", ["status"])
ENDS = ("then", None, [], BUTTONS, False, "hidden", None)

# What touches what: the event, the part, what is read, what changes, whether it waits in a queue.
EVENTS: list[tuple[Any, ...]] = [
    ("change", "source", CHOSEN[:2], ["canvas", "Your picture", *RESULTS], True, "hidden", None),
    ("change", "task", CHOSEN[:2], ["canvas", "Your picture", *DETAILS], False, "hidden", None),
    ("click", "preview", ["state"], BUTTONS, False, "hidden", None),
    RUNS,
    ENDS,
    ("click", "restore", ["state"], BUTTONS, False, "hidden", None),
    RUNS,
    ENDS,
    ("click", "stop", ["state"], [], False, "hidden", None),
]


@pytest.mark.slow
def test_what_touches_what_on_the_page(built: Any) -> None:
    names = named(built)
    config = built.get_config_file()
    parts = {names[each["id"]]: each["props"] for each in config["components"]}
    images = {name: told["buttons"] for name, told in parts.items() if "format" in told}
    assert images == IMAGES
    assert all(parts[name]["format"] == "png" for name in IMAGES)
    assert {told["elem_id"] for told in parts.values() if told.get("elem_id")} == STYLED
    columns = [each for each in config["components"] if each["type"] == "column"]
    assert [each["props"]["min_width"] for each in columns] == [320, 320]
    found = []
    for event in config["dependencies"]:
        ((number, kind),) = event["targets"]
        on = event["show_progress_on"]
        read = [names[each] for each in event["inputs"]]
        changed = [names[each] for each in event["outputs"]]
        shown = on and [names[each] for each in on]
        target = names.get(number)
        found.append((kind, target, read, changed, event["queue"], event["show_progress"], shown))
        assert event["api_visibility"] == "private"
    assert found == EVENTS
    after = [event["trigger_after"] for event in config["dependencies"]]
    assert after == [None, None, None, 2, 3, None, 5, 6, None]
    work = [(each.concurrency_id, each.concurrency_limit) for each in built.fns.values()]
    assert work[3] == work[6] == ("work", 2)
    assert "work" not in {work[k][0] for k in (0, 1, 2, 4, 5, 7, 8)}


@pytest.mark.slow
def test_a_picture_is_shown_where_it_is_painted_on_or_looked_at(built: Any, tmp_path: Path) -> None:
    show_picture, show_details = (built.fns[k].fn for k in (0, 1))
    Image.new("RGB", (2048, 1024), "red").save(tmp_path / "big.png")
    for task in ("remove", "denoise"):
        canvas, shown, status, *results = show_picture(str(tmp_path / "big.png"), task)
        both, said, doubt, answer, report = results  # those of another picture go
        assert (both, said, doubt["value"], doubt["visible"]) == (None, "", None, False)
        assert [(each["value"], each["interactive"]) for each in (answer, report)] == 2 * [
            (None, False)
        ]
        assert (canvas["visible"], shown["visible"]) == (task == "remove", task == "denoise")
        image = shown["value"]
        assert image.shape == (512, 1024, 3) and (image[0, 0] == [255, 0, 0]).all()
        assert canvas["value"] == {"background": image, "layers": [], "composite": image}
        assert canvas["brush"].default_size == 1024 // 32
        assert "<ul><li>big: 1024x2048 (height x width)</li></ul>" in status
        for path in (None, str(tmp_path / "none.png")):
            canvas, shown, status, *_ = show_picture(path, task)
            assert (canvas["visible"], shown["visible"]) == (False, False)
            assert canvas["value"] is None and shown["value"] is None
            assert canvas["brush"].default_size == 4
            assert ("none.png: No such file" in status) == (path is not None)
            assert str(tmp_path) not in status
    details = {"deblur": [0], "deblur_motion": [1, 2], "upscale": [3], "remove": [], "denoise": []}
    for task, visible in details.items():
        paints = task == "remove"
        changed = [each["visible"] for each in show_details("a.png", task)]
        assert changed == [paints, not paints, *(k in visible for k in range(4))]
        assert [each["visible"] for each in show_details(None, task)][:2] == [False, False]


@pytest.mark.slow
def test_what_the_buttons_of_the_page_do(
    built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, end, halt = (built.fns[k].fn for k in (2, 4, 8))
    desk = Desk(stopping=True)
    assert [each["interactive"] for each in begin(desk)] == [False, False, True]
    assert not desk.stopping
    assert [each["interactive"] for each in end()] == [True, True, False]
    before, after, doubt = (np.full((2, 2), k, np.uint8) for k in range(3))
    told: list[str] = []
    given: list[tuple[Any, ...]] = []

    def restored(form: Any, settings: AppSettings, folder: Path, **rest: Any) -> Outcome:
        rest["tell"](f"{folder}/y.png and {tmp_path}/a.png")
        given.append((form, settings, folder, rest["small"], rest["on_progress"], rest["stopping"]))
        if rest["small"]:
            return Outcome(before, after, None, "small", None, None)
        return Outcome(before, after, doubt, "large", tmp_path / "a.png", tmp_path / "r.html")

    def watched(work: Callable[..., Outcome], desk: Desk) -> Iterator[Look]:
        yield Look(["begun"], 0.5, 1.0)
        yield Look([], 1.0, 60.0, outcome=work(Path("folder"), told.append, float))

    monkeypatch.setattr(page, "restored", restored)
    monkeypatch.setattr(page, "watched", watched)
    values = (str(tmp_path / "a.png"), "denoise", None, 512, 4, 7, 1.5, 9, 0, 2)
    for number, small in ((3, True), (6, False)):
        first, going, last = built.fns[number].fn(desk, *values)
        form, settings, folder, was_small, on_progress, stopping = given.pop()
        assert form == form_of(*values) and settings.at_once == 2
        assert (folder, was_small, on_progress) == (Path("folder"), small, float)
        assert told.pop() == "y.png and a.png"
        desk.stopping = False
        assert not stopping()
        halt(desk)
        assert stopping()
        assert first[:3] == [as_html(Look([], None, 0.0)), None, ""]
        assert (first[3]["value"], first[3]["visible"]) == (None, False)
        assert [(each["value"], each["interactive"]) for each in first[4:]] == [(None, False)] * 2
        assert "begun" in going[0] and len(going) == 6
        assert not any("value" in each for each in going[1:])
        status, both, said, doubtful, *files = last
        assert "Done in 1 minute." in status
        assert both == (before, after) and said == ("small" if small else "large")
        assert doubtful["visible"] is not small
        expected = [None, None] if small else [str(tmp_path / "a.png"), str(tmp_path / "r.html")]
        assert [each["value"] for each in files] == expected
        assert [each["interactive"] for each in files] == [not small, not small]


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
    "colourise": [],
    "demosaic": [],
    "outpaint": [f"operator.height={HALF.shape[-2]}", f"operator.width={HALF.shape[-1]}"],
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
