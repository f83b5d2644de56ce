"""Clean virtual environments for tests of what gets installed."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Environment:
    """A virtual environment that nothing but wheels was installed into."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin/python"

    def run(self, *arguments: str | Path) -> str:
        """Run Python with these arguments in a folder without sources; its output. Fails where Python fails."""
        command = [self.python, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=self.folder, env=bare_environ())
        assert done.returncode == 0, f"{arguments}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def modules_after(self, statement: str) -> set[str]:
        """Names of the top-level modules that are loaded after a statement."""
        code = f"{statement}\nimport json, sys\nprint(json.dumps([m.partition('.')[0] for m in sys.modules]))"
        return set(json.loads(self.run("-c", code)))


def bare_environ() -> dict[str, str]:
    """The caller's variables without those that would let the source tree or settings of ours in."""
    ours = {name for name in os.environ if name.startswith(("ALIGND_", "PYTHON"))}
    return {name: value for name, value in os.environ.items() if name not in ours}


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=bare_environ())
    assert done.returncode == 0, done.stderr
