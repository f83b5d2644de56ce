"""The command `alignd`, against the small server."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import alignd_client
from alignd.wire import Limits
from alignd_client.cli import main
from alignd_client.formats import FORMATS
from support import fake_engine
from support.fake_server import FakeServer
from support.file_limit import files_of_at_most


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    path = tmp_path / "speech.wav"
    path.write_bytes(bytes(1000))
    return path


@pytest.fixture
def at(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGND_TARGET", server.target)


@pytest.mark.usefixtures("at")
def test_align_prints_a_table(speech: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["align", str(speech), "--text", "ab cde"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1:] == ["   0.000     0.400   -0.500  ab", "   0.400     1.000   -0.500  cde"]
    assert printed.err == ""


@pytest.mark.usefixtures("at")
@pytest.mark.parametrize("name", ["table", "json", "ctm", "textgrid", "srt"])
def test_every_format_to_a_file(speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    text, output = tmp_path / "text.txt", tmp_path / "out"
    text.write_text("ab cdé\n", encoding="utf-8")
    arguments = ["align", str(speech), "--text-file", str(text), "--format", name, "--output", str(output), "--tokens"]
    assert main(arguments) == 0
    assert "é" in output.read_text(encoding="utf-8")
    assert capsys.readouterr().out == ""
    if name == "json":
        value = json.loads(output.read_text(encoding="utf-8"))
        assert (value["audio"], value["model"], len(value["tokens"])) == ("speech", "even", 5)


@pytest.mark.usefixtures("at")
def test_an_output_is_whole_or_as_it_was(speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, link = tmp_path / "out.txt", tmp_path / "link.txt"
    output.write_text("before")
    link.symlink_to(output)
    command = ["align", str(speech), "--text", "ab cd ef gh", "--output", str(link)]
    with files_of_at_most(100):
        assert main(command) == 1
    assert one_sentence(capsys) == f"alignd: {link}: File too large\n"
    assert output.read_text() == "before"
    assert main(command) == 0
    assert link.is_symlink()
    assert "gh" in output.read_text()
    assert sorted(tmp_path.iterdir()) == [link, output, speech]


@pytest.mark.usefixtures("at")
def test_an_output_may_be_a_pipe(speech: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert main(["align", str(speech), "--text", "ab", "--output", str(pipe)]) == 0
    assert b"ab" in os.read(reader, 1000)
    os.close(reader)
    assert pipe.is_fifo()


def test_a_recording_that_is_too_large_is_named(
    speech: Path, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.info = replace(server.info, limits=Limits(900, 0, 0, 0))
    assert main(["align", str(speech), "--text", "ab", "--server", server.target]) == 1
    assert one_sentence(capsys).startswith(f"alignd: {speech} makes a message of ")


@pytest.mark.usefixtures("at")
@pytest.mark.parametrize(
    ("file", "named", "begin"),
    [
        ("out.json", None, "{"),
        ("out.ctm", None, "speech 1 "),
        ("out.TextGrid", None, "File type"),
        ("out.SRT", "srt", "1\n"),
        ("out.txt", None, "   start"),
        ("out.txt", "ctm", "speech 1 "),
        ("out.table.1", None, "   start"),
    ],
)
def test_the_extension_names_the_format(speech: Path, tmp_path: Path, file: str, named: str | None, begin: str) -> None:
    arguments = ["align", str(speech), "--text", "ab", "--output", str(tmp_path / file)]
    assert main([*arguments, *(["--format", named] if named else [])]) == 0
    assert (tmp_path / file).read_text().startswith(begin)


@pytest.mark.usefixtures("at")
def test_a_format_that_the_extension_contradicts(
    speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], server: FakeServer
) -> None:
    output = tmp_path / "out.TextGrid"
    assert main(["align", str(speech), "--text", "ab", "--format", "json", "--output", str(output)]) == 1
    assert f"--format json contradicts --output {output}" in one_sentence(capsys)
    assert not output.exists()
    assert not server.seen["AlignAudio"]


def test_a_text_file_may_begin_with_a_mark(speech: Path, tmp_path: Path, server: FakeServer) -> None:
    text = tmp_path / "text.txt"
    text.write_text("ab\n", encoding="utf-8-sig")
    assert main(["align", str(speech), "--text-file", str(text), "--server", server.target]) == 0
    assert server.seen["AlignAudio"][0].request.transcript == "ab"


@pytest.mark.usefixtures("at")
def test_writers_are_told_what_was_asked(
    speech: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(FORMATS, "srt", lambda alignment, **about: json.dumps(about))
    assert main(["align", str(speech), "--text", "ab, cd.", "--format", "srt"]) == 0
    assert json.loads(capsys.readouterr().out) == {"tokens": False, "name": "speech", "transcript": "ab, cd."}


def test_align_asks_the_server_that_is_named(
    speech: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALIGND_TARGET", "localhost:1")
    assert main(["align", str(speech), "--text", "ab", "--server", server.target, "--model", "odd"]) == 0
    assert server.seen["AlignAudio"][0].request.model == "odd"
    assert "ab" in capsys.readouterr().out


def test_align_in_process(speech: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (engine,) = [fake_engine.install(monkeypatch)]
    assert main(["align", str(speech), "--text", "ab", "--local"]) == 0
    assert engine[0].submitted == ["AlignAudio"]
    assert engine[0].closed.is_set()
    assert "ab" in capsys.readouterr().out


def test_standard_input(speech: Path, server: FakeServer) -> None:
    command = ["align", "-", "--text", "ab", "--server", server.target]
    code = f"import sys; sys.path[:] = {sys.path!r}; from alignd_client.cli import main; sys.exit(main({command!r}))"
    with speech.open("rb") as audio:
        done = subprocess.run([sys.executable, "-c", code], stdin=audio, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ab" in done.stdout


@pytest.mark.parametrize(("health", "status"), [(1, 0), (2, 1), (0, 1)])
def test_health(server: FakeServer, capsys: pytest.CaptureFixture[str], health: int, status: int) -> None:
    server.health = health
    assert main(["health", "--server", server.target]) == status
    assert capsys.readouterr().out.strip() == ["UNKNOWN", "SERVING", "NOT_SERVING"][health]


def test_info(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--server", server.target]) == 0
    printed = capsys.readouterr().out
    for words in (
        "0.0.0",
        "cpu (a patient one, reference)",
        "MaximumPath",
        "even (en, 16000 Hz, 20 ms",
        "67108864",
        "a queue of ",
    ):
        assert words in printed


def test_info_of_the_engine_in_process(capsys: pytest.CaptureFixture[str]) -> None:
    """What waits there lies in the caller's own memory: no queue bounds it."""
    assert main(["info", "--local"]) == 0
    printed = capsys.readouterr().out
    assert "cells a batch" in printed
    assert "queue" not in printed


