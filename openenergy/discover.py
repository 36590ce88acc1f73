"""Lists the switches that announce themselves in this network, as lines for credentials.toml."""

import argparse
import select
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Final

from openenergy import config, mystrom, service

# Anyone can send announcements; a home has fewer devices.
MAX_DEVICES: Final = 200
# What else of myStrom's announces itself.
OTHERS: Final = {
    102: "bulb",
    103: "Button Plus",
    104: "Button",
    105: "LED strip",
    110: "motion sensor",
    112: "gateway",
    118: "Button Plus",
}


def run(arguments: argparse.Namespace) -> int:
    """Listen, print each device once, and return the exit status."""
    try:
        receiver = mystrom.open_receiver()
    except OSError as error:
        _say(f"cannot listen on UDP port {mystrom.ANNOUNCEMENT_PORT}: {error.strerror}")
        return service.EXIT_FAILED
    configured = _configured(arguments)
    seconds = mystrom.ANNOUNCED_WITHIN_S
    _say(f"listening on UDP port {mystrom.ANNOUNCEMENT_PORT} for {seconds:g} s (Ctrl-C: enough)")
    count = 0
    try:
        with receiver:
            for each in _heard(receiver, time.monotonic() + seconds):
                print(entry(each, configured), flush=True)  # noqa: T201 - its output
                count += each.type in mystrom.MODELS
    except KeyboardInterrupt:
        pass
    if count:
        _say(f"{count} switches")
        return service.EXIT_OK
    _say("no switch heard: they are heard in the same network only, and the first model never")
    return service.EXIT_FAILED


def entry(device: mystrom.Announcement, configured: Iterable[config.MyStromSwitch]) -> str:
    """Return what to paste, or a comment for what is there already or no switch that we know."""
    mac = device.mac.upper()
    model = mystrom.MODELS.get(device.type)
    if model is None:
        other = OTHERS.get(device.type)
        what = f"no switch: {other}" if other else f"unknown device: type {device.type}"
        return f"# {what}, MAC {mac}, at {device.address}"
    where = (device.address, mystrom.HTTP_PORT)
    for switch in configured:
        is_it_by_mac = switch.mac and device.mac.endswith(switch.mac)
        if is_it_by_mac or mystrom.configured_address(switch) == where:
            return f"# configured as {switch.name}: {model}, MAC {mac}, at {device.address}"
    return (
        f"[[MyStromSwitch]]  # {model}, at {device.address}\n"
        f'name = "mystrom-switch-{device.mac[-6:]}"\n'
        f'macAdress = "{mac}"\n'
    )


def _heard(receiver: socket.socket, deadline: float) -> Iterator[mystrom.Announcement]:
    """Yield each device when it is heard first."""
    known: set[str] = set()
    while (remaining_s := deadline - time.monotonic()) > 0 and len(known) < MAX_DEVICES:
        if select.select([receiver], [], [], remaining_s)[0]:
            device = mystrom.receive_announcement(receiver)
            if device and device.mac not in known:
                known.add(device.mac)
                yield device


def _configured(arguments: argparse.Namespace) -> tuple[config.MyStromSwitch, ...]:
    """Return the switches of the configuration, none if there is none that can be used."""
    try:
        is_there = arguments.config.exists()
        return config.load(arguments.config, ()).switches if is_there else ()
    except (OSError, config.ConfigError):
        _say(f"{arguments.config} has errors (--check): what it configures is not marked")
        return ()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - beside the lines to paste
