"""`alignd align --manifest`, against the small server."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alignd.wire import Limits
from alignd_client.cli import main
from alignd_client.formats import EXTENSIONS, FORMATS
from support.fake_server import FakeServer
from support.file_limit import files_of_at_most

END = re.compile(r"(\d+) aligned, (\d+) failed, [\d.]+ audio hours per hour")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for name in ("a.wav", "deep/b.wav", "deep/a.wav"):
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000))
    return tmp_path / "corpus"


def align(server: FakeServer, corpus: Path, lines: list[Any], *options: str) -> int:
    """Of a line that is no text the JSON is written."""
    manifest = corpus / "manifest.jsonl"
    manifest.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    arguments = ["align", "--manifest", str(manifest), "--output-dir", str(corpus.parent / "out")]
    return main([*arguments, "--server", server.target, *options])


def told(capsys: pytest.CaptureFixture[str]) -> dict[int, str]:
    """Why which lines failed."""
    *lines, _ = capsys.readouterr().err.splitlines()
    found = [re.fullmatch(r"alignd: \S+?manifest.jsonl:(\d+): (.*)", line) for line in lines]
    return {int(line[1]): line[2] for line in found if line}


def outputs(corpus: Path) -> list[str]:
    out = corpus.parent / "out"
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def test_every_recording_has_its_output(server: FakeServer, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        {"audio": "a.wav", "text": "ab\n"},
        {"audio_filepath": "deep/b.wav", "text": "cd", "duration": 1.0, "offset": 0.0},
        "",
        {"audio": str(corpus / "deep/a.wav"), "text": "ef"},
        {"audio": "../corpus/deep/b.wav", "text": "gh"},
    ]
    assert align(server, corpus, lines[:3], "--format", "textgrid") == 0
    assert outputs(corpus) == ["a.TextGrid", "deep/b.TextGrid"]
    assert '"ab"' in (corpus.parent / "out/a.TextGrid").read_text()
    assert '"cd"' in (corpus.parent / "out/deep/b.TextGrid").read_text()
    printed = capsys.readouterr()
    assert printed.out == ""
    last = END.fullmatch(printed.err.strip())
    assert last
    assert last.groups() == ("2", "0")
    assert align(server, corpus, lines[3:], "--format", "json", "--model", "odd", "--tokens") == 0
    assert outputs(corpus)[:1] == ["a.TextGrid"]
    found = json.loads((corpus.parent / "out/b.json").read_text())
    assert (found["audio"], found["model"], len(found["tokens"])) == ("b", "odd", 2)
    assert json.loads((corpus.parent / "out/a.json").read_text())["words"][0]["symbol"] == "ef"


def test_what_fails_is_told_and_ends_nothing(
    server: FakeServer, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "empty.wav").write_bytes(b"")
    lines: list[Any] = [
        {"audio": "nowhere.wav", "text": "ab"},
        {"audio": "empty.wav", "text": "ab"},
        "{",
        [1],
        {"audio": "a.wav"},
        {"audio": 3, "text": "ab"},
        {"audio": "a.wav", "text": "ab", "offset": 2.5},
        {"audio": "a.wav", "text": "first"},
        {"audio": "a.flac", "text": "second"},
        {"audio": "deep/a.wav", "text": "ab"},
    ]
    assert align(server, corpus, lines) == 1
    assert outputs(corpus) == ["a.txt", "deep/a.txt"]
    assert "first" in (corpus.parent / "out/a.txt").read_text()
    *told, last = capsys.readouterr().err.splitlines()
    assert "2 aligned, 8 failed" in last
    place = re.escape(f"alignd: {corpus / 'manifest.jsonl'}")
    reasons = {int(found[1]): found[2] for line in told if (found := re.fullmatch(rf"{place}:(\d+): (.*)", line))}
    assert len(told) == len(reasons) == 8
    for number, words in {
        1: "No such file",
        2: "empty.wav: the audio is empty",
        3: "JSON",
        4: "an object",
        5: '"text"',
        6: '"audio"',
        7: "offset",
        9: "line 8",
    }.items():
        assert words in reasons[number]


def test_a_line_of_what_no_file_or_text_holds_ends_nothing(
    server: FakeServer, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[Any] = [
        {"audio": "a\ud800.flac", "text": "ab"},
        {"audio": "a.wav", "text": "hello \ud800"},
        "[" * 200_000,
        {"audio": ".", "text": "ab"},
        {"audio": "deep/..", "text": "ab"},
        {"audio": "a\0.wav", "text": "ab"},
        {"audio": "a.wav", "text": "ab"},
    ]
    assert align(server, corpus, lines) == 1
    assert outputs(corpus) == ["a.txt"]
    reasons = told(capsys)
    assert list(reasons) == [1, 2, 3, 4, 5, 6]
    words = ["must be Unicode", "must be Unicode", "JSON", "not '.'", "not 'deep/..'", "null"]
    assert [word for word, reason in zip(words, reasons.values(), strict=True) if word not in reason] == []


@pytest.mark.parametrize(("seconds", "good"), [(None, True), (5, True), (0.95, True), (0.85, False), ("1", False)])
def test_a_piece_is_not_aligned_as_a_whole(
    server: FakeServer, corpus: Path, capsys: pytest.CaptureFixture[str], seconds: Any, good: bool
) -> None:
    """Of a recording of a second."""
    assert align(server, corpus, [{"audio": "a.wav", "text": "ab", "offset": 0.0, "duration": seconds}]) == 1 - good
    assert bool(outputs(corpus)) == good
    assert ['"duration"' in reason for reason in told(capsys).values()] == [True] * (not good)


def test_what_is_there_already(server: FakeServer, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A transcript beside its recording, and the manifest."""
    beside = ("--output-dir", str(corpus))
    (corpus / "a.txt").write_text("precious")
    (corpus / "deep/b.txt").mkdir()
    lines = [{"audio": name, "text": "ab"} for name in ("a.wav", "deep/a.wav", "deep/b.wav")]
    assert align(server, corpus, lines, *beside) == 1
    reasons = told(capsys)
    assert list(reasons) == [1, 3]
    assert f"{corpus / 'a.txt'} is there already: see --overwrite" in reasons[1]
    assert (corpus / "a.txt").read_text() == "precious"
    assert "ab" in (corpus / "deep/a.txt").read_text()
    assert len(server.seen["AlignAudio"]) == 1

    assert align(server, corpus, [*lines[:2], {"audio": "new.wav", "text": "ab"}], *beside, "--skip-existing") == 1
    assert "2 done before, 0 aligned, 1 failed" in capsys.readouterr().err
    assert len(server.seen["AlignAudio"]) == 1
    assert align(server, corpus, lines[2:], *beside, "--skip-existing") == 1  # a folder is no output of before

    assert align(server, corpus, lines[:2], *beside, "--overwrite") == 0
    assert (corpus / "a.txt").read_text() == (corpus / "deep/a.txt").read_text() != "precious"


