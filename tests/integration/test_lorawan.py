"""LoRaWAN uplinks through a real broker into a real database: the points, or the silence."""

import base64
import contextlib
import itertools
import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from demo.parts import InfluxDB1, Mosquitto, Script, write_config
from demo.process import wait_until
from tests.integration.running import mqtt_table, now_ms, script_online_topic, warnings
from tests.mqtt_client import MqttClient
from tests.unit.lorawan import test_other_devices, vectors
from tests.unit.lorawan.test_uplink import EVENTS, payload_of

TOPICS = ["application/#", "v3/#", "eu868/#", "gateway/#"]
PERIOD_S = 600
# It comes a second time under another name.
REDELIVERED = "v4_up_redelivered"
SEQUENCE = EVENTS["v4_sequence_temp4_redundancy"]
OTHER_NAMES = {"lopy_float32": "lopy", "nke_flasho": "flasho", "cayenne_lpp": "cayenne_lpp"}
ANSWERS = {each["name"]: each["decoded"] for each in vectors.load("uplinks_decoded.jsonl")}
ANY_UNIT = "?"
BATTERY_LOW = 0x02


@dataclass(frozen=True)
class Point:
    """A point as the database has it."""

    measurement: str
    tags: dict[str, str]
    fields: dict[str, float]
    time: int


class Bench(NamedTuple):
    """mqtt_2_influx.py between a broker and a database, and a client that publishes."""

    broker: Mosquitto
    client: MqttClient
    database: InfluxDB1
    script: Script

    def publish(self, event: dict[str, Any]) -> None:
        self.client.publish(event["topic"], payload_of(event))

    def points(self, dev_eui: str) -> list[Point]:
        return [point for point in self.all_points() if point.tags.get("dev_eui") == dev_eui]

    def all_points(self) -> list[Point]:
        found = []
        for row in self.database.query("SHOW MEASUREMENTS", "energy"):
            name = row["name"]
            fields = self.database.query(f'SHOW FIELD KEYS FROM "{name}"', "energy")
            names = {field["fieldKey"] for field in fields}
            rows = self.database.query(f'SELECT * FROM "{name}"', "energy")  # noqa: S608 - stored by us
            found += [
                Point(
                    name,
                    {
                        key: text
                        for key, text in row.items()
                        if text and key not in {*names, "time"}
                    },
                    {key: row[key] for key in names if row[key] is not None},
                    row["time"],
                )
                for row in rows
            ]
        return found

    def pass_fence(self) -> None:
        """Wait until everything published so far is stored."""
        fence = next(fences)
        self.publish(lopy_uplink(fence, datetime.now(UTC)))
        asked = f"SELECT * FROM lorawan WHERE dev_eui = '{fence}'"  # noqa: S608 - digits of ours
        wait_until(lambda: self.database.query(asked, "energy"), 30, "the fence's point")


fences = (f"ffff{number:012x}" for number in itertools.count())


@contextlib.contextmanager
def writing(
    folder: Path, devices: list[dict[str, Any]], **influxdb_options: object
) -> Iterator[Bench]:
    with contextlib.ExitStack() as running:
        broker = running.enter_context(
            Mosquitto(folder / "mosquitto", extra_config="max_queued_messages 0")
        )
        database = running.enter_context(InfluxDB1(folder / "influxdb"))
        database.create_database("energy")
        tables = {
            "MQTT": mqtt_table(broker.port),
            "InfluxDB": {"url": database.url, "database": "energy", **influxdb_options},
            "LoRaWAN": {"topics": TOPICS, "devices": devices},
        }
        script = Script("mqtt_2_influx.py", write_config(folder / "writer.toml", tables))
        running.callback(lambda: print(script.log_path.read_text()))  # of a test that fails
        running.enter_context(script)
        script.wait_for_log("connected to broker")
        client = running.enter_context(MqttClient(broker.host, broker.port))
        client.wait_for(script_online_topic("mqtt_2_influx"))
        bench = Bench(broker, client, database, script)
        bench.pass_fence()
        yield bench


def lopy_uplink(dev_eui: str, moment: datetime, temperature: float = 20.0) -> dict[str, Any]:
    return chirpstack_uplink(dev_eui, moment, struct.pack("<f", temperature))


