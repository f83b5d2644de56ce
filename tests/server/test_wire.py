"""The codec: what goes in comes out, and no bytes from the network raise anything but what is promised."""

import tracemalloc
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignd import wire
from alignd.v1 import alignment_pb2 as pb
from alignd.wire import arrays
from alignd_kernels.dtypes import DType
from alignd_kernels.status import Status

exactly = settings(derandomize=True, deadline=None, max_examples=150)

data_types = st.sampled_from(wire.DataType)
scores = st.floats(allow_nan=True, allow_infinity=True)
words = st.text(max_size=10)
statuses = st.one_of(
    st.just(wire.OK),
    st.builds(wire.ItemStatus, st.sampled_from([code for code in wire.ItemCode if code != 1]), words, words),
)
nanoseconds = st.integers(0, 2**63 - 1)
timings = st.builds(wire.Timing, nanoseconds, nanoseconds, nanoseconds)


def lengths(draw: st.DrawFn, items: int, least: int = 0) -> Any:
    return np.array(draw(st.lists(st.integers(least, 4), min_size=items, max_size=items)), np.int64)


def storage(draw: st.DrawFn, data_type: wire.DataType, count: int) -> Any:
    """Any bit patterns, NaNs of all kinds among them."""
    size = count * data_type.storage.itemsize
    return np.frombuffer(draw(st.binary(min_size=size, max_size=size)), data_type.storage)


def int32s(draw: st.DrawFn, count: int) -> Any:
    return np.array(draw(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=count, max_size=count)), np.int32)


@st.composite
def mas_requests(draw: st.DrawFn) -> wire.MasRequest:
    items, data_type = draw(st.integers(1, 4)), draw(data_types)
    tokens, frames = lengths(draw, items), lengths(draw, items)
    return wire.MasRequest(
        storage(draw, data_type, int((tokens * frames).sum())), data_type, tokens, frames, draw(st.booleans())
    )


@st.composite
def ctc_requests(draw: st.DrawFn) -> wire.CtcRequest:
    items, data_type, V = draw(st.integers(1, 4)), draw(data_types), draw(st.integers(1, 5))
    frames, target_lengths = lengths(draw, items), lengths(draw, items)
    star_score = draw(st.none() | st.floats(max_value=0.0, width=32))
    return wire.CtcRequest(
        storage(draw, data_type, int(frames.sum()) * V),
        data_type,
        frames,
        V,
        int32s(draw, int(target_lengths.sum())),
        target_lengths,
        draw(st.integers(0, V - 1)),
        star_score,
    )


@st.composite
def mas_replies(draw: st.DrawFn) -> wire.MasReply:
    given = draw(st.lists(statuses, max_size=4))
    values = np.array(draw(st.lists(scores, min_size=len(given), max_size=len(given))), np.float64)
    return wire.MasReply(tuple(given), int32s(draw, 3), int32s(draw, 2), values, draw(timings))


@st.composite
def ctc_replies(draw: st.DrawFn) -> wire.CtcReply:
    given = draw(st.lists(statuses, max_size=4))
    values = np.array(draw(st.lists(scores, min_size=len(given), max_size=len(given))), np.float64)
    frame_scores = np.array(draw(st.lists(st.floats(width=32), max_size=4)), np.float32)
    return wire.CtcReply(tuple(given), int32s(draw, 3), int32s(draw, 2), frame_scores, values, draw(timings))


@st.composite
def transducer_requests(draw: st.DrawFn) -> wire.TransducerRequest:
    items, data_type = draw(st.integers(1, 4)), draw(data_types)
    frames, labels = lengths(draw, items), lengths(draw, items)
    arcs = storage(draw, data_type, 2 * int((frames * (labels + 1)).sum()))
    return wire.TransducerRequest(arcs, data_type, frames, labels, draw(st.booleans()))


@st.composite
def transducer_replies(draw: st.DrawFn) -> wire.TransducerReply:
    given = draw(st.lists(statuses, max_size=4))
    values = np.array(draw(st.lists(scores, min_size=len(given), max_size=len(given))), np.float64)
    return wire.TransducerReply(tuple(given), int32s(draw, 3), values, draw(timings))


@st.composite
def posteriors_requests(draw: st.DrawFn) -> wire.MasRequest:
    return replace(draw(mas_requests()), return_paths=False)


