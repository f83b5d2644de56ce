"""What a result was measured on: machine, versions, revision."""

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import alignd_kernels
from alignd_kernels.threads import default_pool

ROOT = Path(__file__).parents[2]
MEASURED = Path(alignd_kernels.__file__).parents[2]  # --compare measures another tree than the harness's own
PACKAGES = (
    "numpy numba llvmlite torch triton torchaudio monotonic-alignment-search monotonic-align ctc-forced-aligner ddtw"
)


def describe() -> dict[str, Any]:
    """Everything that a stored result needs to be read by itself."""
    return {
        "cpu": cpu_model(),
        "cpus": os.cpu_count(),
        "threads": default_pool().threads,
        "cache_bytes": last_level_cache(),
        "load": list(os.getloadavg()),
        "system": platform.platform(),
        "gpu": gpu_name(),
        "python": platform.python_version(),
        "versions": versions(),
        "revision": revision(),
        "dirty": dirty(),
    }


def cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", path.read_text(), re.MULTILINE) if path.exists() else None
    return found.group(1) if found else platform.processor() or platform.machine()


def last_level_cache() -> int:
    """Bytes of the largest cache that the system tells of; 32 MiB where it tells of none."""
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    units = {"K": 1 << 10, "M": 1 << 20}
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units), default=32 << 20)


def gpu_name() -> str:
    """The CUDA device's, or empty."""
    try:
        import torch
    except ImportError:
        return ""
    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else ""


def versions() -> dict[str, str]:
    """Of the packages that take part, as far as they are installed."""
    found = {}
    for package in PACKAGES.split():
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def revision() -> str:
    return _git("rev-parse", "HEAD")


def dirty() -> bool:
    """Whether the measured packages or the harness differ from the revision."""
    return bool(_git("status", "--porcelain", "--", "proto", "kernels", "server", "client", "tests/benchmarks"))


def _git(*arguments: str) -> str:
    """Output of a git command; empty outside a repository."""
    try:
        done = subprocess.run(["git", *arguments], cwd=MEASURED, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
