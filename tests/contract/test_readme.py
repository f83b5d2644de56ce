"""README is true: its examples run, its tables are those of the code."""

import re
from pathlib import Path

import pytest

from alignd.wire import ItemCode
from alignd_server.interceptor import MetricsInterceptor
from alignd_server.metrics import Metrics
from alignd_server.settings import Settings
from support.server_process import ServerProcess

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def table(heading: str) -> list[list[str]]:
    """Rows of the first table after a heading, without its header."""
    section = README.split(f"\n{heading}\n", 1)[1].split("\n#", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows[2:]]


@pytest.fixture(scope="module")
def server() -> ServerProcess:
    with ServerProcess() as process:
        yield process


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_examples_run(
    example: str, server: ServerProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALIGND_TARGET", server.target)
    monkeypatch.chdir(ROOT)
    exec(compile(example, "README.md", "exec"), {"__name__": "__main__"})
    assert "print" not in example or capsys.readouterr().out


def test_settings_table_is_the_settings_class() -> None:
    rows = {row[0]: row[1:] for row in table("## The server's settings")}
    fields = {"--" + name.replace("_", "-"): field for name, field in Settings.model_fields.items()}
    assert list(rows) == list(fields)
    for flag, (default, description) in rows.items():
        assert default == str(fields[flag].default), flag
        assert description == fields[flag].description, flag


def test_metrics_table_is_the_registry() -> None:
    metrics = Metrics()
    MetricsInterceptor(metrics.registry)
    have = {}
    for family in metrics.registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        have[name] = (family.type, family.documentation)
    rows = {row[0].split("{")[0]: (row[1], row[2]) for row in table("## Metrics")}
    assert rows == have


def test_every_reason_is_listed() -> None:
    assert re.findall(r"The reasons of items: (.*?)\.", README, re.DOTALL)[0].replace("\n", " ").split(", ") == [
        f"`{code.name}`" for code in ItemCode if code is not ItemCode.OK
    ]
