"""invdiff app: the functions behind the buttons, and the page in a browser from upload to download."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from test_report import FLAGS

from invdiff import app, solve
from invdiff.app import AppSettings, watch, work
from invdiff.app.answers import write_answer
from invdiff.app.form import TASKS, Form, opened, words_of
from invdiff.app.outcome import Desk, Look, Outcome
from invdiff.app.server import serve
from invdiff.app.shown import as_shown, for_the_eye, went_in
from invdiff.app.telling import as_html, told_of, told_of_problem, without_folder
from invdiff.app.watch import watched
from invdiff.app.work import restored
from invdiff.errors import InputError, heard, hearing, warn
from invdiff.posterior import Posterior
from invdiff.prior.checkpoint import load_prior
from invdiff.problem import Problem

SIDES = (24, 32)  # height, width
HOLE = (slice(8, 14), slice(10, 20))


def colours(seed: int = 0, sides: tuple[int, int] = SIDES) -> np.ndarray:
    """A smooth picture (H, W, 3), uint8."""
    rows, columns = np.mgrid[0 : sides[0], 0 : sides[1]] / max(sides)
    waves = [np.sin(3 * rows + 2 * columns + k + seed) for k in range(3)]
    return (127 + 90 * np.stack(waves, -1)).astype(np.uint8)


def painted(sides: tuple[int, int] = SIDES) -> np.ndarray:
    strokes = np.zeros(sides, bool)
    strokes[HOLE] = True
    return strokes


@pytest.fixture(scope="module")
def photos() -> Any:
    return load_prior("photos", "cpu")


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, photos: Any) -> None:
    """The prior is read once for all tests."""
    monkeypatch.setattr(solve, "load_prior", lambda *_: photos)


def run(
    form: Form,
    folder: Path,
    small: bool = False,
    stopping: Callable[[float], bool] = lambda share: False,
) -> tuple[Outcome, list[str]]:
    """A run's outcome and lines; it stops by the share that is done."""
    lines: list[str] = []
    shares = [0.0]
    outcome = restored(
        form,
        AppSettings(device="cpu"),
        folder,
        small=small,
        tell=lines.append,
        on_progress=shares.append,
        stopping=lambda: stopping(shares[-1]),
    )
    assert shares == sorted(shares) and shares[-1] <= 1
    return outcome, lines


@pytest.mark.slow
def test_what_is_painted_is_filled_and_the_rest_stays(loaded: None, tmp_path: Path) -> None:
    picture = colours()
    Image.fromarray(picture).save(tmp_path / "cat.png")
    form = Form(source=str(tmp_path / "cat.png"), task="remove", strokes=painted(), samples=2)
    outcome, lines = run(form, tmp_path)
    assert outcome.answer is not None and outcome.answer.name == "cat_restored.png"
    found = np.asarray(Image.open(outcome.answer))
    assert (found[~painted()] == picture[~painted()]).all()
    assert (found[painted()] != picture[painted()]).any()
    assert (outcome.before == picture).all() and (outcome.after == found).all()
    assert outcome.doubt is not None
    assert outcome.doubt.max() == 255 and outcome.doubt[~painted()].max() < 32
    filled = 100 * painted().mean()
    assert f"{filled:.0f} % of the picture is filled" in lines
    assert (
        "33.3 %, not calibrated" in outcome.said and "Where the samples differ, on " in outcome.said
    )
    assert any(line.startswith("2 samples of 20 network calls each: about") for line in lines)
    assert outcome.report is not None
    page = outcome.report.read_text(encoding="utf-8")
    assert str(tmp_path) not in page and "cat.png" in page


@pytest.mark.slow
def test_what_is_filled_is_put_into_the_picture_at_its_full_size(
    loaded: None, tmp_path: Path
) -> None:
    """It is worked on in small; all but what is painted over and a rim of it stays, pixel by pixel."""
    picture = colours(sides=(48, 64))
    Image.fromarray(picture).save(tmp_path / "cat.png")
    strokes = painted((48, 64))
    form = Form(
        source=str(tmp_path / "cat.png"), task="remove", strokes=strokes, samples=1, size=32
    )
    outcome, lines = run(form, tmp_path)
    assert outcome.answer is not None
    found = np.asarray(Image.open(outcome.answer))
    assert found.shape == picture.shape
    changed = (found != picture).any(-1)
    reach = 2 * picture.shape[1] // 32  # two pixels of the small picture
    padded = np.pad(strokes, reach)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * (2 * reach + 1,))
    assert not changed[~windows.any((-1, -2))].any() and changed[strokes].mean() > 0.9
    assert any("made smaller from" in line and "full size" in line for line in lines)


