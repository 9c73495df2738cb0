"""Memory of a device: how much is free, and how much a piece of work takes at its peak."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")  # of Linux
_RESET = Path("/proc/self/clear_refs")
_CGROUPS = (  # what a container may have, and has, in its two versions
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that a device has left for this process, None where that is not told.

    On a GPU, what the process holds and does not use counts as free. On a CPU, the limit of a
    container counts too.

    Example:
        >>> free_memory(torch.device("meta")) is None
        True
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + unused
    if device.type != "cpu":
        return None
    found = [_available(), *(_left(*files) for files in _CGROUPS)]
    return min((value for value in found if value is not None), default=None)


def peak_of(work: Callable[[], object], device: torch.device) -> int | None:
    """Do a piece of work, and return the bytes that it took at its peak beyond what was held before.

    None where the system does not tell. On a CPU it is the process's resident memory, so that other
    threads count too, and memory that was freed and is used again does not.

    Example:
        >>> peak_of(lambda: None, torch.device("meta")) is None
        True
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu" or not _reset():
        work()
        return None
    before_kb = _status("VmRSS")
    work()
    peak_kb = _status("VmHWM")
    return None if before_kb is None or peak_kb is None else 1024 * max(0, peak_kb - before_kb)


def _reset() -> bool:
    """Set the mark of the process's largest memory to what it holds now; whether that worked."""
    try:
        _RESET.write_text("5")
    except OSError:
        return False
    return True


def _status(key: str) -> int | None:
    """The kilobytes of a line of the process's status."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), None)


def _available() -> int | None:
    """The bytes that the machine has for new work without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # no such name, no such system
        return None


def _left(limit: str, used: str) -> int | None:
    """What a container has left, None without a limit."""
    try:
        most = Path(limit).read_text().strip()
        return None if most == "max" else int(most) - int(Path(used).read_text())
    except (OSError, ValueError):
        return None
