"""The command `alignd`: align a recording, ask a server how it is."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from alignd.wire import ServerInfo
from alignd_client import __version__
from alignd_client.client import AlignClient
from alignd_client.errors import AlignError, MessageTooLargeError
from alignd_client.formats import EXTENSIONS, FORMATS
from alignd_client.manifest import align_manifest
from alignd_client.outputs import write_whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Returns the exit status: 0, or 1 with one sentence on stderr; argparse exits with 2 by itself."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has gone; Python would flush into the pipe once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (AlignError, ImportError, OSError, ValueError) as error:
        message = str(error)
        if isinstance(error, OSError) and error.filename:
            message = f"{error.filename}: {error.strerror}"
        print(f"alignd: {' '.join(message.split())}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("alignd", description="Align recordings with their transcripts.")
    parser.add_argument("--version", action="version", version=f"alignd {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    align = commands.add_parser("align", help="words of a recording with their times", description=_align.__doc__)
    align.add_argument("file", metavar="FILE", nargs="?", help="WAV, FLAC, OGG or MP3; - for standard input")
    text = align.add_mutually_exclusive_group()
    text.add_argument("--text", help="what is said in it")
    text.add_argument("--text-file", metavar="FILE", type=Path, help="a UTF-8 file with what is said in it")
    align.add_argument("--format", choices=FORMATS, help="default: by the extension of --output, else table")
    align.add_argument("--tokens", action="store_true", help="tokens too (json, textgrid) or instead of words (others)")
    align.add_argument("--output", metavar="FILE", type=Path, help="default: standard output")
    align.add_argument(
        "--manifest",
        metavar="JSONL",
        type=Path,
        help='many recordings in place of FILE: lines {"audio": path, "text": what is said} (or "audio_filepath")',
    )
    align.add_argument(
        "--output-dir", metavar="DIR", type=Path, help="for a manifest's outputs, one for each recording"
    )
    existing = align.add_mutually_exclusive_group()
    for name, about in {
        "overwrite": "replace a manifest's outputs that are there already",
        "skip-existing": "leave a manifest's outputs that are there already and align the rest: resumes a run",
    }.items():
        existing.add_argument(f"--{name}", dest="existing", action="store_const", const=name, help=about)
    align.add_argument("--model", default="", help="a name that `alignd info` lists; default: the server's")
    align.set_defaults(run=_align, refuse=align.error)
    _add_where(align)

    health = commands.add_parser("health", help="whether the server is ready", description=_health.__doc__)
    health.set_defaults(run=_health)
    _add_where(health, local=False)

    info = commands.add_parser("info", help="what the server is and takes", description=_info.__doc__)
    info.set_defaults(run=_info)
    _add_where(info)
    return parser


def _add_where(parser: argparse.ArgumentParser, *, local: bool = True) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--server", metavar="HOST:PORT", help="default: ALIGND_TARGET, else localhost:50051")
    if local:
        where.add_argument("--local", action="store_true", help="in this process (needs alignd-client[local])")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="default: 60")
    parser.set_defaults(local=False)


def _client(options: argparse.Namespace) -> AlignClient:
    if options.local:
        return AlignClient.in_process(timeout=options.timeout)
    return AlignClient(options.server, timeout=options.timeout)


def _align(options: argparse.Namespace) -> int:
    """Print the words of a recording with their times in seconds, or write those of many recordings into files."""
    _check_usage(options)
    if options.manifest is not None:
        return _align_manifest(options)
    write = FORMATS[_format(options.format, options.output)]
    transcript = options.text if options.text is not None else _read_text(options.text_file)
    standard_input = options.file == "-"
    audio = sys.stdin.buffer.read() if standard_input else Path(options.file)
    with _client(options) as client:
        try:
            alignment = client.align_audio(audio, transcript.strip(), options.model)
        except MessageTooLargeError as error:
            raise ValueError(str(error).replace("item 0", options.file, 1)) from None
    name = "stdin" if standard_input else Path(options.file).stem
    text = write(alignment, tokens=options.tokens, name=name, transcript=transcript)
    if options.output is None:
        sys.stdout.write(text)
    else:
        write_whole(options.output, text)
    return 0


def _check_usage(options: argparse.Namespace) -> None:
    """Exits with 2 and a sentence where arguments do not go together."""
    alone = {"FILE": "file", "--text": "text", "--text-file": "text_file", "--output": "output"}
    given = [name for name, attribute in alone.items() if getattr(options, attribute) is not None]
    if options.manifest is not None:
        if given:
            options.refuse(f"{given[0]} does not go with --manifest, which names recordings and texts")
        if options.output_dir is None:
            options.refuse("--manifest needs --output-dir")
    elif options.output_dir is not None:
        options.refuse("--output-dir goes with --manifest; --output is for one recording")
    elif options.existing is not None:
        options.refuse(f"--{options.existing} goes with --manifest")
    elif options.file is None or not {"--text", "--text-file"} & set(given):
        options.refuse("FILE with --text or --text-file is required, or --manifest")


def _align_manifest(options: argparse.Namespace) -> int:
    form = options.format or "table"
    with _client(options) as client:
        failed = align_manifest(
            client,
            options.manifest,
            options.output_dir,
            FORMATS[form],
            EXTENSIONS[form],
            tokens=options.tokens,
            model=options.model,
            existing=options.existing,
        )
    return 1 if failed else 0


def _read_text(path: Path) -> str:
    """Raises `ValueError` for a file that cannot be read, or is not in UTF-8."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(
            f"--text-file {path} cannot be read ({error.strerror}): name a UTF-8 file with what is said, or use --text"
        ) from None
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # every other byte of English in UTF-16
        raise ValueError(
            f"--text-file {path} is not in UTF-8: convert it, as `iconv -f UTF-16 -t UTF-8` does or -f LATIN1"
        )
    return text


def _format(named: str | None, output: Path | None) -> str:
    """What to write. Raises `ValueError` for a format that the output's extension contradicts."""
    extension = "" if output is None else output.suffix[1:].lower()
    meant = extension if extension in FORMATS else None
    if named and meant and named != meant:
        raise ValueError(f"--format {named} contradicts --output {output}: leave one out, or give both the same format")
    return named or meant or "table"


def _health(options: argparse.Namespace) -> int:
    """Exit with 0 if the server is ready to align, else with 1."""
    with _client(options) as client:
        status = client.health_status()
    print(status)
    return 0 if status == "SERVING" else 1


def _info(options: argparse.Namespace) -> int:
    """Print the server's version, devices, operations, models and limits."""
    with _client(options) as client:
        print(_described(client.server_info()))
    return 0


def _described(info: ServerInfo) -> str:
    lines = [f"version     {info.version}"]
    lines += [f"device      {device.id} ({device.name}, {device.backend})" for device in info.devices]
    lines.append(f"operations  {', '.join(info.operations)}")
    for model in info.models:
        about = f"{model.language}, {model.sample_rate} Hz, {model.frame_seconds * 1000:g} ms frames, {model.license}"
        lines.append(f"model       {model.name} ({about})")
    limits = info.limits
    lines.append(f"limits      {limits.max_message_bytes} bytes a message, {limits.max_batch_cells} cells a batch")
    if limits.max_queue_bytes < sys.maxsize:  # in process, what waits lies in the caller's own memory
        lines.append(f"            a queue of {limits.max_queue_items} items and {limits.max_queue_bytes} bytes")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
