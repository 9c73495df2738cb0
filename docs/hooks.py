"""What the site adds to its pages when it is built: the help of commands, and executed notebooks.

A notebook is a page in docs/notebooks, whose blocks of Python are its cells. It is offered as .ipynb,
and where INVDIFF_EXECUTE is set (make docs) executed, with its output and pictures in the page: an
error in a cell is an error of the build.
"""

from __future__ import annotations

import base64
import functools
import os
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert.exporters import MarkdownExporter
from nbconvert.preprocessors import ExecutePreprocessor

from invdiff.commands import COMMANDS, answer

ROOT = Path(__file__).parent.parent
SECONDS = 300  # that a notebook may take


@functools.cache
def notebook(path: Path) -> nbformat.NotebookNode:
    """Return a page as a notebook, whose cells have no output."""
    found = jupytext.reads(path.read_text(encoding="utf-8"), "md")
    found.metadata["kernelspec"] = {
        "name": "python3",
        "language": "python",
        "display_name": "Python 3",
    }
    return found


def is_notebook(uri: str) -> bool:
    """Whether a file of the site is the page of a notebook."""
    return uri.startswith("notebooks/") and uri.endswith(".md")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the notebooks as .ipynb, to download."""
    for file in list(files):
        if is_notebook(file.src_uri):
            text = nbformat.writes(notebook(Path(str(file.abs_src_path))))
            files.append(File.generated(config, file.src_uri[:-3] + ".ipynb", content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, **context: Any) -> str:
    """Add to a page what is made when the site is built."""
    if page.file.src_uri == "commands.md":
        helps = {name: answer(name, ["--help"]) for name in COMMANDS}
        blocks = [f"## invdiff {name}\n\n```text\n{text}\n```" for name, text in helps.items()]
        return "\n\n".join([markdown, *blocks])
    if is_notebook(page.file.src_uri):
        path = Path(str(page.file.abs_src_path))
        text = executed(path) if os.environ.get("INVDIFF_EXECUTE") else markdown
        title, _, rest = text.lstrip().partition("\n")
        return f"{title}\n\n[Download this notebook]({path.stem}.ipynb)\n{rest}"
    return markdown


def executed(path: Path) -> str:
    """Return a notebook's page with the output of its cells; pictures are within it.

    Raises:
        CellExecutionError: a cell failed.
    """
    run = ExecutePreprocessor(timeout=SECONDS, kernel_name="python3")
    done, _ = run.preprocess(nbformat.from_dict(notebook(path)), {"metadata": {"path": str(ROOT)}})
    for cell in done.cells:  # without progress bars and warnings of this machine
        shown = [out for out in cell.get("outputs", []) if out.get("name") != "stderr"]
        cell.update({"outputs": shown} if cell.cell_type == "code" else {})
    text, resources = MarkdownExporter().from_notebook_node(done)
    for name, content in resources["outputs"].items():
        uri = f"data:image/{Path(name).suffix[1:]};base64,{base64.b64encode(content).decode()}"
        text = text.replace(f"({name})", f"({uri})")
    return str(text)
