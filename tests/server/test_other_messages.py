"""Messages about attention maps, latents and sums over all paths that contradict themselves: refused as a whole, by the
field's name. (`test_bad_input` sends those about best paths.)"""

from typing import Any

import pytest

from alignd import wire
from alignd.v1 import alignment_pb2 as pb
from support.raw import call
from support.refusals import assert_malformed, refusal
from support.server_process import ServerProcess

ATTENTION, LATENTS = wire.ALIGN_ATTENTION, wire.MAXIMUM_PATH_FROM_LATENTS
MAS, CTC = wire.MAS_POSTERIORS, wire.CTC_POSTERIORS

FLOAT16, FLOAT32, FLOAT64 = 1, 3, 4
STEPWISE = 3
BIG = 1 << 31

# Of one item: H = 1, S = 2, T = 3; C = 2; V = 2, L = 1.
HONEST: dict[Any, tuple[Any, dict[str, Any]]] = {
    ATTENTION: (
        pb.AlignAttentionRequest,
        {"heads": [1], "tokens": [2], "frames": [3], "data_type": FLOAT32, "attention": bytes(24)},
    ),
    LATENTS: (
        pb.MaximumPathFromLatentsRequest,
        {"tokens": [2], "frames": [3], "channels": 2, "data_type": FLOAT32, "latents": bytes(24), "means": bytes(16)},
    ),
    MAS: (pb.MasPosteriorsRequest, {"tokens": [2], "frames": [3], "data_type": FLOAT32, "values": bytes(24)}),
    CTC: (
        pb.CtcPosteriorsRequest,
        {
            "frames": [3],
            "target_lengths": [1],
            "vocabulary_size": 2,
            "data_type": FLOAT32,
            "log_probs": bytes(24),
            "targets": b"\1\0\0\0",
        },
    ),
}


def message(rpc: Any, **fields: Any) -> bytes:
    """An honest request, but for `fields`."""
    kind, honest = HONEST[rpc]
    encoded: bytes = kind(**(honest | fields)).SerializeToString()
    return encoded


