"""How networks are computed: precision, memory format, compiling, and batches that fit into memory."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from invdiff import (
    Gaussian,
    Problem,
    evaluate,
    generate,
    inference,
    memory,
    restore,
    sample,
    sharing,
    solve,
    solvers,
)
from invdiff.errors import InputError
from invdiff.inference import even_chunks, fitting
from invdiff.operators import Denoise
from invdiff.prior import (
    ClassifierFree,
    Denoiser,
    GaussianDenoiser,
    NetworkDenoiser,
    Schedule,
    UNet,
    execution,
    match_channels,
)
from invdiff.prior.denoiser import levels
from invdiff.prior.execution import Executed, Execution, computing_in, has_bf16, is_ampere
from invdiff.resources import Process, physical_memory
from invdiff.training.data import to_device
from invdiff.training.trainer import computes_bf16

CPU = torch.device("cpu")


def unet(classes: int = 0) -> NetworkDenoiser:
    torch.manual_seed(0)
    network = UNet(1, width=8, multipliers=(1, 2), blocks=1, classes=classes, attention=(2,))
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.1)
    prior = NetworkDenoiser(
        network, (1, 8, 8), Schedule.linear(), stride=2, clip=False, classes=classes
    )
    return prior.eval().requires_grad_(False)


X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


# ------------------------------------------------------------------------------------- precision


def test_float32_is_the_network_as_it_is() -> None:
    prior = unet()
    expected = prior(X, 0.3)
    for settings in ({}, {"precision": "float32"}):
        found = Execution(**settings).around(prior)
        torch.testing.assert_close(found(X, 0.3), expected, rtol=0, atol=1e-5)
    assert isinstance(prior.network, UNet)  # the prior that was given stays as it is
    shared = {id(weight) for weight in found.parameters()}
    assert shared == {id(weight) for weight in prior.parameters()}


def test_bf16_is_near_and_not_equal() -> None:
    """Three significant digits inside the network; x and the result are float32."""
    prior = unet()
    expected = prior(X, 0.3)
    fast = Execution(precision="bf16").around(prior)
    seen: list[torch.dtype] = []
    fast.network.network.stem.register_forward_hook(lambda m, x, out: seen.append(out.dtype))
    found = fast(X, 0.3)
    assert seen == [torch.bfloat16] and found.dtype == torch.float32
    error = (found - expected).abs().max() / expected.std()
    assert 1e-5 < error < 0.05
    norm = next(m for m in fast.modules() if isinstance(m, nn.GroupNorm))
    assert norm.weight.dtype == torch.float32  # weights stay


def test_gradients_in_bf16_are_near_those_in_float32() -> None:
    prior = unet()
    gradients = []
    for precision in ("float32", "bf16"):
        x = X.clone().requires_grad_()
        out = Execution(precision=precision).around(prior)(x, 0.3)
        gradients.append(torch.autograd.grad(out.square().sum(), x)[0])
    exact, rough = gradients
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).norm() / exact.norm() < 0.05


def test_restoring_in_bf16_keeps_float32_around_the_network() -> None:
    problem = Problem(Denoise((1, 8, 8)), Gaussian(0.1), X)
    solver = solvers.DDNM(steps=3)
    exact = restore(problem, unet(), solver).samples
    rough = restore(problem, unet(), solver, precision="bf16").samples
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.1


REFUSED: dict[str, tuple[Any, dict[str, Any]]] = {
    "precision: found 'half' (str), expected one of auto, float32, bf16, tf32": (
        unet,
        {"precision": "half"},
    ),
    "compile: found 1 (int), expected true or false": (unet, {"compile": 1}),
    "precision: found tf32 on cpu, expected an NVIDIA GPU": (unet, {"precision": "tf32"}),
    "precision: found bf16 for a prior with weights in float64, expected auto": (
        lambda: unet().double(),
        {"precision": "bf16"},
    ),
    "precision: found float32 for a prior with weights in bfloat16, expected auto": (
        lambda: unet().bfloat16(),
        {"precision": "float32"},
    ),
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_is_refused(line: str) -> None:
    make, settings = REFUSED[line]
    problem = Problem(Denoise((1, 8, 8)), Gaussian(0.1), X)
    with pytest.raises(InputError) as caught:
        restore(problem, make(), solvers.DDNM(steps=1), **settings)
    assert line in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_auto_leaves_other_types_alone(dtype: torch.dtype) -> None:
    prior = unet().to(dtype)
    found = Execution().around(prior)
    assert Execution().resolved(prior) == str(dtype).removeprefix("torch.")
    tolerance = 1e-9 if dtype == torch.float64 else 0.1
    torch.testing.assert_close(found(X, 0.3), prior(X, 0.3), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0)])
@pytest.mark.parametrize("exact", [False, True])
def test_the_rule_of_auto(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], exact: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    for device, on_gpu in ((torch.device("cuda"), True), (CPU, False)):
        monkeypatch.setattr(
            execution, "weights_like", lambda prior, d=device: _On(torch.float32, d)
        )
        expected = "bf16" if on_gpu and capability >= (8, 0) and not exact else "float32"
        assert Execution().resolved(unet(), exact=exact) == expected
        if on_gpu and capability >= (8, 0):
            assert Execution(precision="tf32").resolved(unet()) == "tf32"


class _On:
    """What is asked of weights: their type and device."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype = dtype
        self.device = device