@st.composite
def latents_requests(draw: st.DrawFn) -> wire.LatentsRequest:
    items, data_type, C = draw(st.integers(1, 4)), draw(data_types), draw(st.integers(1, 3))
    tokens, frames = lengths(draw, items), lengths(draw, items)
    means = C * int(tokens.sum())
    unit = means == 0 or draw(st.booleans())
    sizes = (C * int(frames.sum()), means, 0 if unit else means)
    arrays = [storage(draw, data_type, size) for size in sizes]
    return wire.LatentsRequest(*arrays, data_type, tokens, frames, C, unit)


@st.composite
def latents_replies(draw: st.DrawFn) -> wire.LatentsReply:
    given = draw(st.lists(statuses, max_size=4))
    values = np.array(draw(st.lists(scores, min_size=len(given), max_size=len(given))), np.float64)
    return wire.LatentsReply(tuple(given), int32s(draw, 3), values, draw(timings))


@st.composite
def attention_requests(draw: st.DrawFn) -> wire.AttentionRequest:
    items, data_type = draw(st.integers(1, 4)), draw(data_types)
    heads, tokens, frames = (lengths(draw, items) for _ in range(3))
    attention = storage(draw, data_type, int((heads * tokens * frames).sum()))
    mode = draw(st.sampled_from(wire.AttentionMode))
    log = mode is not wire.AttentionMode.STEPWISE and draw(st.booleans())
    return wire.AttentionRequest(attention, data_type, heads, tokens, frames, mode, log)


@st.composite
def attention_replies(draw: st.DrawFn) -> wire.AttentionReply:
    given = draw(st.lists(statuses, max_size=4))
    values = np.array(draw(st.lists(scores, min_size=len(given), max_size=len(given))), np.float64)
    rates = np.array(draw(st.lists(st.floats(width=32), max_size=4)), np.float32)
    spans = int32s(draw, 3), int32s(draw, 3)
    return wire.AttentionReply(tuple(given), int32s(draw, len(given)), rates, *spans, values, draw(timings))


@st.composite
def posteriors_replies(draw: st.DrawFn) -> wire.PosteriorsReply:
    given = draw(st.lists(statuses, max_size=4))
    values = np.array(draw(st.lists(scores, min_size=len(given), max_size=len(given))), np.float64)
    posteriors = np.array(draw(st.lists(st.floats(0, 1, width=32), max_size=4)), np.float32)
    return wire.PosteriorsReply(tuple(given), posteriors, values, draw(timings))


def ctc_of(**more: Any) -> wire.CtcRequest:
    """One item of one frame, two columns and one label, but for `more`."""
    one = np.ones(1, np.int64)
    vocabulary: int = more.pop("vocabulary_size", 2)
    log_probs, targets = np.zeros(vocabulary, "f4"), np.ones(1, np.int32)
    return wire.CtcRequest(log_probs, wire.DataType.FLOAT32, one, vocabulary, targets, one, **more)


def long_ctc(frames: int, labels: int) -> wire.CtcRequest:
    """Of one column: the reply of its posteriors is far larger."""
    one, targets = np.ones(1, np.int64), np.zeros(labels, np.int32)
    log_probs = np.zeros(frames, "f4")
    return wire.CtcRequest(log_probs, wire.DataType.FLOAT32, frames * one, 1, targets, labels * one)


def mas_of(tokens: int, frames: int) -> wire.MasRequest:
    lengths = (np.array([length], np.int64) for length in (tokens, frames))
    return wire.MasRequest(np.zeros(tokens * frames, "f4"), wire.DataType.FLOAT32, *lengths)


def attention_of(heads: int, tokens: int, frames: int, **more: Any) -> wire.AttentionRequest:
    lengths = (np.array([length], np.int64) for length in (heads, tokens, frames))
    values = np.zeros(heads * tokens * frames, "f4")
    return wire.AttentionRequest(values, wire.DataType.FLOAT32, *lengths, **more)


def latents_of(channels: int) -> wire.LatentsRequest:
    """One item without tokens and frames."""
    nothing, lengths = np.zeros(0, "f4"), np.zeros(1, np.int64)
    return wire.LatentsRequest(nothing, nothing, nothing, wire.DataType.FLOAT32, lengths, lengths, channels, True)


def transducer_of(frames: int, labels: int) -> wire.TransducerRequest:
    lengths = (np.array([length], np.int64) for length in (frames, labels))
    return wire.TransducerRequest(np.zeros(2 * frames * (labels + 1), "f4"), wire.DataType.FLOAT32, *lengths)


