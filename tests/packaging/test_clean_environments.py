"""Each distribution alone in an environment of its own: it imports, and brings nothing that it does not need."""

import importlib.metadata
import json
import re

from support.environments import Environment

HEAVY = {"torch", "triton", "numba", "llvmlite"}


def installed(environment: Environment) -> set[str]:
    code = "import importlib.metadata as m, json; print(json.dumps([d.name.lower() for d in m.distributions()]))"
    return {name.replace("_", "-") for name in json.loads(environment.run("-c", code))}


def test_client_alone(client_environment: Environment) -> None:
    names = installed(client_environment)
    assert {"alignd-client", "alignd-proto"} <= names
    assert not names & (HEAVY | {"alignd-kernels", "alignd-server"})
    for module in ("alignd_client", "alignd_client.aio", "alignd_client.cli"):
        loaded = client_environment.modules_after(f"import {module}")
        assert not loaded & (HEAVY | {"alignd_kernels", "alignd_server"})


def test_in_process_without_the_server_names_the_extra(client_environment: Environment) -> None:
    code = """
from alignd_client import AlignClient
try:
    AlignClient.in_process(device="cpu")
except ImportError as error:
    print(error)
"""
    assert "alignd-client[local]" in client_environment.run("-c", code)


def test_proto_alone(client_environment: Environment) -> None:
    loaded = client_environment.modules_after("import alignd.wire, alignd.v1.alignment_pb2_grpc")
    assert not loaded & (HEAVY | {"alignd_kernels", "alignd_server", "alignd_client"})


def test_kernels_alone(kernels_environment: Environment) -> None:
    names = installed(kernels_environment)
    assert not names & {"alignd-proto", "alignd-server", "alignd-client", "grpcio", "protobuf", "torch", "triton"}
    code = """
import numpy as np
import alignd_kernels
value = np.zeros((1, 2, 4), dtype=np.float32)
path = alignd_kernels.maximum_path(value, np.ones_like(value))
print(path.sum(), "torch" in __import__("sys").modules)
"""
    assert kernels_environment.run("-c", code).split() == ["4.0", "False"]


def test_everything_but_the_gpu(server_environment: Environment) -> None:
    assert not installed(server_environment) & {"torch", "triton"}
    loaded = server_environment.modules_after("import alignd_client, alignd_server")
    assert not loaded & HEAVY
    # The client in the same environment as the server imports none of it until in_process is called.
    assert "alignd_server" not in server_environment.modules_after("import alignd_client")


def test_the_engine_knows_no_transport_settings_or_audio(server_environment: Environment) -> None:
    loaded = server_environment.modules_after("import alignd_server.engine")
    assert not loaded & {"grpc", "pydantic", "pydantic_settings", "hama", "soundfile", "soxr", "num2words"}


def test_importing_the_client_is_fast(server_environment: Environment) -> None:
    """Besides NumPy, which it needs, at most twice as long as that."""
    # Processor time, the best of five: other workers of the test run may hold the processors meanwhile.
    code = (
        "import time; a = time.process_time(); import numpy; b = time.process_time(); import alignd_client\n"
        "print((time.process_time() - b) / (b - a))"
    )
    server_environment.run("-c", "import alignd_client")  # compiles to bytecode
    assert min(float(server_environment.run("-c", code)) for _ in range(5)) < 2


def test_no_dependency_is_under_gpl(server_environment: Environment) -> None:
    (packages,) = (server_environment.folder / "lib").glob("python*/site-packages")
    described = {}
    for distribution in importlib.metadata.distributions(path=[str(packages)]):
        fields = distribution.metadata
        lines = [fields.get("License-Expression") or "", (fields.get("License") or "").partition("\n")[0]]
        lines += [c for c in fields.get_all("Classifier") or [] if c.startswith("License ::")]
        described[fields["Name"]] = " | ".join(line for line in lines if line)
    assert len(described) > 20
    gpl = re.compile(r"(?<!L)GPL|(?<!Lesser )General Public License|Affero", re.IGNORECASE)
    # Where a package offers a choice ("A OR B"), one that is not GPL is enough; there is none today.
    assert {name: licence for name, licence in described.items() if gpl.search(licence)} == {}
