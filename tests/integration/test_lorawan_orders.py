"""An order to a device reaches the broker with `encode ... --send`, or a line says why not."""

import base64
import json
import subprocess
import sys
from pathlib import Path

from demo.parts import HOST, REPOSITORY, Mosquitto
from demo.process import free_port
from tests.conftest import ConfigFile
from tests.mqtt_client import MqttClient

DEVICE = "0018b240020a3c3b"
TOPIC = f"application/7/device/{DEVICE}/command/down"


def send(config: Path, *more: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "openenergy.lorawan", "encode", "adeunis/comfort2"]
    argv += ["sampling-period", "1200", "--application", "7", "--device", DEVICE]
    argv += ["--send", "--config", str(config), *more]
    return subprocess.run(
        argv, capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=60
    )


def test_an_order_is_published(
    mosquitto: Mosquitto, mqtt_client: MqttClient, config_file: ConfigFile
) -> None:
    config = config_file({"MQTT": {"broker": HOST, "port": mosquitto.port, "qos": 0}})
    done = send(config)
    assert (done.returncode, done.stderr) == (0, "")
    message = mqtt_client.wait_for(TOPIC)
    assert (message.qos, message.retain) == (1, False)
    assert message.json == json.loads(done.stdout)["payload"]
    assert base64.b64decode(message.json["data"]).hex() == "41150258"


def test_no_broker(config_file: ConfigFile) -> None:
    port = free_port()
    done = send(config_file({"MQTT": {"broker": HOST, "port": port}}))
    assert done.returncode == 1
    assert done.stderr == f"not sent: broker {HOST}:{port}: Connection refused\n"


def test_a_broker_that_does_not_let_us_publish(tmp_path: Path, config_file: ConfigFile) -> None:
    (tmp_path / "acl").write_text("topic read #\n")
    (tmp_path / "acl").chmod(0o600)
    with Mosquitto(tmp_path / "m", extra_config=f"acl_file {tmp_path}/acl") as broker:
        done = send(config_file({"MQTT": {"broker": HOST, "port": broker.port}}))
    assert done.returncode == 1
    assert done.stderr == (
        f"not sent: broker {HOST}:{broker.port}: it refuses the message: Not authorized\n"
    )


def test_a_wrong_configuration(config_file: ConfigFile, tmp_path: Path) -> None:
    done = send(config_file({"MQTT": {"brocker": "x", "qos": 3}}))
    assert done.returncode == 78
    assert len(done.stderr.splitlines()) == 2
    assert "did you mean 'broker'?" in done.stderr
    assert send(tmp_path / "none.toml").returncode == 78
