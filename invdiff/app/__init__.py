"""Restore a picture in the browser: paint what is to go, or choose what is wrong with it.

    invdiff app
    invdiff app port=7861 size=768 samples=8

Opens a page at http://127.0.0.1:7860 that only this computer sees, and that needs no network. Drop
a picture, see a small preview and how long the whole will take, restore it, compare before and
after, see where to doubt it, and take the answer in the format that went in. It needs
pip install 'invdiff[app]'. The tasks are those of invdiff solve, which does the work.
"""

from __future__ import annotations

from dataclasses import dataclass

from invdiff.errors import InputError


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
    prior: str = "auto"
    device: str = "auto"
    at_once: int = 1
    open: bool = True

    def __post_init__(self) -> None:
        for name in ("size", "samples", "at_once"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: found {getattr(self, name)}, expected at least 1")
        if not 0 < self.port < 2**16:
            raise InputError(f"port: found {self.port}, expected 1 to 65535")


def main(words: list[str]) -> None:
    """Run the command line."""
    from invdiff import config  # these take seconds, which nobody who asks for help waits for
    from invdiff.app.server import run
    from invdiff.prior.checkpoint import prior_files
    from invdiff.resources import pick_device

    settings = config.validate(AppSettings, config.resolve(words, AppSettings))
    pick_device(settings.device)
    if settings.prior != "auto" and ":" not in settings.prior:  # of the hub, or of a module
        prior_files(settings.prior)
    run(settings)