def one_sentence(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("alignd: ")
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err
    return printed.err


@pytest.mark.parametrize("command", [["health"], ["info"], ["align", "FILE", "--text", "ab"]])
def test_no_server_is_one_sentence(speech: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(speech) if word == "FILE" else word for word in command]
    assert main([*command, "--server", "localhost:1"]) == 1
    assert "start one with `alignd-server`" in one_sentence(capsys)


@pytest.mark.usefixtures("at")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["align", "/nowhere/speech.wav", "--text", "ab"], "alignd: /nowhere/speech.wav: No such file"),
        (["align", "EMPTY", "--text", "ab"], "the audio is empty"),
        (["align", "EMPTY", "--text-file", "/nowhere/text"], "--text-file /nowhere/text cannot be read (No such file"),
        (["align", "EMPTY", "--text-file", "LATIN"], "latin.txt is not in UTF-8: convert it"),
        (["align", "EMPTY", "--text-file", "UTF-16"], "utf-16.txt is not in UTF-8: convert it"),
        (["align", "EMPTY", "--text-file", "UTF-16LE"], "utf-16le.txt is not in UTF-8: convert it"),
        (["align", "SPEECH", "--text", "ab", "--output", "/nowhere/out"], "alignd: /nowhere/out: No such file"),
        (["align", "SPEECH", "--text", "ab", "--timeout", "-1"], "timeout"),
        (["align", "SPEECH", "--text", "ab", "--timeout", "1e-6"], "no answer within the timeout of 1e-06 s"),
    ],
)
def test_failures_are_one_sentence(
    speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    files = {"SPEECH": speech, "EMPTY": tmp_path / "empty.wav"}
    files["EMPTY"].write_bytes(b"")
    for encoding in ("latin", "utf-16", "utf-16le"):
        file = files[encoding.upper()] = tmp_path / f"{encoding}.txt"
        file.write_text("naïve", encoding=encoding)
    assert main([str(files.get(argument, argument)) for argument in arguments]) == 1
    assert words in one_sentence(capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["align", "x.wav"],
        ["align", "--text", "a"],
        ["align", "--manifest", "x.jsonl"],
        ["align", "x.wav", "--manifest", "x.jsonl", "--output-dir", "y"],
        ["align", "--manifest", "x.jsonl", "--output-dir", "y", "--text", "a"],
        ["align", "x.wav", "--text", "a", "--output-dir", "y"],
        ["align", "x.wav", "--text", "a", "--overwrite"],
        ["align", "--manifest", "x.jsonl", "--output-dir", "y", "--overwrite", "--skip-existing"],
        ["align", "x.wav", "--text", "a", "--text-file", "b"],
        ["align", "x.wav", "--text", "a", "--format", "xml"],
        ["align", "x.wav", "--text", "a", "--local", "--server", "x"],
        ["health", "--local"],
    ],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: alignd" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.strip() == f"alignd {alignd_client.__version__}"


def test_a_reader_that_has_gone(speech: Path, server: FakeServer) -> None:
    command = ["align", str(speech), "--text", "ab", "--server", server.target]
    code = f"import sys; sys.path[:] = {sys.path!r}; from alignd_client.cli import main; sys.exit(main({command!r}))"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
