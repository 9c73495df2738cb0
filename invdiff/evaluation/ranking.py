"""Tables of solvers compared on the same images: means with standard errors, ranks, the best.

Ranks are those of each image, averaged over images (Friedman 1937,
https://doi.org/10.1080/01621459.1937.10503522). A solver is marked as one of the best where it is
not worse than the best mean by more than two standard errors of the paired differences over images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from invdiff.estimate import Estimate
from invdiff.summary import several

Rows = Sequence[Mapping[str, str]]

COLUMNS = ("PSNR", "SSIM", "LPIPS", "misfit", "calls", "seconds")
_BETTER = {"PSNR": 1, "SSIM": 1, "LPIPS": -1}  # the sign of what is better
FORM = {
    "PSNR": "{:.2f}",
    "SSIM": "{:.3f}",
    "LPIPS": "{:.3f}",
    "misfit": "{:.2f}",
    "calls": "{:.0f}",
    "seconds": "{:.2g}",
}

ENOUGH = 5  # images, of fewer of which standard errors are hardly known


def summary(found: Mapping[tuple[str, str], Rows]) -> tuple[str, str]:
    """Return tables in Markdown and in LaTeX.

    Args:
        found: (task, solver) -> a row per image, the images in the same order for all.
    """
    markdown = []
    latex = []
    for task in dict.fromkeys(task for task, _ in found):
        of_task = {solver: rows for (t, solver), rows in found.items() if t == task}
        header, lines, best = table(of_task)
        number = len(next(iter(of_task.values())))
        markdown += [f"### {task}, {several(number, 'image')}", ""]
        markdown += ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        bold = [
            [f"**{cell}**" if mark else cell for cell, mark in zip(*row, strict=True)]
            for row in zip(lines, best, strict=True)
        ]
        markdown += ["| " + " | ".join(row) + " |" for row in bold]
        markdown += [""]
        latex += [
            f"% {task}, {several(number, 'image')}",
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"\toprule",
        ]
        latex += [_latex(header), r"\midrule"]
        latex += [
            _latex([rf"\textbf{{{c}}}" if m else c for c, m in zip(*row, strict=True)])
            for row in zip(lines, best, strict=True)
        ]
        latex += [r"\bottomrule", r"\end{tabular}", ""]
    markdown += [
        "Bold: not worse than the best mean by more than two standard errors of the paired differences."
    ]
    if min((len(rows) for rows in found.values()), default=ENOUGH) < ENOUGH:
        markdown += [
            "",
            f"Of fewer than {ENOUGH} images standard errors are rough, and bold says little: take more, "
            "such as images=20.",
        ]
    return "\n".join([*markdown, ""]), "\n".join(latex)


def table(of_task: Mapping[str, Rows]) -> tuple[list[str], list[list[str]], list[list[bool]]]:
    """Return the header, the cells, and which cells are among the best."""
    solvers = list(of_task)
    scores = {
        name: np.array(
            [[float(row[name] or "nan") for row in of_task[solver]] for solver in solvers]
        )
        for name in COLUMNS
    }
    scores = {name: values for name, values in scores.items() if not np.isnan(values).all()}
    judged = [name for name in scores if name in _BETTER]
    header = ["solver", *(name for name in scores), *(f"rank {name}" for name in judged)]
    lines = [[solver] for solver in solvers]
    best = [[False] for _ in solvers]
    for name, values in scores.items():
        marks = among_best(_BETTER[name] * values) if name in _BETTER else [False] * len(solvers)
        for row, line, mark, marked in zip(values, lines, marks, best, strict=True):
            line.append(_with_error(name, row))
            marked.append(mark)
    for name in judged:
        for line, rank, marked in zip(
            lines, mean_ranks(_BETTER[name] * scores[name]), best, strict=True
        ):
            line.append(f"{rank:.2f}")
            marked.append(False)
    return header, lines, best


def among_best(values: np.ndarray) -> list[bool]:
    """Return which solvers are not worse than the best mean by more than two paired errors.

    Args:
        values: (solvers, images), larger is better.

    Example:
        >>> among_best(np.array([[1.0, 2.0, 3.0], [0.9, 2.1, 2.9], [0.0, 1.0, 2.0]]))
        [True, True, False]
    """
    gaps = values[values.mean(1).argmax()] - values
    errors = (
        gaps.std(1, ddof=1) / math.sqrt(gaps.shape[1]) if gaps.shape[1] > 1 else np.zeros(len(gaps))
    )
    return [bool(gap <= 2 * error) for gap, error in zip(gaps.mean(1), errors, strict=True)]


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Return the mean over images of each solver's rank, 1 for the largest; ties share theirs.

    Args:
        values: (solvers, images).

    Example:
        >>> mean_ranks(np.array([[3.0, 1.0], [2.0, 1.0]])).tolist()
        [1.25, 1.75]
    """
    from scipy.stats import rankdata

    return np.asarray(rankdata(-values, axis=0).mean(1))


def _with_error(name: str, values: np.ndarray) -> str:
    mean, error = (FORM[name].format(value) for value in Estimate.over(values))
    return mean if name in ("calls", "seconds") or len(values) < 2 else f"{mean} ± {error}"


def _latex(cells: Sequence[str]) -> str:
    return " & ".join(cells).replace("±", r"$\pm$").replace("_", r"\_") + r" \\"
