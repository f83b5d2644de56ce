"""`alignd-server`, whose CTC stays busy with marked requests after it has aligned them, for as long as a test wants.

How long a kernel takes is no measure for a test to lean on: it differs from machine to machine, and shrinks.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from alignd.wire import CtcReply, CtcRequest
from alignd_server.__main__ import run
from alignd_server.device import Device
from alignd_server.operation import Launch
from alignd_server.operations import CtcOperation
from support.workloads import HELD, PAUSED

GATE: Final = "TEST_GATE_OF_ALIGND"
"""Variable with the path of a file: the gate is closed while it exists."""

PAUSE_S: Final = 0.05

_run = CtcOperation.run


def gated(self: CtcOperation, requests: Sequence[CtcRequest], device: Device, *, alone: bool) -> Launch[CtcReply]:
    launch = _run(self, requests, device, alone=alone)
    marks: set[Any] = {request.star_score for request in requests}
    while HELD in marks and Path(os.environ[GATE]).exists():
        time.sleep(0.005)
    if PAUSED in marks:
        time.sleep(PAUSE_S)
    return launch


if __name__ == "__main__":
    CtcOperation.run = gated  # type: ignore[method-assign]
    run()