symbols = st.builds(wire.AlignedSymbol, words, scores, scores, scores, st.none() | scores)
REQUESTS: dict[str, tuple[Any, Any]] = {
    "mas": (wire.MAXIMUM_PATH, mas_requests()),
    "ctc": (wire.FORCED_ALIGN, ctc_requests()),
    "ctc posteriors": (wire.CTC_POSTERIORS, ctc_requests()),
    "transducer": (wire.TRANSDUCER_ALIGN, transducer_requests()),
    "transducer posteriors": (wire.TRANSDUCER_POSTERIORS, transducer_requests()),
    "mas posteriors": (wire.MAS_POSTERIORS, posteriors_requests()),
    "attention": (wire.ALIGN_ATTENTION, attention_requests()),
    "latents": (wire.MAXIMUM_PATH_FROM_LATENTS, latents_requests()),
    "audio": (wire.ALIGN_AUDIO, st.builds(wire.AudioRequest, st.binary(max_size=50), words, words)),
    "info": (wire.GET_SERVER_INFO, st.just(wire.ServerInfoRequest())),
}
counts = st.integers(0, 2**63 - 1)
REPLIES: dict[str, tuple[Any, Any]] = {
    "mas": (wire.MAXIMUM_PATH, mas_replies()),
    "ctc": (wire.FORCED_ALIGN, ctc_replies()),
    "ctc posteriors": (wire.CTC_POSTERIORS, posteriors_replies()),
    "transducer": (wire.TRANSDUCER_ALIGN, transducer_replies()),
    "transducer posteriors": (wire.TRANSDUCER_POSTERIORS, posteriors_replies()),
    "mas posteriors": (wire.MAS_POSTERIORS, posteriors_replies()),
    "attention": (wire.ALIGN_ATTENTION, attention_replies()),
    "latents": (wire.MAXIMUM_PATH_FROM_LATENTS, latents_replies()),
    "audio": (
        wire.ALIGN_AUDIO,
        st.builds(
            wire.AudioReply,
            statuses,
            st.lists(symbols, max_size=3).map(tuple),
            st.lists(symbols, max_size=3).map(tuple),
            scores,
            scores,
            words,
            timings,
        ),
    ),
    "info": (
        wire.GET_SERVER_INFO,
        st.builds(
            wire.ServerInfo,
            words,
            st.lists(st.builds(wire.Device, words, words, words), max_size=3).map(tuple),
            st.lists(words, max_size=3).map(tuple),
            st.lists(st.builds(wire.Model, words, words, st.integers(0, 2**31 - 1), scores, words), max_size=3).map(
                tuple
            ),
            st.builds(wire.Limits, counts, counts, counts, counts),
        ),
    ),
}


def assert_same(one: Any, other: Any) -> None:
    """Equal in every field; arrays bit for bit and of the same type."""
    assert type(one) is type(other)
    for field in fields(one):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, np.ndarray):
            assert mine.dtype == theirs.dtype, field.name
            assert mine.shape == theirs.shape, field.name
            assert mine.tobytes() == theirs.tobytes(), field.name
        else:
            assert repr(mine) == repr(theirs), field.name  # NaN is not equal to itself


@pytest.mark.parametrize("family", REQUESTS)
@exactly
@given(data=st.data())
def test_requests_come_out_as_they_went_in(family: str, data: st.DataObject) -> None:
    rpc, strategy = REQUESTS[family]
    request = data.draw(strategy)
    assert_same(rpc.decode_request(rpc.encode_request(request)), request)


@pytest.mark.parametrize("family", REPLIES)
@exactly
@given(data=st.data())
def test_replies_come_out_as_they_went_in(family: str, data: st.DataObject) -> None:
    rpc, strategy = REPLIES[family]
    reply = data.draw(strategy)
    assert_same(rpc.decode_reply(rpc.encode_reply(reply)), reply)


def mutate(message: bytes, draw: st.DrawFn) -> bytes:
    """A few bytes changed, dropped or put in."""
    changed = bytearray(message)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(changed)))
        cut = draw(st.integers(0, 3))
        changed[place : place + cut] = draw(st.binary(max_size=3))
    return bytes(changed)


