"""Imports between the four distributions run one way, and nobody imports torch or Triton before a GPU is used."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "alignd": ROOT / "proto/alignd",
    "alignd_kernels": ROOT / "kernels/alignd_kernels",
    "alignd_server": ROOT / "server/alignd_server",
    "alignd_client": ROOT / "client/alignd_client",
}
FORBIDDEN = {
    "alignd": {"alignd_kernels", "alignd_server", "alignd_client", "numba", "torch", "triton"},
    "alignd_kernels": {"alignd", "alignd_server", "alignd_client", "grpc", "google", "prometheus_client", "pydantic"},
    "alignd_server": {"alignd_client"},
    "alignd_client": {"alignd_kernels", "alignd_server", "numba", "torch", "triton"},
}
# The one exception to the arrows: AlignClient.in_process runs the server's engine in the caller's process.
IN_PROCESS = ROOT / "client/alignd_client/local.py"


class Import(NamedTuple):
    module: str
    line: int
    at_import_time: bool  # executed when the module is imported, not when a function of it is called


def imports_of(path: Path) -> Iterator[Import]:
    """Yield the absolute imports of a file, those for type checkers left out."""
    pending: list[tuple[ast.AST, bool]] = [(ast.parse(path.read_text(encoding="utf-8")), True)]
    while pending:
        node, at_import_time = pending.pop()
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, at_import_time) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (Import(f"{node.module}.{alias.name}", node.lineno, at_import_time) for alias in node.names)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend((child, at_import_time) for child in node.orelse)
            continue
        inside = at_import_time and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        pending.extend((child, inside) for child in ast.iter_child_nodes(node))


def sources(package: str) -> list[Path]:
    found = sorted(path for path in PACKAGES[package].rglob("*.py") if "_pb2" not in path.name)
    assert found, package
    return found


def top(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_against_the_arrows(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{item.line} imports {item.module}"
        for path in sources(package)
        for item in imports_of(path)
        if top(item.module) in FORBIDDEN[package]
        and not (path == IN_PROCESS and top(item.module) == "alignd_server" and not item.at_import_time)
    ]
    assert found == []


def needs_torch(path: Path) -> bool:
    """Whether the file says of itself that it imports torch, for gradients; what is for a GPU needs not say so."""
    return "Imports torch" in (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")


@pytest.mark.parametrize("package", ["alignd_kernels", "alignd_server"])
def test_torch_and_triton_wait_for_a_gpu_or_a_gradient(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{item.line} imports {item.module}"
        for path in sources(package)
        if not path.name.startswith("gpu") and not needs_torch(path)
        for item in imports_of(path)
        if item.at_import_time and top(item.module) in {"torch", "triton"}
    ]
    assert found == []


def test_what_needs_torch_for_a_gradient_is_imported_when_it_is_called() -> None:
    kernels = PACKAGES["alignd_kernels"]
    modules = {
        ".".join(("alignd_kernels", *path.relative_to(kernels).with_suffix("").parts))
        for path in sources("alignd_kernels")
        if needs_torch(path) and not path.name.startswith("gpu")
    }
    assert "alignd_kernels.transducer.loss_autograd" in modules
    found = [
        f"{path.relative_to(ROOT)}:{item.line} imports {item.module}"
        for package in ("alignd_kernels", "alignd_server")
        for path in sources(package)
        if not path.name.startswith("gpu") and not needs_torch(path)
        for item in imports_of(path)
        if item.at_import_time and (item.module in modules or item.module.rpartition(".")[0] in modules)
    ]
    assert found == []


def test_only_gpu_modules_import_gpu_modules_at_import_time() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{item.line} imports {item.module}"
        for package in ("alignd_kernels", "alignd_server")
        for path in sources(package)
        if not path.name.startswith("gpu")
        for item in imports_of(path)
        if item.at_import_time
        and top(item.module) == "alignd_kernels"
        and any(part.startswith("gpu") for part in item.module.split("."))
    ]
    assert found == []


@pytest.mark.parametrize("name", ["reference.py", "cpu.py"])
def test_reference_and_cpu_know_no_gpu_library(name: str) -> None:
    paths = sorted(PACKAGES["alignd_kernels"].rglob(name))
    assert paths
    found = [
        f"{path.relative_to(ROOT)}:{item.line} imports {item.module}"
        for path in paths
        for item in imports_of(path)
        if top(item.module) in {"torch", "triton"}
    ]
    assert found == []


@pytest.mark.parametrize("package", ["alignd", "alignd_client"])
def test_light_packages_parse_on_python_3_10(package: str) -> None:
    for path in sources(package):
        ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=(3, 10))
