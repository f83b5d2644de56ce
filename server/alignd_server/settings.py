"""Every setting of the server, from flags, `ALIGND_…` variables and defaults, in this order."""

import ipaddress
from collections.abc import Mapping, MutableMapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from alignd_server.engine import EngineLimits

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
PositiveSeconds = Annotated[float, Field(gt=0)]

OTHER_VARIABLES = ("ALIGND_TARGET", "ALIGND_CACHE_DIR")
"""Of the client and of the kernels."""

OFF = "off"
"""Instead of an address. The empty string stands for a setting's default everywhere."""


class Settings(BaseSettings):
    """The alignd server: batched alignment over gRPC. Each flag is also a variable: --max-queue-items is
    ALIGND_MAX_QUEUE_ITEMS; flags win. --version prints the version."""

    model_config = SettingsConfigDict(
        env_prefix="ALIGND_",
        env_ignore_empty=True,
        cli_kebab_case=True,
        cli_prog_name="alignd-server",
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
        extra="forbid",
    )

    listen: str = Field("127.0.0.1:50051", description="Address of the gRPC service; port 0 takes a free one.")
    metrics_listen: str = Field(
        "127.0.0.1:9464", description="Address of /metrics for Prometheus; off for none; port 0 takes a free one."
    )
    device: str = Field("auto", description="auto (CUDA where there is one, else the CPU), cpu, cuda (all) or cuda:N.")
    threads: NotNegative = Field(0, description="Threads of the CPU's kernels, and of audio; 0 for all processors.")
    device_memory_bytes: NotNegative = Field(
        0, description="What a launch may use beside input and output; 0 for half of what is free."
    )
    max_message_bytes: Positive = Field(64 << 20, description="Largest request; replies may be larger.")
    max_queue_items: Positive = Field(65_536, description="Items that may wait or be in work.")
    max_queue_bytes: Positive = Field(512 << 20, description="Bytes of requests that may wait or be in work.")
    max_batch_cells: Positive = Field(1 << 27, description="Lattice cells of one launch.")
    max_batch_bytes: Positive = Field(64 << 20, description="Payload of one launch.")
    batch_delay_ms: Seconds = Field(0.0, description="How long an incomplete batch waits for company.")
    payload_timeout_s: PositiveSeconds = Field(20.0, description="How long an announced message may take to arrive.")
    drain_s: Seconds = Field(30.0, description="How long work in flight may take after SIGTERM.")
    audio: Literal["auto", "on", "off"] = Field(
        "auto", description="AlignAudio: auto answers it if the packages of alignd-server[audio] are there."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level to log.")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto is console on a terminal and json elsewhere."
    )

    @model_validator(mode="after")
    def _check(self) -> "Settings":
        split_address(self.listen)
        if self.metrics_listen != OFF:
            split_address(self.metrics_listen)
        if self.max_queue_bytes < self.max_message_bytes:
            raise ValueError("--max-queue-bytes must be at least --max-message-bytes, or the largest could never enter")
        return self

    def addresses(self) -> dict[str, str]:
        """What is listened on, by flag."""
        given = {"--listen": self.listen, "--metrics-listen": self.metrics_listen}
        return {flag: address for flag, address in given.items() if address != OFF}

    def engine_limits(self) -> EngineLimits:
        return EngineLimits(
            self.max_queue_items,
            self.max_queue_bytes,
            self.max_batch_cells,
            self.max_batch_bytes,
            self.batch_delay_ms * 1e-3,
            self.max_message_bytes,
        )


def split_address(address: str) -> tuple[str, int]:
    """`host:port`, `[v6]:port`. Raises `ValueError`."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{address!r} is no address; it looks like 127.0.0.1:50051")
    return host.strip("[]"), int(port)


def is_loopback(address: str) -> bool:
    host, _ = split_address(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def keep_gpu_kernels(environment: MutableMapping[str, str]) -> None:
    """Let Triton keep a GPU's compiled kernels in `ALIGND_CACHE_DIR` too, if that is set, fit for it, and Triton's own
    variable is not set; to be called before Triton is imported."""
    named = environment.get("ALIGND_CACHE_DIR")
    if not named or "TRITON_CACHE_DIR" in environment:
        return
    from alignd_kernels.compile_cache import usable  # imports Numba

    if usable(Path(named), Path(named, "triton")):
        environment["TRITON_CACHE_DIR"] = str(Path(named, "triton"))


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that look like settings and are none, each with the setting's that is meant, or "".

    What Kubernetes sets for a service called alignd is left out.
    """
    prefix = "ALIGND_"
    known = [
        *(name.upper() for name in Settings.model_fields),
        *(name.removeprefix(prefix) for name in OTHER_VARIABLES),
    ]
    found = {name: name.upper().removeprefix(prefix) for name in environment if name.upper().startswith(prefix)}
    if prefix + "SERVICE_HOST" in environment:
        found = {name: bare for name, bare in found.items() if not bare.startswith(("SERVICE_", "PORT"))}
    return {
        name: "".join(prefix + match for match in get_close_matches(bare, known, 1))
        for name, bare in found.items()
        if bare not in known
    }
