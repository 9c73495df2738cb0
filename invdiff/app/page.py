"""The page: its components, and what they do when they are touched. Gradio builds it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invdiff.app.form import TASKS, form_of, made_smaller, opened
from invdiff.app.outcome import Desk, Look, Outcome
from invdiff.app.shown import for_the_eye
from invdiff.app.telling import as_html, told_of, without_folder
from invdiff.app.watch import watched
from invdiff.app.work import restored
from invdiff.errors import InputError, first_line, hearing
from invdiff.io.pictures import size

if TYPE_CHECKING:
    import gradio as gr

    from invdiff.app import AppSettings

SIZES = (128, 256, 384, 512, 768, 1024, 2048)
PAINTED_ON = 1024  # pixels of the longest side of what a browser shows to paint on
BRUSHES = 32  # how many strokes side by side cover a picture at first
KEPT_FOR = 24 * 3600  # seconds that files of the page are kept for, at most
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
                *no_results(),
            ]

        def no_results() -> list[Any]:
            return [
                None,
                "",
                gr.update(value=None, visible=False),
                *2 * [gr.update(value=None, interactive=False)],
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

            yield [as_html(Look([], None, 0.0)), *no_results()]
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
            show_picture,
            [source, task],
            [canvas, shown, status, *results],  # those of another picture go
            show_progress="hidden",
            **private,
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