@st.composite
def hostile(draw: st.DrawFn, family: str) -> bytes:
    rpc, strategy = REQUESTS[family]
    if draw(st.booleans()):
        return draw(st.binary(max_size=60))
    return mutate(rpc.encode_request(draw(strategy)), draw)


MESSAGES: dict[str, Any] = {
    "mas": pb.MaximumPathRequest,
    "ctc": pb.ForcedAlignRequest,
    "ctc posteriors": pb.CtcPosteriorsRequest,
    "transducer": pb.TransducerAlignRequest,
    "transducer posteriors": pb.TransducerPosteriorsRequest,
    "mas posteriors": pb.MasPosteriorsRequest,
    "attention": pb.AlignAttentionRequest,
    "latents": pb.MaximumPathFromLatentsRequest,
}
huge = st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 3) | st.sampled_from([2**31, 2**32, 2**62])
huge_arcs = {
    "frames": st.lists(huge, max_size=3),
    "labels": st.lists(huge, max_size=3),
    "arcs": st.binary(max_size=9),
    "topology": st.integers(0, 5),
}
huge_values = {
    "tokens": st.lists(huge, max_size=3),
    "frames": st.lists(huge, max_size=3),
    "values": st.binary(max_size=9),
}
huge_emissions = {
    "frames": st.lists(huge, max_size=3),
    "target_lengths": st.lists(huge, max_size=3),
    "vocabulary_size": huge,
    "log_probs": st.binary(max_size=9),
    "targets": st.binary(max_size=9),
    "blank": st.integers(-(2**31), 2**31 - 1),
    "star_score": scores,
}
HUGE_FIELDS = {
    "latents": {
        "tokens": st.lists(huge, max_size=3),
        "frames": st.lists(huge, max_size=3),
        "channels": huge,
        "latents": st.binary(max_size=9),
        "means": st.binary(max_size=9),
        "log_sigmas": st.binary(max_size=9),
    },
    "attention": {
        "heads": st.lists(huge, max_size=3),
        "tokens": st.lists(huge, max_size=3),
        "frames": st.lists(huge, max_size=3),
        "attention": st.binary(max_size=9),
        "mode": st.integers(0, 5),
        "log": st.booleans(),
    },
    "mas posteriors": huge_values,
    "transducer": huge_arcs,
    "transducer posteriors": huge_arcs,
    "mas": huge_values,
    "ctc": huge_emissions,
    "ctc posteriors": huge_emissions,
}


def decode(rpc: Any, message: bytes) -> None:
    """Decodes to a request that is as consistent as the engine takes it to be, or raises what is promised."""
    try:
        request = rpc.decode_request(message)
    except wire.MalformedRequestError:
        return
    assert len(request) >= 1
    if isinstance(request, wire.MasRequest):
        assert (request.tokens * request.frames).sum() == len(request.values)
        assert len(request.tokens) == len(request.frames)
        assert request.tokens.min() >= 0 <= request.frames.min()
        assert request.tokens.sum() + request.frames.sum() <= 2 * len(request.values) + 2 * (1 << 20)
    if isinstance(request, wire.TransducerRequest):
        assert 2 * (request.frames * (request.labels + 1)).sum() == len(request.arcs)
        assert len(request.frames) == len(request.labels)
        assert request.frames.min() >= 0 <= request.labels.min()
        assert request.labels.sum() <= len(request.arcs) + (1 << 20)
    if isinstance(request, wire.LatentsRequest):
        assert request.channels >= 1
        assert request.frames.sum() * request.channels == len(request.latents)
        assert request.tokens.sum() * request.channels == len(request.means)
        assert len(request.log_sigmas) == (0 if request.unit else len(request.means))
    if isinstance(request, wire.AttentionRequest):
        assert (request.heads * request.tokens * request.frames).sum() == len(request.attention)
        lengths = np.array([request.heads, request.tokens, request.frames])
        assert lengths.min() >= 0
        assert lengths.sum() <= 3 * (len(request.attention) + (1 << 20))
        assert not (request.log and request.mode is wire.AttentionMode.STEPWISE)
    if isinstance(request, wire.CtcRequest):
        assert request.frames.sum() * request.vocabulary_size == len(request.log_probs)
        assert request.target_lengths.sum() == len(request.targets)
        assert 0 <= request.blank < request.vocabulary_size


