"""Measure mqtt_2_influx.py beside clients that do nothing, on the same stream, in one run.

Run it as `.venv-tests/bin/python -m tests.bench.bench`; README.md in this folder says more.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from demo.parts import HOST, REPOSITORY, Mosquitto, Script, write_config
from demo.process import find_program, wait_until
from tests.bench.load import Publisher, Sink, messages

FILTER = "@update/+/monitoring/#"
# Brokers that keep the whole backlog; the second sends as few messages at once as Debian's does.
OPEN = "max_inflight_messages 0\nmax_queued_messages 0\nqueue_qos0_messages true"
WINDOW_20 = "max_queued_messages 0\nqueue_qos0_messages true"
DATABASES = {
    "1.x": {"database": "energy"},
    "2.x": {"token": "of-the-benchmark", "org": "home", "bucket": "energy"},
}
TICKS = os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """What a process has used: processor time (s) and the most memory it held (MB)."""

    cpu_s: float
    peak_mb: float


class Result(NamedTuple):
    """A consumer's figures."""

    rate: float  # messages/s
    cpu_s: float  # per 100,000 messages
    peak_mb: float


class Running(NamedTuple):
    """A consumer at work: its process, and what waits until it has everything."""

    pid: int
    connected_s: float
    wait_done: Callable[[], float]


def usage(pid: int) -> Usage:
    """Read a process's account."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text()
    peak = status.partition("VmHWM:")[2].split()  # an ended process holds none
    peak_kb = int(peak[0]) if peak else 0
    return Usage((int(fields[11]) + int(fields[12])) / TICKS, peak_kb / 1024)


@contextmanager
def bare_paho(port: int, count: int, options: list[str]) -> Iterator[Running]:
    """Run the client that does nothing."""
    argv = [sys.executable, "-m", "tests.bench.bare_paho", f"--port={port}", f"--topic={FILTER}"]
    argv += [f"--client-id=bare{''.join(options)}", f"--count={count}", *options]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as process:
        assert process.stdin
        assert process.stdout
        connected_s = float(process.stdout.readline().split()[1])
        output = process.stdout
        yield Running(process.pid, connected_s, lambda: float(output.readline().split()[1]))
        process.stdin.close()


@contextmanager
def mosquitto_sub(port: int, count: int, qos: int) -> Iterator[Running]:
    """Run Debian's client in C; its start is so fast that it counts as connected at once."""
    argv = [find_program("mosquitto_sub"), "-p", str(port), "-t", FILTER, "-q", str(qos)]
    argv += ["-c", "-i", "mosquitto_sub", *(["-C", str(count)] if count else ["-W", "1"])]
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(argv, stdout=nowhere, stderr=nowhere) as process:

        def wait_done() -> float:
            # Not waited for yet, so that its account can still be read.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            return time.monotonic()

        yield Running(process.pid, time.monotonic(), wait_done)
        if count:
            process.terminate()


@contextmanager
def writer(
    port: int, count: int, qos: int, database: dict[str, str], sink: Sink
) -> Iterator[Running]:
    """Run mqtt_2_influx.py into a database that only counts."""
    tables = {
        "MQTT": {"broker": HOST, "port": port, "qos": qos},
        "InfluxDB": {"url": f"http://{HOST}:{sink.port}", **database},
    }
    before = sink.lines
    with (
        tempfile.TemporaryDirectory() as folder,
        Script(
            "mqtt_2_influx.py", write_config(Path(folder, "credentials.toml"), tables)
        ) as script,
    ):
        script.wait_for_log("connected to broker")
        connected_s = time.monotonic()

        def wait_done() -> float:
            wait_until(lambda: sink.lines - before >= count, 300, f"{count} points")
            return sink.latest_s

        yield Running(script.pid, connected_s, wait_done)


class Consumer(NamedTuple):
    """A kind of consumer; `run` takes the broker's port and how many messages to wait for."""

    name: str
    run: Callable[[int, int], AbstractContextManager[Running]]


def consumers(qos: int, sink: Sink) -> list[Consumer]:
    """Return all that are compared."""
    paho = [
        Consumer(f"bare paho, MQTT {version}{label}", partial(bare_paho, options=options))
        for version, v5 in (("5", ["--v5"]), ("3.1.1", []))
        for label, ack in ((", manual ack", ["--manual-ack"]), ("", []))
        for options in [[f"--qos={qos}", *v5, *ack]]
    ]
    writers = [
        Consumer(
            f"mqtt_2_influx.py, InfluxDB {version}",
            partial(writer, qos=qos, database=database, sink=sink),
        )
        for version, database in DATABASES.items()
    ]
    return [*paho, Consumer("mosquitto_sub", partial(mosquitto_sub, qos=qos)), *writers]


