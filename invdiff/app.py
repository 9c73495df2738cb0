"""Restore a picture in the browser: paint what is to go, or choose what is wrong with it.

    invdiff app
    invdiff app port=7861 size=768 samples=8

Opens a page at http://127.0.0.1:7860 that only this computer sees, and that needs no network. Drop
a picture, see a small preview and how long the whole will take, restore it, compare before and
after, see where to doubt it, and take the answer in the format that went in. It needs
pip install 'invdiff[app]'. The tasks are those of invdiff solve, which does the work.
"""

from __future__ import annotations

if __name__ == "__main__":
    from invdiff.config.help import print_help_if_asked

    print_help_if_asked(__file__)  # before the imports, which take seconds

import functools
import html
import os
import queue
import re
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff import config
from invdiff.choice import AUTO
from invdiff.cost import cost_of, duration
from invdiff.errors import InputError, first_line, hearing
from invdiff.evaluation.report import write_report
from invdiff.inference import Interrupted, restore
from invdiff.intervals import shown_levels
from invdiff.io.pictures import Picture, read_picture, size, to_channels
from invdiff.io.units import MEASUREMENTS
from invdiff.io.whole import RUN_FILE
from invdiff.io.write import write_image, write_picture
from invdiff.noise import describe_sigma
from invdiff.operators.painted import percent as percent_of
from invdiff.posterior import Posterior
from invdiff.prior.denoiser import state_like
from invdiff.solve import (
    Part,
    Ready,
    calibrated,
    get_ready,
    intervals_line,
    previewed,
    told_of_colours,
    told_of_mask,
)
from invdiff.solvers.tools.holes import large_holes
from invdiff.window import window_around

if TYPE_CHECKING:
    import gradio as gr

HOST = "127.0.0.1"  # this computer alone
TASKS = {
    "remove": "Something on it should go",
    "deblur": "It is out of focus",
    "deblur_motion": "It is blurred by a movement",
    "upscale": "It is too small",
    "denoise": "It is noisy",
    "colourise": "It has no colours",
    "jpeg": "It has the blocks of a JPEG file",
    "demosaic": "It is the mosaic of a colour sensor",
    "outpaint": "It is cut too close",
}
# Pixels mean something to these: blocks of JPEG, a mosaic, the size itself.
AT_FULL_SIZE = ("upscale", "jpeg", "demosaic")
SIZES = (128, 256, 384, 512, 768, 1024, 2048)
LEAST_SIDE = 16  # pixels
CONTINUED = 6  # an outpainted picture gets a sixth of its sides at each of its edges
PAINTED_ON = 1024  # pixels of the longest side of what a browser shows to paint on
PAINTED = 0.5  # of the opacity of a stroke
DIM = 0.5  # a picture of more than 8 bits below it is shown brighter
EVERY = 0.5  # seconds between two looks at a run
KNOWN_AFTER = 2.0  # seconds of a run, from which on the rest of its time is told
BRUSHES = 32  # how many strokes side by side cover a picture at first
KEPT_FOR = 24 * 3600  # seconds that files of the page are kept for, at most
MOST_BYTES = 512 * 2**20  # of a picture that is dropped


