"""Lines of line protocol: whatever the texts are, one valid line, and nothing else."""

import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from demo.parts import InfluxDB1
from openenergy import config, influx
from openenergy.influx import line, line_head
from openenergy.topics import PayloadError

TEXTS = st.text(max_size=12) | st.text(
    alphabet=st.sampled_from([*'a, =\\"#', "\n", "\r", "\0", "\x1f", "\x7f", "é", "\u2028", "🔌"])
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def parse(text: str) -> tuple[str, dict[str, str], str, float, int]:
    """Read a line with one field as InfluxDB's reference describes line protocol."""
    series, fields, time = re.split(r"(?<!\\) ", text)
    measurement, *tags = re.split(r"(?<!\\),", series)
    pairs = [re.split(r"(?<!\\)=", tag) for tag in tags]
    ((field, value),) = [re.split(r"(?<!\\)=", fields)]
    assert re.search(r"[\x00-\x1f]", text) is None
    assert not text.startswith("#")
    assert measurement
    assert all(key and tag_value for key, tag_value in pairs)
    tag_set = {plain(key): plain(tag_value) for key, tag_value in pairs}
    return plain(measurement), tag_set, plain(field), float(value), int(time)


def plain(escaped: str) -> str:
    assert not re.search(r"\\(?![, =])", escaped), "a backslash that escapes nothing"
    return re.sub(r"\\([, =])", r"\1", escaped)


def carried(text: str) -> str:
    """Return what line protocol can carry of a text: no control character, no backslash."""
    return re.sub(r"[\x00-\x1f\x7f\\]+", " ", text).strip()


def test_a_plugs_line() -> None:
    head = line_head("power", {"switch": "my_strom-001", "unit": "W"}, "power")
    assert head == "power,switch=my_strom-001,unit=W power="
    assert line(head, 24.56, 1763763243123) == (
        "power,switch=my_strom-001,unit=W power=24.56 1763763243123"
    )


def test_an_empty_tag_is_left_out() -> None:
    assert line_head("relay", {"switch": "a", "unit": ""}, "relay") == "relay,switch=a relay="
    assert line_head("relay", {"switch": " \n", "unit": "\\"}, "relay") == "relay relay="


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("Living room", r"Living\ room"),
        ("a,b=c", r"a\,b\=c"),
        ("back\\slash", r"back\ slash"),
        ("ends in \\", r"ends\ in"),
        ("two\nlines,a=1 2", r"two\ lines\,a\=1\ 2"),
        (' "quoted" ', '"quoted"'),
        ("Küche 🔌", "Küche\\ 🔌"),
    ],
)
def test_special_characters_of_a_tag_are_escaped(text: str, escaped: str) -> None:
    assert line_head("m", {"sensor": text}, "f") == f"m,sensor={escaped} f="


@pytest.mark.parametrize("text", ["", " ", "\n", "#", "# #", "\\"])
def test_a_measurement_and_a_field_need_a_name(text: str) -> None:
    with pytest.raises(PayloadError, match="no name"):
        line_head(text, {}, "f")
    with pytest.raises(PayloadError, match="no name"):
        line_head("m", {}, text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(0.0, "0.0"), (-0.0, "-0.0"), (5.0, "5.0"), (0.1, "0.1"), (1e22, "1e+22")],
        *[(1e-7, "1e-07"), (1.7976931348623157e308, "1.7976931348623157e+308")],
    ],
)
def test_a_value_is_a_float_to_the_last_digit(value: float, text: str) -> None:
    assert line("m f=", value, 5) == f"m f={text} 5"


@given(measurement=TEXTS, tags=st.dictionaries(st.just("sensor"), TEXTS), field=TEXTS)
@example(measurement="a\\", tags={"sensor": "\\"}, field="\\=")
@example(measurement="#a", tags={"sensor": ", ="}, field="#")
def test_any_texts_make_one_line_that_says_the_same_or_none(
    measurement: str, tags: dict[str, str], field: str
) -> None:
    try:
        text = line(line_head(measurement, tags, field), 1.5, 1763763243123)
    except PayloadError:
        assert not (carried(measurement).strip("# ") and carried(field).strip("# "))
        return
    said_measurement, said_tags, said_field, value, time = parse(text)
    assert carried(measurement).lstrip("# ") == said_measurement
    assert {key: carried(value) for key, value in tags.items() if carried(value)} == said_tags
    assert carried(field).lstrip("# ") == said_field
    assert (value, time) == (1.5, 1763763243123)


@given(value=FLOATS, time_ms=st.integers(0, 2**53))
def test_any_value_and_time_are_carried_exactly(value: float, time_ms: int) -> None:
    *_, said_value, said_time = parse(line("m f=", value, time_ms))
    assert math.copysign(1, said_value) == math.copysign(1, value)
    assert (said_value, said_time) == (value, time_ms)


NASTY = [
    *["plain", "Living room", "a,b", "a=b", "a\\", "\\b", "\\,c", '"', "'", "a#b", "#a", "ü", "🔌"],
    *["a\nb c=1 5", "a,b=c d=1i", "=", ",", "time", "_field", "$x", "%00", "a\u2028b", "\ud7ff"],
]


def test_a_real_influxdb_understands_them_all(influxdb: InfluxDB1) -> None:
    settings = config.InfluxDB(url=influxdb.url, database="energy")
    fields = [f"f {text}" for text in NASTY]
    lines = [
        line(line_head(f"m {text}", {"sensor": text}, field), number + 0.5, 1763763243123 + number)
        for number, (text, field) in enumerate(zip(NASTY, fields, strict=True))
    ]
    assert influx.write(influx.InfluxDB1(settings).post, lines) == []
    rows = influxdb.query("SELECT * FROM /.*/ GROUP BY *", "energy")
    said = {
        row["sensor"]: (row["time"], value)
        for row in rows
        for key, value in row.items()
        if key.startswith("f ") and value is not None
    }
    assert said == {
        carried(text): (1763763243123 + number, number + 0.5) for number, text in enumerate(NASTY)
    }
