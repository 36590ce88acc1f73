"""`python -m openenergy.lorawan` decodes frames by hand and writes orders to devices."""

import base64
import json
import subprocess
import sys

import pytest

from openenergy.lorawan.__main__ import main
from tests.unit.lorawan import vectors

TARGET = ("--application", "7", "--device", "0018B240020A3C3B")


def test_a_frame_as_json() -> None:
    command = (sys.executable, "-m", "openenergy.lorawan", "adeunis/pulse4", "1")
    done = subprocess.run(
        (*command, "5a2000000129000100020003"), capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {
        "samples": [
            {"quantity": "pulses", "value": value, "unit": "", "channel": "A", "age": age}
            for age, value in enumerate((297, 296, 294, 291))
        ]
        + [{"quantity": "battery_low", "value": 0, "unit": "", "channel": "", "age": 0}],
        "periods": {},
        "info": {
            "frame": "0x5a",
            "frame_counter": 1,
            "configuration_done": False,
            "configuration_inconsistency": False,
        },
    }


def test_every_vector_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for vector in vectors.load("adeunis.jsonl")[::10]:
        assert main([f"adeunis/{vector['device']}", "1", vector["hex"]]) == 0
        assert json.loads(capsys.readouterr().out)["samples"]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ("465", "'465' is not hexadecimal, two digits for each byte"),
        ("zz20", "'zz20' is not hexadecimal, two digits for each byte"),
        ("", "truncated: 0 bytes, a frame has at least 2"),
        ("4641", "frame 0x46 of 2 bytes: truncated: 4 bytes are missing"),
        ("ff20", "unknown frame code 0xff"),
    ],
)
def test_a_bad_frame_is_one_line_and_status_1(
    payload: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adeunis/pulse4", "1", payload]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"adeunis/pulse4: {reason}\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "required: decoder, fport, hex"),
        (["adeunis/pulse4", "1"], "required: hex"),
        (["adeunis/puls4", "1", "46"], "did you mean 'adeunis/pulse4'?"),
        (["lopy", "256", "0000b441"], "'256': expected 0 to 255"),
        (["lopy", "x", "0000b441"], "'x': expected 0 to 255"),
        (["object", "1", "00"], "is decoded by the network server"),
        (["encode", "adeunis/temp4", "reboot"], "required: --application, --device"),
        (["encode", "adeunis/temp4", "dance", *TARGET], "invalid choice: 'dance'"),
        (["encode", "adeunis/temp9", "reboot", *TARGET], "no decoder 'adeunis/temp9'"),
        (["encode", "lopy", "reboot", *TARGET], "lopy: expected adeunis/MODEL"),
        (["encode", "adeunis/ftd", "reboot", *TARGET], "adeunis/ftd: expected adeunis/MODEL"),
        (["encode", "adeunis/temp4", "reboot", "1", "2", *TARGET], "reboot: 2 numbers"),
        (["encode", "adeunis/temp4", "reboot", "0", *TARGET], "= 0: expected 1 to 65535"),
        (["encode", "adeunis/temp4", "sampling-period", *TARGET], "sampling-period: 0 numbers"),
        (["encode", "adeunis/temp4", "sampling-period", "15", *TARGET], "a multiple of 2"),
        (["encode", "adeunis/temp4", "sampling-period", "0", *TARGET], "expected 1 to 65535"),
        (["encode", "adeunis/temp4", "sampling-period", "131072", *TARGET], "1 to 65535"),
        (["encode", "adeunis/temp", "sampling-period", "60", *TARGET], "no sampling period"),
        (["encode", "adeunis/temp", "sending-period", "60", *TARGET], "no such register"),
        (["encode", "adeunis/temp4", "sending-period", "60", "50", *TARGET], "multiple of 50"),
        (["encode", "adeunis/temp4", "sending-period", "60", "-2", *TARGET], "a multiple of 1"),
        (["encode", "adeunis/modbus", "sending-period", "65", *TARGET], "multiple of 10"),
        (
            ["encode", "adeunis/temp4", "reboot", "--application", "a/b", "--device", "x"],
            "'a/b': expected one level of a topic",
        ),
        (
            ["encode", "adeunis/temp4", "reboot", "--application", "7", "--device", "x"],
            "device 'x': expected a DevEUI of 16 hexadecimal digits",
        ),
    ],
)
def test_wrong_usage_is_explained_and_status_2(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert reason in " ".join(printed.err.split())


@pytest.mark.parametrize(
    ("order", "payload"),
    [
        (["adeunis/comfort2", "sampling-period", "1200"], "41150258"),
        (["adeunis/modbus", "sending-period", "60"], "41010006"),
        (["adeunis/comfort2", "sending-period", "3600", "600"], "4115012c010006"),
        (["adeunis/pulse4", "sending-period", "3600"], "41150708010001"),
        (["adeunis/temp", "configuration"], "01"),
        (["adeunis/temp4", "reboot"], "480001"),
        (["adeunis/temp4", "reboot", "10"], "48000a"),
    ],
)
def test_orders(order: list[str], payload: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", *order, *TARGET]) == 0
    message = json.loads(capsys.readouterr().out)
    assert message["topic"] == "application/7/device/0018b240020a3c3b/command/down"
    assert message["payload"]["devEui"] == "0018b240020a3c3b"
    assert base64.b64decode(message["payload"]["data"]).hex() == payload


@pytest.mark.parametrize(
    ("server", "event"),
    [
        ("chirpstack4", "v4_downlink_command"),
        ("chirpstack3", "v3_downlink_command"),
        ("ttn", "ttn_down_push_command"),
    ],
)
def test_orders_are_those_that_the_servers_document(
    server: str, event: str, capsys: pytest.CaptureFixture[str]
) -> None:
    documented = {each["name"]: each for each in vectors.load("uplinks.jsonl")}[event]
    _, application, _, device, *_ = documented["topic"].split("/")
    arguments = ["encode", "adeunis/comfort2", "sampling-period", "1200", "--server", server]
    if server == "ttn":
        _, application, _, device, *_ = documented["topic"].split("/")
        documented["payload"]["downlinks"][0]["confirmed"] = False
    assert main([*arguments, "--application", application, "--device", device]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "topic": documented["topic"],
        "payload": documented["payload"],
    }