def measure_backlog(consumer: Consumer, folder: Path, extra: str, qos: int, count: int) -> Result:
    """Let a consumer subscribe and go, fill its queue at the broker, measure how it empties it."""
    with Mosquitto(folder, extra_config=extra) as broker:
        with consumer.run(broker.port, 0):
            pass  # subscribed: the broker now keeps what comes
        with closing(Publisher(broker.port, qos)) as publisher:
            publisher.publish(list(messages(count)))
        with consumer.run(broker.port, count) as running:
            before = usage(running.pid)
            done_s = running.wait_done()
            after = usage(running.pid)
    seconds = done_s - running.connected_s
    return Result(count / seconds, (after.cpu_s - before.cpu_s) * 1e5 / count, after.peak_mb)


def measure_steady(consumer: Consumer, folder: Path, rate: int, seconds: int) -> Usage:
    """Publish at a steady rate; return the consumer's processor time a second, and peak memory."""
    with (
        Mosquitto(folder, extra_config=OPEN) as broker,
        consumer.run(broker.port, 2**31 - 1) as running,
        closing(Publisher(broker.port, 1)) as publisher,
    ):
        before = usage(running.pid)
        began = time.monotonic()
        for number in range(rate * seconds):
            publisher.publish(list(messages(1, number, int(time.time() * 1000))))
            time.sleep(max(0.0, began + (number + 1) / rate - time.monotonic()))
        after = usage(running.pid)
    return Usage((after.cpu_s - before.cpu_s) / seconds, after.peak_mb)


def latencies_ms(arrivals: list[tuple[float, bytes]]) -> list[float]:
    """Return for each line stored how long after its own time it arrived, sorted."""
    return sorted(
        arrived_s * 1000 - int(line.rpartition(b" ")[2])
        for arrived_s, body in arrivals
        for line in body.split(b"\n")
        if b"switch=plug-" in line
    )


def print_backlogs(options: argparse.Namespace, folder: Path, sink: Sink) -> None:
    """Print throughput, processor time and memory; the runs of all consumers are interleaved."""
    print(f"backlog of {options.count} messages, medians of {options.runs} runs")
    print(f"{'broker':10}{'QoS':>3}  {'consumer':36}{'msg/s':>9}{'CPU s/100k':>12}{'MB':>5}")
    for broker, extra, qos in (("open", OPEN, 1), ("open", OPEN, 0), ("window 20", WINDOW_20, 1)):
        compared = consumers(qos, sink)
        results: dict[str, list[Result]] = {consumer.name: [] for consumer in compared}
        for _ in range(options.runs):
            for consumer in compared:
                state = Path(tempfile.mkdtemp(dir=folder))
                results[consumer.name].append(
                    measure_backlog(consumer, state, extra, qos, options.count)
                )
        for name, each in results.items():
            rate, cpu_s, peak_mb = (statistics.median(column) for column in zip(*each, strict=True))
            print(
                f"{broker:10}{qos:3}  {name:36}{rate:9.0f}{cpu_s:12.2f}{peak_mb:5.0f}", flush=True
            )


def print_steady(options: argparse.Namespace, folder: Path, sink: Sink) -> None:
    """Print the share of a processor at a steady rate, and how soon messages are stored."""
    print(f"\nsteady {options.rate} messages/s for {options.seconds} s, QoS 1, open broker")
    print(f"{'consumer':36}{'CPU %':>7}{'MB':>5}{'median ms':>11}{'99 % ms':>9}")
    for consumer in consumers(1, sink):
        sink.arrivals = []
        state = Path(tempfile.mkdtemp(dir=folder))
        used = measure_steady(consumer, state, options.rate, options.seconds)
        stored_ms = latencies_ms(sink.arrivals)
        latency = (
            f"{stored_ms[len(stored_ms) // 2]:11.0f}{stored_ms[len(stored_ms) * 99 // 100]:9.0f}"
            if stored_ms
            else ""
        )
        print(f"{consumer.name:36}{used.cpu_s * 100:7.1f}{used.peak_mb:5.0f}{latency}", flush=True)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bench", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="messages in a backlog")
    parser.add_argument("--runs", type=int, default=3, help="of each consumer on a backlog")
    parser.add_argument("--rate", type=int, default=300, help="messages/s in the steady part")
    parser.add_argument("--seconds", type=int, default=30, help="of the steady part")
    options = parser.parse_args()
    sink = Sink()
    with tempfile.TemporaryDirectory(prefix="openenergy-bench-") as folder:
        print_backlogs(options, Path(folder), sink)
        print_steady(options, Path(folder), sink)


if __name__ == "__main__":
    main()
