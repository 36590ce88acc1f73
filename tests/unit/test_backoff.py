"""Waits between attempts: they grow, they end somewhere, and they are never the same twice."""

from hypothesis import given
from hypothesis import strategies as st

from openenergy.backoff import Backoff


@given(first_s=st.floats(0.01, 100), factor=st.floats(1, 1000), tries=st.integers(0, 40))
def test_a_delay_is_between_half_and_all_of_a_step_that_doubles_up_to_the_longest(
    first_s: float, factor: float, tries: int
) -> None:
    longest_s = first_s * factor
    backoff = Backoff(first_s, longest_s)
    for number in range(tries):
        step_s = min(first_s * 2**number, longest_s)
        assert step_s / 2 <= backoff.delay_s() <= step_s


@given(tries=st.integers(0, 20))
def test_after_an_answer_it_begins_again(tries: int) -> None:
    backoff = Backoff(0.5, 30.0)
    for _ in range(tries):
        backoff.delay_s()
    backoff.reset()
    assert backoff.delay_s() <= 0.5


def test_by_default_it_waits_half_a_second_to_half_a_minute() -> None:
    backoff = Backoff()
    delays_s = [backoff.delay_s() for _ in range(100)]
    assert 0.25 <= delays_s[0] <= 0.5
    assert all(15 <= delay_s <= 30 for delay_s in delays_s[6:])


def test_many_clients_do_not_come_back_together() -> None:
    assert len({Backoff().delay_s() for _ in range(100)}) > 50