@pytest.mark.parametrize("family", [*MESSAGES, "audio"])
@settings(derandomize=True, deadline=None, max_examples=500)
@given(data=st.data())
def test_any_bytes_decode_or_are_malformed(family: str, data: st.DataObject) -> None:
    decode(REQUESTS[family][0], data.draw(hostile(family)))


@pytest.mark.parametrize("family", MESSAGES)
@settings(derandomize=True, deadline=None, max_examples=500)
@given(data=st.data())
def test_lying_lengths_decode_or_are_malformed(family: str, data: st.DataObject) -> None:
    drawn = {name: data.draw(strategy) for name, strategy in HUGE_FIELDS[family].items()}
    message = MESSAGES[family](data_type=data.draw(st.integers(0, 5)), **drawn)
    decode(REQUESTS[family][0], message.SerializeToString())


@pytest.mark.parametrize("family", REPLIES)
@settings(derandomize=True, deadline=None, max_examples=200)
@given(data=st.data())
def test_replies_of_any_bytes_decode_or_raise_value_errors(family: str, data: st.DataObject) -> None:
    rpc, strategy = REPLIES[family]
    reply = data.draw(strategy)
    message = mutate(rpc.encode_reply(reply), data.draw)
    try:
        decoded = rpc.decode_reply(message)
    except ValueError:
        return
    assert isinstance(decoded, type(reply))


def test_codes_are_the_contracts_and_the_kernels() -> None:
    contract = {name.removeprefix("ITEM_CODE_"): number for name, number in pb.ItemCode.items() if number}
    assert {code.name: int(code) for code in wire.ItemCode} == contract
    assert {status.name: int(status) for status in Status} == contract


def test_data_types_are_the_contracts_and_the_kernels() -> None:
    contract = {name.removeprefix("DATA_TYPE_") for name, number in pb.DataType.items() if number}
    assert {kind.name for kind in wire.DataType} == contract
    assert [kind.value for kind in wire.DataType] == [kind.value for kind in DType]
    assert [kind.storage for kind in wire.DataType] == [kind.storage for kind in DType]


def test_rpcs_are_the_contracts() -> None:
    service = pb.DESCRIPTOR.services_by_name["AlignmentService"]
    assert service.full_name == wire.SERVICE
    rpcs = [rpc for rpc, _ in REQUESTS.values()]
    assert {rpc.path for rpc in rpcs} == {f"/{wire.SERVICE}/{method.name}" for method in service.methods}


def test_a_code_of_a_newer_server_is_an_internal_error() -> None:
    message = pb.MaximumPathResponse(scores=[0.0])
    message.statuses.add(code=99, field="values", message="something new")  # type: ignore[arg-type]
    (status,) = wire.MAXIMUM_PATH.decode_reply(message.SerializeToString()).statuses
    assert status == wire.ItemStatus(wire.ItemCode.INTERNAL, "values", "something new")


def test_fields_of_a_newer_client_are_passed_over() -> None:
    request = wire.MasRequest(np.zeros(1, "f4"), wire.DataType.FLOAT32, np.ones(1, int), np.ones(1, int))
    unknown = b"\xfa\x01\x03abc"  # field 31, three bytes
    assert_same(wire.MAXIMUM_PATH.decode_request(wire.MAXIMUM_PATH.encode_request(request) + unknown), request)


@pytest.mark.parametrize(
    ("rpc", "request_", "field"),
    [
        (wire.FORCED_ALIGN, ctc_of(blank=2), "blank"),
        (wire.FORCED_ALIGN, ctc_of(blank=-1), "blank"),
        (wire.FORCED_ALIGN, ctc_of(vocabulary_size=0), "vocabulary_size"),
        (wire.FORCED_ALIGN, ctc_of(star_score=float("nan")), "star_score"),
        (wire.FORCED_ALIGN, ctc_of(star_score=1e39), "star_score"),
        (wire.MAXIMUM_PATH, mas_of(tokens=0, frames=3 << 20), "frames"),
        (wire.MAXIMUM_PATH, mas_of(tokens=3 << 20, frames=0), "tokens"),
        (wire.MAS_POSTERIORS, mas_of(tokens=3 << 20, frames=0), "tokens"),
        (wire.CTC_POSTERIORS, long_ctc(30_000, 20_000), "target_lengths"),
        (wire.ALIGN_ATTENTION, attention_of(0, 3 << 20, 1), "tokens"),
        (wire.ALIGN_ATTENTION, attention_of(3 << 20, 1, 0), "heads"),
        (wire.ALIGN_ATTENTION, attention_of(1, 1, 1, mode=wire.AttentionMode.STEPWISE, log=True), "log"),
        (wire.MAXIMUM_PATH_FROM_LATENTS, latents_of(channels=3 << 20), "channels"),
        (wire.TRANSDUCER_ALIGN, transducer_of(frames=0, labels=3 << 20), "labels"),
        (wire.TRANSDUCER_POSTERIORS, transducer_of(frames=0, labels=3 << 20), "labels"),
    ],
)
def test_both_doors_refuse_the_same(rpc: Any, request_: Any, field: str) -> None:
    """What is handed to an engine as it is, is refused as what comes as a message is."""
    with pytest.raises(wire.MalformedRequestError) as direct:
        rpc.check_request(request_)
    with pytest.raises(wire.MalformedRequestError) as decoded:
        rpc.decode_request(rpc.encode_request(request_))
    assert direct.value.violations[0][0] == decoded.value.violations[0][0] == field