def test_solvers_that_take_differences_say_so() -> None:
    assert solvers.Gibbs().differences and solvers.PnPDM().differences
    assert solvers.ILVR(covariance=True).differences and solvers.MMPS(draw_last=True).differences
    assert not any(solver().differences for solver in (solvers.DDNM, solvers.ILVR, solvers.MMPS))


def test_tf32_is_set_for_the_network_alone() -> None:
    def flags() -> tuple[bool, bool]:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before = flags()
    for precision, expected in (("tf32", (True, True)), ("float32", (False, False))):
        with computing_in(precision, torch.device("cuda")):
            assert flags() == expected
        with computing_in(precision, CPU):
            assert flags() == before
        assert flags() == before


# -------------------------------------------------------------------------- networks and their views


def test_networks_inside_views_are_reached() -> None:
    prior = match_channels(ClassifierFree(unet(classes=3), 1, weight=2.0), 3)
    assert prior.shape[0] == 3
    x = X.expand(3, 3, 8, 8)
    fast = Execution(precision="bf16").around(prior)
    assert [m.precision for m in fast.modules() if isinstance(m, Executed)] == ["bf16"]
    assert not any(isinstance(m, Executed) for m in prior.modules())
    torch.testing.assert_close(fast(x, 0.3), prior(x, 0.3), rtol=0.1, atol=0.1)


def test_a_prepared_prior_stays_prepared_or_is_prepared_anew() -> None:
    fast = Execution(precision="bf16").around(unet())
    assert Execution().around(fast) is fast
    again = Execution(precision="float32").around(fast)
    inner = [m for m in again.modules() if isinstance(m, Executed)]
    assert [m.precision for m in inner] == ["float32"] and isinstance(inner[0].network, UNet)


def test_priors_without_networks_are_left_alone() -> None:
    prior = GaussianDenoiser(torch.full((1, 8, 8), 0.5), 0.04 * torch.eye(64))
    # The prior itself, not a copy: one that counts its calls, say, is to see them.
    assert Execution(precision="float32", compile=True).around(prior) is prior


