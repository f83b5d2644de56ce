"""The wheels of the four distributions and clean environments to try them in, each made once a run.

Every test that uses these carries the mark `xdist_group("packaging")`: one worker makes them and the others none.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.environments import Environment, pip

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("proto", "kernels", "server", "client")


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folder name of each distribution -> its wheel, built from a copy so that no build/ is left in the tree."""
    work = tmp_path_factory.mktemp("wheels")
    shutil.copy(ROOT / "LICENSE", work)
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, work / folder, symlinks=True, ignore=unwanted)
    sources = [work / folder for folder in FOLDERS]
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", work / "out", *sources)
    built = {folder: list((work / "out").glob(f"alignd_{folder}-*.whl")) for folder in FOLDERS}
    assert all(len(paths) == 1 for paths in built.values()), built
    return {folder: paths[0] for folder, paths in built.items()}


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory, wheels: dict[str, Path]) -> Callable[..., Environment]:
    """A function from names of wheels (with extras: `server[audio]`) to an environment with these installed."""

    def make(*names: str) -> Environment:
        made = Environment(tmp_path_factory.mktemp("environment"))
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", made.folder], check=True, timeout=120)
        requirements = []
        for name in names:
            folder, bracket, extras = name.partition("[")
            requirements.append(f"{wheels[folder]}{bracket}{extras}")
        constraints = ROOT / "constraints/runtime.txt"
        pip("--python", made.python, "install", "--constraint", constraints, *requirements)
        return made

    return make


@pytest.fixture(scope="session")
def client_environment(environment: Callable[..., Environment]) -> Environment:
    return environment("proto", "client")


@pytest.fixture(scope="session")
def kernels_environment(environment: Callable[..., Environment]) -> Environment:
    return environment("kernels")


@pytest.fixture(scope="session")
def server_environment(environment: Callable[..., Environment]) -> Environment:
    """What the image installs, less [gpu]."""
    return environment("proto", "kernels", "server[audio]", "client")