@pytest.mark.parametrize(
    ("labels", "topology", "words"),
    [(2**63 - 1, 1, "more than can be addressed"), (0, 3, "topology: 3 names no topology")],
)
def test_what_no_transducer_has(labels: int, topology: int, words: str) -> None:
    message = pb.TransducerAlignRequest(frames=[1], labels=[labels], data_type="DATA_TYPE_FLOAT32", arcs=bytes(8))
    message.topology = topology  # type: ignore[assignment]
    with pytest.raises(wire.MalformedRequestError, match=words):
        wire.TRANSDUCER_ALIGN.decode_request(message.SerializeToString())


def test_a_transducer_is_standard_unless_said_otherwise() -> None:
    message = pb.TransducerAlignRequest(frames=[1], labels=[0], data_type="DATA_TYPE_FLOAT32", arcs=bytes(8))
    assert wire.TRANSDUCER_ALIGN.decode_request(message.SerializeToString()).modified is False


def test_star_max_said_to_be_false_is_the_default() -> None:
    message = pb.ForcedAlignRequest(frames=[1], target_lengths=[1], vocabulary_size=2, data_type="DATA_TYPE_FLOAT32")
    message.log_probs, message.targets, message.star_max = bytes(8), bytes(4), False
    assert wire.FORCED_ALIGN.decode_request(message.SerializeToString()).star_score == 0.0


@pytest.mark.parametrize(
    ("rpc", "message"),
    [
        (wire.MAXIMUM_PATH, pb.MaximumPathRequest(tokens=[0] * 9, frames=[0] * 9, data_type="DATA_TYPE_FLOAT32")),
        (wire.FORCED_ALIGN, pb.ForcedAlignRequest(frames=[0] * 9, target_lengths=[0] * 9)),
        (wire.TRANSDUCER_ALIGN, pb.TransducerAlignRequest(frames=[0] * 9, labels=[0] * 9)),
        (wire.TRANSDUCER_POSTERIORS, pb.TransducerPosteriorsRequest(frames=[0] * 9, labels=[0] * 9)),
        (wire.MAS_POSTERIORS, pb.MasPosteriorsRequest(tokens=[0] * 9, frames=[0] * 9)),
        (wire.ALIGN_ATTENTION, pb.AlignAttentionRequest(heads=[0] * 9, tokens=[0] * 9, frames=[0] * 9)),
        (wire.MAXIMUM_PATH_FROM_LATENTS, pb.MaximumPathFromLatentsRequest(tokens=[0] * 9, frames=[0] * 9)),
    ],
    ids=["mas", "ctc", "transducer", "transducer posteriors", "mas posteriors", "attention", "latents"],
)
def test_more_items_than_asked_for(rpc: Any, message: Any) -> None:
    with pytest.raises(wire.MalformedRequestError, match="9 items in a request, over the limit of 8"):
        rpc.decode_request(message.SerializeToString(), max_items=8)


def test_items_are_counted_before_they_cost_memory() -> None:
    """A length is one byte of a message, eight of the parsed one, and nothing more once there are too many."""
    count = 4_000_000
    zeros = b"\x80\x92\xf4\x01" + bytes(count)
    message = b"\x0a" + zeros + b"\x12" + zeros  # tokens and frames, packed
    for limit, megabytes, words in ((1000, 1, "4000000 items"), (None, 100, "data_type")):
        tracemalloc.start()  # sees Python's memory and NumPy's, not protobuf's
        with pytest.raises(wire.MalformedRequestError, match=words):
            wire.MAXIMUM_PATH.decode_request(message, limit)
        assert tracemalloc.get_traced_memory()[1] < megabytes << 20
        tracemalloc.stop()