LIES: list[tuple[Any, dict[str, Any], str, str]] = [
    (ATTENTION, {"heads": [1, 1]}, "tokens", "1 lengths for 2 items"),
    (ATTENTION, {"tokens": [2, 2]}, "tokens", "2 lengths for 1 items"),
    (ATTENTION, {"frames": [3, 3]}, "frames", "2 lengths for 1 items"),
    (ATTENTION, {"heads": [-1]}, "heads", "item 0 has the negative length -1"),
    (ATTENTION, {"tokens": [-2], "frames": [-3]}, "tokens", "negative length -2"),
    (ATTENTION, {"frames": [-(2**63)]}, "frames", str(-(2**63))),
    (ATTENTION, {"attention": bytes(23)}, "attention", "23 bytes, but the lengths ask for 6 × 4 = 24"),
    (ATTENTION, {"attention": bytes(25)}, "attention", "25 bytes"),
    (ATTENTION, {"data_type": FLOAT64}, "attention", "6 × 8 = 48"),
    (ATTENTION, {"heads": [BIG]}, "attention", str(6 * BIG)),
    (ATTENTION, {"heads": [BIG], "tokens": [2], "frames": [BIG // 4]}, "attention", str(BIG * BIG // 2)),
    (ATTENTION, {"heads": [2**21], "tokens": [2**21], "frames": [2**21]}, "heads", "overflow"),
    # Products that are 0, and a sum that is 6, modulo 2^64.
    (ATTENTION, {"heads": [2**32], "tokens": [2**32], "attention": b""}, "heads", "overflow"),
    (ATTENTION, {"heads": [2**62] * 4 + [1], "tokens": [1] * 4 + [2], "frames": [1] * 4 + [3]}, "heads", "overflow"),
    (ATTENTION, {"heads": [0], "tokens": [BIG], "attention": b""}, "tokens", "0 heads and 2147483648 tokens"),
    (ATTENTION, {"heads": [BIG], "frames": [0], "attention": b""}, "heads", "lengths without values"),
    (ATTENTION, {"mode": 7}, "mode", "7 names no mode"),
    (ATTENTION, {"mode": -1}, "mode", "-1 names no mode"),
    (ATTENTION, {"mode": STEPWISE, "log": True}, "log", "not by their logarithms"),
    (LATENTS, {"tokens": [2, 2]}, "frames", "1 lengths for 2 items"),
    (LATENTS, {"frames": []}, "frames", "0 lengths for 1 items"),
    (LATENTS, {"tokens": [-2]}, "tokens", "-2"),
    (LATENTS, {"frames": [-3]}, "frames", "-3"),
    (LATENTS, {"channels": 0}, "channels", "0; there must be at least one"),
    (LATENTS, {"channels": -2}, "channels", "-2"),
    (LATENTS, {"channels": 3}, "latents", "24 bytes, but the lengths ask for 9 × 4 = 36"),
    (LATENTS, {"latents": bytes(23)}, "latents", "23 bytes"),
    (LATENTS, {"latents": bytes(28)}, "latents", "28 bytes"),
    (LATENTS, {"means": bytes(15)}, "means", "15 bytes, but the lengths ask for 4 × 4 = 16"),
    (LATENTS, {"means": bytes(20)}, "means", "20 bytes"),
    (LATENTS, {"log_sigmas": bytes(8)}, "log_sigmas", "8 bytes, but the lengths ask for 4 × 4 = 16"),
    (LATENTS, {"log_sigmas": bytes(24)}, "log_sigmas", "24 bytes"),
    (LATENTS, {"frames": [BIG]}, "latents", str(2 * BIG)),
    (LATENTS, {"tokens": [BIG]}, "means", str(2 * BIG)),
    (LATENTS, {"channels": BIG}, "latents", str(3 * BIG)),
    (LATENTS, {"frames": [2**61], "channels": 8, "latents": b""}, "frames", "overflow"),
    (LATENTS, {"tokens": [2**61], "frames": [0], "channels": 8, "latents": b"", "means": b""}, "tokens", "overflow"),
    (LATENTS, {"frames": [3, 2**62], "tokens": [2, 1], "channels": 4}, "frames", "overflow"),
    *(
        (LATENTS, {"tokens": [0], "frames": [0], "channels": C, "latents": b"", "means": b""}, "channels", str(C))
        for C in (BIG, 2**63 - 1)
    ),
    (MAS, {"tokens": [2, 2]}, "frames", "1 lengths for 2 items"),
    (MAS, {"frames": [-3]}, "frames", "-3"),
    (MAS, {"values": bytes(25)}, "values", "25 bytes, but the lengths ask for 6 × 4 = 24"),
    (MAS, {"tokens": [BIG], "frames": [BIG]}, "values", str(BIG * BIG)),
    (MAS, {"tokens": [2**32], "frames": [2**32], "values": b""}, "tokens", "overflow"),
    (MAS, {"tokens": [BIG], "frames": [0], "values": b""}, "tokens", "lengths without values"),
    (CTC, {"frames": [3, 3]}, "target_lengths", "1 lengths for 2 items"),
    (CTC, {"target_lengths": [-1]}, "target_lengths", "-1"),
    (CTC, {"vocabulary_size": 0}, "vocabulary_size", "0"),
    (CTC, {"blank": 2}, "blank", "2"),
    (CTC, {"log_probs": bytes(20)}, "log_probs", "20 bytes, but the lengths ask for 6 × 4 = 24"),
    (CTC, {"targets": bytes(3)}, "targets", "3 bytes"),
    (CTC, {"target_lengths": [0]}, "targets", "4 bytes, but the lengths ask for 0"),
    (CTC, {"frames": [2**62], "vocabulary_size": 4, "log_probs": b""}, "frames", "overflow"),
    (CTC, {"frames": [3, 0], "target_lengths": [2**62, 2**62]}, "target_lengths", "overflow"),
    (CTC, {"star_score": float("nan")}, "star_score", "nan"),
    (
        CTC,  # A reply of 1.4 GB to 78 kB: refused before anything is summed.
        {
            "frames": [20_000],
            "target_lengths": [9_000],
            "vocabulary_size": 1,
            "data_type": FLOAT16,
            "log_probs": bytes(40_000),
            "targets": bytes(36_000),
        },
        "target_lengths",
        str(4 * 20_000 * 18_001),
    ),
    *((rpc, {"data_type": 0}, "data_type", "0 names no type") for rpc in HONEST),
    *((rpc, {"data_type": 99}, "data_type", "99 names no type") for rpc in HONEST),
]


def assert_answers(server: ServerProcess, rpc: Any) -> None:
    assert rpc.decode_reply(call(server.target, rpc, message(rpc))).statuses == (wire.OK,)


@pytest.mark.parametrize(("rpc", "fields", "field", "words"), LIES, ids=lambda case: getattr(case, "name", None))
def test_a_lie_is_refused_by_name(
    server: ServerProcess, rpc: Any, fields: dict[str, Any], field: str, words: str
) -> None:
    server.forget_peak()
    peak = server.peak_bytes()
    assert_malformed(refusal(server.target, rpc, message(rpc, **fields)), field, [words])
    assert server.peak_bytes() - peak < 64 << 20  # a lying length costs no memory
    assert_answers(server, rpc)


@pytest.mark.parametrize("rpc", HONEST, ids=lambda rpc: rpc.name)
def test_what_is_no_message(server: ServerProcess, rpc: Any) -> None:
    first = {ATTENTION: "heads", CTC: "frames"}.get(rpc, "tokens")
    assert_malformed(refusal(server.target, rpc, b""), first, ["no items"])
    for broken in (b"\xff" * 50, message(rpc)[:-1]):
        assert_malformed(refusal(server.target, rpc, broken), "", [f"not a {rpc.name}Request message"])
    assert_answers(server, rpc)