def test_an_output_that_cannot_be_named_ends_nothing(
    server: FakeServer, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "x" * 251 + ".wav"
    names = (long, "a.wav", "a.TextGrid/b.wav", "b.TextGrid/a.wav", "b.wav", "a.TextGrid/c/d.wav", "deep/a.wav")
    for name in names:
        (corpus / name).parent.mkdir(parents=True, exist_ok=True)
        (corpus / name).write_bytes(bytes(1000))
    lines = [{"audio": name, "text": "ab"} for name in names]
    assert align(server, corpus, lines, "--format", "textgrid") == 1
    assert outputs(corpus) == ["a.TextGrid", "b.TextGrid/a.TextGrid", "deep/a.TextGrid"]
    reasons = told(capsys)
    assert list(reasons) == [1, 3, 5, 6]
    out = corpus.parent / "out"
    assert reasons[1].endswith(".TextGrid: File name too long")
    assert reasons[3] == f"its output cannot be written: {out / 'a.TextGrid'}: File exists"
    assert str(out / "b.TextGrid") in reasons[5]
    assert reasons[6].endswith("Not a directory")


def test_a_disk_that_is_full_ends_it(server: FakeServer, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"audio": name, "text": "ab cd ef gh"} for name in ("a.wav", "deep/a.wav")]
    with files_of_at_most(100):
        assert align(server, corpus, lines) == 1
    assert capsys.readouterr().err.splitlines()[1:] == [f"alignd: {corpus.parent / 'out/a.txt'}: File too large"]
    assert outputs(corpus) == []


def test_a_folder_of_outputs_that_cannot_be_ends_it(
    server: FakeServer, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus.parent / "out").write_text("no folder")
    assert align(server, corpus, [{"audio": "a.wav", "text": "ab"}]) == 1
    assert capsys.readouterr().err == f"alignd: {corpus.parent / 'out'}: File exists\n"
    assert not server.seen["AlignAudio"]


def test_a_recording_that_is_too_large_is_named(
    server: FakeServer, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.info = replace(server.info, limits=Limits(900, 0, 0, 0))
    lines = ["", {"audio": "a.wav", "text": "ab"}]
    assert align(server, corpus, lines) == 1
    assert re.match(r"\S+/a.wav: it makes a message of \d+ bytes; the server takes at most 900", told(capsys)[2])


def test_a_server_that_is_away_ends_it(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = corpus / "manifest.jsonl"
    manifest.write_text(json.dumps({"audio": "a.wav", "text": "ab"}))
    arguments = ["align", "--manifest", str(manifest), "--output-dir", str(corpus / "out"), "--server", "localhost:1"]
    assert main(arguments) == 1
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("0 aligned, 0 failed")
    assert last.startswith("alignd: no alignd server answers")


def test_a_terminal_shows_one_line(
    server: FakeServer, corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("alignd_client.manifest._EVERY_SECONDS", {True: 0.0})
    lines = [{"audio": "a.wav", "text": "ab"}, {"audio": "deep/a.wav", "text": "ab"}]
    assert align(server, corpus, lines) == 0
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert [END.search(part)[1] for part in shown.split("\r\x1b[K")[1:]] == ["1", "2", "2"]  # type: ignore[index]


def test_every_format_has_an_extension() -> None:
    assert list(EXTENSIONS) == list(FORMATS)
