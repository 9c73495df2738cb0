"""What tests of several command lines share."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from invdiff.prior.checkpoint import PriorSpec, save_prior

if "PYTEST_XDIST_WORKER" in os.environ:
    # There is a worker for every core: more threads, here or in a subprocess, would only make them wait.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

# Collecting the tests makes millions of objects that all stay: looking for garbage among them takes a
# third of the time, and again with every test that makes many.
gc.disable()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


NETWORK = {"name": "unet", "width": 8, "multipliers": [1, 2], "blocks": 1, "patch": 2}


@pytest.fixture(scope="session")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with random weights: enough for everything but quality."""
    torch.manual_seed(0)
    spec = PriorSpec((1, 16, 16), NETWORK, "cosine", 100, "v")
    network = spec.build().network
    torch.nn.init.normal_(network.head[2].weight, std=0.05)
    path = tmp_path_factory.mktemp("prior") / "small.safetensors"
    save_prior(spec.around(network), path)
    return path


@pytest.fixture(autouse=True)
def handlers_as_they_were() -> Iterator[None]:
    """Put back the handlers of signals: a folder that a test leaves open keeps its own."""
    with handlers_put_back():
        yield


@pytest.fixture(autouse=True, scope="module")
def handlers_as_they_were_before_a_module() -> Iterator[None]:
    """Put back those that a fixture of a whole module has left."""
    with handlers_put_back():
        yield


@contextlib.contextmanager
def handlers_put_back() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)
