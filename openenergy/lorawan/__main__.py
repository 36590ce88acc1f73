"""Decode a frame by hand, or write an order to a device.

python -m openenergy.lorawan DECODER FPORT HEX
python -m openenergy.lorawan encode DECODER ORDER [NUMBER ...] --application ID --device ID [--send]
"""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import msgspec

from openenergy import broker, config, service
from openenergy.lorawan import adeunis, decoders, downlink
from openenergy.lorawan.decoders import UnknownDecoderError
from openenergy.lorawan.downlink import Message, OrderError
from openenergy.lorawan.sample import DecodeError

PROGRAM: Final = "python -m openenergy.lorawan"
NAME: Final = "lorawan"
LARGEST_PORT: Final = 255
ADEUNIS: Final = "adeunis/"


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit status.

    0, 1 for a bad frame or an order that the broker did not get, 2 for wrong usage, 78 for a
    configuration that is wrong.
    """
    if arguments[:1] == ["encode"]:
        return _encode(arguments[1:])
    parser = argparse.ArgumentParser(
        PROGRAM,
        description="Decode one frame and print JSON.",
        epilog=f"To write an order to a device: {PROGRAM} encode --help",
    )
    parser.add_argument("decoder", help=", ".join(decoders.DECODERS))
    parser.add_argument("fport", type=_port, help="LoRaWAN port of the frame")
    parser.add_argument("hex", help="application payload, hexadecimal")
    options = parser.parse_args(arguments)
    try:
        decode = decoders.DECODERS[decoders.canonical(options.decoder)]
    except UnknownDecoderError as error:
        parser.error(str(error))
    except KeyError:
        parser.error(f"{decoders.OBJECT!r} is decoded by the network server: nothing to do here")
    try:
        decoded = decode(options.fport, _bytes(options.hex))
    except DecodeError as error:
        _complain(f"{options.decoder}: {error}")
        return 1
    _print(
        {
            "samples": [asdict(sample) for sample in decoded.samples],
            "periods": dict(decoded.periods),
            "info": dict(decoded.info),
        }
    )
    return 0


def _encode(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        f"{PROGRAM} encode",
        description="Print an order to an Adeunis device as its network server takes it by MQTT.",
        epilog="sampling-period SECONDS; sending-period SECONDS [SAMPLING_SECONDS];"
        " reboot [MINUTES]; configuration: the device answers with its settings.",
    )
    parser.add_argument("decoder", help=f"{ADEUNIS}MODEL")
    parser.add_argument("order", choices=downlink.ORDERS)
    parser.add_argument("numbers", nargs="*", type=int, metavar="NUMBER")
    parser.add_argument("--server", choices=downlink.SERVERS, default="chirpstack4")
    parser.add_argument("--application", required=True, help="its ID; APP@TENANT for TTN")
    parser.add_argument("--device", required=True, help="DevEUI; the device's ID for TTN")
    parser.add_argument("--send", action="store_true", help="publish it to the broker, too")
    parser.add_argument("--config", type=Path, default=service.default_config(), metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        message = _message(options)
    except (UnknownDecoderError, OrderError) as error:
        parser.error(str(error))
    _print({"topic": message.topic, "payload": message.payload})
    return _send(message, options.config) if options.send else service.EXIT_OK


def _send(message: Message, config_path: Path) -> int:
    try:
        settings = config.load(config_path, ("MQTT",)).mqtt
    except config.ConfigError as error:
        _complain(str(error))
        return service.EXIT_CONFIG
    try:
        broker.publish_once(settings, NAME, message.topic, msgspec.json.encode(message.payload))
    except OSError as error:
        _complain(f"not sent: broker {settings.broker}:{settings.port}: {error}")
        return service.EXIT_FAILED
    return service.EXIT_OK


def _message(options: argparse.Namespace) -> Message:
    name = decoders.canonical(options.decoder)
    model = name.removeprefix(ADEUNIS)
    if model not in adeunis.MODELS:
        raise OrderError(f"{name}: expected {ADEUNIS}MODEL; others take no orders")
    order = downlink.ORDERS[options.order]
    if len(options.numbers) not in order.numbers:
        raise OrderError(f"{options.order}: {len(options.numbers)} numbers, see --help")
    for place in (options.application, options.device):
        if not re.fullmatch(r"[^/+#\s]+", place):
            raise OrderError(f"{place!r}: expected one level of a topic")
    data = order.encode(model, *options.numbers)
    return downlink.SERVERS[options.server](options.application, options.device, data)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > LARGEST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r}: expected 0 to {LARGEST_PORT}")
    return int(text)


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise DecodeError(f"{text[:40]!r} is not hexadecimal, two digits for each byte") from None


def _complain(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201 - a command's answer


def _print(answer: object) -> None:
    print(msgspec.json.encode(answer).decode())  # noqa: T201 - a command's answer


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
