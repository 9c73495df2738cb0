"""Training: settings, the trainer's steps, exact resume, and the command line."""

from __future__ import annotations

import csv
import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from invdiff import load_prior
from invdiff.errors import InputError
from invdiff.prior.checkpoint import PriorSpec
from invdiff.prior.ddpm import algorithm_1
from invdiff.prior.experts import Experts
from invdiff.rng import Streams, stream_seed
from invdiff.training import Trainer, TrainSettings, fit, load_data
from invdiff.training import trainer as trainer_module
from invdiff.training.data import epoch_order
from invdiff.training.trainer import computes_bf16, last_step, learning_rate

TINY = {"name": "unet", "width": 8, "multipliers": [1, 2], "blocks": 1, "patch": 2, "dropout": 0.1}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    blobs = rng.integers(0, 256, (60, 1, 4, 4)).repeat(2, -1).repeat(2, -2).astype(np.uint8)
    path = tmp_path / "blobs.npz"
    np.savez(path, images=blobs[:, 0])
    return path


def settings(data: Path, **changes: object) -> TrainSettings:
    base = TrainSettings(
        data=str(data),
        network=TINY,
        T=50,
        steps=12,
        batch=16,
        lr=1e-3,
        warmup=3,
        cooldown=4,
        ema=0.9,
        precision="float32",
        log_every=4,
        eval_every=6,
        eval_images=3,
        save_every=4,
    )
    return replace(base, **changes)


# A step.


