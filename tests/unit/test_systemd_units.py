from demo.parts import REPOSITORY

UNITS = {path.name: path.read_text() for path in (REPOSITORY / "systemd").glob("*.service")}
SANDBOX = "# Nothing of the machine"


def test_every_script_has_its_unit_and_the_writer_a_template() -> None:
    assert set(UNITS) == {
        "plug_2_mqtt.service",
        "mqtt_2_influx.service",
        "mqtt_2_influx@.service",
        "button_server.service",
    }


def test_all_units_have_the_same_sandbox() -> None:
    sandboxes = {text[text.index(SANDBOX) :] for text in UNITS.values()}
    assert len(sandboxes) == 1


def test_no_unit_ends_with_the_broker_or_the_network() -> None:
    for text in UNITS.values():
        for binding in ("Requires=", "Requisite=", "BindsTo=", "PartOf="):
            assert binding not in text