@dataclass(frozen=True, kw_only=True)
class AppSettings:
    """Settings of ``invdiff app``.

    Attributes:
        port: of the page, http://127.0.0.1:PORT.
        size: the longest side in pixels that pictures are made smaller to at first; the page offers
            others. Time grows with its square.
        samples: of each picture at first; the page offers others.
        prior: as in ``invdiff solve``; "auto" chooses one by the picture.
        device: where to compute: cpu, cuda, cuda:N; "auto" is CUDA where there is one.
        at_once: how many pictures are worked on at the same time; others wait.
        open: open the page in a browser.

    Example:
        >>> AppSettings(port=7861).size
        512
    """

    port: int = 7860
    size: int = 512
    samples: int = 4
    prior: str = AUTO
    device: str = "auto"
    at_once: int = 1
    open: bool = True

    def __post_init__(self) -> None:
        for name in ("size", "samples", "at_once"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: found {getattr(self, name)}, expected at least 1")
        if not 0 < self.port < 2**16:
            raise InputError(f"port: found {self.port}, expected 1 to 65535")


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a person chose on the page.

    Attributes:
        source: file of the picture; None where there is none yet.
        task: one of TASKS.
        strokes: (H, W), true where something was painted over; None for nothing.
        size: longest side in pixels that the picture is made smaller to.
        samples: how many are drawn.
        seed: of the samples.
        blur: width of the blur, in pixels.
        length: of the movement, in pixels.
        angle: of the movement, in degrees.
        factor: how many times larger the picture gets.

    Example:
        >>> Form(source="photo.jpg", task="denoise").samples
        4
    """

    source: str | None
    task: str
    strokes: np.ndarray | None = None
    size: int = 512
    samples: int = 4
    seed: int = 0
    blur: float = 1.5
    length: float = 9.0
    angle: float = 0.0
    factor: int = 2


@dataclass(frozen=True)
class Outcome:
    """What a run shows.

    Attributes:
        before: (H, W, 3) uint8, what went in, in the size of what came out.
        after: (H, W, 3) uint8, the mean of the samples.
        doubt: (H, W) uint8, their standard deviation, white where largest; None for one sample.
        said: what is known of the error, in sentences.
        answer: file of the restored picture, in the format that went in; None for a preview.
        report: file of the page report.html, likewise.

    Example:
        >>> black = np.zeros((4, 4, 3), np.uint8)
        >>> Outcome(black, black, None, "one sample has no deviation", None, None).answer is None
        True
    """

    before: np.ndarray
    after: np.ndarray
    doubt: np.ndarray | None
    said: str
    answer: Path | None
    report: Path | None


@dataclass
class Desk:
    """What the page of one person holds on the server.

    Attributes:
        stopping: whether the person asked to stop.

    Example:
        >>> Desk().stopping
        False
    """

    stopping: bool = False


@dataclass(frozen=True)
class Look:
    """How far a run is.

    Attributes:
        lines: that it said.
        share: of the work that is done; None before it begins.
        seconds: since the work began.
        outcome: of a run that is over.
        error: the line that tells why there is no outcome.

    Example:
        >>> Look(["4 samples"], 0.5, 10.0).seconds
        10.0
    """

    lines: list[str]
    share: float | None
    seconds: float
    outcome: Outcome | None = None
    error: str | None = None


def main(words: list[str]) -> None:
    """Run the command line."""
    settings = config.validate(AppSettings, config.resolve(words, AppSettings))
    # Before gradio is imported, and for all that it starts.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    with tempfile.TemporaryDirectory(prefix="invdiff-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # what is uploaded and downloaded goes with it
        serve(settings)


def serve(settings: AppSettings, block: bool = True) -> gr.Blocks:
    """Serve the page, until the command is stopped.

    Args:
        settings: of the command.
        block: whether to wait for that; else the page is returned as soon as it is there, and its
            `close` ends it.

    Raises:
        InputError: gradio is not installed, or the port is in use.
    """
    blocks = page(settings)
    import gradio as gr

    theme = gr.themes.Default(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    try:
        blocks.queue(default_concurrency_limit=settings.at_once).launch(
            server_name=HOST,
            server_port=settings.port,
            share=False,
            inbrowser=settings.open and block,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            max_file_size=MOST_BYTES,
            ssr_mode=False,
            enable_monitoring=False,
            theme=theme,
            css=CSS,
        )
    except OSError as error:
        raise InputError(
            f"port: found {settings.port}, which cannot be used ({first_line(error)}), expected "
            f"another: invdiff app port={settings.port % 65535 + 1}"
        ) from None
    print(f"invdiff app: http://{HOST}:{settings.port} (Ctrl-C ends it)", flush=True)
    if block:
        try:
            threading.Event().wait()
        finally:
            blocks.close(verbose=False)
    return blocks


# The work behind the buttons. None of it knows gradio.


def opened(source: str | None) -> Picture:
    """Return the one picture in a file.

    Raises:
        InputError: there is no file, or it holds no picture, several, or a tiny one.
    """
    if source is None:
        raise InputError("there is no picture yet: drop one above")
    picture = read_picture(source, rule=MEASUREMENTS)
    name = Path(source).name
    if len(picture) != 1:
        raise InputError(
            f"{name}: found {len(picture)} pictures in one file, expected one; save the one that "
            "you mean, or restore all of them by invdiff solve"
        )
    channels, height, width = picture.values.shape[1:]
    if min(height, width) < LEAST_SIDE:
        raise InputError(
            f"{name}: found {size(picture.values)}, expected at least {LEAST_SIDE} pixels a side"
        )
    if channels not in (1, 3):
        raise InputError(f"{name}: found {channels} channels, expected 1 (gray) or 3 (colour)")
    return picture


def made_smaller(picture: Picture, longest: int) -> Picture:
    """Return a picture whose longest side is so many pixels at most.

    Example:
        >>> made_smaller(Picture(torch.rand(1, 3, 100, 50)), 40).values.shape
        torch.Size([1, 3, 40, 20])
    """
    height, width = picture.values.shape[-2:]
    share = longest / max(height, width)
    if share >= 1:
        return picture
    sides = [max(LEAST_SIDE, round(share * side)) for side in (height, width)]
    values = F.interpolate(picture.values, sides, mode="bicubic", antialias=True)
    return picture.with_values(values.clamp(0, 1) if picture.bits < 32 else values)


def continued(picture: Picture) -> Picture:
    """Return a picture with an empty margin around it, which repeats its edge until it is filled.

    Example:
        >>> continued(Picture(torch.rand(1, 1, 12, 60))).values.shape
        torch.Size([1, 1, 16, 80])
    """
    height, width = picture.values.shape[-2:]
    margins = [-(-side // CONTINUED) for side in (width, width, height, height)]
    values = F.pad(picture.values, margins, mode="replicate")
    return replace(picture.with_values(values), alpha=None)


def has_strokes(form: Form) -> bool:
    """Return whether anything is painted."""
    return form.strokes is not None and bool(form.strokes.any())


def painted_over(form: Form, picture: Picture) -> Tensor:
    """Return where a picture is to be filled, (1, 1, H, W): 1 under strokes, or else in its holes.

    Raises:
        InputError: there is neither.
    """
    if form.strokes is not None and has_strokes(form):
        strokes = torch.from_numpy(form.strokes).float()[None, None]
        sides = picture.values.shape[-2:]
        is_smaller = strokes.shape[-1] < sides[-1]
        return (
            F.interpolate(strokes, sides) if is_smaller else F.adaptive_max_pool2d(strokes, sides)
        )
    if picture.alpha is None or bool((picture.alpha >= 0.5).all()):
        raise InputError("nothing is painted yet: paint over what is to go, on the picture above")
    return (picture.alpha < 0.5).float()


def longest_side(hidden: Tensor, longest: int) -> int:
    """Return the longest side of a picture whose window around what is hidden has so many pixels.

    Args:
        hidden: (1, 1, H, W), 1 where it is to be filled.
        longest: side of the window, or of the picture where it is taken as a whole.

    Example:
        >>> hidden = torch.zeros(1, 1, 1000, 2000)
        >>> hidden[..., 500:520, 300:310] = 1
        >>> longest_side(hidden, 512), longest_side(torch.ones_like(hidden), 512)
        (2000, 512)
    """
    whole = max(hidden.shape[-2:])
    window = window_around(hidden[0, 0] > 0)
    if window is None:
        return longest
    side = max(last - first for first, last in (window.rows, window.columns))
    return max(longest, min(whole, whole * longest // side))


def words_of(form: Form, picture: Picture, folder: Path) -> list[str]:
    """Return the words of ``invdiff solve`` that say what a form does, and write their files.

    Args:
        form: what was chosen.
        picture: the one in its source.
        folder: for the picture as it is worked on, and the mask.

    Raises:
        InputError: the form asks to remove something, and nothing shows what.
    """
    at_work = picture
    hidden = None
    if form.task == "remove":
        hidden = painted_over(form, picture)
        at_work = made_smaller(picture, longest_side(hidden, form.size))
    elif form.task not in AT_FULL_SIZE:
        at_work = made_smaller(picture, form.size)
    words = [f"task={form.task}", f"samples={form.samples}", f"seed={form.seed}", "baselines=none"]
    if form.task == "outpaint":
        height, width = at_work.values.shape[-2:]
        words += [f"operator.height={height}", f"operator.width={width}"]
        at_work = continued(at_work)
    source = form.source
    if at_work is not picture:
        source = str(folder / f"{picture.name}{at_work.suffix}")
        write_picture(source, at_work, overwrite=True)
    words.append(f"measurement={source}")
    if hidden is not None and has_strokes(form):
        # What is partly hidden in a larger pixel is hidden.
        write_image(
            folder / "mask.png", F.adaptive_max_pool2d(hidden, at_work.values.shape[-2:])[0]
        )
        words += [
            "operator.name=mask_file",
            f"operator.mask={folder / 'mask.png'}",
            "operator.kept=black",
        ]
    if form.task == "deblur":
        words.append(f"operator.sigma={form.blur}")
    if form.task == "deblur_motion":
        words += [f"operator.kernel.length={form.length}", f"operator.kernel.angle={form.angle}"]
    if form.task == "upscale":
        words.append(f"operator.factor={form.factor}")
    if form.task == "denoise" and form.samples == 1:
        words.append("estimate=mmse")  # the mean itself, by one network call
    return words


def restored(
    form: Form,
    settings: AppSettings,
    folder: Path,
    *,
    small: bool = False,
    tell: Callable[[str], None],
    on_progress: Callable[[float], None],
    stopping: Callable[[], bool],
) -> Outcome:
    """Restore a picture, or a small version of it.

    Args:
        form: what was chosen.
        settings: of the command.
        folder: for the files of this run.
        small: whether a preview is wanted: one sample of a small version or of a part.
        tell: is given every line that the run says.
        on_progress: is given the share of the work that is done.
        stopping: whether to stop; the samples that are finished are kept.

    Raises:
        InputError: the picture cannot be used, or the run was stopped before the first sample.
    """

    def go_on(share: float) -> None:
        if stopping():
            raise KeyboardInterrupt
        on_progress(share)

    told: set[str] = set()

    def hear(line: str) -> None:
        has_own_noise = small and line.startswith("misfit")
        if line not in told and not has_own_noise:
            told.add(line)
            tell(without_words(line))

    with hearing(hear):
        picture = opened(form.source)
        words = words_of(form, picture, folder)
        ready = get_ready([*words, f"prior={settings.prior}", f"device={settings.device}"])
        run = ready.settings
        (part,) = ready.parts
        # One after the other on a CPU, where that is as quick: a stop leaves those before it.
        batch = 1 if state_like(ready.prior).device.type == "cpu" else run.batch
        tell(told_of_size(picture, part, form))
        for line in told_of_problem(part):
            tell(line)
        if run.estimate == "samples":
            cost = cost_of(
                part.problem,
                ready.prior,
                ready.solver,
                samples=run.samples,
                batch=batch,
                fill_holes=run.fill_holes,
            )
            tell(f"{'the whole takes ' if small else ''}{cost}")
        if small:
            run = replace(run, preview=True, samples=1)
            part = previewed(part, run)
        try:
            posterior = restore(
                part.problem,
                ready.prior,
                ready.solver,
                samples=run.samples,
                seed=run.seed,
                batch=batch,
                numbers=part.numbers,
                estimate=run.estimate,
                fill_holes=run.fill_holes,
                on_progress=go_on,
            )
        except Interrupted as stop:
            if stop.posterior is None:
                raise InputError("stopped before the first sample was finished") from None
            posterior = stop.posterior
            tell(f"stopped: {len(posterior.samples)} of {run.samples} samples are finished")
        else:
            posterior = calibrated(run, part, ready.prior, ready.solver, posterior)
        said = [] if small else doubts(posterior)
        if any(posterior.filled):
            line = large_holes(part.problem, ready.prior, ready.solver).told_of_fill
            said.append(line[0].upper() + line[1:])
        if run.estimate == "samples" and not small:
            said.append(intervals_line(run, part, ready.prior, ready.solver, posterior))
        after = as_shown(posterior.answer[0])
        return Outcome(
            before=as_shown(went_in(part, form.task), after.shape[:2]),
            after=after,
            doubt=None if small else deviation(posterior),
            said="\n".join(f"- {line}" for line in said),
            answer=None if small else write_answer(folder, form, picture, part, posterior),
            report=None if small else write_page(folder, ready, part, posterior),
        )


def told_of_size(picture: Picture, part: Part, form: Form) -> str:
    """Return the line that tells in which size a picture is worked on."""
    given = picture.values
    _, height, width = part.problem.operator.shape
    worked = f"worked on at {width}x{height}"
    at_work = (part.wholes or part.pictures)[0].values
    is_whole = at_work.shape[-2:] == given.shape[-2:]
    if form.task == "outpaint":
        is_whole = max(given.shape[-2:]) <= form.size
    if is_whole:
        return f"{worked}, the picture as it is"
    was = f"{given.shape[-1]}x{given.shape[-2]}"
    pasted_back = "; what is filled is put into the picture at its full size"
    more = pasted_back if form.task == "remove" else ""
    return f"{worked}: made smaller from {was} (a larger size can be chosen){more}"


def told_of_problem(part: Part) -> list[str]:
    """Return the lines that tell how much is filled, and the noise level where it was estimated."""
    lines = [line for line in (told_of_mask(part), told_of_colours(part)) if line]
    sigma = getattr(part.problem.noise, "sigma", None)
    if isinstance(sigma, Tensor):  # one per picture: else it was given
        lines.append(f"noise of sigma = {describe_sigma(float(sigma.flatten()[0]))}, estimated")
    return lines


def went_in(part: Part, task: str) -> Tensor:
    """Return the picture (C, H, W) that went in; gray where an outpainted one is to be filled."""
    given = part.pictures[0].values[0]
    if task == "outpaint" and given.shape == part.problem.y.shape[1:]:
        known = part.problem.measured()[0]
        return given * known + 0.5 * (1 - known)
    return given


def as_shown(x: Tensor, sides: tuple[int, ...] | None = None) -> np.ndarray:
    """Return a picture (C, H, W) as (H, W, 3) uint8, of another size if one is given.

    Example:
        >>> as_shown(torch.ones(1, 2, 3)).shape
        (2, 3, 3)
    """
    if sides is not None and tuple(x.shape[-2:]) != tuple(sides[:2]):
        x = F.interpolate(x[None], list(sides[:2]), mode="nearest")[0]
    x = to_channels(x.detach().cpu().float().nan_to_num(0.5).clamp(0, 1), 3)
    levels: np.ndarray = (255 * x).round().byte().permute(1, 2, 0).numpy()
    return levels


def deviation(posterior: Posterior) -> np.ndarray | None:
    """Return the standard deviation of the brightness as (H, W) uint8, white where largest."""
    if len(posterior.samples) < 2:
        return None
    std = posterior.brightness_std[0, 0]
    largest = float(std.max())
    levels: np.ndarray = (255 * std / max(largest, 1e-6)).round().byte().numpy()
    return levels


def doubts(posterior: Posterior) -> list[str]:
    """Return what the samples say of the error, in sentences, with the level that they have."""
    if posterior.estimate == "mmse":
        return ["This is the mean itself, by one network call; more samples show where to doubt it"]
    known = shown_levels(len(posterior.samples))
    if not known:
        return []
    std = posterior.brightness_std[0, 0]
    found = posterior.interval(known[0])
    width = (found.high - found.low)[0]
    open_to_doubt = width[width > 1e-3]
    half = float(open_to_doubt.median()) / 2 if open_to_doubt.numel() else 0.0
    return [
        "White in the picture of doubt is a standard deviation of "
        f"{255 * float(std.max()):.0f} of 255",
        f"Where the samples differ, on {percent_of(open_to_doubt.numel() / width.numel())} of the "
        f"picture, an interval ({found.label}) is ±{255 * half:.1f} of 255 wide in the median",
    ]


def write_answer(
    folder: Path, form: Form, picture: Picture, part: Part, posterior: Posterior
) -> Path:
    """Write the restored picture in the format that went in, and return its file."""
    (answer,) = part.answers(posterior.answer)
    if form.task == "remove" and answer.values.shape != picture.values.shape:
        values = answer.values
        if answer.stretch is not None:
            values = torch.from_numpy(answer.stretch.physical(values.double().numpy())).float()
        filled = pasted(picture, painted_over(form, picture), values)
        answer = filled if has_strokes(form) else replace(filled, alpha=None)
    answer = replace(answer, source=picture.source, name=picture.name)
    path = folder / f"{picture.name}_restored{answer.own_suffix}"
    write_picture(path, answer, overwrite=True)
    return path


def pasted(picture: Picture, hidden: Tensor, smaller: Tensor) -> Picture:
    """Return a picture with what is hidden, and a rim, from a smaller one that was restored.

    Args:
        picture: at its full size.
        hidden: (1, 1, H, W), 1 where it is to be filled.
        smaller: (1, C, h, w).

    Example:
        >>> hidden = torch.zeros(1, 1, 8, 8)
        >>> hidden[..., 3:5] = 1
        >>> found = pasted(Picture(torch.zeros(1, 1, 8, 8)), hidden, torch.ones(1, 1, 4, 4))
        >>> found.values[0, 0, 4].tolist()
        [0.0, 0.25, 0.75, 1.0, 1.0, 0.75, 0.25, 0.0]
    """
    sides = picture.values.shape[-2:]
    answer = F.interpolate(smaller, sides, mode="bicubic", align_corners=False)
    filled = F.adaptive_max_pool2d(hidden, smaller.shape[-2:])
    weight = F.interpolate(filled, sides, mode="bilinear", align_corners=False)
    weight = torch.maximum(weight, hidden)
    answer = torch.where(weight > 0, torch.lerp(picture.values, answer, weight), picture.values)
    return picture.with_values(answer)


def write_page(folder: Path, ready: Ready, part: Part, posterior: Posterior) -> Path:
    """Write report.html, and return its file."""
    name = part.pictures[0].name
    stored = asdict(ready.settings)
    stored["measurement"] = Path(str(stored["measurement"])).name  # no folder of this server
    if "mask" in stored["operator"]:
        stored["operator"]["mask"] = Path(stored["operator"]["mask"]).name
    config.dump(stored, folder / RUN_FILE)
    path = folder / "report.html"
    write_report(
        path,
        posterior,
        names=[name],
        config=(folder / RUN_FILE).read_text(encoding="utf-8"),
        title=f"{name}, {ready.settings.task}",
    )
    return path


def watched(
    work: Callable[[Path, Callable[[str], None], Callable[[float], None]], Outcome], desk: Desk
) -> Iterator[Look]:
    """Do work in a thread, in a temporary folder of its own, and look at it until it is done.

    The folder is deleted when the last look was taken. Where nobody looks any more, the work stops.

    Args:
        work: is given the folder, a function for lines, and one for the share that is done.
        desk: of the person that it is done for.

    Example:
        >>> def work(folder, tell, on_progress):
        ...     raise InputError("no picture")
        >>> [look.error for look in watched(work, Desk())]
        ['no picture']
    """
    events: queue.SimpleQueue[str | float | Outcome | Exception] = queue.SimpleQueue()
    taken = threading.Event()

    def run() -> None:
        with tempfile.TemporaryDirectory(prefix="invdiff-run-") as name:
            try:
                events.put(work(Path(name), events.put, events.put))
            except Exception as error:
                events.put(error)
            taken.wait()

    threading.Thread(target=run, daemon=True).start()
    lines: list[str] = []
    share: float | None = None
    began = time.monotonic()
    try:
        while True:
            time.sleep(EVERY if share is not None else 0)
            found = _at_least_one(events)
            for event in found:
                if isinstance(event, str):
                    lines.append(event)
                elif isinstance(event, float):
                    began = time.monotonic() if share is None else began
                    share = event
            last = found[-1] if found else None
            seconds = time.monotonic() - began
            if isinstance(last, Outcome):
                yield Look(lines, 1.0, seconds, outcome=last)
                return
            if isinstance(last, Exception):
                yield Look(lines, share, seconds, error=told_of(last))
                return
            yield Look(lines, share, seconds)
    finally:
        desk.stopping = True
        taken.set()


def _at_least_one(events: queue.SimpleQueue[Any]) -> list[Any]:
    """All events of a queue that has some; none after a while without."""
    found = []
    try:
        found.append(events.get(timeout=EVERY))
        while True:
            found.append(events.get_nowait())
    except queue.Empty:
        return found


def told_of(error: Exception) -> str:
    """Return the line that the page shows for an error; a fault of ours is in the terminal."""
    if isinstance(error, InputError):
        return " ".join(str(error).split())
    traceback.print_exception(error, file=sys.stderr)
    return (
        f"this did not work ({type(error).__name__}: {first_line(error)}); the terminal tells more"
    )


# The page.

CSS = """
.gradio-container { max-width: 1280px !important; width: 100% !important; }
.gradio-container { margin: 0 auto !important; }
#status progress { width: 100%; height: 0.7rem; accent-color: #2563eb; }
#status .error { color: #b91c1c; font-weight: 600; }
.dark #status .error { color: #fca5a5; }
#task input { text-overflow: ellipsis; padding-right: 1.5rem; }
#status ul { margin: 0.4rem 0 0; padding-left: 1.2rem; font-size: 0.85rem; opacity: 0.85; }
#status { overflow-wrap: anywhere; }
#status ul li { list-style: disc; }
"""


def page(settings: AppSettings) -> gr.Blocks:
    """Return the page, which nobody serves yet.

    Raises:
        InputError: gradio is not installed.
    """
    try:
        import gradio as gr
    except ImportError as error:
        raise InputError(
            f"app: gradio cannot be imported ({first_line(error)}), expected it: "
            "pip install 'invdiff[app]'"
        ) from None

    def brush_for(side: int) -> gr.Brush:
        return gr.Brush(
            default_size=max(3, side // BRUSHES), colors=["#ff0000"], color_mode="fixed"
        )

    sizes = sorted({*SIZES, settings.size})
    private: Mapping[str, Any] = {"api_visibility": "private"}
    with gr.Blocks(
        title="invdiff", analytics_enabled=False, delete_cache=(600, KEPT_FOR)
    ) as blocks:
        desk = gr.State(Desk())
        gr.Markdown(
            "# Restore a picture\n"
            "Drop it, say what is wrong with it, look at a preview, and restore it. "
            "Everything stays on this computer."
        )
        with gr.Row():
            with gr.Column(min_width=320):
                source = gr.File(
                    label="1. Your picture", type="filepath", height=120, elem_id="source"
                )
                task = gr.Dropdown(
                    [(text, name) for name, text in TASKS.items()],
                    value="remove",
                    label="2. What is wrong with it?",
                    filterable=False,
                    elem_id="task",
                )
                canvas = gr.ImageEditor(
                    label="3. Paint over it",
                    visible=False,
                    type="numpy",
                    sources=(),
                    transforms=(),
                    layers=False,
                    format="png",
                    brush=brush_for(SIZES[0]),
                    height=420,
                    buttons=["fullscreen"],
                    elem_id="canvas",
                )
                shown = gr.Image(
                    label="Your picture",
                    visible=False,
                    interactive=False,
                    format="png",
                    buttons=["fullscreen"],
                )
                blur = gr.Slider(
                    0.5, 10, 1.5, step=0.1, label="Width of the blur, in pixels", visible=False
                )
                length = gr.Slider(
                    2, 60, 9, step=1, label="Length of the movement, in pixels", visible=False
                )
                angle = gr.Slider(
                    0, 180, 0, step=1, label="Its angle, in degrees; 0 is sideways", visible=False
                )
                factor = gr.Slider(2, 4, 2, step=1, label="Times larger", visible=False)
                with gr.Accordion("Size, samples, seed", open=False):
                    longest = gr.Dropdown(
                        sizes,
                        value=settings.size,
                        label="Longest side, in pixels; time grows with its square",
                    )
                    samples = gr.Slider(
                        1,
                        max(19, settings.samples),
                        settings.samples,
                        step=1,
                        label="Samples: 19 have intervals of 90 %, 4 of 60 %, 1 has none",
                    )
                    seed = gr.Number(0, label="Seed of the random numbers", precision=0, minimum=0)
            with gr.Column(min_width=320):
                with gr.Row():
                    look = gr.Button("Preview", min_width=90, elem_id="preview")
                    go = gr.Button("Restore", variant="primary", min_width=90, elem_id="restore")
                    stop = gr.Button(
                        "Stop", variant="stop", min_width=90, interactive=False, elem_id="stop"
                    )
                status = gr.HTML(as_html(None), elem_id="status")
                both = gr.ImageSlider(
                    label="Before | after",
                    format="png",
                    interactive=False,
                    max_height=640,
                    elem_id="both",
                )
                said = gr.Markdown(elem_id="said")
                doubt = gr.Image(
                    label="Where to doubt it (bright: the samples differ)",
                    image_mode="L",
                    format="png",
                    interactive=False,
                    buttons=["fullscreen"],
                    height=320,
                    visible=False,
                    elem_id="doubt",
                )
                with gr.Row():
                    answer = gr.DownloadButton(
                        "Download the picture", interactive=False, min_width=120, elem_id="answer"
                    )
                    report = gr.DownloadButton(
                        "Download the report", interactive=False, min_width=120, elem_id="report"
                    )
        chosen = [source, task, canvas, longest, samples, seed, blur, length, angle, factor]
        results = [both, said, doubt, answer, report]
        details = {
            blur: "deblur",
            length: "deblur_motion",
            angle: "deblur_motion",
            factor: "upscale",
        }

        def show_picture(path: str | None, name: str) -> list[Any]:
            lines: list[str] = []
            image = None
            error = None
            try:
                with hearing(lines.append):
                    picture = opened(path) if path else None
                if picture is not None:
                    lines.insert(0, f"{picture.name}: {size(picture.values)}")
                    image = for_the_eye(made_smaller(picture, PAINTED_ON))
            except Exception as fault:
                error = without_folder(told_of(fault), path)
            lines = [without_folder(line, path) for line in lines]
            editor = (
                None if image is None else {"background": image, "layers": [], "composite": image}
            )
            paints = name == "remove"
            return [
                gr.update(
                    value=editor,
                    visible=paints and image is not None,
                    brush=brush_for(SIZES[0] if image is None else max(image.shape)),
                ),
                gr.update(value=image, visible=not paints and image is not None),
                as_html(Look(lines, None, 0.0, error=error) if path else None),
            ]

        def show_details(path: str | None, name: str) -> list[Any]:
            paints = name == "remove"
            visible = [gr.update(visible=name == of) for of in details.values()]
            return [
                gr.update(visible=paints and path is not None),
                gr.update(visible=not paints and path is not None),
                *visible,
            ]

        def begin(desk: Desk) -> list[Any]:
            desk.stopping = False
            return [
                gr.update(interactive=False),
                gr.update(interactive=False),
                gr.update(interactive=True),
            ]

        def end() -> list[Any]:
            return [
                gr.update(interactive=True),
                gr.update(interactive=True),
                gr.update(interactive=False),
            ]

        def halt(desk: Desk) -> None:
            desk.stopping = True

        def run(small: bool, desk: Desk, *values: Any) -> Iterator[list[Any]]:
            form = form_of(*values)

            def work(
                folder: Path, tell: Callable[[str], None], on_progress: Callable[[float], None]
            ) -> Outcome:
                return restored(
                    form,
                    settings,
                    folder,
                    small=small,
                    tell=lambda line: tell(without_folder(line, form.source, folder)),
                    on_progress=on_progress,
                    stopping=lambda: desk.stopping,
                )

            cleared = [
                None,
                "",
                gr.update(value=None, visible=False),
                *2 * [gr.update(value=None, interactive=False)],
            ]
            yield [as_html(Look([], None, 0.0)), *cleared]
            for seen in watched(work, desk):
                changed = [gr.skip()] * len(results)
                if seen.outcome is not None:
                    changed = results_of(seen.outcome)
                yield [as_html(seen), *changed]

        def results_of(outcome: Outcome) -> list[Any]:
            files = [
                gr.update(value=None if path is None else str(path), interactive=path is not None)
                for path in (outcome.answer, outcome.report)
            ]
            doubtful = gr.update(value=outcome.doubt, visible=outcome.doubt is not None)
            return [(outcome.before, outcome.after), outcome.said, doubtful, *files]

        source.change(
            show_picture, [source, task], [canvas, shown, status], show_progress="hidden", **private
        )
        task.change(
            show_details,
            [source, task],
            [canvas, shown, *details],
            show_progress="hidden",
            queue=False,
            **private,
        )
        buttons = [look, go, stop]
        for button, small in ((look, True), (go, False)):
            button.click(begin, desk, buttons, queue=False, show_progress="hidden", **private).then(
                functools.partial(run, small),
                [desk, *chosen],
                [status, *results],
                show_progress="minimal",
                show_progress_on=status,
                concurrency_id="work",
                concurrency_limit=settings.at_once,
                **private,
            ).then(end, None, buttons, queue=False, show_progress="hidden", **private)
        stop.click(halt, desk, None, queue=False, show_progress="hidden", **private)
    made: gr.Blocks = blocks
    return made


def form_of(
    source: str | None,
    task: str,
    canvas: Mapping[str, Any] | None,
    longest: int,
    samples: float,
    seed: float,
    blur: float,
    length: float,
    angle: float,
    factor: float,
) -> Form:
    """Return what the components of the page hold as a form."""
    return Form(
        source=source,
        task=task,
        strokes=strokes_of(canvas),
        size=int(longest),
        samples=int(samples),
        seed=int(seed),
        blur=float(blur),
        length=float(length),
        angle=float(angle),
        factor=int(factor),
    )


def strokes_of(canvas: Mapping[str, Any] | None) -> np.ndarray | None:
    """Return where the layers of an editor are painted on, (H, W); None where nothing is.

    Example:
        >>> layer = np.zeros((2, 2, 4), np.uint8)
        >>> layer[0, 1] = 255, 0, 0, 255
        >>> strokes_of({"layers": [layer]}).tolist()
        [[False, True], [False, False]]
    """
    layers = [] if canvas is None else [x for x in canvas.get("layers", []) if x is not None]
    if not layers:
        return None
    painted: np.ndarray = np.any([layer[..., 3] > 255 * PAINTED for layer in layers], axis=0)
    return painted if painted.any() else None


def for_the_eye(picture: Picture) -> np.ndarray:
    """Return a picture as (H, W, 3) uint8; one of more than 8 bits that is dim is brightened."""
    values = picture.values[0]
    largest = float(values.nan_to_num(0.0).max())
    if picture.bits > 8 and 0 < largest < DIM:
        values = values / largest
    return as_shown(values)


def without_folder(line: str, source: str | None, folder: Path | None = None) -> str:
    """Return a line without the folders of the server in it.

    Example:
        >>> without_folder("/tmp/a/photo.jpg: no picture", "/tmp/a/photo.jpg")
        'photo.jpg: no picture'
    """
    if source is not None:
        line = line.replace(source, Path(source).name)
    return line if folder is None else line.replace(f"{folder}/", "")


def without_words(line: str) -> str:
    """Return a line without the words of a command line, in brackets at its end, which a page has no use for.

    Example:
        >>> without_words("all else stays as it is (window=false works on the whole)")
        'all else stays as it is'
    """
    return re.sub(r" \([^()]*\w=\w[^()]*\)$", "", line)


def as_html(look: Look | None) -> str:
    """Return how far a run is as HTML: a bar, the time that is left, and what was said."""
    if look is None:
        return '<div role="status">Drop a picture to begin.</div>'
    head = ""
    if look.error is not None:
        head = f'<div class="error">{html.escape(look.error)}</div>'
    elif look.outcome is not None:
        head = f"Done in {duration(look.seconds)}."
    elif look.share is not None:
        left = look.seconds * (1 - look.share) / max(look.share, 1e-6)
        time_left = f", about {duration(left)} left" if look.seconds > KNOWN_AFTER else ""
        head = (
            f'<progress max="1" value="{look.share:.4f}" aria-label="progress"></progress>'
            f"<div>{100 * look.share:.0f} %{time_left}</div>"
        )
    items = "".join(f"<li>{html.escape(line)}</li>" for line in look.lines)
    return f'<div role="status" aria-live="polite">{head}</div>' + (
        f"<ul>{items}</ul>" if items else ""
    )


if __name__ == "__main__":
    config.run_command(main)
