"""What is in the wheels: all sources, nothing else, the licence, the types and the contract."""

import zipfile
from pathlib import Path

import pytest

PACKAGES = {"proto": "alignd", "kernels": "alignd_kernels", "server": "alignd_server", "client": "alignd_client"}


@pytest.mark.parametrize("folder", PACKAGES)
def test_wheel_holds_the_package_and_its_licence(folder: str, wheels: dict[str, Path]) -> None:
    source = wheels[folder].parents[1] / folder  # the copy that it was built from
    expected = {
        str(path.relative_to(source))
        for path in (source / PACKAGES[folder]).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = set(zipfile.ZipFile(wheels[folder]).namelist())
    packed = {name for name in names if ".dist-info/" not in name}
    assert packed == expected
    assert f"{PACKAGES[folder]}/py.typed" in packed
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_proto_wheel_holds_the_contract(wheels: dict[str, Path]) -> None:
    names = zipfile.ZipFile(wheels["proto"]).namelist()
    assert "alignd/v1/alignment.proto" in names
    assert "alignd/v1/alignment_pb2.pyi" in names
