"""Silence for decoders: what they say beside their exceptions is not for the user.

Damage ends in an InputError or is harmless. Loggers are silent in the thread that decodes alone;
warnings on the main thread alone, for their filters belong to the process, and another thread that
changed them would take away what the main one says meanwhile.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path

import PIL

_LOGGERS = ("tifffile", "nibabel", "nibabel.global", "pydicom", "PIL")
_decoding: ContextVar[bool] = ContextVar("decoding", default=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings and loggers of decoders inside the block."""
    _prepare()
    token = _decoding.set(True)
    try:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _decoding.reset(token)


@lru_cache(maxsize=1)
def _prepare() -> None:
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(lambda record: not _decoding.get())
    _silence_libtiff()


def _silence_libtiff() -> None:
    """Take away the handlers by which Pillow's libtiff writes to standard error."""
    place = Path(PIL.__file__).parent
    bundled = [*place.parent.glob("[pP]illow.libs/libtiff*"), *place.glob(".dylibs/libtiff*")]
    for name in [str(path) for path in bundled] or [ctypes.util.find_library("tiff") or ""]:
        try:
            library = ctypes.CDLL(name)
            for handler in (library.TIFFSetErrorHandler, library.TIFFSetWarningHandler):
                handler.argtypes = [ctypes.c_void_p]
                handler.restype = ctypes.c_void_p
                handler(None)
        except (OSError, AttributeError):  # then it speaks, and no harm is done
            continue
