"""Publisher, broker, mqtt_2_influx.py and database, with a proxy before the database."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from demo.parts import HOST, InfluxDB1, Mosquitto, Script, VictoriaMetrics, write_config
from demo.process import free_port, wait_until
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

    def wait_for_more(self, count: int) -> None:
        """Wait until the broker has confirmed `count` messages more."""
        target = len(self.publisher.points) + count
        wait_until(lambda: len(self.publisher.points) >= target, 30, f"{count} messages more")

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


@contextlib.contextmanager
def chain_behind_a_route(
    folder: Path, *, broker_config: str = ""
) -> Iterator[tuple[Chain, FaultProxy]]:
    """Run a chain whose writer, alone, reaches the broker by a route that can fail."""
    port = free_port()
    listener = f"listener {port} {HOST}\n{broker_config}"
    with (
        FaultProxy(port, http=False) as route,
        running_chain(folder, broker_config=listener, MQTT={"port": route.port}) as chain,
    ):
        yield chain, route