def chirpstack_uplink(dev_eui: str, moment: datetime, data: bytes) -> dict[str, Any]:
    return {
        "topic": f"application/1/device/{dev_eui}/event/up",
        "payload": {
            "time": moment.isoformat(),
            "deviceInfo": {"applicationName": "test", "deviceName": "d", "devEui": dev_eui},
            "fCnt": 1,
            "fPort": 2,
            "data": base64.b64encode(data).decode(),
            "rxInfo": [{"gatewayId": "b827ebfffe4a10c7", "rssi": -80, "snr": 7.5}],
            "txInfo": {"modulation": {"lora": {"spreadingFactor": 7}}},
        },
    }


def milliseconds(text: str) -> int:
    moment = datetime.fromisoformat(text).astimezone(UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def with_eui(event: dict[str, Any], new: str) -> dict[str, Any]:
    """Return the event as of another device, in whichever spelling it names its own."""
    text = json.dumps(event)
    if old := event["expect"].get("dev_eui"):
        encoded = (base64.b64encode(bytes.fromhex(eui)).decode() for eui in (old, new))
        for spelling, changed in ((old, new), (old.upper(), new.upper()), tuple(encoded)):
            text = text.replace(spelling, changed)
    changed_event: dict[str, Any] = json.loads(text)
    return changed_event


def decoder_of(codec: str) -> str:
    return OTHER_NAMES.get(codec, f"adeunis/{codec}")


SINGLE = {name: event for name, event in EVENTS.items() if event is not SEQUENCE}
# Each event comes from a device of its own, so that it alone explains the device's points.
EUIS = {name: f"0018b2ff{number:08x}" for number, name in enumerate(SINGLE)}
EUIS[f"{REDELIVERED}_again"] = EUIS[REDELIVERED]
DEVICES = [
    {"dev_eui": EUIS[name], "decoder": decoder_of(codec), "period": PERIOD_S}
    for name, event in SINGLE.items()
    if (codec := event["expect"].get("codec"))
]


def oracle(name: str) -> dict[vectors.Key, float]:
    """Return what an event's frame measures, as others than our decoders say."""
    expected, answer = EVENTS[name]["expect"], ANSWERS[name]
    if (codec := expected["codec"]) in OTHER_NAMES:
        _, meaning = test_other_devices.DEVICES[codec]
        return {
            (quantity, ANY_UNIT, channel, age): value
            for (quantity, channel, age), value in meaning(answer).items()
        }
    is_low = float(bool(bytes.fromhex(expected["data_hex"])[1] & BATTERY_LOW))
    return {**vectors.expected_samples(answer), ("battery_low", "", "", 0): is_low}


class TestEveryFixture:
    """All events, each twice, have been through when a test begins."""

    @pytest.fixture(scope="class")
    @classmethod
    def bench(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
        with writing(tmp_path_factory.mktemp("fixtures"), DEVICES) as bench:
            for _ in range(2):
                for name, event in SINGLE.items():
                    bench.publish(with_eui(event, EUIS[name]))
                bench.pass_fence()
            yield bench

    @pytest.fixture(scope="class")
    @classmethod
    def points(cls, bench: Bench) -> dict[str, list[Point]]:
        found: dict[str, list[Point]] = {}
        for point in bench.all_points():
            found.setdefault(point.tags.get("dev_eui", ""), []).append(point)
        return found

    @pytest.mark.parametrize(
        "name", [name for name, event in SINGLE.items() if "best_rssi" in event["expect"]]
    )
    def test_link_is_stored_once(self, name: str, points: dict[str, list[Point]]) -> None:
        expected = with_eui(EVENTS[name], EUIS[name])["expect"]
        (link,) = (point for point in points[EUIS[name]] if point.measurement == "lorawan")
        assert link.tags["sensor"] == expected["device_name"]
        assert link.tags["application"] == expected["application"]
        told = expected["server_time"] or expected.get("gateway_time")
        if told:
            assert link.time == milliseconds(told)
        else:
            assert now_ms() - 120_000 < link.time <= now_ms()
        assert link.fields["frame_counter"] == expected["f_cnt"]
        assert link.fields["gateways"] == expected["gateways"]
        assert link.fields.get("rssi") == expected["best_rssi"]
        assert link.fields.get("snr") == expected["best_snr"]

    @pytest.mark.parametrize(
        "name",
        [
            name
            for name, event in SINGLE.items()
            if event["expect"]["action"].startswith(("store", "radio_only", "ignore_duplicate"))
            if event["expect"]["action"] != "store_status"
        ],
    )
    def test_samples_are_stored_with_their_own_times(
        self, name: str, points: dict[str, list[Point]]
    ) -> None:
        expected = EVENTS[name]["expect"]
        link, *others = sorted(points[EUIS[name]], key=lambda point: point.measurement != "lorawan")
        is_measured = expected.get("codec") and expected["action"] != "radio_only"
        wanted = oracle(name) if is_measured else {}
        period_ms = 3_600_000 if expected.get("codec") == "pulse" else PERIOD_S * 1000
        stored = {
            (point.measurement, point.tags.get("channel", ""), point.time): point
            for point in others
        }
        assert stored.keys() == {
            (quantity, channel, link.time - age * period_ms) for quantity, _, channel, age in wanted
        }
        for (quantity, unit, channel, age), value in wanted.items():
            point = stored[quantity, channel, link.time - age * period_ms]
            assert point.fields == {quantity: pytest.approx(value, abs=5e-4)}
            assert point.tags.get("unit", "") == unit or unit == ANY_UNIT
            assert point.tags["sensor"] == link.tags["sensor"]
            assert point.tags["application"] == link.tags["application"]

    @pytest.mark.parametrize(
        "name",
        [name for name, event in SINGLE.items() if event["expect"]["action"] == "store_status"],
    )
    def test_status(self, name: str, points: dict[str, list[Point]]) -> None:
        payload = EVENTS[name]["payload"]
        wanted = {("link_margin", "dB"): payload["margin"]}
        if not (payload["batteryLevelUnavailable"] or payload["externalPowerSource"]):
            wanted["battery_level", "%"] = payload["batteryLevel"]
        assert {
            (point.measurement, point.tags["unit"]): point.fields[point.measurement]
            for point in points[EUIS[name]]
        } == wanted

    @pytest.mark.parametrize(
        "name",
        [
            name
            for name, event in SINGLE.items()
            if event["expect"]["action"].startswith(("ignore", "log"))
            if event["expect"]["action"] not in {"ignore_duplicate", "log_and_keep_radio"}
        ],
    )
    def test_silence(self, name: str, points: dict[str, list[Point]]) -> None:
        assert EUIS[name] not in points

    def test_a_frame_that_cannot_be_decoded_keeps_its_link(
        self, points: dict[str, list[Point]]
    ) -> None:
        (point,) = points[EUIS["v4_up_undecodable_frame"]]
        assert point.measurement == "lorawan"

    def test_nothing_else_is_stored(self, points: dict[str, list[Point]]) -> None:
        known = {eui for eui in points if not eui.startswith("ffff")}
        assert known <= {*EUIS.values(), ""}
        assert {point.measurement for point in points.get("", [])} <= {"online"}

    def test_a_line_in_the_log_for_what_needs_one(self, bench: Bench) -> None:
        found = [line for line in warnings(bench.script.log()) if "ffff0000" not in line]
        assert "Traceback" not in bench.script.log()
        for name in ("v4_up_undecodable_frame", "v4_log_codec_error", "v4_bad_no_deviceinfo"):
            assert sum(EUIS[name] in line for line in found) == 1, name
        # One line for each cause, each only once although everything came twice.
        assert len(found) <= sum(
            event["expect"]["action"].startswith("log") for event in SINGLE.values()
        )


def sequence_samples(bench: Bench) -> dict[int, float]:
    """Return temperatures by time; that each time has one value is InfluxDB's own promise."""
    return {
        point.time: point.fields["temperature"]
        for point in bench.points(SEQUENCE["expect"]["dev_eui"])
        if point.measurement == "temperature"
    }


@pytest.mark.parametrize(
    ("killed_after", "is_stored"), [(None, False), (0, True), (1, False), (1, True), (7, True)]
)
def test_repeated_samples_are_stored_once_even_if_the_writer_is_killed(
    tmp_path: Path, killed_after: int | None, is_stored: bool
) -> None:
    """Killed when all before is stored, or while it is on its way."""
    devices = [{"dev_eui": SEQUENCE["expect"]["dev_eui"], "decoder": "adeunis/temp4"}]
    with writing(tmp_path, devices) as bench:
        for number, event in enumerate(SEQUENCE["events"]):
            bench.publish(event)
            if number == killed_after:
                if is_stored:
                    bench.pass_fence()
                    bench.pass_fence()  # by then what came before the first is acknowledged too
                bench.script.kill()
                bench.script.start()
        bench.pass_fence()
        stored = sequence_samples(bench)
    expected = SEQUENCE["expect"]["points"]
    assert sorted(stored) == [min(stored) + slot * 900_000 for slot in range(len(expected))]
    for moment, point in zip(sorted(stored), expected, strict=True):
        assert stored[moment] == pytest.approx(point["temperature"])
        assert abs(moment - milliseconds(point["time"])) <= 5000


@contextlib.contextmanager
def sending(bench: Bench) -> Iterator[Client]:
    """Connect a client that does not wait for each acknowledgement, only for all at the end."""
    client = Client(CallbackAPIVersion.VERSION2)
    client.max_inflight_messages_set(0)
    client.connect(bench.broker.host, bench.broker.port)
    client.loop_start()
    yield client
    client.disconnect()
    client.loop_stop()


def temp4_frame(code: int, *values: int) -> bytes:
    return bytes([code, 0]) + struct.pack(f">{len(values)}h", *values)


def test_a_thousand_uplinks_a_second_with_history_and_a_kill(tmp_path: Path) -> None:
    """Each frame brings two new samples and repeats two; its times are those of a year ago."""
    count, devices, period = 5000, 100, timedelta(seconds=PERIOD_S)
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(days=365)
    rules = [{"dev_eui": "00aa*", "decoder": "adeunis/temp4", "period": PERIOD_S}]
    with writing(tmp_path, rules, batch=700) as bench, sending(bench) as sender:
        began_s = time.monotonic()
        for number in range(count):
            turn, device = divmod(number, devices)
            newest = 2 * turn + 1
            frame = temp4_frame(0x57, *(newest - age for age in range(4)))
            received = (
                begin + newest * period + timedelta(milliseconds=37 * device + 500 * (turn % 3))
            )
            event = chirpstack_uplink(f"00aa{device:012x}", received, frame)
            sender.publish(event["topic"], payload_of(event), qos=1)
            if number == count // 2:
                bench.script.kill()
                bench.script.start()
            time.sleep(max(0.0, began_s + number / 1000 - time.monotonic()))
        sender.publish("end", b"", qos=1).wait_for_publish(30)
        bench.pass_fence()
        took_s = time.monotonic() - began_s
        print(f"{count} uplinks stored in {took_s:.1f} s")
        where = "WHERE dev_eui =~ /^00aa/"
        counted = {
            name: bench.database.query(f"SELECT count(*) FROM {name} {where}", "energy")[0]  # noqa: S608
            for name in ("lorawan", "temperature", "battery_low")
        }
        assert counted["lorawan"]["count_frame_counter"] == count
        assert counted["battery_low"]["count_battery_low"] == count
        slots = count // devices * 2 + 2
        assert counted["temperature"]["count_temperature"] == slots * devices
        per_device = bench.database.query(
            f"SELECT sum(temperature) FROM temperature {where} GROUP BY dev_eui",  # noqa: S608
            "energy",
        )
        # -0.2 C, -0.1 C, 0.0 C, ...
        total = sum(range(-2, slots - 2)) / 10
        assert [row["sum"] for row in per_device] == pytest.approx([total] * devices)


@pytest.mark.parametrize("batch", [1, 3])
def test_an_uplink_with_more_points_than_a_batch(tmp_path: Path, batch: int) -> None:
    with writing(tmp_path, [], batch=batch) as bench:
        event = lopy_uplink("00bb000000000001", datetime.now(UTC))
        event["payload"]["object"] = {f"value_{number}": number for number in range(20)}
        bench.publish(event)
        bench.pass_fence()
        assert len(bench.points("00bb000000000001")) == 21


def test_an_unknown_device_is_named_once_with_the_line_to_add(tmp_path: Path) -> None:
    with writing(tmp_path, []) as bench:
        for number in range(3):
            for device in (1, 2):
                moment = datetime.now(UTC) + timedelta(milliseconds=number)
                bench.publish(lopy_uplink(f"00cc00000000000{device}", moment))
        bench.pass_fence()
        log = bench.script.log()
        for device in (1, 2):
            eui = f"00cc00000000000{device}"
            (line,) = (line for line in log.splitlines() if eui in line)
            assert f'add to credentials.toml [[LoRaWAN.devices]] with dev_eui = "{eui}"' in line
            points = bench.points(eui)
            assert [point.measurement for point in points] == ["lorawan"] * 3


BAD_PAYLOADS = [
    *(b"", b"on", b"null", b"[]", b"{}", b'{"deviceInfo": 1}', b"\x0a\x10\xff\x00", b"\xff"),
    *(b'{"deviceInfo": ' * 3000, b'{"data": "' + 1_000_000 * b"x" + b'"}'),
]
BAD_TOPICS = ["application/1/device/no-eui/event/up", "v3/a", "application/1/device"]


def test_bad_input_costs_a_line_for_each_cause(tmp_path: Path) -> None:
    good, rounds = "00dd000000000001", 4
    with writing(tmp_path, [{"dev_eui": "*", "decoder": "lopy"}]) as bench:
        moments = (datetime.now(UTC) + timedelta(milliseconds=n) for n in itertools.count())
        for _ in range(rounds):
            for payload in BAD_PAYLOADS:
                bench.client.publish(f"application/1/device/{good}/event/up", payload)
                bench.client.publish("v3/app@ttn/devices/d/up", payload)
                bench.publish(lopy_uplink(good, next(moments)))
            for topic in BAD_TOPICS:
                bench.client.publish(topic, b"{}")
        bench.pass_fence()
        stored = [point for point in bench.points(good) if point.measurement == "temperature"]
        assert len(stored) == rounds * len(BAD_PAYLOADS)
        log = bench.script.log()
        assert "Traceback" not in log
        refusals = [line.partition("refused ")[2] for line in warnings(log)]
        causes = [line.partition(": ")[2].rpartition(" (")[0] for line in refusals]
        assert len(causes) == len(set(causes))
        assert any("neither ChirpStack's nor The Things Network's" in cause for cause in causes)
        assert any("is longer than" in cause for cause in causes)
        assert max(map(len, refusals)) < 500


def test_plugs_are_stored_beside_and_what_is_retained_without_a_time_is_not(
    tmp_path: Path, mosquitto: Mosquitto, mqtt_client: MqttClient, influxdb: InfluxDB1
) -> None:
    without_time = EVENTS["v3_jsonv3_comfort2_no_gateway_time"]
    with_time = EVENTS["v4_up_comfort2_history"]
    dev_eui = with_time["expect"]["dev_eui"]
    for event in (without_time, with_time):
        mqtt_client.publish(event["topic"], payload_of(event), retain=True)
    tables = {
        "MQTT": mqtt_table(mosquitto.port),
        "InfluxDB": {"url": influxdb.url, "database": "energy"},
        "LoRaWAN": {
            "topics": ["#"],
            "devices": [{"dev_eui": dev_eui, "decoder": "adeunis/comfort2"}],
        },
    }
    with Script("mqtt_2_influx.py", write_config(tmp_path / "writer.toml", tables)) as script:
        mqtt_client.wait_for(script_online_topic("mqtt_2_influx"))
        bench = Bench(mosquitto, mqtt_client, influxdb, script)
        # Two filters fit: it may come twice, and without a time of its own would be two points.
        reading = {"value": 5, "unit": "W", "time": now_ms()}
        mqtt_client.publish("@update/lamp/monitoring/power", reading)
        bench.pass_fence()
        # By "#" the broker sends its retained messages at any time after the subscription.
        wait_until(lambda: bench.points(dev_eui), 10, "the retained uplink's points")
        links = [point for point in bench.points(dev_eui) if point.measurement == "lorawan"]
        assert [link.time for link in links] == [milliseconds(with_time["expect"]["server_time"])]
        (power,) = influxdb.query("SELECT * FROM power", "energy")
        assert (power["power"], power["switch"], power["unit"]) == (5, "lamp", "W")
        assert "refused" not in script.log()


def test_a_damaged_history_is_put_aside(tmp_path: Path) -> None:
    devices = [{"dev_eui": SEQUENCE["expect"]["dev_eui"], "decoder": "adeunis/temp4"}]
    with writing(tmp_path, devices) as bench:
        bench.publish(SEQUENCE["events"][0])
        bench.pass_fence()
        folder = bench.script.log_path.parent
        bench.script.stop()
        (state,) = folder.glob("*.lorawan.json")
        state.write_text('{"0018b240010a3ce1": {"57": {"step": -1, "origins": [1]}}}')
        bench.script.start()
        bench.script.wait_for_log(f"{state} is damaged .*put aside as")
        bench.pass_fence()
        assert "Traceback" not in bench.script.log()
