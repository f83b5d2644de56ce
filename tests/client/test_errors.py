"""Errors are typed, say what is to be done, and cross processes whole."""

import pickle

import pytest

from alignd_client import (
    AlignError,
    ClientClosedError,
    DeadlineExceededError,
    ForkError,
    InvalidItemError,
    InvalidItemsError,
    InvalidRequestError,
    ItemCode,
    MessageTooLargeError,
    OverloadedError,
    ServerError,
    ServerUnavailableError,
)

BAD = InvalidItemError(3, ItemCode.NOT_FINITE, "values", "NaN at token 1, frame 2")
ERRORS: list[tuple[AlignError, type[Exception], str]] = [
    (InvalidRequestError("mask", "is odd", ("value", "too")), ValueError, "mask: is odd; value: too"),
    (BAD, ValueError, "item 3: NaN at token 1, frame 2 (NOT_FINITE)"),
    (InvalidItemError(None, ItemCode.TEXT_UNSUPPORTED, "", ""), ValueError, "text unsupported (TEXT_UNSUPPORTED)"),
    (InvalidItemsError([BAD], 5), ValueError, f"1 of 5 items cannot be aligned: {BAD}"),
    (
        ServerUnavailableError("host:1", "Connection refused"),
        ConnectionError,
        "no alignd server answers at host:1 (Connection refused): start one with `alignd-server`, "
        "which at its first start compiles for one to three minutes, on a GPU for about eight, or name another "
        "one's host:port as the target or in ALIGND_TARGET",
    ),
    (
        ServerUnavailableError("host:1", "Connection refused", tried=59.82),
        ConnectionError,
        "the alignd server at host:1 went away (Connection refused); tried again for 59.8 s: start it again, or name "
        "another one's host:port as the target or in ALIGND_TARGET",
    ),
    (
        ServerUnavailableError("host:1", "the device is lost", reached=True, tried=60.0),
        ConnectionError,
        "the alignd server at host:1 cannot work now (the device is lost); tried again for 60.0 s",
    ),
    (OverloadedError("the queue is full", 0.5), AlignError, "the server is overloaded: the queue is full"),
    (DeadlineExceededError(1.5), TimeoutError, "no answer within the timeout of 1.5 s"),
    (
        MessageTooLargeError(70, 50, 2),
        ValueError,
        "item 2 makes a message of 70 bytes; the server takes at most 50: raise its --max-message-bytes, send half "
        "precision, or align in process (AlignClient.in_process)",
    ),
    (
        MessageTooLargeError(70, 50, reply=True),
        ValueError,
        "the reply of 70 bytes is over the server's limit, 50: raise its --max-message-bytes, or send fewer items",
    ),
    (ServerError("a defect", "INTERNAL"), AlignError, "a defect (INTERNAL)"),
    (ClientClosedError(), AlignError, "this client is closed"),
    (
        ForkError(),
        RuntimeError,
        "gRPC's asyncio, in use before this process was forked, does not work in it: use AlignClient here, or start "
        "processes by spawn",
    ),
]


@pytest.mark.parametrize(("error", "base", "message"), ERRORS, ids=[type(error).__name__ for error, _, _ in ERRORS])
def test_errors(error: AlignError, base: type[Exception], message: str) -> None:
    assert isinstance(error, AlignError)
    assert isinstance(error, base)
    assert str(error) == message
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == message
    assert copy.args == error.args
    ours, theirs = vars(error).copy(), vars(copy).copy()
    assert list(map(str, ours.pop("errors", ()))) == list(map(str, theirs.pop("errors", ())))
    assert ours == theirs


def test_a_long_list_of_items_is_cut_in_the_message_alone() -> None:
    errors = [InvalidItemError(i, ItemCode.EMPTY, "", "empty") for i in range(20)]
    error = InvalidItemsError(errors, 30)
    assert str(error).startswith("20 of 30 items cannot be aligned: item 0: ")
    assert str(error).endswith("item 7: empty (EMPTY); and 12 more")
    assert error.indices == list(range(20))


def test_only_what_may_pass_is_retryable() -> None:
    assert {type(error) for error, _, _ in ERRORS if error.retryable} == {ServerUnavailableError, OverloadedError}
    assert not OverloadedError("a quota").retryable
