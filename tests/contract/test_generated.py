"""The committed protobuf modules are what the .proto files give, and they serve what the contract says."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from alignd.v1 import alignment_pb2, alignment_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "proto/alignd/v1"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generated")
    environment = {**os.environ, "PYTHON": sys.executable}
    subprocess.run([ROOT / "scripts/generate_proto.sh", out], check=True, timeout=280, env=environment)
    return out / "alignd/v1"


def test_committed_modules_are_current(generated: Path) -> None:
    fresh = {path.name: path.read_text(encoding="utf-8") for path in generated.glob("*_pb2*.py*")}
    committed = {path.name: path.read_text(encoding="utf-8") for path in COMMITTED.glob("*_pb2*.py*")}
    assert len(fresh) >= 3
    assert committed.keys() == fresh.keys()
    stale = sorted(name for name in fresh if fresh[name] != committed[name])
    assert stale == [], "run `make proto`"


def test_service_methods_have_stubs_and_are_unary() -> None:
    file = descriptor_pb2.FileDescriptorProto.FromString(alignment_pb2.DESCRIPTOR.serialized_pb)
    (service,) = file.service
    assert file.package == "alignd.v1"
    for method in service.method:
        assert not method.client_streaming
        assert not method.server_streaming
        assert inspect.isfunction(getattr(alignment_pb2_grpc.AlignmentServiceServicer, method.name))
