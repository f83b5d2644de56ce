"""What results and clients show of themselves at a prompt."""

from typing import Any

import numpy as np
import pytest
import torch

from alignd.wire import OK
from alignd_client import AlignClient, AlignmentItem, AudioAlignment, CtcAlignment
from alignd_client.aio import AsyncAlignClient
from support import fake_engine
from support.fake_server import FakeServer

FRAMES = 1000


def test_long_results_are_shown_in_a_line(server: FakeServer) -> None:
    client = AlignClient(server.target)
    emissions = np.log(np.full((FRAMES, 3), 1 / 3, np.float32))
    maps = np.full((4, 20, FRAMES), 0.05, np.float32)
    targets = [1, 2] * 10
    for results in (
        client.align_ctc([emissions], [targets]),
        client.ctc_posteriors([emissions], [targets]),
        client.align_mas([maps[0]]),
        client.align_transducer([np.zeros((FRAMES, 21, 3), np.float32)], [targets]),
        client.align_attention([maps]),
    ):
        (result,) = results
        shown = repr(result)
        assert shown.startswith(f"{type(result).__name__}(")
        assert "..." in shown
        assert f"score={result.score!r}, status={OK!r}" in shown
        assert len(shown) < 1000


def test_short_results_are_shown_whole() -> None:
    array = np.arange(3, dtype=np.int32)
    result = CtcAlignment(array, torch.from_numpy(array), array, -1.5, OK, array, 0)
    whole = "array([0, 1, 2], dtype=int32)"
    tensor = "tensor([0, 1, 2], dtype=int32)"
    assert repr(result) == (
        f"CtcAlignment(durations={whole}, path={tensor}, frame_scores={whole}, score=-1.5, status={OK!r})"
    )


def test_long_tensors_are_cut_as_arrays_are() -> None:
    long = torch.arange(FRAMES)
    result = CtcAlignment(long, long, long, -1.5, OK, long.numpy(), 0)
    assert "path=tensor([ 0, 1, 2, ..., 997, 998, 999]" in repr(result)


def test_long_recordings_show_their_first_and_last_words() -> None:
    words = tuple(AlignmentItem(f"w{i}", i * 0.5, 0.5, -0.5) for i in range(500))
    shown = repr(AudioAlignment(words, words[:2], -1.0, 250.0, "m", OK))
    assert [f"w{i}'" in shown for i in (0, 2, 3, 496, 497, 499)] == [True, True, False, False, True, True]
    assert f"tokens={words[:2]!r}" in shown


@pytest.mark.parametrize("kind", [AlignClient, AsyncAlignClient])
def test_clients_name_their_target(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert repr(kind("there:7")) == f"<{kind.__name__} there:7>"
    monkeypatch.setenv("ALIGND_TARGET", "named:7")
    assert repr(kind()) == f"<{kind.__name__} named:7>"
    fake_engine.install(monkeypatch)
    assert repr(kind.in_process(device="cpu")) == f"<{kind.__name__} in process>"
