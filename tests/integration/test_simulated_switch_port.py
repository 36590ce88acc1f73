"""A simulated switch whose port closes and opens while clients come in."""

import contextlib
import gc
import socket
import threading

from demo.switches import SimulatedSwitch, SimulatedSwitches, SwitchSpec


def test_no_connection_is_left_open_when_the_port_closes() -> None:
    """A socket that nobody closed is a ResourceWarning, which fails the test."""
    with SimulatedSwitches([SwitchSpec("lamp")]) as switches:
        ended = threading.Event()
        clients = [
            threading.Thread(target=keep_connecting, args=(switches["lamp"], ended))
            for _ in range(3)
        ]
        for client in clients:
            client.start()
        for _ in range(100):
            switches["lamp"].set_fault("refused")
            switches["lamp"].clear_fault()
        ended.set()
        for client in clients:
            client.join()
        gc.collect()


def keep_connecting(switch: SimulatedSwitch, ended: threading.Event) -> None:
    while not ended.is_set():
        with (
            contextlib.suppress(OSError),
            socket.create_connection((switch.host, switch.port), timeout=5) as connection,
        ):
            connection.sendall(b"GET /report HTTP/1.1\r\n\r\n")
            connection.recv(100)