def test_the_indices_of_steps_are_the_epochs_end_to_end(images: Path, tmp_path: Path) -> None:
    train, held_out = load_data(str(images))
    trainer = Trainer(settings(images), train, held_out, tmp_path / "run")
    n = len(train)
    seen = torch.cat([trainer.indices(step) for step in range(12)])
    expected = torch.cat([epoch_order(n, epoch, seed=0) for epoch in range(4)])[: len(seen)]
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("clip", [1.0, 1e-7])
def test_a_step_is_adam_on_algorithm_1(images: Path, tmp_path: Path, clip: float) -> None:
    """One step, written out: AdamW's first update of a clipped gradient, and the average of the
    weights.

    Adam's first step does not know the scale of a gradient, unless that is near its 1e-8: a norm of
    1e-7 shows whether gradients are clipped.
    """
    s = settings(images, clip=clip)
    train, held_out = load_data(str(images))
    trainer = Trainer(s, train, held_out, tmp_path / "run")
    before = [p.detach().clone() for p in trainer.network.parameters()]
    torch.manual_seed(stream_seed(s.seed, 1, 0))
    algorithm_1(trainer.ddpm, train.batch(trainer.indices(0))).mean().backward()
    gradients = [p.grad.clone() for p in trainer.network.parameters()]
    total = torch.stack([g.norm() for g in gradients]).norm()
    trainer.train_step()
    for old, new, mean, g in zip(
        before, trainer.network.parameters(), trainer.averaged.parameters(), gradients, strict=True
    ):
        g = g * min(1.0, clip / float(total))
        expected = old - learning_rate(s, 0) * g / (g.abs() + 1e-8)
        torch.testing.assert_close(new.detach(), expected, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(mean, old + 0.9 * (expected - old), rtol=1e-4, atol=1e-6)


def test_learning_rate() -> None:
    s = TrainSettings(data="x", steps=100, lr=1.0, warmup=10, cooldown=20)
    rates = [learning_rate(s, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1 and set(rates[9:81]) == {1.0}
    assert rates[90] == pytest.approx(0.5) and rates[99] == pytest.approx(0.05)


@pytest.mark.slow
def test_training_lowers_the_loss(images: Path, tmp_path: Path) -> None:
    fit(
        settings(images, steps=120, warmup=10, log_every=30, eval_every=120, save_every=120),
        tmp_path,
        progress=False,
    )
    with (tmp_path / "log.csv").open() as file:
        losses = [float(value) for _, name, value in csv.reader(file) if name == "loss"]
    assert len(losses) == 4 and losses[-1] < 0.9 * losses[0]


def losses_in(run: Path) -> dict[int, float]:
    with (run / "log.csv").open() as file:
        rows = [
            (int(step), float(value)) for step, name, value in csv.reader(file) if name == "loss"
        ]
    assert len(dict(rows)) == len(rows)
    return dict(rows)


# Two processes with the environment that torchrun gives them, forked after the imports to be quick.
# In the first of two attempts one is killed in step 8.
TWO_PROCESSES = """
import os, socket, sys, traceback
import torch._dynamo  # which an optimiser imports, and slowly
from invdiff import train
from invdiff.training.trainer import Trainer

def process(rank, attempt, port):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    def killed(self, step=Trainer.train_step):
        if self.step == 7 and (rank, attempt) == (1, 0): os.kill(os.getpid(), 9)
        return step(self)
    Trainer.train_step = killed
    train.main(sys.argv[1:])

for attempt in range(2):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(2):
        children.append(os.fork())
        if children[-1] == 0:
            try:
                process(rank, attempt, port)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
    print("ended", *[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children], flush=True)
"""


@pytest.mark.slow
def test_the_loss_curve_does_not_depend_on_processes_and_micro_batches(
    images: Path, tmp_path: Path
) -> None:
    """One process; four micro-batches; two processes with two micro-batches, killed and started
    again.
    """
    # With four timesteps, importance sampling is past its warm-up when the process is killed.
    s = settings(
        images,
        network={**TINY, "dropout": 0.0},
        flip=True,
        log_every=1,
        eval_every=12,
        T=4,
        timesteps="importance",
    )
    fit(s, tmp_path / "one", progress=False)
    fit(replace(s, accumulate=4), tmp_path / "four", progress=False)
    given = {
        **{f: getattr(s, f) for f in s.__dataclass_fields__},
        "accumulate": 2,
        "out": tmp_path / "two",
    }
    given["crop_scale"] = list(s.crop_scale)
    words = [f"{key}={value}" for key, value in given.items() if value is not None]
    run = subprocess.run(
        [sys.executable, "-c", TWO_PROCESSES, *words],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert "ended 1 -9" in run.stdout and "ended 0 0" in run.stdout, run.stderr
    one, four, two = (losses_in(tmp_path / name) for name in ("one", "four", "two"))
    assert list(one) == list(range(1, 13))
    assert four == pytest.approx(one, rel=1e-5) and two == pytest.approx(one, rel=1e-5)


def folder_of_images(path: Path, number: int = 5) -> Path:
    rng = np.random.default_rng(0)
    path.mkdir()
    for i in range(number):
        picture = rng.integers(0, 256, (12, 14, 3), dtype=np.uint8)
        Image.fromarray(picture).save(path / f"{i}.png")
    return path


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_batch_is_what_the_seed_and_the_step_say(tmp_path: Path, channels_last: bool) -> None:
    """Every number of a batch, drawn here again in the same order; two processes share it."""
    folder = folder_of_images(tmp_path / "data")
    s = settings(folder, size=8, crop=True, flip=True, channels_last=channels_last, seed=7)
    train, held_out = load_data(s.data, 8, crop=True)
    trainer = Trainer(s, train, held_out, tmp_path / "run")
    torch.manual_seed(stream_seed(7, 1, 3))
    items = torch.cat([epoch_order(5, epoch, 7) for epoch in range(9, 13)])[48 - 45 : 48 - 45 + 16]
    x_0 = train.batch(items, torch.rand(16, 2))
    mirrored = torch.rand(16) < 0.5
    x_0[mirrored] = x_0[mirrored].flip(-1)
    t = torch.randint(1, s.T + 1, (16,))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    eps = torch.empty(16, 3, 8, 8, memory_format=layout).normal_()
    whole = trainer.draw_batch(3)
    for found, expected in zip(whole, (x_0, t, torch.ones(16), eps), strict=False):
        assert torch.equal(found, expected)
    halves = []
    for trainer.share in (slice(0, 8), slice(8, 16)):
        halves.append(trainer.draw_batch(3))
    for values, first, second in zip(whole, *halves, strict=True):
        assert torch.equal(values, torch.cat([first, second]))


def test_images_are_mirrored_left_to_right(images: Path, tmp_path: Path) -> None:
    trainer = Trainer(settings(images, flip=True), *load_data(str(images)), tmp_path / "run")
    straight = trainer.train.batch(trainer.indices(0))
    kinds = set()
    for found, image in zip(trainer.draw_batch(0).x_0, straight, strict=True):
        assert not torch.equal(image, image.flip(-1))
        kinds.add((torch.equal(found, image), torch.equal(found, image.flip(-1))))
    assert kinds == {(True, False), (False, True)}


def test_two_steps_share_no_random_number(tmp_path: Path) -> None:
    """Neighbouring steps and seeds: other noise, other crops, other t."""
    folder = folder_of_images(tmp_path / "data", 1)  # always the same item
    data = load_data(str(folder), 8, crop=True)
    drawn = {}
    for seed in (0, 1):
        s = settings(folder, size=8, crop=True, seed=seed, T=1000)
        trainer = Trainer(s, *data, tmp_path / f"run{seed}")
        for step in range(6):
            drawn[seed, step] = trainer.draw_batch(step)
    batches = list(drawn.values())
    for i, one in enumerate(batches):
        for other in batches[:i]:
            assert not (one.eps == other.eps).any()
            assert not torch.equal(one.t, other.t) and not torch.equal(one.x_0, other.x_0)


def test_dropout_differs_between_processes_and_steps(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's generator, from which the masks come, after the batches of processes 0, 1 and 2."""
    trainer = Trainer(settings(images), *load_data(str(images)), tmp_path / "run")
    masks = []
    for process in (0, 1, 2):
        monkeypatch.setattr(type(trainer.accelerator), "process_index", process)
        for step in (3, 4):
            trainer.draw_batch(step)
            masks.append(torch.rand(8))
            trainer.draw_batch(step)
            assert torch.equal(masks[-1], torch.rand(8))
    assert all(not (masks[i] == masks[j]).any() for i in range(6) for j in range(i))


@pytest.mark.parametrize(("batch", "accumulate"), [(16, 3), (6, 4)])
def test_a_batch_that_cannot_be_shared(
    images: Path, tmp_path: Path, batch: int, accumulate: int
) -> None:
    with pytest.raises(
        InputError,
        match=f"batch: found {batch}, expected a multiple of 1 .*accumulate={accumulate}",
    ):
        fit(settings(images, batch=batch, accumulate=accumulate), tmp_path, progress=False)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("not enough memory\nat line 3"), "not enough memory"),
        (OverflowError("too large"), "too large"),
    ],
)
def test_a_network_that_cannot_be_built(
    images: Path, tmp_path: Path, error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: PriorSpec) -> None:
        raise error

    monkeypatch.setattr(PriorSpec, "make_network", fails)
    with pytest.raises(InputError) as found:
        Trainer(settings(images), *load_data(str(images)), tmp_path / "run")
    assert str(found.value) == f"network: cannot be built ({reason}), expected a smaller one"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_step_does_not_wait_for_the_gpu(images: Path, tmp_path: Path) -> None:
    trainer = Trainer(settings(images, flip=True), *load_data(str(images)), tmp_path)
    trainer.train_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.train_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(images: Path, tmp_path: Path) -> None:
    """A process killed while it saves, continued, ends bit for bit where an unbroken one does."""
    s = settings(images, optimiser="muon")
    fit(s, tmp_path / "whole", progress=False)
    script = (
        "import os, sys; from pathlib import Path; from invdiff.training import trainer as t, TrainSettings\n"
        "write = Path.write_bytes\n"
        "def killed(self, content):\n"
        "    last = 'state.pt' in self.name and (self.parent / 'state.pt').exists()\n"
        "    write(self, content[: len(content) // 2] if last else content)\n"
        "    if last: os.kill(os.getpid(), 9)\n"
        "Path.write_bytes = killed\n"
        f"t.fit(TrainSettings(**{ {f: getattr(s, f) for f in s.__dataclass_fields__}!r}), sys.argv[1], progress=False)"
    )
    died = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "killed")], capture_output=True
    )
    assert died.returncode == -9, died.stderr.decode()
    assert torch.load(tmp_path / "killed" / "state.pt", weights_only=True)["step"] == 4
    fit(s, tmp_path / "killed", progress=False)
    assert_same_weights(tmp_path / "whole", tmp_path / "killed")
    assert not list((tmp_path / "killed").glob(".*"))


