"""Records where and when a benchmark ran, and pins it to a core."""

from __future__ import annotations

import os
import platform
import resource
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def about(*packages: str) -> str:
    """The date, the processor and the versions, as the first line of a benchmark's output."""
    versions = [f"{name} {_version(name)}" for name in packages]
    cores = f"{os.cpu_count()} cores"
    return ", ".join([str(date.today()), _processor(), cores, f"Python {platform.python_version()}", *versions])


def cores() -> list[int]:
    """The cores that this process may use; none where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def pin(core: int | None) -> None:
    """Keep this process to a core."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def resident() -> int:
    """The memory that this process has now, in bytes; the most that it has had where the system tells no more."""
    try:
        pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    except OSError:
        return peak()
    return pages * resource.getpagesize()
