"""`alignd align --manifest`, against the small server."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from alignd_client.cli import main
from alignd_client.formats import EXTENSIONS, FORMATS
from support.fake_server import FakeServer

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
