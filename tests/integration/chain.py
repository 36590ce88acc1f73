"""Publisher, broker, mqtt_2_influx.py and database, with a proxy before the database."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from demo.parts import InfluxDB1, Mosquitto, Script, VictoriaMetrics, write_config
from tests.fault_proxy import FaultProxy
from tests.integration.running import Table, mqtt_table
from tests.publishing import Publisher, stored, wait_until_stored

CONNECTED = "connected to broker"


class Chain(NamedTuple):
    """What the tests of faults have their hands on."""

    broker: Mosquitto
    database: InfluxDB1 | VictoriaMetrics
    proxy: FaultProxy
    writer: Script
    publisher: Publisher

    def wait_until_stored(self, timeout: float = 30.0) -> None:
        """Wait until the database has what was published, exactly."""
        try:
            wait_until_stored(lambda: stored(self.database), self.publisher.points, timeout)
        except AssertionError as error:
            dropped = [line for line in self.broker.log().splitlines() if "dropped" in line]
            error.add_note(f"mosquitto's log: {dropped}")
            raise

    def restart_writer(self) -> None:
        """Start the writer again when it has ended, and wait until it is at work."""
        self.writer.start()
        self.writer.wait_for_log(CONNECTED, 30)


def write_writer_config(path: Path, broker_port: int, tables: Mapping[str, Table]) -> Path:
    """Write a configuration of mqtt_2_influx.py from what it shall have beside the broker."""
    mqtt = mqtt_table(broker_port) | tables.get("MQTT", {})
    return write_config(path, {**tables, "MQTT": mqtt})


@contextlib.contextmanager
def running_chain(
    folder: Path,
    *,
    database: InfluxDB1 | VictoriaMetrics | None = None,
    broker_config: str = "",
    distrust_s: float = 0.0,
    **tables: Table,
) -> Iterator[Chain]:
    """Run it all; `tables` are added to the writer's configuration."""
    with contextlib.ExitStack() as running:
        broker = running.enter_context(Mosquitto(folder / "mosquitto", extra_config=broker_config))
        if database is None:
            database = running.enter_context(InfluxDB1(folder / "influxdb"))
            database.create_database("energy")
        proxy = running.enter_context(FaultProxy(database.port))
        name = "database" if isinstance(database, InfluxDB1) else "bucket"
        influxdb = {"url": proxy.url, name: "energy"} | tables.get("InfluxDB", {})
        config = write_writer_config(
            folder / "writer.toml", broker.port, {**tables, "InfluxDB": influxdb}
        )
        writer = running.enter_context(Script("mqtt_2_influx.py", config))
        running.callback(lambda: print(writer.log_path.read_text()))  # of a test that fails
        writer.wait_for_log(CONNECTED, 30)
        publisher = running.enter_context(Publisher(broker.port, distrust_s=distrust_s))
        yield Chain(broker, database, proxy, writer, publisher)
