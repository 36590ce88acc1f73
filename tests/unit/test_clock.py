"""Which times are believed."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenergy import clock
from openenergy.topics import PayloadError

HOUR_MS = 3_600_000
# 2027-06-01, when our clock is right; 2025-05-01, as a Pi without a battery may believe.
NOW_MS = 1_811_808_000_000
UNSET_MS = 1_746_057_600_000


def is_believed(measured_ms: int | None, arrival_ms: int) -> bool:
    try:
        time_ms = clock.time_of(measured_ms, arrival_ms)
    except PayloadError:
        return False
    assert time_ms == (arrival_ms if measured_ms is None else measured_ms)
    return True


@pytest.mark.parametrize(
    ("measured_ms", "believed"),
    [
        (NOW_MS, True),
        (NOW_MS - 10 * 365 * 24 * HOUR_MS, False),
        (NOW_MS - 3 * 365 * 24 * HOUR_MS, True),
        (clock.EARLIEST_MS, True),
        (clock.EARLIEST_MS - 1, False),
        (0, False),
        (NOW_MS + HOUR_MS, True),
        (NOW_MS + HOUR_MS + 1, False),
        (2**53 - 1, False),
        (None, True),
    ],
)
def test_a_time_is_believed_from_2020_to_an_hour_ahead(
    measured_ms: int | None, believed: bool
) -> None:
    assert is_believed(measured_ms, NOW_MS) is believed


@pytest.mark.parametrize("arrival_ms", [0, UNSET_MS, clock.RELEASED_MS - 1])
def test_while_our_clock_is_not_set_only_the_senders_is_believed(arrival_ms: int) -> None:
    assert is_believed(NOW_MS, arrival_ms)
    assert not is_believed(0, arrival_ms)
    assert not is_believed(None, arrival_ms)


@pytest.mark.parametrize(
    ("measured_ms", "arrival_ms", "blamed"),
    [
        (5, NOW_MS, "sender's clock"),
        (NOW_MS + 2 * HOUR_MS, NOW_MS, "ahead of our clock"),
        (None, UNSET_MS, "our clock is not set"),
    ],
)
def test_the_error_names_the_wrong_clock(
    measured_ms: int | None, arrival_ms: int, blamed: str
) -> None:
    with pytest.raises(PayloadError, match=blamed):
        clock.time_of(measured_ms, arrival_ms)


@given(measured_ms=st.none() | st.integers(0, 2**53), arrival_ms=st.integers(0, 2**42))
def test_no_point_has_an_impossible_time(measured_ms: int | None, arrival_ms: int) -> None:
    if is_believed(measured_ms, arrival_ms):
        time_ms = clock.time_of(measured_ms, arrival_ms)
        assert time_ms >= clock.EARLIEST_MS
        assert measured_ms is not None or time_ms >= clock.RELEASED_MS
        assert arrival_ms < clock.RELEASED_MS or time_ms <= arrival_ms + HOUR_MS


@pytest.mark.parametrize(
    ("now_ms", "is_set"), [(NOW_MS, True), (clock.RELEASED_MS, True), (UNSET_MS, False), (5, False)]
)
def test_our_clock_is_set_when_it_shows_a_time_after_the_release(
    monkeypatch: pytest.MonkeyPatch, now_ms: int, is_set: bool
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: now_ms * 1_000_000 + 999_999)
    assert clock.now_ms() == now_ms
    assert clock.is_set() is is_set
