"""When to try again, with a clock that the test moves."""

import pytest

from alignd_client import AlignError, DeadlineExceededError, OverloadedError, ServerError, ServerUnavailableError
from alignd_client.presence import Presence
from alignd_client.retry import Attempts, RetryPolicy

AWAY = ServerUnavailableError("host:1")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def attempts(timeout: float | None = None, jitter: float = 1.0, clock: Clock | None = None) -> Attempts:
    return Attempts(RetryPolicy(0.1, 2.0, 5), timeout, clock=clock or Clock(), jitter=lambda: jitter)


def delays(error: AlignError, jitter: float, count: int) -> list[float]:
    one = attempts(jitter=jitter)
    return [one.delay_after(error, reached=True) for _ in range(count)]


def test_delays_double_up_to_the_longest() -> None:
    assert delays(AWAY, 1.0, 7) == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])
    assert delays(AWAY, 0.0, 7) == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_the_servers_wish_is_a_lower_bound() -> None:
    """Above which jitter spreads those who are asked at once."""
    assert delays(OverloadedError("", 0.3), 0.0, 4) == pytest.approx([0.3, 0.3, 0.3, 0.4])
    assert delays(OverloadedError("", 0.3), 1.0, 4) == pytest.approx([0.375, 0.375, 0.4, 0.8])


def test_a_server_that_never_answered_is_given_up() -> None:
    one = attempts()
    for _ in range(4):
        one.delay_after(AWAY, reached=False)
    with pytest.raises(ServerUnavailableError) as caught:
        one.delay_after(AWAY, reached=False)
    assert caught.value is AWAY


def test_the_deadline_is_for_all_attempts() -> None:
    clock = Clock()
    one = attempts(1.0, clock=clock)
    assert one.remaining() == 1.0
    clock.now += 0.6
    assert one.remaining() == pytest.approx(0.4)
    one.delay_after(AWAY, reached=True)
    clock.now += 0.3
    with pytest.raises(ServerUnavailableError):  # 0.2 s would end past the deadline: the cause tells more than that
        one.delay_after(AWAY, reached=True)
    clock.now += 0.2
    with pytest.raises(DeadlineExceededError, match="1 s"):
        one.remaining()


def test_the_time_is_used_to_its_end() -> None:
    """Where the next delay would pass the deadline, half of what is left is waited, down to a fifth of a second."""
    clock = Clock()
    one = attempts(3.0, clock=clock)
    for waited in (0.1, 0.2, 0.4, 0.8, 0.75, 0.375, 0.1875):
        assert one.delay_after(AWAY, reached=True) == pytest.approx(waited)
        clock.now += waited
    with pytest.raises(ServerUnavailableError, match=r"tried again for 2\.8 s"):
        one.delay_after(AWAY, reached=True)
    clock.now = 100.0
    late = attempts(1.0, clock=clock)
    with pytest.raises(OverloadedError):  # who names a time means it
        late.delay_after(OverloadedError("", 1.5), reached=True)


def test_a_server_that_went_away_is_told_apart_from_one_that_never_was() -> None:
    clock = Clock()
    one = attempts(10.0, clock=clock)
    clock.now += 3.0  # of an attempt that was on its way
    one.delay_after(AWAY, reached=True)
    clock.now += 6.5
    one.delay_after(AWAY, reached=True)
    clock.now += 0.45
    with pytest.raises(ServerUnavailableError) as caught:
        one.delay_after(ServerUnavailableError("host:1", "refused"), reached=True)
    assert str(caught.value).startswith("the alignd server at host:1 went away (refused); tried again for 7.0 s: ")
    assert caught.value.tried == pytest.approx(6.95)


def test_an_answer_to_what_was_asked_before_ends_no_loss(caplog: pytest.LogCaptureFixture) -> None:
    presence = Presence(reached=True)
    for error in (AWAY, None, AWAY, None):
        presence.note(error, None)
    assert presence.loss is not None
    presence.note(None, presence.loss)
    assert presence.loss is None
    presence.note(AWAY, None)
    assert len(caplog.records) == 2


def test_a_server_that_only_starts_is_still_lost(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "alignd_client")
    presence = Presence(reached=True)
    presence.note(AWAY, None)
    presence.note(ServerUnavailableError("host:1", "starting", reached=True, retry_after=1.0), presence.loss)
    assert presence.loss is not None
    assert len(caplog.records) == 1
    presence.note(OverloadedError("", 1.0), presence.loss)
    assert "answers again" in caplog.text


def test_a_server_that_never_answered_is_not_lost(caplog: pytest.LogCaptureFixture) -> None:
    presence = Presence()
    presence.note(AWAY, None)
    assert (presence.reached, presence.loss, caplog.records) == (False, None, [])
    presence.note(ServerError("x"), None)
    assert presence.reached


def test_without_a_deadline_there_is_time() -> None:
    assert attempts().remaining() is None


@pytest.mark.parametrize("error", [ServerError("x"), OverloadedError("a quota")])
def test_what_cannot_pass_is_raised(error: AlignError) -> None:
    with pytest.raises(type(error)) as caught:
        attempts().delay_after(error, reached=True)
    assert caught.value is error