def test_a_large_hole_that_was_filled_is_told_of(
    loaded: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(problem: Problem, *given: object, **settings: object) -> Posterior:
        samples = torch.full((1, len(problem), *problem.operator.shape), 0.5)
        return Posterior(samples, problem, nfe=1, seconds=0.0, filled=(True,))

    monkeypatch.setattr(work, "restore", drawn)
    monkeypatch.setattr(work, "cost_of", lambda *given, **settings: "")
    monkeypatch.setattr(
        work, "large_holes", lambda *_: SimpleNamespace(told_of_fill="one hole: its own patches")
    )
    Image.fromarray(colours()).save(tmp_path / "cat.png")
    form = Form(source=str(tmp_path / "cat.png"), task="remove", strokes=painted(), samples=1)
    outcome, _ = run(form, tmp_path, small=True)
    assert outcome.said == "- One hole: its own patches"


@pytest.mark.slow
def test_a_stop_keeps_the_samples_that_are_finished(loaded: None, tmp_path: Path) -> None:
    Image.fromarray(colours()).save(tmp_path / "cat.jpg", quality=95)
    form = Form(source=str(tmp_path / "cat.jpg"), task="remove", strokes=painted(), samples=4)
    outcome, lines = run(form, tmp_path, stopping=lambda share: share > 0.6)
    assert "stopped: 2 of 4 samples are finished" in lines
    assert outcome.answer is not None and Image.open(outcome.answer).format == "JPEG"
    assert "33.3 %" in outcome.said  # the level of two samples
    with pytest.raises(InputError, match="stopped before the first sample was finished"):
        run(form, tmp_path, stopping=lambda share: share > 0.1)


@pytest.mark.slow
def test_a_preview_is_small_and_leaves_no_files(loaded: None, tmp_path: Path) -> None:
    picture = colours(sides=(96, 160))
    Image.fromarray(picture).save(tmp_path / "cat.png")
    form = Form(source=str(tmp_path / "cat.png"), task="remove", strokes=painted((96, 160)))
    outcome, lines = run(form, tmp_path, small=True)
    assert outcome.after.shape == outcome.before.shape == (48, 80, 3)
    assert outcome.answer is None and outcome.report is None and outcome.doubt is None
    assert any(line.startswith("the whole takes 4 samples of 20 network calls") for line in lines)
    assert any(line.startswith("preview: the whole picture in small, 48x80") for line in lines)


@pytest.mark.slow
def test_one_sample_of_a_noisy_picture_is_one_call(loaded: None, tmp_path: Path) -> None:
    """16 bits that use a part of their range come back as such, in TIFF."""
    noise = 500 * np.random.default_rng(0).standard_normal(SIDES)
    dim = (4000 + 60.0 * colours()[..., 0] + noise).clip(0).astype(np.uint16)
    tifffile.imwrite(tmp_path / "cells.tif", dim)
    outcome, lines = run(
        Form(source=str(tmp_path / "cells.tif"), task="denoise", samples=1), tmp_path
    )
    assert outcome.answer is not None and outcome.answer.name == "cells_restored.tif"
    found = tifffile.imread(outcome.answer)
    assert found.dtype == np.uint16 and found.shape == SIDES
    clean = 4000 + 60.0 * colours()[..., 0]
    assert np.square(found - clean).mean() < 0.5 * np.square(dim - clean).mean()
    assert any("stretched" in line for line in lines) and "one network call" in outcome.said
    assert any(line.startswith("noise of sigma = ") for line in lines)
    assert outcome.before.max() > 200  # shown on the range that it has


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_posed(loaded: None, tmp_path: Path, task: str) -> None:
    gray = task in ("colourise", "demosaic")
    picture = colours(sides=(40, 64))
    Image.fromarray(picture[..., 0] if gray else picture).save(tmp_path / "cat.jpg", quality=30)
    form = Form(source=str(tmp_path / "cat.jpg"), task=task, strokes=painted((40, 64)), size=48)
    words = words_of(form, opened(form.source), tmp_path)
    (part,) = solve.get_ready([*words, "device=cpu"]).parts
    expected = {"upscale": (80, 128), "jpeg": (40, 64), "demosaic": (40, 64), "outpaint": (40, 64)}
    assert part.problem.operator.shape == (3, *expected.get(task, (30, 48)))
    kinds = {
        "remove": "MaskFile",
        "deblur": "GaussianBlur",
        "deblur_motion": "Blur",
        "upscale": "Bicubic",
        "denoise": "Denoise",
        "colourise": "Grayscale",
        "jpeg": "Jpeg",
        "demosaic": "Demosaic",
        "outpaint": "MaskOutpaint",
    }
    assert part.problem.operator.made_by.cls.__name__ == kinds[task]
    guesses = [line for line in told_of_problem(part, 0.5) if "colours are guesses" in line]
    assert len(guesses) == (task == "colourise")


def test_what_is_written_is_the_answer_where_nothing_was_painted(tmp_path: Path) -> None:
    """Of another size than the picture, which only what is removed is put back into."""
    Image.fromarray(colours()).save(tmp_path / "cat.jpg")
    form = Form(source=str(tmp_path / "cat.jpg"), task="upscale")
    picture = opened(form.source)
    larger = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    part = SimpleNamespace(answers=lambda values: [picture.with_values(values)])
    path = write_answer(tmp_path, form, picture, part, SimpleNamespace(answer=larger))  # type: ignore[arg-type]
    assert path.name == "cat_restored.jpg" and Image.open(path).size == (64, 48)


@pytest.mark.slow
def test_an_outpainted_picture_keeps_its_own_pixels(loaded: None, tmp_path: Path) -> None:
    picture = colours(sides=(30, 48))
    Image.fromarray(picture).save(tmp_path / "cat.png")
    form = Form(source=str(tmp_path / "cat.png"), task="outpaint")
    words = words_of(form, opened(form.source), tmp_path)
    (part,) = solve.get_ready([*words, "device=cpu"]).parts
    shown = as_shown(went_in(part, "outpaint"))
    assert shown.shape == (40, 64, 3) and (shown[5:35, 8:56] == picture).all()
    margin = np.ones((40, 64), bool)
    margin[5:35, 8:56] = False
    assert (shown[margin] == 128).all()


def test_strokes_follow_the_picture_into_another_size(tmp_path: Path) -> None:
    for name, sides in {"small": (24, 32), "large": (96, 128)}.items():
        Image.fromarray(colours(sides=(48, 64))).save(tmp_path / "cat.png")
        strokes = np.zeros(sides, bool)
        strokes[: sides[0] // 2, : sides[1] // 4] = True
        form = Form(source=str(tmp_path / "cat.png"), task="remove", strokes=strokes, size=32)
        words = words_of(form, opened(form.source), tmp_path)
        mask = np.asarray(Image.open(tmp_path / "mask.png"))
        assert mask.shape == (24, 32) and "operator.kept=black" in words, name
        assert (mask[:12, :8] == 255).all() and mask[12:].max() == mask[:, 8:].max() == 0, name


def test_a_form_may_be_used_twice(tmp_path: Path) -> None:
    """A preview and the run that follows it have one folder."""
    Image.fromarray(colours(sides=(48, 64))).save(tmp_path / "cat.png")
    strokes = painted((48, 64))
    form = Form(source=str(tmp_path / "cat.png"), task="remove", strokes=strokes, size=32)
    first = words_of(form, opened(form.source), tmp_path)
    assert words_of(form, opened(form.source), tmp_path) == first


# Pictures that cannot be used, and odd ones that can.


def saved(path: Path, kind: str) -> str:
    """A file of a kind that people drop."""
    picture = Image.fromarray(colours())
    file = path / f"{kind}.bin"
    if kind == "empty":
        file.write_bytes(b"")
    elif kind == "text":
        file.write_text("no picture <script>")
    elif kind == "cut":
        picture.save(file, "PNG")
        file.write_bytes(file.read_bytes()[:300])
    elif kind == "tiny":
        picture.resize((4, 3)).save(file, "PNG")
    elif kind == "animated":
        frames = [Image.fromarray(colours(seed)) for seed in range(3)]
        frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    elif kind == "pages":
        tifffile.imwrite(file, np.zeros((3, *SIDES), np.uint8), photometric="minisblack")
    elif kind == "16 bits":
        tifffile.imwrite(file, colours().astype(np.uint16) * 20)
    elif kind == "huge":  # of pixels, not of bytes
        header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
        chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
        file.write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + b"".join(
                struct.pack(">I", len(data))
                + kind
                + data
                + struct.pack(">I", zlib.crc32(kind + data))
                for kind, data in chunks
            )
        )
    else:
        picture.convert(kind).save(file, "TIFF" if kind == "CMYK" else "PNG")
    return str(file)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("empty", "found an empty file"),
        ("text", "expected"),
        ("cut", "expected"),
        ("tiny", "found 3x4 (height x width), expected at least 16 pixels a side"),
        ("animated", "found 3 pictures in one file, expected one"),
        ("pages", "found 3 pictures in one file, expected one"),
        ("huge", "pixels"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(tmp_path: Path, kind: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        opened(saved(tmp_path, kind))
    line = without_folder(told_of(caught.value), str(tmp_path / f"{kind}.bin"))
    assert expected in line and "\n" not in line and str(tmp_path) not in line


def test_no_picture_and_nothing_painted_are_told_of(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no picture yet: drop one above"):
        opened(None)
    with pytest.raises(InputError, match="none.png"):
        opened(str(tmp_path / "none.png"))
    source = saved(tmp_path, "RGB")
    form = Form(source=source, task="remove")
    with pytest.raises(InputError, match="nothing is painted yet"):
        words_of(form, opened(source), tmp_path)


@pytest.mark.parametrize(
    ("kind", "channels"), [("16 bits", 3), ("RGBA", 3), ("CMYK", 3), ("L", 1), ("P", 3)]
)
def test_odd_pictures_are_read_and_shown(tmp_path: Path, kind: str, channels: int) -> None:
    picture = opened(saved(tmp_path, kind))
    assert picture.values.shape == (1, channels, *SIDES)
    shown = for_the_eye(picture)
    assert shown.shape == (*SIDES, 3) and shown.dtype == np.uint8
    # 16 bits that are dim are brightened; CMYK and palettes have their own colours.
    assert np.abs(shown.mean() - colours().mean()) < 60


@pytest.mark.slow
def test_alpha_comes_back(loaded: None, tmp_path: Path) -> None:
    picture = Image.fromarray(colours()).convert("RGBA")
    picture.putalpha(Image.fromarray(np.full(SIDES, 200, np.uint8)))
    picture.save(tmp_path / "cut.png")
    form = Form(source=str(tmp_path / "cut.png"), task="remove", strokes=painted(), samples=1)
    outcome, _ = run(form, tmp_path)
    assert outcome.answer is not None and outcome.doubt is None
    found = np.asarray(Image.open(outcome.answer))
    assert found.shape == (*SIDES, 4) and (found[..., 3] == 200).all()


# Runs in threads, lines, the page's HTML.


def an_outcome() -> Outcome:
    black = np.zeros((2, 2, 3), np.uint8)
    return Outcome(black, black, None, "", None, None)


def test_a_run_is_watched_to_its_end_and_its_folder_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "EVERY", 0.01)
    folders: list[Path] = []

    def work(folder: Path, tell: Any, on_progress: Any) -> Outcome:
        folders.append(folder)
        (folder / "x").write_text("x")
        tell("a line")
        for share in (0.25, 0.5, 1.0):
            on_progress(share)
            time.sleep(0.02)
        return an_outcome()

    desk = Desk()
    looks = list(watched(work, desk))
    assert looks[-1].outcome is not None and looks[-1].lines == ["a line"]
    shares = [look.share for look in looks if look.share is not None]
    assert shares == sorted(shares) and shares[-1] == 1
    wait_for(lambda: not folders[0].exists())


def test_who_looks_away_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "EVERY", 0.01)
    desk = Desk()
    folders: list[Path] = []

    def work(folder: Path, tell: Any, on_progress: Any) -> Outcome:
        folders.append(folder)
        while not desk.stopping:
            on_progress(0.5)
            time.sleep(0.005)
        raise InputError("stopped")

    looks = watched(work, desk)
    next(looks)
    looks.close()  # type: ignore[attr-defined]
    assert desk.stopping
    wait_for(lambda: not folders[0].exists())


def test_a_fault_of_ours_is_one_line_and_its_traceback_is_in_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work(folder: Path, tell: Any, on_progress: Any) -> Outcome:
        raise KeyError("a\nb")

    look = list(watched(work, Desk()))[-1]
    assert look.error is not None and "KeyError" in look.error and "\n" not in look.error
    assert "Traceback" in capsys.readouterr().err


def test_what_is_said_is_heard_in_its_own_thread_alone(capsys: pytest.CaptureFixture[str]) -> None:
    mine: list[str] = []
    others: list[str] = []

    def other() -> None:
        with hearing(others.append):
            solve.say("theirs")

    with hearing(mine.append):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        warn("mine")
    assert mine == ["mine"] and others == ["theirs"] and capsys.readouterr().out == ""
    assert not heard("nobody")
    solve.say("printed")
    assert capsys.readouterr().out == "printed\n"


def test_lines_reach_the_page_as_text() -> None:
    evil = "<img src=x onerror=alert(1)>"
    for look in (Look([evil], 0.5, 9.0), Look([evil], None, 0.0, error=evil)):
        assert "<img" not in as_html(look) and "&lt;img" in as_html(look)
    assert "about 9 s left" in as_html(Look([], 0.5, 9.0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": 0}, "size: found 0, expected at least 1"),
        ({"samples": 0}, "samples: found 0, expected at least 1"),
        ({"at_once": 0}, "at_once: found 0, expected at least 1"),
        ({"port": 0}, "port: found 0, expected 1 to 65535"),
        ({"port": 70000}, "port: found 70000, expected 1 to 65535"),
    ],
)
def test_settings_that_cannot_be(given: dict[str, int], message: str) -> None:
    with pytest.raises(InputError) as caught:
        AppSettings(**given)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_without_gradio_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    for name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "")  # put back after the test, as `main` sets them
    with pytest.raises(InputError, match=r"pip install 'invdiff\[app\]'"):
        app.main(["open=false"])


# The page in a browser.


def wait_for(found: Callable[[], Any], seconds: float = 60) -> Any:
    """What a function finds, as soon as it does."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(Exception):
            value = found()
            if value:
                return value
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
        return number


@pytest.fixture(scope="module")
def server(port: int, photos: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("gradio", reason="gradio is not installed")
    settings = AppSettings(port=port, device="cpu", samples=2, open=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solve, "load_prior", lambda *_: photos)
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("cache")))
        blocks = serve(settings, block=False)
        yield f"http://127.0.0.1:{port}"
        blocks.close(verbose=False)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Headless Chromium that can draw on a canvas of WebGL, and downloads into a folder."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    drawing = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    for flag in [*FLAGS, *drawing, f"--user-data-dir={tmp_path / 'chromium'}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    (tmp_path / "downloads").mkdir()
    allowed = {"behavior": "allow", "downloadPath": str(tmp_path / "downloads")}
    opened.execute_cdp_cmd("Browser.setDownloadBehavior", allowed)
    opened.set_window_size(1280, 1100)
    yield opened
    opened.quit()


class Person:
    """One tab of the browser, which is one session."""

    def __init__(self, browser: Any, url: str) -> None:
        self.browser = browser
        browser.switch_to.new_window("tab")
        self.tab = browser.current_window_handle
        browser.get(url)

    def find(self, selector: str) -> Any:
        self.browser.switch_to.window(self.tab)
        return self.browser.find_element("css selector", selector)

    def click(self, selector: str) -> None:
        element = wait_for(lambda: self.find(f"{selector}:not([disabled])"))
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        wait_for(lambda: element.click() is None)

    def drop(self, path: Path) -> None:
        wait_for(lambda: self.find("#source input[type=file]")).send_keys(str(path))
        wait_for(lambda: path.stem in self.status())

    def status(self) -> str:
        return str(self.find("#status").text)

    def done(self) -> None:
        """Wait for the end of a run that leaves something to download."""
        wait_for(lambda: self.find("#answer:not([disabled])"))
        wait_for(lambda: "Done" in self.status())

    def choose(self, text: str) -> None:
        self.click("#task input")
        options = wait_for(lambda: self.browser.find_elements("css selector", "[role=option]"))
        next(option for option in options if text in option.text).click()

    def paint(self) -> None:
        """A stroke across the middle."""
        from selenium.webdriver import ActionChains

        canvas = wait_for(lambda: self.find("#canvas canvas"))
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
        time.sleep(1)
        chain = ActionChains(self.browser).move_to_element(canvas).click_and_hold()
        for _ in range(4):
            chain = chain.move_by_offset(10, 0)
        chain.release().perform()

    def download(self, button: str, name: str, folder: Path) -> Path:
        self.click(button)
        path = folder / name
        wait_for(lambda: path.is_file() and path.stat().st_size)
        return path


@pytest.mark.slow
@pytest.mark.browser
def test_the_browser_goes_from_upload_to_download_for_two_people(
    browser: Any, server: str, tmp_path: Path
) -> None:
    downloads = tmp_path / "downloads"
    first = colours(0, (64, 64))
    second = np.random.default_rng(1).normal(128, 20, (64, 64, 3)).clip(0, 255).astype(np.uint8)
    Image.fromarray(first).save(tmp_path / "alice.png")
    Image.fromarray(second).save(tmp_path / "bob.jpg", quality=95)
    (tmp_path / "odd.png").write_text("<b>no picture</b>")
    alice = Person(browser, server)
    bob = Person(browser, server)

    # What cannot be used is one line, and nothing starts without a picture.
    bob.click("#preview")
    wait_for(lambda: "there is no picture yet" in bob.status())
    bob.drop(tmp_path / "odd.png")
    assert "cannot be read" in bob.status() or "expected" in bob.status()
    assert "Traceback" not in bob.status() and str(tmp_path) not in bob.status()
    bob.click("#source button[aria-label='Clear']")

    # Both work at once: she removes something, he denoises.
    alice.drop(tmp_path / "alice.png")
    alice.paint()
    bob.drop(tmp_path / "bob.jpg")
    bob.choose("noisy")
    alice.click("#preview")
    wait_for(lambda: "Done" in alice.status())
    assert "the whole takes 2 samples" in alice.status()
    alice.click("#restore")
    bob.click("#restore")
    alice.done()
    bob.done()
    assert "of the picture is filled" in alice.status() and "filled" not in bob.status()
    assert "read from the picture" in bob.status() and "read from" not in alice.status()
    assert "not calibrated" in str(alice.find("#said").text)
    assert alice.find("#doubt img").is_displayed()
    assert len(alice.browser.find_elements("css selector", "#both img")) >= 2

    found = np.asarray(Image.open(alice.download("#answer", "alice_restored.png", downloads)))
    changed = (found != first).any(-1)
    assert found.shape == first.shape and 0.005 < changed.mean() < 0.6
    bobs = Image.open(bob.download("#answer", "bob_restored.jpg", downloads))
    assert bobs.format == "JPEG"
    assert np.abs(np.asarray(bobs, float) - second).mean() < 40
    page = alice.download("#report", "report.html", downloads).read_text(encoding="utf-8")
    assert "alice" in page and "bob" not in page

    # What is there to download is of the picture that is there.
    bob.click("#source button[aria-label='Clear']")
    wait_for(lambda: bob.find("#answer[disabled]"))
    assert alice.find("#answer:not([disabled])").is_displayed()

    # Nothing was asked of anybody else.
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    web = [url for url in urls if url.startswith("http")]
    assert web and all(url.startswith(server) for url in web)


@pytest.mark.slow
def test_a_port_in_use_is_told_in_one_line(server: str, port: int) -> None:
    with pytest.raises(InputError, match=f"port: found {port}, which cannot be used"):
        serve(AppSettings(port=port, open=False), block=False)


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("prior=nope", "prior 'nope': no such file, folder or shipped prior"),
        ("device=nope", "device: found 'nope', expected a device of this machine"),
    ],
)
def test_what_no_picture_could_be_restored_with_is_told_at_the_start(word: str, line: str) -> None:
    with pytest.raises(InputError) as caught:
        app.main([word, "open=false"])
    assert str(caught.value).startswith(line)