def assert_same_weights(one: Path, other: Path) -> None:
    whole, resumed = (torch.load(run / "state.pt", weights_only=True) for run in (one, other))
    for part in ("network", "averaged"):
        for name, weight in whole[part].items():
            assert torch.equal(weight, resumed[part][name]), name


@pytest.mark.slow
def test_a_run_that_is_told_to_stop_saves_first(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s, train_step = settings(images, steps=8, eval_every=8), Trainer.train_step
    fit(s, tmp_path / "whole", progress=False)
    for number, last in ((signal.SIGINT, 5), (signal.SIGTERM, 6), (signal.SIGHUP, 7)):

        def told(trainer: Trainer, number: int = number, last: int = last) -> torch.Tensor:
            if trainer.step == last - 1:
                os.kill(os.getpid(), number)
            return train_step(trainer)

        handler = signal.getsignal(number)
        monkeypatch.setattr(Trainer, "train_step", told)
        with pytest.raises(KeyboardInterrupt, match=f"saved at step {last} of 8"):
            fit(s, tmp_path / "stopped", progress=False)
        assert signal.getsignal(number) == handler
    fit(s, tmp_path / "stopped", progress=False)
    assert_same_weights(tmp_path / "whole", tmp_path / "stopped")


SIGNALLED = """
import os, signal, sys
from invdiff.training.trainer import Trainer
from invdiff import config, train

def told(self, step=Trainer.train_step):
    if self.step == 4:
        os.kill(os.getpid(), int(sys.argv[1]))
    return step(self)

if sys.argv[2] == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
Trainer.train_step = told
config.run_command(train.main, sys.argv[3:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "nohup", "code", "step"),
    [
        (signal.SIGTERM, "", 143, 5),
        (signal.SIGHUP, "nohup", 0, 6),
    ],
)
def test_a_command_that_is_told_to_stop_says_so(
    images: Path, tmp_path: Path, number: int, nohup: str, code: int, step: int
) -> None:
    words = [f"data={images}", f"out={tmp_path / 'run'}", "steps=6", "T=20", "batch=4"]
    network = [f"network.{key}={value}" for key, value in TINY.items()]
    ended = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(int(number)), nohup, *words, *network],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == code, ended.stderr
    assert ("saved at step 5 of 6; the same command continues" in ended.stderr) == (code != 0)
    assert "Traceback" not in ended.stderr
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == step
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("stop", [2, 3, 5, 6, 7])
def test_the_logged_loss_does_not_know_of_a_resumption(
    images: Path, tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = settings(images, steps=8, log_every=3, eval_every=100, save_every=100)
    fit(s, tmp_path / "whole", progress=False)
    train_step = Trainer.train_step

    def told(trainer: Trainer) -> torch.Tensor:
        if trainer.step == stop - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(trainer)

    monkeypatch.setattr(Trainer, "train_step", told)
    with pytest.raises(KeyboardInterrupt):
        fit(s, tmp_path / "parts", progress=False)
    monkeypatch.setattr(Trainer, "train_step", train_step)
    fit(s, tmp_path / "parts", progress=False)
    assert losses_in(tmp_path / "parts") == losses_in(tmp_path / "whole")
    assert list(losses_in(tmp_path / "whole")) == [3, 6, 8]


@pytest.mark.slow
def test_the_logged_loss_is_the_mean_since_the_line_before(images: Path, tmp_path: Path) -> None:
    fit(settings(images, log_every=1), tmp_path / "all", progress=False)
    fit(settings(images, log_every=4), tmp_path / "fourth", progress=False)
    every = losses_in(tmp_path / "all")
    for step, loss in losses_in(tmp_path / "fourth").items():
        mean = sum(every[step - k] for k in range(4)) / 4
        assert loss == pytest.approx(mean, rel=1e-5)


@pytest.mark.slow
def test_two_runs_do_not_share_a_folder(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s, train_step, refused = settings(images, steps=2), Trainer.train_step, []

    def second(trainer: Trainer) -> torch.Tensor:
        if not refused:
            with pytest.raises(InputError, match="another run .* is writing here") as error:
                fit(s, tmp_path / "run", progress=False)
            refused.append(error)
        return train_step(trainer)

    monkeypatch.setattr(Trainer, "train_step", second)
    fit(s, tmp_path / "run", progress=False)
    assert refused and not list((tmp_path / "run").glob(".*"))
    lines = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert len(lines) == len({line.rpartition(",")[0] for line in lines})


@pytest.mark.slow
@pytest.mark.parametrize("file", ["state.pt", "prior.safetensors"])
def test_a_full_disk_leaves_the_last_good_files(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    s, write = settings(images), Path.write_bytes
    fit(replace(s, steps=4, cooldown=0), tmp_path, progress=False)
    before = (tmp_path / file).read_bytes()

    def full(path: Path, content: bytes) -> None:
        write(path, content[: len(content) // 2] if file in path.name else content)
        if file in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        InputError,
        match="cannot be written .No space left.*stopped at step 8, the run as it was last saved",
    ) as error:
        fit(replace(s, cooldown=0), tmp_path, progress=False)
    assert "\n" not in str(error.value) and not list(tmp_path.glob(".*"))
    assert (tmp_path / file).read_bytes() == before and load_prior(tmp_path) is not None
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 4


@pytest.mark.slow
def test_a_run_can_begin_with_the_weights_of_a_prior(images: Path, tmp_path: Path) -> None:
    s = settings(images, steps=1)
    fit(s, tmp_path / "first", progress=False)
    first = load_prior(tmp_path / "first").network.state_dict()
    trainer = Trainer(
        replace(s, init=str(tmp_path / "first")), *load_data(s.data), tmp_path / "second"
    )
    for network in (trainer.network, trainer.averaged):
        assert all(torch.equal(w, first[name]) for name, w in network.state_dict().items())
    attentive = replace(
        s, init=str(tmp_path / "first"), network={**TINY, "attention": [2], "head_channels": 8}
    )
    larger = Trainer(attentive, *load_data(s.data), tmp_path / "third").averaged
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([1, 900])
    assert len(larger.state_dict()) > len(first) and torch.equal(
        larger(x, t), trainer.averaged(x, t)
    )
    wider = replace(s, init=str(tmp_path / "first"), network={**TINY, "width": 16})
    with pytest.raises(InputError, match=r"time.0.weight: found \(32, 8\), expected \(64, 16\)"):
        fit(wider, tmp_path / "wider", progress=False)
    with pytest.raises(InputError, match="predicts eps, expected target=v"):
        fit(replace(s, init=str(tmp_path / "first"), target="v"), tmp_path / "v", progress=False)


@pytest.mark.slow
def test_a_run_leaves_what_it_says(images: Path, tmp_path: Path) -> None:
    fit(settings(images), tmp_path, progress=False)
    names = {path.name for path in tmp_path.iterdir()}
    assert {
        "state.pt",
        "prior.safetensors",
        "log.csv",
        "samples_0000006.png",
        "samples_0000012.png",
    } <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not [name for name in names if name.startswith(".")]
    with (tmp_path / "log.csv").open() as file:
        logged = {name for _, name, _ in csv.reader(file)}
    assert logged == {"loss", "images_per_second", "bits_per_dim", "bits_per_dim_error"}
    prior = load_prior(tmp_path)
    assert prior.shape == (1, 8, 8) and not any(p.requires_grad for p in prior.parameters())


@pytest.mark.slow
def test_other_settings_do_not_resume(images: Path, tmp_path: Path) -> None:
    fit(settings(images), tmp_path, progress=False)
    with pytest.raises(InputError, match="lr=0.001, this one has 0.01"):
        fit(settings(images, lr=1e-2), tmp_path, progress=False)
    fit(settings(images, steps=14), tmp_path, progress=False)  # a longer run is the same run


def test_a_damaged_state_is_named(images: Path, tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="state.pt: damaged"):
        fit(settings(images), tmp_path, progress=False)


def test_a_state_that_holds_code_is_not_run(images: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (marker,)

    torch.save({"step": Bomb()}, tmp_path / "state.pt")
    with pytest.raises(InputError, match="state.pt"):
        fit(settings(images), tmp_path, progress=False)
    assert not marker.exists()


@pytest.mark.slow
def test_a_diverged_run_stops_and_keeps_its_last_state(images: Path, tmp_path: Path) -> None:
    s = settings(images, steps=20, warmup=10**9, log_every=20, save_every=2)
    fit(replace(s, steps=4), tmp_path, progress=False)
    poisoned = torch.load(tmp_path / "state.pt", weights_only=True)
    good = {name: w.clone() for name, w in poisoned["averaged"].items()}
    poisoned["network"]["stem.bias"][0] = torch.inf
    torch.save(poisoned, tmp_path / "state.pt")
    with pytest.raises(InputError, match="loss: found nan at step 5"):
        fit(s, tmp_path, progress=False)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == 4 and all(
        torch.equal(w, good[name]) for name, w in state["averaged"].items()
    )


@pytest.mark.slow
def test_bf16_and_channels_last_train(images: Path, tmp_path: Path) -> None:
    fit(settings(images, precision="bf16", channels_last=True), tmp_path, progress=False)
    assert all(w.isfinite().all() for w in load_prior(tmp_path).state_dict().values())


def test_auto_precision_asks_the_hardware() -> None:
    assert computes_bf16(torch.device("cpu")) == torch.ops.mkldnn._is_mkldnn_bf16_supported()


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0},
        {"steps": 10**30},
        {"lr": -1.0},
        {"lr": float("nan")},
        {"lr": float("inf")},
        {"ema": 1.0},
        {"batch": 0},
        {"batch": 10**9},
        {"size": 0},
        {"size": 10**6},
        {"channels": -1},
        {"T": 0},
        {"T": 10**9},
        {"warmup": -1},
        {"cooldown": -1},
        {"weight_decay": -0.1},
        {"clip": 0.0},
        {"clip": float("nan")},
        {"p_uncond": 2.0},
        {"seed": -1},
        {"seed": 10**30},
        {"loss": "simpel"},
        {"optimiser": "sgd"},
        {"precision": "fp8"},
    ],
)
def test_settings_out_of_range(changes: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(changes))) as error:
        TrainSettings(data="x", **changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("classes", ["many", -1, 1e9, True])
def test_classes_are_a_number(classes: object) -> None:
    with pytest.raises(InputError, match="network.classes: found"):
        _ = TrainSettings(data="x", network={"name": "unet", "classes": classes}).classes


def test_a_batch_larger_than_memory_is_refused_before_the_data_are_read(tmp_path: Path) -> None:
    s = TrainSettings(data=str(tmp_path / "nothing"), size=2**14, batch=10**6)
    with pytest.raises(InputError, match="batch, size: found 1000000 images .* GiB in a step"):
        fit(s, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_an_out_that_is_no_folder_is_refused_before_the_data_are_read(tmp_path: Path) -> None:
    s = TrainSettings(data=str(tmp_path / "nothing"))
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for out, message in {
        "file": "cannot be written .found a file",
        "file/run": "cannot be written",
        "link": "found a link to .*nowhere, which does not exist",
        "x" * 300: "cannot be written",
        "nul\0": "character NUL",
    }.items():
        with pytest.raises(InputError, match=f"(?s)out .*{message}") as error:
            fit(s, tmp_path / out, progress=False)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="neither a folder"):
        fit(s, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()  # what is refused leaves nothing


# The command line.


@pytest.mark.slow
def test_train_command_line(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from invdiff.train import main

    words = [
        "network.width=8",
        "network.multipliers=[1,2]",
        "network.name=unet",
        "network.patch=2",
        "T=50",
        "batch=8",
    ]
    main(
        [f"data={images}", f"out={tmp_path / 'run'}", "steps=3", "lr=1e-3", "eval_images=2", *words]
    )
    assert (tmp_path / "run" / "prior.safetensors").is_file()


@pytest.mark.slow
def test_the_shipped_presets_are_valid() -> None:
    from invdiff import config
    from invdiff.train import TrainCommand

    for name in config.preset_names("train"):
        command = config.validate(
            TrainCommand, config.resolve([f"train={name}", "data=x", "out=y"], TrainCommand)
        )
        shape = (command.channels, 64, 64) if command.channels else (2,)
        assert command.spec(shape).build() is not None


# An expert of low noise.


EXPERT = {"name": "gated", "widths": [8], "blocks": [1], "embedding": 4}


def test_an_expert_is_judged_by_what_it_denoises(images: Path, tmp_path: Path) -> None:
    given = settings(
        images,
        network=EXPERT,
        schedule="cosine",
        T=100,
        timesteps="log_sigma",
        sigma_range=(0.01, 0.25),
    )
    prior = fit(given, tmp_path / "run", progress=False)
    with (tmp_path / "run" / "log.csv").open() as file:
        logged = {(int(step), name): float(value) for step, name, value in csv.reader(file)}
    _, held_out = load_data(str(images))
    x_0 = (held_out.batch(torch.arange(3)) + 1) / 2
    # The three levels share the streams of the images, one after the other.
    noise = Streams([(0, i) for i in range(3)])
    for sigma in (0.01, 0.05, 0.25):
        found = prior(x_0 + sigma * noise(x_0), sigma).clamp(0, 1)
        psnr = -10 * (found - x_0).square().flatten(1).mean(1).log10()
        assert logged[12, f"psnr_{sigma:.3g}"] == pytest.approx(float(psnr.mean()), abs=1e-3)
    assert not list((tmp_path / "run").glob("samples_*.png"))
    assert not any(name == "bits_per_dim" for _, name in logged)


def test_an_expert_meets_only_its_noise_levels(images: Path, tmp_path: Path) -> None:
    given = settings(
        images, network=EXPERT, schedule="cosine", timesteps="log_sigma", sigma_range=(0.02, 0.1)
    )
    train, held_out = load_data(given.data)
    trainer = Trainer(given, train, held_out, tmp_path)
    schedule = trainer.ddpm.schedule
    sigma = torch.cat([schedule.sigma[trainer.draw_batch(step).t] / 2 for step in range(20)])
    step = (schedule.sigma[2:] / schedule.sigma[1:-1]).max().sqrt()  # half of a step of T = 50
    assert sigma.min() > 0.02 / step and sigma.max() < 0.1 * step


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sigma_range": (0.1, 0.2)},
            "sigma_range: found it with timesteps=uniform, expected log_sigma",
        ),
        (
            {"sigma_range": (0.2, 0.1), "timesteps": "log_sigma"},
            r"sigma_range: found \(0.2, 0.1\) \(tuple\), expected \[low, high\] with 0 < low <= high$",
        ),
        ({"sigma_range": (0, 0.1), "timesteps": "log_sigma"}, "sigma_range: found"),
        ({"sigma_range": 0.1, "timesteps": "log_sigma"}, "sigma_range: found"),
        (
            {"crop_scale": (0.5, 1.5)},
            r"crop_scale: found \(0.5, 1.5\) \(tuple\), expected \[low, high\] with 0 < low <= high <= 1",
        ),
        ({"crop_scale": (0.0, 1.0)}, "crop_scale: found"),
        ({"crop_scale": (True, 1.0)}, "crop_scale: found"),
        ({"crop_scale": ("a", 1.0)}, "crop_scale: found"),
    ],
)
def test_ranges_of_an_expert(images: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings(images, **changes)


def test_squares_at_all_scales_come_from_the_numbers_of_a_step(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for i in range(30):
        picture = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    given = settings(tmp_path, crop=True, size=16, channels=3, crop_scale=(0.4, 1.0))
    train, held_out = load_data(given.data, 16, 3, crop=True, crop_scale=(0.4, 1.0))
    assert train.uniforms_per_item == 5
    trainer = Trainer(given, train, held_out, tmp_path / "run")
    again = Trainer(given, train, held_out, tmp_path / "other")
    for step in (0, 3):
        assert torch.equal(trainer.draw_batch(step).x_0, again.draw_batch(step).x_0)
    # Averages of noise are less noisy: some of the squares were shrunk, some were not.
    spread = trainer.draw_batch(0).x_0.std((1, 2, 3))
    assert spread.max() > 0.5 and spread.min() < 0.4


# A run of limited time.


def test_where_a_run_of_limited_time_ends() -> None:
    """At 10 steps a second, 100 seconds in all, a cool-down of 200 steps begins after 80 seconds."""
    at = {n: last_step(1000 + n, 1000, n / 10, 100.0, 200) for n in (1, 798, 800, 900, 1000, 1100)}
    assert at == {1: None, 798: None, 800: 2000, 900: 2000, 1000: 2001, 1100: 2101}
    s = TrainSettings(data="x", steps=5000, seconds=100.0, lr=1.0, warmup=1, cooldown=200)
    rates = [learning_rate(s, step, end=2000) for step in (1000, 1799, 1900, 1999)]
    assert rates == pytest.approx([1.0, 1.0, 0.5, 0.005])


@pytest.fixture
def no_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The grid of samples takes seconds."""
    monkeypatch.setattr(trainer_module, "draw_samples", lambda prior: torch.zeros(1, *prior.shape))


class Clock:
    """Seconds that pass with every look at them."""

    def __init__(self, each: float) -> None:
        self.now = 0.0
        self.each = each

    def perf_counter(self) -> float:
        self.now += self.each
        return self.now

    def __getattr__(self, name: str) -> object:
        import time

        return getattr(time, name)


def test_a_run_ends_by_the_clock(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_samples: None
) -> None:
    """With its cool-down inside, judged and saved; a run that is continued keeps its end."""
    s = settings(images, steps=10**6, seconds=10.0, log_every=1, eval_every=50, save_every=50)
    train, held_out = load_data(str(images))
    trainer = Trainer(s, train, held_out, tmp_path / "run")
    rates = []
    monkeypatch.setattr(
        trainer_module, "time", Clock(0.5)
    )  # two looks a step, hence a step a second
    monkeypatch.setattr(
        trainer_module, "learning_rate", lambda *a: rates.append(learning_rate(*a)) or rates[-1]
    )
    trainer.run(progress=False)
    assert 8 <= trainer.step == trainer.end <= 11 and trainer.ends_by_clock
    np.testing.assert_allclose(rates[-4:], [s.lr * k / 4 for k in (4, 3, 2, 1)])
    assert (tmp_path / "run" / "prior.safetensors").exists()
    assert len(list((tmp_path / "run").glob("samples_*.png"))) == 1
    again = Trainer(s, train, held_out, tmp_path / "run")
    assert (again.step, again.end) == (trainer.end, trainer.end)
    longer = Trainer(replace(s, seconds=None, steps=40), train, held_out, tmp_path / "run")
    assert (longer.step, longer.end, longer.ends_by_clock) == (trainer.end, 40, False)


def test_a_first_step_that_takes_all_the_time_is_followed_by_one_more(
    images: Path, tmp_path: Path, no_samples: None
) -> None:
    s = settings(images, steps=50, seconds=1e-6, log_every=1)
    fit(s, tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "prior.safetensors").exists()
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert (state["step"], state["end"]) == (2, 2)


def test_the_script_for_a_gpu(tmp_path: Path, no_samples: None) -> None:
    """All three runs, on a CPU, at a tiny size; the same command continues what is not finished."""
    import gpu

    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for n in range(3):
        picture = rng.integers(0, 256, (24, 30, 3), np.uint8)
        Image.fromarray(picture).save(tmp_path / "photos" / f"{n}.png")
    np.savez(tmp_path / "val.npz", images=rng.integers(0, 256, (2, 16, 16, 3), np.uint8))
    np.savez(tmp_path / "faces.npz", images=rng.integers(0, 256, (12, 16, 16, 3), np.uint8))
    places = [f"--{name}={tmp_path / name}" for name in ("photos", "runs", "out")]
    places += [f"--faces={tmp_path / 'faces.npz'}", "--squares=8"]
    words = ["device=cpu", "compile=false", "batch=4", "size=16", "seconds=600"]
    words += [
        f"held_out={tmp_path / 'val.npz'}",
        "log_every=1",
        "eval_images=1",
        "init=null",
        "precision=float32",
    ]
    unets = ["network.width=8", "network.head_channels=8", "network.multipliers=[1,1]"]
    gated = ["network.widths=[8]", "network.blocks=[1]"]
    gpu.main([*places, "--only=photos", "--only=faces64", *words, *unets, "steps=2"])
    gpu.main([*places, "--only=photos_low", *words, *gated, "steps=2"])
    for name in ("photos", "faces64"):
        assert load_prior(tmp_path / "out" / f"{name}.safetensors").shape == (3, 16, 16)
    judged = {"photos": "bits_per_dim", "faces64": "bits_per_dim", "photos_low": "psnr_0.35"}
    for name in gpu.RUNS:
        log = (tmp_path / "out" / f"{name}.csv").read_text()
        assert "\n2,loss," in log and f"\n2,{judged[name]}," in log
    gpu.main([*places, "--only=photos_low", *words, *gated, "steps=3"])
    log = (tmp_path / "out" / "photos_low.csv").read_text()
    assert [line.split(",")[0] for line in log.splitlines() if ",loss," in line] == ["1", "2", "3"]


def test_what_the_script_for_a_gpu_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu

    out = f"--out={tmp_path / 'out'}"
    with pytest.raises(InputError, match="--faces is missing: expected the data of faces64"):
        gpu.main([out, "--only=faces64"])
    with pytest.raises(InputError, match="nothing: not found, expected a folder"):
        gpu.main([out, "--only=faces64", f"--faces={tmp_path / 'nothing'}"])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_bytes(bytes(1000))
    monkeypatch.setattr(gpu, "LARGEST_DATA", 999)
    with pytest.raises(InputError, match=r"found 0\.0 MiB, expected at most"):
        gpu.main([out, "--only=faces64", f"--faces={tmp_path / 'data'}"])
    (tmp_path / "data" / "prior.safetensors").write_bytes(bytes(1000))
    monkeypatch.setattr(gpu, "LARGEST_WEIGHTS", 999)
    with pytest.raises(InputError, match="photos: found weights of 0.0 MiB"):
        gpu.keep("photos", tmp_path / "data", tmp_path / "out")
    monkeypatch.setattr(gpu, "LARGEST_DATA", 1000)
    with pytest.raises(InputError, match="setting 'stepz' is unknown"):
        gpu.main([out, "--only=faces64", f"--faces={tmp_path / 'data' / 'x'}", "stepz=3"])
    with pytest.raises(InputError, match="width"):  # of another network than the preset's
        gpu.settings_of("photos_low", tmp_path / "data", ["network.width=8"])


@pytest.mark.parametrize("name", ["photos", "faces64"])
def test_runs_on_a_gpu_begin_with_the_weights_that_ship(name: str) -> None:
    import gpu

    s = gpu.settings_of(name, Path("data"), [])
    assert s.init == name and s.seconds == 480 and s.batch == 512 and s.ema == "auto"
    shipped = load_prior(name)
    built = s.spec((3, 64, 64)).make_network().state_dict()
    network = shipped.network
    found = (network.high if isinstance(network, Experts) else network).state_dict()
    assert {k: v.shape for k, v in built.items()} == {k: v.shape for k, v in found.items()}
    assert 2 * sum(v.numel() for v in built.values()) < gpu.LARGEST_WEIGHTS


@pytest.mark.parametrize("able", [False, True])
@pytest.mark.parametrize("precision", ["auto", "bf16", "float32"])
def test_the_precision_in_which_a_run_trains(
    precision: str, able: bool, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, object]] = []
    monkeypatch.setattr(trainer_module, "computes_bf16", lambda device: able)
    monkeypatch.setattr(trainer_module, "Accelerator", lambda **given: told.append(given))
    for accumulate, compiled in ((1, False), (4, True)):
        more = {"precision": precision, "accumulate": accumulate, "compile": compiled}
        trainer_module.make_accelerator(settings(images, device="cpu", **more))
        assert told.pop() == {
            "cpu": True,
            "mixed_precision": "bf16"
            if precision == "bf16" or precision == "auto" and able
            else "no",
            "gradient_accumulation_steps": accumulate,
            "dynamo_backend": "inductor" if compiled else "no",
        }
