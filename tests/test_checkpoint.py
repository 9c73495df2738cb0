"""The file of a prior: what is saved is what is loaded, and nothing else that a file may hold can
do harm.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import subprocess
import sys
import threading
import time
import types
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from invdiff.errors import InputError
from invdiff.prior import checkpoint
from invdiff.prior.checkpoint import (
    ClassifierSpec,
    PriorSpec,
    find_prior,
    load_card,
    load_prior,
    save_prior,
)
from invdiff.prior.denoiser import NetworkDenoiser
from invdiff.prior.mlp import MLP as MLPNetwork

UNET = PriorSpec(
    (3, 8, 8),
    {
        "name": "unet",
        "width": 32,
        "multipliers": (1, 2),
        "blocks": 1,
        "attention": (2,),
        "head_channels": 16,
    },
    schedule="cosine",
    T=250,
    target="v",
)
LEARNED = replace(UNET, variance="learned")
MLP = PriorSpec((2,), {"name": "mlp", "width": 16, "layers": 2}, T=100)


def fresh(spec: PriorSpec, seed: int = 0) -> NetworkDenoiser:
    """A prior none of whose weights is zero."""
    torch.manual_seed(seed)
    prior = spec.build()
    for p in prior.network.parameters():
        p.data.add_(0.05 * torch.randn_like(p))
    return prior


def saved(
    folder: Path, spec: PriorSpec = MLP, name: str = "prior.safetensors", seed: int = 0
) -> Path:
    save_prior(fresh(spec, seed), folder / name, dtype=torch.float16)
    return folder / name


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """The same weights under another header."""
    entry: Any = {
        "format": 1,
        "network": {"name": "mlp", "width": 16, "layers": 2},
        "schedule": "linear",
    }
    entry |= {"T": 100, "target": "eps", "shape": [2]}
    entry = change(entry) or entry
    weights = {name: w.half() for name, w in fresh(MLP).network.state_dict().items()}
    save_file(
        weights, path, metadata={"invdiff": entry if isinstance(entry, str) else json.dumps(entry)}
    )


def refusal(path: str | Path) -> str:
    """The message with which a file is refused: one line, which names the file."""
    with pytest.raises(InputError) as caught:
        load_prior(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


@pytest.mark.slow
@pytest.mark.parametrize("spec", [UNET, LEARNED, MLP], ids=["unet", "learned", "mlp"])
def test_round_trip(tmp_path: Path, spec: PriorSpec) -> None:
    original, loaded = fresh(spec), load_prior(saved(tmp_path, spec))
    before, after = original.network.state_dict(), loaded.network.state_dict()
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert after[name].dtype == torch.float32
        assert torch.equal(after[name], weight.half().float())  # rounded once, to half precision
    assert (
        loaded.shape == spec.shape
        and loaded.target == spec.target
        and loaded.variance == spec.variance
    )
    assert torch.equal(loaded.schedule.abar, original.schedule.abar) and loaded.schedule.T == spec.T
    assert loaded.stride == original.stride and not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())

    x = 0.5 + 0.2 * torch.randn(2, *spec.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = loaded(x, torch.tensor(0.2)), original.eval()(x, torch.tensor(0.2))
    assert float(expected.std()) > 0.01
    # Half precision keeps 11 bits of every weight.
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)
    # Saved again, the file is the same to the byte: nothing is lost twice.
    save_prior(loaded, tmp_path / "again.safetensors", dtype=torch.float16)
    assert (tmp_path / "again.safetensors").read_bytes() == (
        tmp_path / "prior.safetensors"
    ).read_bytes()


def test_a_learned_variance_does_not_touch_the_denoiser() -> None:
    """D(x, sigma) is that of the network whose last layer ends with the target; odd sizes are
    padded and cut.
    """
    learned, plain = fresh(LEARNED), fresh(UNET)
    weights = learned.network.state_dict()
    weights |= {name: weights[name][:3] for name in ("head.2.weight", "head.2.bias")}
    plain.network.load_state_dict(weights)
    x = torch.rand(2, 3, 7, 10, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = (prior.eval()(x, torch.tensor(0.2)) for prior in (learned, plain))
    assert found.shape == x.shape and float(found.std()) > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_training_runs_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the folder holds no prior\.safetensors"):
        load_prior(tmp_path)
    path = saved(tmp_path)
    assert find_prior(tmp_path) == path == find_prior(str(path))
    assert load_prior(tmp_path).shape == (2,)


@pytest.mark.parametrize("broken", ["write_bytes", "replace"])
def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path = saved(tmp_path)
    before = path.read_bytes()

    def half(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    def refuse(*args: object) -> None:
        raise OSError(5, "Input/output error")

    if broken == "write_bytes":
        monkeypatch.setattr(Path, "write_bytes", half)
    else:
        monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InputError, match="No space left|Input/output"):
        saved(tmp_path, seed=1)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # and no half-written file beside it


def test_a_damaged_file(tmp_path: Path) -> None:
    path = saved(tmp_path, UNET)
    whole = path.read_bytes()
    cut = [whole[:n] for n in (0, 7, 500, len(whole) // 2, len(whole) - 1)]
    for data in (b"\0" * 100, b"not a prior", *cut):
        path.write_bytes(data)
        assert "not a readable safetensors file" in refusal(path)
    flipped = bytearray(whole)
    flipped[12] ^= 0xFF  # inside the header
    path.write_bytes(bytes(flipped))
    refusal(path)


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("kind", ["pickle", "torch", "zip"])
def test_a_pickle_is_refused_and_not_run(tmp_path: Path, kind: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / "prior.safetensors"
    data = pickle.dumps(Bomb(marker))
    if kind == "pickle":
        path.write_bytes(data)
    elif kind == "torch":
        torch.save({"weights": Bomb(marker)}, path)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", data)
    # A bare pickle may be one of EDM, whose reader runs nothing.
    expected = "could run code" if kind == "pickle" else "not a readable safetensors file"
    assert expected in refusal(path)
    assert not marker.exists()
    pickle.loads(data)  # the bomb is live
    assert marker.exists()


def test_a_header_cannot_import_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``module:Class`` names a user's own network; a file must not be able to make the module run."""
    marker, path = tmp_path / "marker", tmp_path / "prior.safetensors"
    (tmp_path / "foreign_net.py").write_text(
        f"open({str(marker)!r}, 'w').close()\nfrom invdiff.prior.mlp import MLP\nclass Net(MLP): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rewrite(path, lambda entry: entry["network"].update(name="foreign_net:Net"))
    assert "'foreign_net:Net' is foreign code: import it first if you trust it" in refusal(path)
    assert not marker.exists()
    try:
        import foreign_net

        assert isinstance(load_prior(path).network, foreign_net.Net)
    finally:
        sys.modules.pop("foreign_net", None)
    # Nor call what is imported but is no network.
    command = {"name": "subprocess:Popen", "args": ["touch", str(marker)]}
    rewrite(path, lambda entry: entry.update(network=command))
    marker.unlink()
    assert subprocess.Popen and "foreign code" in refusal(path)
    assert not marker.exists()


def test_a_name_is_only_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module may import others when it is asked for a name that it does not hold."""
    asked: list[str] = []
    module = types.ModuleType("lazy_module")
    module.__getattr__ = lambda name: asked.append(name) or MLPNetwork  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "lazy_module", module)
    assert not checkpoint.known_code("lazy_module:Net") and not asked
    assert not checkpoint.known_code("no_such_module:Net")
    assert not checkpoint.known_code("subprocess:Popen")
    assert checkpoint.known_code("torch.nn:Linear") and checkpoint.known_code("unet")


def test_a_file_without_our_header(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file({"weight": torch.zeros(3)}, path, metadata=metadata)
        assert "found weights such as 'weight', expected those of invdiff" in refusal(path)


BAD_HEADERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "not JSON": lambda entry: "{]",
    "a list": lambda entry: "[1, 2]",
    "a number": lambda entry: "3",
    "no format": lambda entry: entry.pop("format") and None,
    "a later format": lambda entry: entry.update(format=2),
    "no target": lambda entry: entry.pop("target") and None,
    "an unknown target": lambda entry: entry.update(target="score"),
    "an unknown variance": lambda entry: entry.update(variance="fixed"),
    "a learned variance of a network without one": lambda entry: entry.update(variance="learned"),
    "no network": lambda entry: entry.pop("network") and None,
    "no network name": lambda entry: entry["network"].pop("name") and None,
    "an unknown network": lambda entry: entry["network"].update(name="unett"),
    "an unknown setting": lambda entry: entry["network"].update(depth=3),
    "another width": lambda entry: entry["network"].update(width=32),
    "more layers": lambda entry: entry["network"].update(layers=3),
    "channels twice": lambda entry: entry["network"].update(channels=2),
    "a width of text": lambda entry: entry["network"].update(width="16"),
    "no shape": lambda entry: entry.pop("shape") and None,
    "an empty shape": lambda entry: entry.update(shape=[]),
    "a shape of 3 channels": lambda entry: entry.update(shape=[3]),
    "a shape that is a number": lambda entry: entry.update(shape=2),
    "an unknown schedule": lambda entry: entry.update(schedule="quartic"),
    "no steps": lambda entry: entry.update(T=0),
    "steps of text": lambda entry: entry.update(T="100"),
    "a fraction of a step": lambda entry: entry.update(T=99.5),
    "an unknown key": lambda entry: entry.update(ema=0.99),
    "a later format as text": lambda entry: entry.update(format="1"),
    "a format that is true": lambda entry: entry.update(format=True),
    "a step that is true": lambda entry: entry.update(T=True),
    "steps of a float": lambda entry: entry.update(T=100.0),
    "too many steps": lambda entry: entry.update(T=100_001),
    "ever so many steps": lambda entry: entry.update(T=10**30),
    "a shape of text": lambda entry: entry.update(shape="2"),
    "a shape of a float": lambda entry: entry.update(shape=[2.0]),
    "a shape of true": lambda entry: entry.update(shape=[True]),
    "a shape of two axes": lambda entry: entry.update(shape=[2, 2]),
    "a shape of four axes": lambda entry: entry.update(shape=[2, 2, 2, 2]),
    "a shape of images for points": lambda entry: entry.update(shape=[2, 8, 8]),
    "a huge image": lambda entry: entry.update(shape=[2, 10**6, 8]),
    "a network that is text": lambda entry: entry.update(network="mlp"),
    "a network's name that is a number": lambda entry: entry["network"].update(name=3),
    "infinitely wide": lambda entry: entry["network"].update(width=float("inf")),
    "NaN": lambda entry: entry["network"].update(width=float("nan")),
    "a huge number": lambda entry: json.dumps(entry).replace("16", "1" * 5000),
    "a float beyond all": lambda entry: json.dumps(entry).replace("16", "1e999"),
    "deep": lambda entry: "[" * 100_000,
    "deep but short": lambda entry: "[" * 50_000,
    "no weight": lambda entry: entry["network"].update(width=0),
    "a negative width": lambda entry: entry["network"].update(width=-16),
    "much wider": lambda entry: entry["network"].update(width=100_000),
    "much deeper": lambda entry: entry["network"].update(layers=100_000),
    "deeper than memory": lambda entry: entry["network"].update(layers=10**12),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", BAD_HEADERS.values(), ids=BAD_HEADERS.keys())
def test_a_header_that_does_not_match_its_weights(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    path = tmp_path / "prior.safetensors"
    rewrite(path, change)
    assert "its header does not describe its weights" in refusal(path)


UNET_HEADERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a width of 10,000": lambda entry: entry["network"].update(width=10_000),
    "a million blocks": lambda entry: entry["network"].update(blocks=1_000_000),
    "100,000 blocks": lambda entry: entry["network"].update(blocks=100_000),
    "many levels": lambda entry: entry["network"].update(multipliers=[1] * 10_000),
    "a dropout of NaN": lambda entry: entry["network"].update(dropout=float("nan")),
    "a dropout of 2": lambda entry: entry["network"].update(dropout=2),
    "heads of no channel": lambda entry: entry["network"].update(head_channels=0, attention=[1]),
    "many classes": lambda entry: entry["network"].update(classes=10**10),
    "many channels out": lambda entry: entry["network"].update(channels_out=10**5),
    "a huge patch": lambda entry: entry["network"].update(patch=10**5),
    "points": lambda entry: entry.update(shape=[3]),
    "four axes": lambda entry: entry.update(shape=[3, 8, 8, 8]),
    "true channels": lambda entry: entry.update(shape=[True, 8, 8]),
    "no height": lambda entry: entry.update(shape=[3, 0, 8]),
    "10^9 steps": lambda entry: entry.update(T=10**9),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", UNET_HEADERS.values(), ids=UNET_HEADERS.keys())
def test_a_small_file_takes_no_time_and_no_memory(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    path = saved(tmp_path, UNET)
    entry = json.loads(json.dumps({"format": 1, **asdict(UNET)}))
    change(entry)
    weights = {name: w.half() for name, w in fresh(UNET).network.state_dict().items()}
    save_file(weights, path, metadata={"invdiff": json.dumps(entry)})
    started = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "its header does not describe its weights" in refusal(path)
    assert time.process_time() - started < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_building_stops_at_more_weights_than_the_file_has(tmp_path: Path) -> None:
    """And nobody who builds a network at the same time, in another thread or later, notices."""
    built: list[int] = []

    class Endless(nn.Module):
        stride = 1

        def __init__(self, channels: int) -> None:
            super().__init__()
            other = threading.Thread(target=lambda: nn.Sequential(*(nn.Linear(1, 1),) * 500))
            other.start()
            other.join()
            while True:
                self.register_parameter(f"p{len(built)}", nn.Parameter(torch.empty(1)))
                built.append(1)

    sys.modules["endless"] = module = types.ModuleType("endless")
    module.Endless = Endless
    path = tmp_path / "prior.safetensors"
    try:
        rewrite(path, lambda entry: entry.update(network={"name": "endless:Endless"}))
        assert "its network has more weights than the file" in refusal(path)
    finally:
        del sys.modules["endless"]
    assert len(built) < 200
    assert len(nn.Sequential(*[nn.Linear(1, 1) for _ in range(300)])) == 300


DAMAGE: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "NaN": (lambda w: w.float().fill_(torch.nan), "found NaN or infinite values"),
    "one infinity": (
        lambda w: w.index_fill(0, torch.tensor(0), torch.inf),
        "found NaN or infinite",
    ),
    "int64": (lambda w: w.long(), "found I64, expected F16, BF16, F32, F64"),
    "bool": (lambda w: w.bool(), "found BOOL, expected F16"),
    "complex": (lambda w: w.to(torch.complex64), "found C64, expected F16"),
    "float8": (lambda w: w.to(torch.float8_e4m3fn), "found F8_E4M3, expected F16"),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("which", [0, -1])
def test_weights_that_are_no_finite_numbers(tmp_path: Path, kind: str, which: int) -> None:
    change, line = DAMAGE[kind]
    path = tmp_path / "prior.safetensors"
    weights = {name: w.half() for name, w in fresh(MLP).network.state_dict().items()}
    name = list(weights)[which]
    weights[name] = change(weights[name])
    header = json.dumps({"format": 1, **asdict(MLP)})
    save_file(weights, path, metadata={"invdiff": header})
    assert f"prior {path}: weight {name!r}: {line}" in refusal(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_of_any_float_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "prior.safetensors"
    weights = {name: w.to(dtype) for name, w in fresh(MLP).network.state_dict().items()}
    header = json.dumps({"format": 1, **asdict(MLP)})
    save_file(weights, path, metadata={"invdiff": header})
    found = load_prior(path).network.state_dict()
    assert all(torch.equal(found[name], w.float()) for name, w in weights.items())


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    path = saved(tmp_path)
    assert load_prior(path, torch.device("cpu")).shape == (2,)
    with pytest.raises(InputError, match=r"device: found 'cuda:99', expected a device of this"):
        load_prior(path, "cuda:99")


def test_weights_lie_in_memory_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: dict[str, int] = {}
    weight = checkpoint._weight

    def spy(what: str, path: Path, key: str, dtype: str, file: Any) -> Tensor:
        found = weight(what, path, key, dtype, file)
        read[key] = found.data_ptr()
        return found

    monkeypatch.setattr(checkpoint, "_weight", spy)
    loaded = load_prior(saved(tmp_path, UNET)).network.state_dict()
    assert {name: w.data_ptr() for name, w in loaded.items()} == read


@pytest.mark.slow
def test_a_network_s_own_tensors_are_computed(tmp_path: Path) -> None:
    """A network may hold tensors that are no weights: they are not in the file."""

    class Tabled(MLPNetwork):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.register_buffer("table", torch.arange(3.0), persistent=False)
            self.plain = torch.arange(4.0)

    sys.modules["tabled"] = module = types.ModuleType("tabled")
    module.Tabled = Tabled
    path = tmp_path / "prior.safetensors"
    try:
        rewrite(path, lambda entry: entry["network"].update(name="tabled:Tabled"))
        network = load_prior(path).network
    finally:
        del sys.modules["tabled"]
    assert network.table.tolist() == [0, 1, 2] and network.plain.tolist() == [0, 1, 2, 3]
    expected = fresh(MLP).network.state_dict()
    assert all(
        torch.equal(w, expected[name].half().float()) for name, w in network.state_dict().items()
    )


@pytest.mark.parametrize(
    "name", ["x" * 300, "x" * 100_000, "a\0b", "", "/", "~", 3, None, b"fashion"]
)
def test_names_that_no_file_can_have(name: Any) -> None:
    for load in (load_prior, find_prior, load_card):
        with pytest.raises(InputError) as caught:
            load(name)
        message = str(caught.value)
        assert message.startswith("prior") and "\n" not in message and len(message) < 300


@pytest.mark.parametrize("text", ["{", "[1]", "\xff", "[" * 100_000, "1" * 5000])
def test_a_damaged_card(tmp_path: Path, text: str) -> None:
    path = saved(tmp_path).with_suffix(".json")
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as caught:
        load_card(tmp_path)
    assert str(caught.value).startswith(f"card {path}: ") and "\n" not in str(caught.value)


def test_the_header_that_the_bad_ones_are_made_of_is_good(tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    rewrite(path, lambda entry: None)
    assert isinstance(load_prior(path).network, nn.Module)


def test_weights_that_are_missing_or_too_many(tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    header = {"format": 1, **asdict(MLP)}

    def write(weights: dict[str, Tensor]) -> None:
        save_file(weights, path, metadata={"invdiff": json.dumps(header)})

    whole = {name: w.half() for name, w in fresh(MLP).network.state_dict().items()}
    write(dict(list(whole.items())[1:]))
    assert "its header does not describe its weights" in refusal(path)
    write({**whole, "extra": torch.zeros(1)})
    assert "its header does not describe its weights" in refusal(path)


def test_a_prior_that_is_misspelt_is_guessed() -> None:
    assert refusal("fashoin").endswith("swissroll); did you mean 'fashion'?")


def test_an_unknown_name_lists_the_priors_that_ship(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "WEIGHTS", tmp_path)
    assert (
        refusal("fashoin")
        == "prior 'fashoin': no such file, folder or shipped prior (shipped: none)"
    )
    # A name of the hub is told from a path that is not there.
    assert refusal("google/ddpm-cat").endswith(
        "; of the Hugging Face hub: prior=hf:google/ddpm-cat"
    )
    for path in ("runs/mine.pt", "../a/b", "/a/b", "a/b/c"):
        assert "hf:" not in refusal(path)
    for name in ("fashion", "cells"):
        saved(tmp_path, name=f"{name}.safetensors")
    assert "(shipped: cells, fashion)" in refusal("fashoin")
    assert (
        load_prior("fashion").shape == (2,)
        and find_prior("cells") == tmp_path / "cells.safetensors"
    )


def test_the_card_lies_beside_the_weights(tmp_path: Path) -> None:
    path = saved(tmp_path)
    assert load_card(path) == {}
    path.with_suffix(".json").write_text('{"data": "mine"}')
    assert load_card(path) == load_card(tmp_path) == {"data": "mine"}


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"shape": [1, 8, 8]}, "shape: found [1, 8, 8] (list), expected (C, H, W) or (dims,)"),
        ({"shape": (1, 8)}, "shape: found (1, 8) (tuple), expected (C, H, W) or (dims,)"),
        ({"shape": (0, 8, 8)}, "shape: found 0 (int), expected an integer from 1 to 100000"),
        ({"network": "unet"}, "network: found 'unet' (str), expected a name and settings"),
        (
            {"network": {"name": "unet", "width": 10**6}},
            "width: found 1000000 (int), expected at most 100000",
        ),
        ({"T": 0}, "T: found 0 (int), expected an integer from 1 to 100000"),
        ({"T": True}, "T: found True (bool), expected an integer from 1 to 100000"),
        ({"variance": "big"}, "variance: found 'big' (str), expected one of small, large, learned"),
        ({"target": "label"}, "target: found 'label' (str), expected one of eps, x0, v, flow"),
        (
            {"sigma_range": [0.1, 1.0]},
            "sigma_range: found [0.1, 1.0] (list), expected two noise levels",
        ),
        (
            {"sigma_range": (1.0, 0.1)},
            "sigma_range: found [1.0, 0.1], expected two increasing noise levels",
        ),
    ],
    ids=range(11),
)
def test_what_no_prior_is(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as caught:
        replace(UNET, **settings)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"target": "eps"}, "target: found 'eps' (str), expected one of label"),
        (
            {"network": {"name": "classifier"}},
            "classes: found None (NoneType), expected an integer from 1 to 100000",
        ),
    ],
    ids=range(2),
)
def test_what_no_classifier_is(settings: dict[str, Any], line: str) -> None:
    given = {"shape": (1, 8, 8), "network": {"name": "classifier", "classes": 3}, **settings}
    with pytest.raises(InputError) as caught:
        ClassifierSpec(**given)
    assert str(caught.value) == line


def test_the_name_of_a_prior_that_ships_is_that_prior(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever lies in the working directory under the same name: a person's folder `photos`, say."""
    shipped = find_prior("swissroll")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "swissroll").mkdir()
    assert find_prior("swissroll") == shipped and checkpoint.prior_files("swissroll") == [shipped]
    assert checkpoint.load_card("swissroll")
    with pytest.warns(
        UserWarning, match=r"^prior swissroll: the one that ships .* prior=./swissroll$"
    ):
        assert load_prior("swissroll").shape == (2,)
    # A path is a path.
    for path in ("./swissroll", Path("swissroll")):
        with pytest.raises(InputError, match=r"swissroll: the folder holds no prior.safetensors$"):
            load_prior(path)
    saved(tmp_path / "swissroll", name=checkpoint.PRIOR_FILE)
    assert find_prior(Path("swissroll")) == Path("swissroll") / checkpoint.PRIOR_FILE
    assert load_prior("./swissroll").shape == load_prior(Path("swissroll")).shape == (2,)