def test_arrays_are_sent_row_major_and_little_endian() -> None:
    values = np.arange(6, dtype=">f8").reshape(3, 2).T[::-1]  # neither contiguous nor little-endian
    request = wire.MasRequest(values, wire.DataType.FLOAT64, np.array([2]), np.array([3]))
    decoded = wire.MAXIMUM_PATH.decode_request(wire.MAXIMUM_PATH.encode_request(request))
    assert decoded.values.tolist() == values.ravel().tolist()
    assert decoded.values.dtype == np.dtype("<f8")
    assert not decoded.values.flags.writeable


@exactly
@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), data_types, st.data())
def test_a_payload_in_pieces_is_sent_as_one(sizes: list[int], data_type: wire.DataType, data: st.DataObject) -> None:
    whole = np.arange(sum(sizes)).astype(data_type.storage)
    payload = tuple(np.split(whole, np.cumsum(sizes)[:-1]))
    assert arrays.to_bytes(payload, data_type.storage) == arrays.to_bytes(whole, data_type.storage)
    assert arrays.nbytes_of(payload) == whole.nbytes
    start, stop = sorted(data.draw(st.tuples(st.integers(0, len(whole)), st.integers(0, len(whole)))))
    part = arrays.cut(payload, start, stop)
    assert np.concatenate(arrays.pieces(part)).tolist() == whole[start:stop].tolist()
    assert all(np.shares_memory(piece, whole) for piece in arrays.pieces(part) if piece.size)
    one = np.ones(1, np.int64)
    request = wire.MasRequest(payload, data_type, one, len(whole) * one)
    decoded = wire.MAXIMUM_PATH.decode_request(wire.MAXIMUM_PATH.encode_request(request))
    assert decoded.values.tolist() == whole.tolist()


@pytest.mark.parametrize("values", [np.zeros(5, "f4"), (np.zeros(3, "f4"), np.zeros(4, "f4")), (np.zeros(0, "f4"),)])
def test_values_that_do_not_fit_their_lengths_are_refused(values: Any) -> None:
    """Kernels read as many as the lengths say."""
    two, three, labels = np.array([2]), np.array([3]), np.ones(1, np.int32)
    with pytest.raises(wire.MalformedRequestError, match=r"values: \d elements, but the lengths ask for 6"):
        wire.MAXIMUM_PATH.check_request(wire.MasRequest(values, wire.DataType.FLOAT32, two, three))
    with pytest.raises(wire.MalformedRequestError, match=r"log_probs: \d elements, but the lengths ask for 6"):
        wire.FORCED_ALIGN.check_request(wire.CtcRequest(values, wire.DataType.FLOAT32, two, 3, labels, two // 2))
    with pytest.raises(wire.MalformedRequestError, match="targets: 1 elements, but the lengths ask for 2"):
        wire.FORCED_ALIGN.check_request(wire.CtcRequest(np.zeros(6, "f4"), wire.DataType.FLOAT32, two, 3, labels, two))


@pytest.mark.parametrize("values", [0, 1, 31, 32, 127, 128, 4095, 4096, 600_000])
@pytest.mark.parametrize("cuts", [(), (3,), (0, 31)])
def test_a_message_is_what_protobuf_would_make_of_it(values: int, cuts: tuple[int, ...]) -> None:
    """At sizes whose length takes one, two, three and four bytes; the payload whole, or in pieces, empty ones too."""
    payload = np.random.default_rng(0).standard_normal(values).astype("f4")
    pieces = tuple(np.split(payload, [min(cut, values) for cut in cuts])) if cuts else payload
    one, size = np.ones(1, np.int64), np.full(1, values, np.int64)
    encoded = wire.MAXIMUM_PATH.encode_request(wire.MasRequest(pieces, wire.DataType.FLOAT32, one, size, True))
    message = pb.MaximumPathRequest(
        tokens=[1], frames=[values], data_type="DATA_TYPE_FLOAT32", values=payload.tobytes(), return_paths=True
    )
    assert pb.MaximumPathRequest.FromString(encoded) == message
    assert len(encoded) == message.ByteSize()
