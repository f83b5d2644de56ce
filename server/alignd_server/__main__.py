"""The command `alignd-server`."""

import asyncio
import os
import sys

import structlog
from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

from alignd_server import __version__, logs, malloc
from alignd_server.settings import Settings, keep_gpu_kernels, unknown_variables

log = structlog.get_logger("alignd.server")


def main(arguments: list[str] | None = None) -> int:
    """Run the server; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--version" in arguments:
        sys.stdout.write(f"alignd-server {__version__}\n")
        return 0
    malloc.set_thresholds()  # before threads start
    keep_gpu_kernels(os.environ)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own log has no structure; what matters is raised too
    try:
        settings = CliApp.run(Settings, cli_args=arguments)
    except (ValidationError, SettingsError) as error:
        sys.stderr.write(f"alignd-server: {_sentence(error)}\n")
        return 2
    logs.configure(settings.log_level, settings.log_format)
    for name, meant in unknown_variables(os.environ).items():
        log.warning("no such setting", variable=name, **({"meant": meant} if meant else {}))
    try:
        return asyncio.run(_run(settings))
    except (OSError, ValueError, ImportError) as error:
        sys.stderr.write(f"alignd-server: {error}\n")
        return 1


async def _run(settings: Settings) -> int:
    # Here and not above: gRPC starts threads when it is imported in earnest.
    from alignd_server.server import Server

    return await Server(settings).run()


def _sentence(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    parts = []
    for problem in error.errors():
        name = "_".join(map(str, problem["loc"]))
        where = f"--{name.replace('_', '-')} (ALIGND_{name.upper()}) {problem['input']!r}: " if name else ""
        parts.append(where + problem["msg"].removeprefix("Value error, "))
    return "; ".join(parts)


def run() -> None:
    """The command: ends the process at once, also with threads that the drain has given up on."""
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