def test_features_lie_as_the_device_likes_them() -> None:
    prior = unet()
    fast = Execution().around(prior)
    seen: list[bool] = []

    def look(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        seen.append(out.is_contiguous(memory_format=torch.channels_last))

    fast.network.network.down[0].block.conv1.register_forward_hook(look)
    fast(X, 0.3)
    assert seen == [True]
    weight = prior.network.down[0].block.conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


class Flat(nn.Module):
    """A network that looks at memory in the usual order."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * 16, 2 * 16)
        self.conv = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = self.linear(self.conv(x).view(len(x), -1)).view(x.shape)
        return out


def test_a_network_that_needs_the_usual_order_gets_it() -> None:
    torch.manual_seed(0)
    network = Flat().requires_grad_(False)
    prior = NetworkDenoiser(network, (2, 4, 4), Schedule.linear())
    x = torch.rand(3, 2, 4, 4)
    expected = prior(x, 0.1)
    found = Execution().around(prior)
    for _ in range(2):
        torch.testing.assert_close(found(x, 0.1), expected)


def test_an_error_of_the_network_is_its_own() -> None:
    class Broken(nn.Conv2d):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            raise RuntimeError("no such thing")

    prior = NetworkDenoiser(Broken(1, 1, 1), (1, 8, 8), Schedule.linear())
    with pytest.raises(RuntimeError, match="no such thing"):
        Execution().around(prior)(X, 0.1)


# --------------------------------------------------------------------------------------- compiling


def compiled_by(monkeypatch: pytest.MonkeyPatch, compile: Any) -> Denoiser:
    monkeypatch.setattr(torch, "compile", compile)
    return Execution(compile=True).around(unet())


def test_the_compiled_network_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def compile(network: nn.Module) -> nn.Module:
        class Compiled(nn.Module):
            def forward(self, *given: Tensor) -> Any:
                calls.append(len(given[0]))
                return network(*given)

        return Compiled()

    fast = compiled_by(monkeypatch, compile)
    torch.testing.assert_close(fast(X, 0.3), unet()(X, 0.3), rtol=0, atol=1e-5)
    assert calls == [3]
    assert "_compiled" not in fast.network._modules


def test_what_cannot_be_compiled_runs_as_it_is_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compile(network: nn.Module) -> nn.Module:
        class Failing(nn.Module):
            def forward(self, *given: Tensor) -> Any:
                raise ValueError("no compiler\nmore of it")

        return Failing()

    fast = compiled_by(monkeypatch, compile)
    with pytest.warns(UserWarning) as caught:
        found = fast(X, 0.3)
    assert [str(w.message) for w in caught] == [
        "compile: not done, the network runs as it is (no compiler)"
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(fast(X, 0.3), found)
    torch.testing.assert_close(found, unet()(X, 0.3), rtol=0, atol=1e-5)


# ----------------------------------------------------------------------------------------- batches


def test_chunks_are_alike() -> None:
    for count in range(1, 30):
        jobs = [(0, k) for k in range(count)]
        for size in range(1, 12):
            chunks = even_chunks(jobs, size)
            assert [job for chunk in chunks for job in chunk] == jobs
            lengths = [len(chunk) for chunk in chunks]
            assert max(lengths) <= size and max(lengths) - min(lengths) <= 1
            assert len(chunks) == -(-count // size)


@pytest.mark.parametrize(
    "free, peak, expected",
    [
        (None, 10, 8),  # nothing is known
        (8 * 100 * 2**16, None, 8),  # ample
        (6_000, 1_000, 3),  # 0.6 of what is free
        (6_000, 10, 8),
        (100, 1_000, 1),
        (6_000, None, 8),
        (6_000, 0, 8),
    ],
)
def test_batches_fit_into_the_memory_that_is_free(
    monkeypatch: pytest.MonkeyPatch, free: int | None, peak: int | None, expected: int
) -> None:
    asked: list[int] = []

    def measured(work: Any, device: torch.device) -> int | None:
        work()
        return peak

    monkeypatch.setattr(inference, "free_memory", lambda device: free)
    monkeypatch.setattr(inference, "peak_of", measured)
    assert fitting(8, 100, CPU, lambda: asked.append(1)) == expected
    assert len(asked) == (free is not None and free < 10**6)


def test_a_batch_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "free_memory", lambda device: None)
    gpu = torch.device("cuda")
    assert fitting(10**6, 3 * 256**2, CPU, print) == 1
    assert fitting(10**6, 1024, CPU, print) == 256
    assert fitting(10**6, 3 * 256**2, gpu, print) == 21
    assert fitting(5, 1024, gpu, print) == 5
    assert fitting(10**6, 10**9, gpu, print) == 1


def test_measured_batches_change_no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step that is measured draws no number of the run, and is not counted."""
    problem = Problem(Denoise((1, 8, 8)), Gaussian(0.1), X)
    solver = solvers.DPS(steps=3)
    expected = restore(problem, unet(), solver, samples=4, batch=5)
    measured: list[object] = []

    def peak_of(work: Any, device: torch.device) -> int:
        measured.append(work())
        return 1_000

    monkeypatch.setattr(inference, "free_memory", lambda device: 9_000)
    monkeypatch.setattr(inference, "peak_of", peak_of)
    found = restore(problem, unet(), solver, samples=4)  # batches of five at most
    assert len(measured) == 1
    torch.testing.assert_close(found.samples, expected.samples, rtol=0, atol=1e-4)
    assert found.nfe == expected.nfe == 3


@pytest.mark.parametrize("batch", [0, -1, None, "all", 1.5, True])
def test_what_is_no_batch_is_refused(batch: Any) -> None:
    problem = Problem(Denoise((1, 8, 8)), Gaussian(0.1), X)
    with pytest.raises(InputError, match="batch: found"):
        restore(problem, unet(), solvers.DDNM(steps=1), batch=batch)


def test_the_peak_of_a_piece_of_work() -> None:
    gc.collect()
    size = 2**27
    found = memory.peak_of(lambda: torch.ones(size // 4).sum(), CPU)
    if found is None:
        pytest.skip("this system does not tell")
    assert 0.8 * size < found < 2 * size
    free = memory.free_memory(CPU)
    assert free is not None and 0 < free < 2**50


def machine(
    monkeypatch: pytest.MonkeyPatch, root: Path, files: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Make a machine that tells of its memory in these files, and in those that it had, alone."""
    for name, text in files.items():
        file = root / name.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.setattr(memory, "Path", lambda name: root / name.lstrip("/"))
    monkeypatch.setattr(memory, "_STATUS", root / "proc/self/status")


def test_the_memory_of_this_machine() -> None:
    """As the kernel tells it: in bytes, and no page of it counted twice."""
    told = Path("/proc/meminfo")
    if not told.exists():
        pytest.skip("no Linux")
    kilobytes = {line.split()[0]: int(line.split()[1]) for line in told.read_text().splitlines()}
    assert physical_memory() == pytest.approx(1024 * kilobytes["MemTotal:"], rel=0.01)
    assert memory._available() == pytest.approx(1024 * kilobytes["MemAvailable:"], rel=0.5)


def test_the_least_of_what_a_machine_and_a_container_have_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("os.sysconf", {"SC_AVPHYS_PAGES": 7, "SC_PAGE_SIZE": 4096}.__getitem__)
    machine(monkeypatch, tmp_path)
    assert memory.free_memory(CPU) == 7 * 4096
    machine(monkeypatch, tmp_path, {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   5 kB\n"})
    assert memory.free_memory(CPU) == 5 * 1024
    new, old = "/sys/fs/cgroup/memory.", "/sys/fs/cgroup/memory/memory."
    machine(monkeypatch, tmp_path, {f"{new}max": "max\n", f"{new}current": "300\n"})
    assert memory.free_memory(CPU) == 5 * 1024
    machine(monkeypatch, tmp_path, {f"{new}max": "1000\n"})
    assert memory.free_memory(CPU) == 700
    limits = {f"{old}limit_in_bytes": "400\n", f"{old}usage_in_bytes": "150\n"}
    machine(monkeypatch, tmp_path, limits)
    assert memory.free_memory(CPU) == 250


def test_a_machine_that_does_not_tell_its_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def sysconf(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr("os.sysconf", sysconf)
    machine(monkeypatch, tmp_path)
    assert memory.free_memory(CPU) is None
    assert memory.peak_of(lambda: None, CPU) is None


def test_the_peak_is_what_work_took_beyond_what_was_held(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def work() -> None:
        machine(monkeypatch, tmp_path, {"/proc/self/status": "VmHWM:\t90 kB\nVmRSS:\t60 kB\n"})

    monkeypatch.setattr(memory, "_RESET", tmp_path / "clear_refs")
    machine(monkeypatch, tmp_path, {"/proc/self/status": "VmHWM:\t70 kB\nVmRSS:\t50 kB\n"})
    assert memory.peak_of(work, CPU) == 40 * 1024
    assert (tmp_path / "clear_refs").read_text() == "5"  # proc(5): the peak begins anew


def test_the_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch holds and no tensor uses is free; the peak is beyond what tensors held."""
    gpu = torch.device("cuda")
    for name, found in (
        ("mem_get_info", (100, 500)),
        ("memory_reserved", 30),
        ("memory_allocated", 10),
        ("max_memory_allocated", 70),
        ("reset_peak_memory_stats", None),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda device, found=found: found)
    assert memory.free_memory(gpu) == 120
    assert memory.peak_of(lambda: None, gpu) == 60


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_finished_samples_leave_the_gpu() -> None:
    problem = Problem(Denoise((1, 8, 8)), Gaussian(0.1), X)
    prior = unet().cuda()
    peaks = []
    for samples in (1, 64):
        torch.cuda.reset_peak_memory_stats()
        found = restore(problem, prior, solvers.DDNM(steps=2), samples=samples, batch=3)
        peaks.append(torch.cuda.max_memory_allocated())
        assert found.samples.is_cpu and found.problem.y.is_cpu
    assert peaks[1] <= 1.01 * peaks[0]


# ----------------------------------------------------------------------------------------- the doors


def test_samples_of_a_prior_do_not_depend_on_the_batch() -> None:
    whole = generate(unet(), 5, steps=3, seed=4)
    for batch in (1, 2, 5, 9):
        torch.testing.assert_close(
            generate(unet(), 5, steps=3, seed=4, batch=batch), whole, rtol=0, atol=1e-4
        )
    assert sample.samples_at_once(unet(), 5, 3) == 3
    assert sample.samples_at_once(unet(), 5, "auto") == 5


@pytest.mark.parametrize(
    "settings",
    [
        lambda **more: solve.SolveSettings(**more),
        lambda **more: sample.SampleSettings(**more),
        lambda **more: evaluate.EvaluateSettings(task="inpaint", **more),
    ],
)
def test_commands_refuse_a_batch_of_none(settings: Any) -> None:
    assert settings().batch == "auto" and settings(batch=3).batch == 3
    with pytest.raises(InputError, match="batch: found 0"):
        settings(batch=0)


def test_a_table_knows_the_precision_of_its_results() -> None:
    """Results in bf16 are not continued in float32, and "auto" is what it stands for."""
    prior = unet()

    def identity(solver: str, **more: Any) -> Any:
        settings = evaluate.EvaluateSettings(task="t", solver={"name": solver}, **more)
        cell = evaluate.in_one_precision(evaluate.Cell("t", solver, settings, ""), prior)
        return cell.identity()["precision"]

    assert identity("ddnm") == "float32" == identity("ddnm", precision="float32")
    assert identity("ddnm", precision="bf16") == "bf16"
    assert identity("gibbs", precision="bf16") == "bf16"
    prior.double()
    assert identity("ddnm") == "auto"


def test_settings_of_the_network_inside_are_its_own() -> None:
    network = nn.Conv2d(1, 1, 3)
    network.classes = 7  # type: ignore[assignment]
    executed = Executed(network, "bf16")
    assert executed.classes == 7 and executed.stride == (1, 1) and executed.precision == "bf16"
    with pytest.raises(AttributeError, match="nothing"):
        _ = executed.nothing


class Small(nn.Conv2d):
    """The least that a compiler can be given."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return super().forward(x).sin()


@pytest.mark.slow
def test_a_network_is_really_compiled() -> None:
    """By torch's own compiler, where there is one: the same to rounding."""
    torch.manual_seed(0)
    network = Small(1, 1, 3, padding=1).requires_grad_(False)
    prior = NetworkDenoiser(network, (1, 8, 8), Schedule.linear(), clip=False)
    fast = Execution(compile=True).around(prior)
    torch.testing.assert_close(fast(X, 0.3), prior(X, 0.3), rtol=0, atol=1e-5)
    assert fast.network._compiled is not None


# ------------------------------------------------- what a GPU is asked, on machines that have none

GPU = torch.device("cuda")


def test_the_levels_of_images_that_are_not_on_the_cpu() -> None:
    """One level is a number there, wherever it was; levels of images are moved."""
    x = torch.zeros(3, 1, 2, 2, dtype=torch.float16, device="meta")
    for sigma in (0.1, torch.tensor(0.1, dtype=torch.float64), torch.rand(3, device="meta")):
        found = levels(sigma, x)
        assert found.shape == (3, 1, 1, 1) and found.device == x.device and found.dtype == x.dtype


def test_images_on_their_way_to_a_gpu_are_pinned() -> None:
    class Images:
        device = CPU
        pinned = False

        def pin_memory(self) -> Images:
            self.pinned = True
            return self

        def to(self, device: torch.device, non_blocking: bool = False) -> tuple[object, ...]:
            return device, self.pinned, non_blocking

    there = Images()
    there.device = GPU
    assert to_device(Images(), GPU) == (GPU, True, True)  # type: ignore[arg-type]
    assert to_device(Images(), CPU) == (CPU, False, False)  # type: ignore[arg-type]
    assert to_device(there, GPU) == (GPU, False, False)  # type: ignore[arg-type]


def test_each_process_of_a_machine_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "pick_device", lambda name: torch.device(name))
    monkeypatch.setattr(sharing, "this_process", lambda: Process(5, 3, 8))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    share = sharing.Share.of("1/1")
    assert share.device("cuda") == torch.device("cuda", 1)
    assert share.device("cuda:0") == torch.device("cuda", 0) and share.device("cpu") == CPU


def test_a_gpu_takes_more_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "free_memory", lambda device: None)
    for device, at_once in ((CPU, 2**18), (GPU, 2**22)):
        found = fitting(10**9, 2**10, device, lambda: None)
        assert found == at_once // 2**10
        prior = unet()
        weight = SimpleNamespace(is_cuda=device == GPU)
        monkeypatch.setattr(evaluate, "state_like", lambda prior, weight=weight: weight)
        assert evaluate.images_at_once("auto", prior)(2**10) == at_once // 2**10
    assert evaluate.images_at_once(3, unet())(2**30) == 3


def test_gpus_of_amd_have_bf16_and_no_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert has_bf16(GPU) and not is_ampere(GPU)
    assert not has_bf16(torch.device("cpu")) and not is_ampere(torch.device("cpu"))


def test_bf16_that_is_emulated_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for computes in (True, False):
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation, computes=computes: including_emulation or computes,
        )
        assert computes_bf16(GPU) is computes
