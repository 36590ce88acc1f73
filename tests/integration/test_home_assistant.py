"""When and where plug_2_mqtt.py announces switches, at a real broker.

What Home Assistant makes of it is shown with Home Assistant itself: tests/system.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.parts import Mosquitto, Script, write_config
from demo.process import wait_until
from demo.switches import SimulatedSwitches, SwitchSpec
from tests.integration.restrictive_broker import RestrictiveBroker
from tests.integration.running import (
    mqtt_table,
    retained,
    run_to_end,
    state_topic,
    switch_table,
    wait_for_readings,
    warnings,
)
from tests.mqtt_client import MqttClient

ONLY_OURS = "topic readwrite @update/#\ntopic readwrite @set/#\nuser watcher\ntopic readwrite #\n"
ANNOUNCED = "homeassistant/device/+/config"


@pytest.fixture
def switches() -> Iterator[SimulatedSwitches]:
    with SimulatedSwitches([SwitchSpec("lamp"), SwitchSpec("tv", "v1")]) as switches:
        yield switches


def config_of(
    folder: Path,
    broker: Mosquitto | RestrictiveBroker,
    switches: SimulatedSwitches,
    **home_assistant: object,
) -> Path:
    return write_config(
        folder / "plugs.toml",
        {
            "MQTT": mqtt_table(broker.port),
            "HomeAssistant": home_assistant,
            "MyStromSwitch": [switch_table(switch) for switch in switches.values()],
        },
    )


def discovery_topic(switches: SimulatedSwitches, name: str) -> str:
    return f"homeassistant/device/mystrom_{switches[name].mac.lower()}/config"


def announced(client: MqttClient, topic_filter: str = ANNOUNCED) -> list[str]:
    """Return the names of the devices announced since the start, or since `client.clear()`."""
    return [each.json["device"]["name"] for each in client.messages(topic_filter)]


def wait_for_all(
    client: MqttClient, switches: SimulatedSwitches, topic_filter: str = ANNOUNCED
) -> None:
    wait_until(
        lambda: set(announced(client, topic_filter)) == set(switches), 15, "all switches announced"
    )


def test_discovery_and_states_wait_at_the_broker_for_home_assistant(
    tmp_path: Path, mosquitto: Mosquitto, mqtt_client: MqttClient, switches: SimulatedSwitches
) -> None:
    config = config_of(tmp_path, mosquitto, switches, discovery=True)
    with Script("plug_2_mqtt.py", config):
        wait_for_all(mqtt_client, switches)
        waiting = retained(mosquitto)
        for name in switches:
            assert discovery_topic(switches, name) in waiting
            assert {state_topic(name, "relay"), state_topic(name, "online")} <= waiting.keys()
        for message in mqtt_client.messages(ANNOUNCED):
            assert {each["topic"] for each in message.json["availability"]} <= waiting.keys()
            assert message.qos == 1


@pytest.mark.parametrize("prefix", ["homeassistant", "my/ha"])
def test_all_is_said_again_when_home_assistant_has_started(
    tmp_path: Path,
    mosquitto: Mosquitto,
    mqtt_client: MqttClient,
    switches: SimulatedSwitches,
    prefix: str,
) -> None:
    """Its word comes on the same topic whatever the prefix of discovery is."""
    config = config_of(tmp_path, mosquitto, switches, discovery=True, prefix=prefix)
    topic_filter = f"{prefix}/device/+/config"
    with Script("plug_2_mqtt.py", config):
        wait_for_all(mqtt_client, switches, topic_filter)
        for switch in switches.values():
            wait_for_readings(switch, 3)  # what is measured later is announced later
        for retain in (False, True):
            mqtt_client.clear()
            mqtt_client.publish("homeassistant/status", "online", retain=retain)
            wait_for_all(mqtt_client, switches, topic_filter)


def test_nothing_is_said_again_when_it_stops(
    tmp_path: Path, mosquitto: Mosquitto, mqtt_client: MqttClient, switches: SimulatedSwitches
) -> None:
    with Script("plug_2_mqtt.py", config_of(tmp_path, mosquitto, switches, discovery=True)):
        wait_for_all(mqtt_client, switches)
        for switch in switches.values():
            wait_for_readings(switch, 3)
        mqtt_client.clear()
        mqtt_client.publish("homeassistant/status", "offline")
        for switch in switches.values():
            wait_for_readings(switch, 3)
        assert announced(mqtt_client) == []


def test_a_birth_from_before_the_start_stops_nothing(
    tmp_path: Path, mosquitto: Mosquitto, mqtt_client: MqttClient, switches: SimulatedSwitches
) -> None:
    mqtt_client.publish("homeassistant/status", "online", retain=True)
    with Script("plug_2_mqtt.py", config_of(tmp_path, mosquitto, switches, discovery=True)):
        wait_for_all(mqtt_client, switches)


def test_a_broker_that_forgot_is_told_again(
    tmp_path: Path, mosquitto: Mosquitto, mqtt_client: MqttClient, switches: SimulatedSwitches
) -> None:
    topic = discovery_topic(switches, "lamp")
    with Script("plug_2_mqtt.py", config_of(tmp_path, mosquitto, switches, discovery=True)):
        wait_for_all(mqtt_client, switches)
        mqtt_client.publish(topic, b"", retain=True)
        wait_until(lambda: topic not in retained(mosquitto), 10, "a broker without discovery")
        mosquitto.restart()
        wait_until(lambda: topic in retained(mosquitto), 20, "discovery after the restart")


@pytest.mark.parametrize("options", [{}, {"discovery": False}])
def test_off_it_uses_no_topics_but_ours(
    tmp_path: Path, switches: SimulatedSwitches, options: dict[str, object]
) -> None:
    lamp = switches["lamp"]
    with (
        restrictive_broker(tmp_path) as broker,
        MqttClient(broker.host, broker.port, username="watcher") as client,
        Script("plug_2_mqtt.py", config_of(tmp_path, broker, switches, **options)) as script,
    ):
        client.wait_for(state_topic("lamp", "power"))
        wait_for_readings(lamp, 3)
        client.publish("homeassistant/status", "online")
        wait_for_readings(lamp, 3)
        others = {each.topic for each in client.messages() if each.topic[0] != "@"}
        assert others == {"homeassistant/status"}
        assert warnings(script.log()) == []
        assert {each.path for each in lamp.requests} == {"/report"}


def test_a_broker_that_does_not_allow_it_is_an_error_in_the_log(
    tmp_path: Path, switches: SimulatedSwitches
) -> None:
    with (
        restrictive_broker(tmp_path) as broker,
        Script("plug_2_mqtt.py", config_of(tmp_path, broker, switches, discovery=True)) as script,
        MqttClient(broker.host, broker.port, username="watcher") as client,
    ):
        script.wait_for_log("ERROR .* refuses a message of ours: Not authorized")
        client.clear()
        client.wait_for(state_topic("lamp", "power"))


def test_a_broker_that_cuts_off_whoever_announces_is_told_in_the_log(
    tmp_path: Path, mosquitto: Mosquitto, switches: SimulatedSwitches
) -> None:
    with RestrictiveBroker(mosquitto.port) as broker:
        config = config_of(tmp_path, broker, switches, discovery=True)
        with Script("plug_2_mqtt.py", config) as script:
            script.wait_for_log("connection lost")
            script.wait_for_log("another program connects with our client_id", 30)


def test_check_announces_nothing(
    tmp_path: Path, mosquitto: Mosquitto, mqtt_client: MqttClient, switches: SimulatedSwitches
) -> None:
    config = config_of(tmp_path, mosquitto, switches, discovery=True)
    done = run_to_end("plug_2_mqtt.py", "--config", config, "--check", cwd=tmp_path)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1 + len(switches))
    assert mqtt_client.messages() == []


def restrictive_broker(folder: Path) -> Mosquitto:
    acl = folder / "acl"
    acl.write_text(ONLY_OURS)
    acl.chmod(0o700)
    return Mosquitto(folder / "restrictive", extra_config=f"acl_file {acl}")
