"""The README's Python example runs as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_example_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {}
    exec(code, names)
    posterior, x = names["posterior"], names["x"]
    assert posterior.samples.shape == (4, 2, 1, 32, 32)  # type: ignore[attr-defined]
    assert 0.4 < float(posterior.misfit().mean()) < 2  # type: ignore[attr-defined]
    # Filling in 70 % of an image beats leaving it out by far.
    error, left_out = (
        (image - x[:2]).square().mean() for image in (posterior.mean, posterior.problem.baseline())
    )  # type: ignore[attr-defined]
    assert error < left_out / 4
    assert "torch.Size([4, 2, 1, 32, 32])" in capsys.readouterr().out
    assert torch.is_tensor(x)
