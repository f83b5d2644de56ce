"""The wheels of the four distributions and clean environments to try them in, each made once a run.

The workers of a parallel run share them: who needs one first makes it, under a lock, and the others wait.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from support.environments import Environment, pip

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("proto", "kernels", "server", "client")
Share = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def share(tmp_path_factory: pytest.TempPathFactory) -> Share:
    """A function from a name and a maker to a folder that the maker has filled, once for all workers."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # each worker has a folder of its own in the run's

    def shared(name: str, make: Callable[[Path], None]) -> Path:
        folder, complete = base / name, base / f"{name}.complete"
        with FileLock(base / f"{name}.lock"):
            if not complete.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a maker that failed
                folder.mkdir()
                make(folder)
                complete.touch()
        return folder

    return shared


@pytest.fixture(scope="session")
def wheels(share: Share) -> dict[str, Path]:
    """Folder name of each distribution -> its wheel, built from a copy so that no build/ is left in the tree."""
    work = share("wheels", build_wheels)
    built = {folder: list((work / "out").glob(f"alignd_{folder}-*.whl")) for folder in FOLDERS}
    assert all(len(paths) == 1 for paths in built.values()), built
    return {folder: paths[0] for folder, paths in built.items()}


def build_wheels(work: Path) -> None:
    shutil.copy(ROOT / "LICENSE", work)
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, work / folder, symlinks=True, ignore=unwanted)
    sources = [work / folder for folder in FOLDERS]
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", work / "out", *sources)


def install(folder: Path, wheels: dict[str, Path], *names: str) -> None:
    """Make an environment with these wheels (with extras: `server[audio]`) and what they need."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=120)
    parts = [name.partition("[") for name in names]
    requirements = [f"{wheels[name]}{bracket}{extras}" for name, bracket, extras in parts]
    constraints = ROOT / "constraints/runtime.txt"
    pip("--python", folder / "bin/python", "install", "--constraint", constraints, *requirements)


@pytest.fixture(scope="session")
def client_environment(share: Share, wheels: dict[str, Path]) -> Environment:
    return Environment(share("client", lambda folder: install(folder, wheels, "proto", "client")))


@pytest.fixture(scope="session")
def kernels_environment(share: Share, wheels: dict[str, Path]) -> Environment:
    return Environment(share("kernels", lambda folder: install(folder, wheels, "kernels")))


@pytest.fixture(scope="session")
def server_environment(share: Share, wheels: dict[str, Path]) -> Environment:
    """What the image installs, less [gpu]."""
    names = ("proto", "kernels", "server[audio]", "client")
    return Environment(share("server", lambda folder: install(folder, wheels, *names)))
