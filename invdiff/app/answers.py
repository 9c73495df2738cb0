"""The files that a run gives away: the restored picture, and the page report.html."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff import config
from invdiff.app.form import Form, has_strokes, painted_over
from invdiff.evaluation.report import write_report
from invdiff.io.pictures import Picture
from invdiff.io.whole import RUN_FILE
from invdiff.io.write import write_picture
from invdiff.posterior import Posterior
from invdiff.solve import Part, Ready


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
