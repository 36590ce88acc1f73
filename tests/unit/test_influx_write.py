"""What is done about a database's answers to a write."""

import math
from collections.abc import Iterable
from email.utils import formatdate

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from openenergy import influx
from openenergy.influx import Answer, Rejection, UnavailableError, retry_after_s, write

LINES = [f"power,switch=plug power={number}.0 {number}" for number in range(1000)]


class FakeDatabase:
    """Takes lines but those in `bad`, and `most_bytes` at once; remembers what it was sent."""

    def __init__(
        self,
        bad: Iterable[str] = (),
        *,
        most_bytes: float = math.inf,
        refusal: int = 400,
        keeps_the_good: bool = True,
    ) -> None:
        self.bad = set(bad)
        self.most_bytes = most_bytes
        self.refusal = refusal
        self.keeps_the_good = keeps_the_good
        self.stored: set[str] = set()
        self.requests = 0

    def post(self, body: bytes) -> Answer:
        self.requests += 1
        lines = body.decode().split("\n")
        if len(body) > self.most_bytes:
            return Answer(413, "too large")
        bad = [line for line in lines if line in self.bad]
        if not bad or self.keeps_the_good:
            self.stored.update(set(lines) - self.bad)
        return Answer(self.refusal, f"unable to parse {bad[0]}") if bad else Answer(204, "")


def test_lines_go_out_as_one_body() -> None:
    bodies: list[bytes] = []

    def post(body: bytes) -> Answer:
        bodies.append(body)
        return Answer(204, "")

    assert write(post, LINES[:3]) == []
    assert bodies == ["\n".join(LINES[:3]).encode()]


# Stored, or not, and why: one row for each kind of answer.


@pytest.mark.parametrize("status", [200, 204])
def test_these_mean_stored(status: int) -> None:
    assert write(lambda _: Answer(status, ""), LINES) == []


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_single_line_that_is_refused_is_rejected_with_the_reason(status: int) -> None:
    answer = Answer(status, '{"error":"partial write:\n field type conflict"}')
    assert write(lambda _: answer, LINES[:1]) == [
        Rejection(LINES[0], '{"error":"partial write: field type conflict"}')
    ]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_these_wait_for_a_better_configuration(status: int) -> None:
    with pytest.raises(UnavailableError, match=f"^status {status}: no such bucket$") as caught:
        write(lambda _: Answer(status, "no such bucket"), LINES)
    assert caught.value.is_configuration
    assert (caught.value.retry_after_s or 0) >= 5


@pytest.mark.parametrize(
    "status", [0, 100, 202, 206, 301, 302, 304, 307, 402, 405, 408, 409, 418, 429]
)
@pytest.mark.parametrize("above", [0, 500])
def test_all_others_may_pass(status: int, above: int) -> None:
    with pytest.raises(UnavailableError, match=f"^status {status + above}: oops$") as caught:
        write(lambda _: Answer(status + above, "oops"), LINES)
    assert not caught.value.is_configuration
    assert caught.value.retry_after_s is None


@pytest.mark.parametrize("status", [429, 503])
def test_they_wait_as_long_as_they_are_told(status: int) -> None:
    with pytest.raises(UnavailableError) as caught:
        write(lambda _: Answer(status, "", "17"), LINES)
    assert caught.value.retry_after_s == 17


def test_a_page_of_html_makes_a_reason_of_one_short_line() -> None:
    page = "<html>\n<h1>502 Bad Gateway</h1>\r\n" + "x" * 10_000
    with pytest.raises(UnavailableError) as caught:
        write(lambda _: Answer(502, page), LINES)
    assert str(caught.value).startswith("status 502: <html> <h1>502 Bad Gateway</h1>")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


# Finding what is refused


@given(
    count=st.integers(1, 300),
    bad=st.sets(st.integers(0, 299), max_size=20),
    most_bytes=st.none() | st.integers(100, 5000),
    refusal=st.sampled_from([400, 422]),
    keeps_the_good=st.booleans(),
)
@example(count=300, bad=set(range(300)), most_bytes=100, refusal=400, keeps_the_good=False)
def test_exactly_the_bad_lines_are_rejected_and_all_others_stored(
    count: int, bad: set[int], most_bytes: int | None, refusal: int, keeps_the_good: bool
) -> None:
    lines = LINES[:count]
    bad_lines = [line for number, line in enumerate(lines) if number in bad]
    database = FakeDatabase(
        bad_lines,
        most_bytes=most_bytes or math.inf,
        refusal=refusal,
        keeps_the_good=keeps_the_good,
    )
    rejections = write(database.post, lines)
    assert rejections == [Rejection(line, f"unable to parse {line}") for line in bad_lines]
    assert database.stored == set(lines) - set(bad_lines)


def test_one_bad_line_among_many_costs_few_requests() -> None:
    database = FakeDatabase([LINES[617]], keeps_the_good=False)
    assert [rejection.line for rejection in write(database.post, LINES)] == [LINES[617]]
    assert database.requests <= 2 * math.ceil(math.log2(len(LINES))) + 1


def test_a_batch_that_is_too_large_is_halved_until_it_is_taken() -> None:
    database = FakeDatabase(most_bytes=len("\n".join(LINES).encode()) // 4)
    assert write(database.post, LINES) == []
    assert database.stored == set(LINES)
    assert database.requests <= 15


def test_a_line_that_is_too_large_alone_is_rejected_alone() -> None:
    giant = "power,switch=plug power=1.0 " + "1" * 5000
    database = FakeDatabase(most_bytes=4000)
    assert write(database.post, [*LINES[:500], giant, *LINES[500:]]) == [
        Rejection(giant, "too large")
    ]
    assert database.stored == set(LINES)


def test_a_database_that_goes_away_while_lines_are_searched_takes_nothing_now() -> None:
    database = FakeDatabase([LINES[3]], keeps_the_good=False)

    def post(body: bytes) -> Answer:
        return database.post(body) if database.requests < 4 else Answer(503, "shutting down")

    with pytest.raises(UnavailableError, match="shutting down"):
        write(post, LINES[:100])


# Retry-After (RFC 9110, section 10.2.3)

NOW_S = 1_811_808_000.0


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        ("1", 1.0),
        (" 120 ", 120.0),
        ("600", 600.0),
        ("601", 600.0),
        ("9" * 400, 600.0),
        ("9" * 10_000, 600.0),
        (formatdate(NOW_S + 90, usegmt=True), 90.0),
        (formatdate(NOW_S - 90, usegmt=True), 0.0),
        (formatdate(NOW_S + 10**6, usegmt=True), 600.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("Thu, 99 Foo 2027 00:00:00 GMT", None),
        ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", None),
        ("\u00b2", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_ten_minutes_at_most(
    header: str | None, wait_s: float | None
) -> None:
    assert retry_after_s(header, NOW_S) == wait_s


DATE_WORDS = ["Mon", ", ", "21 ", "Oct ", "2027 ", "07:28:00", "GMT", "+9999", " ", "-", ":", "99"]
DATES = st.lists(st.sampled_from(DATE_WORDS) | st.text(max_size=4), max_size=9).map("".join)


@settings(max_examples=200)
@given(header=st.text() | st.integers().map(str) | st.datetimes().map(str) | DATES)
@example(header="Mon, 21 Oct 0001 00:00:00 +9999")
@example(header="0 0 0 0:0:0 99999999999999")
def test_any_header_gives_no_wait_or_a_bounded_one(header: str) -> None:
    wait_s = retry_after_s(header, NOW_S)
    assert wait_s is None or 0 <= wait_s <= influx.LONGEST_RETRY_AFTER_S
