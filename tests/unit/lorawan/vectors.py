"""Golden vectors, and what their oracle's answers mean in our quantities and units."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

FIXTURES: Final = Path(__file__).parents[2] / "fixtures" / "lorawan"

# Our quantity, unit and factor for a name and unit of the oracle.
Key = tuple[str, str, str, int]  # quantity, unit, channel, age

NO_PROBE: Final = -3276.8
UNITS: Final = {
    "Wh": ("energy", "Wh", 1),
    "kWh": ("energy", "Wh", 1000),
    "varh": ("reactive_energy", "varh", 1),
    "kvarh": ("reactive_energy", "varh", 1000),
    "VAh": ("apparent_energy", "VAh", 1),
    "VA": ("apparent_power", "VA", 1),
    "A": ("current", "A", 1),
    "W": ("power", "W", 1),
}
POLLUTANTS: Final = {"tvoc": "tvoc", "pm10": "pm10", "pm25": "pm2_5", "pm1": "pm1"}
OF_A_DAY: Final = {"Max": "max", "Min": "min", "Average": "mean"}


def load(name: str) -> list[dict[str, Any]]:
    with (FIXTURES / name).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def expected_samples(decoded: dict[str, Any]) -> dict[Key, float]:
    """Return the samples that an answer of @adeunis/codecs tells, without the low battery flag."""
    return {
        key: float(value)
        for key, value in _samples(decoded)
        if not (key[0].startswith("temperature") and value == NO_PROBE)
    }


def _samples(answer: dict[str, Any]) -> Iterator[tuple[Key, float]]:
    code = answer["type"][:4]
    if code == "0x49":
        yield from _tic(answer)
    elif code in {"0x6d", "0x6e"} or (code == "0x30" and "tvoc" in answer):
        yield from _breath(answer)
    elif answer["type"].startswith(f"{code} Pulse"):
        yield from _pulse(answer, code)
    elif code in {"0x30", "0x40", "0x59"} and "Contacts" in answer["type"]:
        yield from _contacts(answer)
    elif code in {"0x42", "0x30"} and "channels" in answer:
        yield from _analog(answer)
    elif code in {"0x4e", "0x4f", "0x50", "0x5c", "0x5d"}:
        yield from _motion(answer, code)
    elif code in {"0x51", "0x52"}:
        channel = code[3]
        yield ("contact", "", channel, 0), answer["state"]["current"]
        yield ("contact_count", "", channel, 0), answer["counter"]["global"]
    elif "configuration" not in answer["type"].lower():
        yield from _climate(answer)


def _values(quantity: str, unit: str, node: Any, times: float = 1) -> Iterator[tuple[Key, float]]:
    for age, value in enumerate(node.get("values", [node.get("value")])):
        yield (quantity, unit, "", age), value * times


def _climate(answer: dict[str, Any]) -> Iterator[tuple[Key, float]]:
    for probe in answer.get("temperatures", []) + answer.get("alarms", []):
        if probe.get("state") != "deactivated":
            for key, value in _values("temperature", "C", probe.get("temperature", probe)):
                yield (*key[:2], probe["name"][-1], key[3]), value
    for name, quantity, unit, times in (
        ("temperature", "temperature", "C", 1),
        ("humidity", "humidity", "%", 1),
        ("co2", "co2", "ppm", 1),
        ("deltaPressure", "pressure", "Pa", 1),
        ("voltage", "voltage", "V", 0.001),
    ):
        alarm = answer.get(f"alarm{name.capitalize()}")
        if node := alarm[name] if alarm else answer.get(name):
            yield from _values(quantity, unit, node, times)
        for kind, ours in OF_A_DAY.items():
            if node := answer.get(f"{name}{kind}"):
                yield from _values(f"{quantity}_{ours}", unit, node)
    if "qaiRedDuration" in answer:
        yield from _values("bad_air_time", "min", answer["qaiRedDuration"])


def _pulse(answer: dict[str, Any], code: str) -> Iterator[tuple[Key, float]]:
    if code == "0x46":
        for channel, value in zip("AB", answer["counterValues"], strict=True):
            yield ("pulses", "", channel, 0), value
    elif code in {"0x5a", "0x5b"}:
        channel = answer["type"][-1]
        for age, value in enumerate(answer["counterValues"]):
            yield ("pulses", "", channel, age), value
    elif code == "0x47":
        for channel, value in zip("AB", answer["flowValues"], strict=True):
            yield ("flow", "pulses/h", channel, 0), value
    elif code == "0x30":
        for node in answer["channels"]:
            channel = node["name"][-1]
            yield ("overflow_alarm", "", channel, 0), node["flow"]["alarm"]
            yield ("tamper_alarm", "", channel, 0), node["tamperAlarm"]
            yield ("leak_alarm", "", channel, 0), node["leakageAlarm"]
            yield ("flow_max", "pulses/h", channel, 0), node["flow"]["last24hMax"]
            yield ("flow_min", "pulses/h", channel, 0), node["flow"]["last24hMin"]
    elif code == "0x48":
        yield from _interval_history(answer)


def _interval_history(answer: dict[str, Any]) -> Iterator[tuple[Key, float]]:
    """Deltas are oldest first, from interval `baseTime` of 24 hours, or of 6 times 10 minutes."""
    first = answer.get("baseTime", 1)
    for node in answer["channels"]:
        channel, deltas, total = node["name"][-1], node.get("deltaValues", []), node.get("index")
        is_ten_minutes = (answer["frameIndex"], len(deltas)) in {(0, 5), (3, 1)}
        last = 6 if is_ten_minutes else 24
        if total is not None:
            yield ("pulses", "", channel, last - first), total
        for interval, delta in enumerate(deltas, start=first + 1):
            if total is None:
                yield ("pulses_added", "", channel, last - interval), delta
            else:
                total += delta
                yield ("pulses", "", channel, last - interval), total


def _contacts(answer: dict[str, Any]) -> Iterator[tuple[Key, float]]:
    for channel in "ABCD":
        if node := answer.get(f"channel{channel}"):
            yield ("contact_count", "", channel, 0), node["value"]
            yield ("contact", "", channel, 0), node.get("currentState", node.get("state"))
        if node := answer.get(f"channel{channel}TimeCounter"):
            yield ("contact_time", "s", channel, 0), node["value"]


def _analog(answer: dict[str, Any]) -> Iterator[tuple[Key, float]]:
    for node in answer["channels"]:
        if "unit" in node:
            quantity, unit, times = {"V": ("voltage", "V", 1), "mA": ("current", "A", 0.001)}[
                node["unit"]
            ]
            yield (quantity, unit, node["name"][-1], 0), node["value"] * times


def _motion(answer: dict[str, Any], code: str) -> Iterator[tuple[Key, float]]:
    if code == "0x4e":
        yield ("presence_count", "", "", 0), answer["globalCounterValue"]
        yield from _values("presence", "", {"values": answer["counterValues"]})
    elif code == "0x4f":
        yield ("presence_count", "", "", 0), answer["alarmPresence"]["globalCounterValue"]
        yield ("presence", "", "", 0), answer["alarmPresence"]["counterValue"]
    elif code == "0x5c":
        yield ("presence_now", "", "", 0), answer["presenceDetectedWhenSending"]
        yield from _values("presence", "%", answer["presence"])
    elif code == "0x5d":
        yield ("presence_now", "", "", 0), answer["alarmPresence"]["alarmStatus"] == "active"
        yield from _values("light", "%", answer["alarmPresence"]["luminosity"])
    elif code == "0x50":
        yield from _values("light", "%", answer["alarmLuminosity"]["luminosity"])
    if "luminosity" in answer:
        yield from _values("light", "%", answer["luminosity"])


def _breath(answer: dict[str, Any]) -> Iterator[tuple[Key, float]]:
    for name, ours in POLLUTANTS.items():
        node = answer[name]
        if "max" not in node:
            yield from _values(ours, "ug/m3", node)
        for kind, suffix in {"min": "min", "max": "max", "average": "mean"}.items():
            if kind in node:
                yield from _values(f"{ours}_{suffix}", "ug/m3", node[kind])
        if "duration" in node:
            yield from _values(f"{ours}_high_time", "min", node["duration"])


def _tic(answer: dict[str, Any]) -> Iterator[tuple[Key, float]]:
    for label, node in answer.items():
        if isinstance(node, dict) and "unit" in node:
            quantity, unit, times = UNITS[node["unit"]]
            yield (quantity, unit, label, 0), node["value"] * times


def leaves(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every number and text of an answer, times in seconds (debounce times in ms)."""
    if isinstance(node, dict) and {"unit", "value"} <= node.keys():
        seconds = {"m": 60, "min": 60} if name not in {"qaiRedDuration", "duration"} else {}
        milliseconds = {"s": 1000, "m": 60_000, "ms": 1} if "debounc" in name else seconds
        if node["value"] != NO_PROBE:
            yield name, node["value"] * milliseconds.get(node["unit"], 1)
    elif isinstance(node, dict):
        for key, child in node.items():
            yield from leaves(child, key)
    elif isinstance(node, list):
        for child in node:
            yield from leaves(child, name)
    elif name == "timestamp" and isinstance(node, str):
        yield name, node.removesuffix(".000")
    elif node != NO_PROBE:
        yield name, node
