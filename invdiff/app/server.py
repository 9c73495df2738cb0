"""The server of the page: on this computer alone, until the command is stopped."""

from __future__ import annotations

import os
import tempfile
import threading
from typing import TYPE_CHECKING

from invdiff.app.page import CSS, page
from invdiff.errors import InputError, first_line

if TYPE_CHECKING:
    import gradio as gr

    from invdiff.app import AppSettings

HOST = "127.0.0.1"  # this computer alone
MOST_BYTES = 512 * 2**20  # of a picture that is dropped


def run(settings: AppSettings) -> None:
    """Serve the page with a folder for its files that goes with it, until the command is stopped.

    Raises:
        InputError: as `serve`.
    """
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
