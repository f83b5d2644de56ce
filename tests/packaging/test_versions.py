"""One version, written in four places and pinned between the siblings."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTIONS = {"proto": "alignd", "kernels": "alignd_kernels", "server": "alignd_server", "client": "alignd_client"}


def literal_version(folder: str) -> str:
    tree = ast.parse((ROOT / folder / DISTRIBUTIONS[folder] / "__init__.py").read_text(encoding="utf-8"))
    values = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
    ]
    assert len(values) == 1
    return str(values[0])


def project(folder: str) -> dict:
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_four_versions_are_equal() -> None:
    assert len({literal_version(folder) for folder in DISTRIBUTIONS}) == 1


@pytest.mark.parametrize("folder", DISTRIBUTIONS)
def test_siblings_are_pinned_to_this_very_version(folder: str) -> None:
    table = project(folder)
    optional = table.get("optional-dependencies", {})
    requirements = sum(optional.values(), start=table["dependencies"])
    ours = [r for r in requirements if r.startswith("alignd")]
    for requirement in ours:
        assert re.fullmatch(rf"alignd-\w+(\[\w+\])?=={re.escape(literal_version(folder))}", requirement), requirement
    assert bool(ours) == (folder in ("server", "client"))


@pytest.mark.parametrize("folder", DISTRIBUTIONS)
def test_python_floor_and_licence(folder: str) -> None:
    table = project(folder)
    assert table["requires-python"] == (">=3.10" if folder in ("proto", "client") else ">=3.11")
    assert table["license"] == "Apache-2.0"
    assert (ROOT / folder / "LICENSE").read_text(encoding="utf-8") == (ROOT / "LICENSE").read_text(encoding="utf-8")
