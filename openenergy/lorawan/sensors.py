"""From an uplink to points: the device's decoder, the samples' own times, the tags."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from openenergy.config import LoRaWANDevice
from openenergy.lorawan import decoders, object_
from openenergy.lorawan.decoders import UnknownDecoderError
from openenergy.lorawan.events import Device, Status, Uplink, believable
from openenergy.lorawan.history import History
from openenergy.lorawan.sample import Decoded, DecodeError, Sample

# Measurement, tags, fields, time in ms since 1970 UTC.
Point = tuple[str, dict[str, str], dict[str, float], int]

# Brokers, bridges and overlapping subscriptions deliver an uplink again within so many ms. Later,
# a device that has started anew may send the same frame with the same counter.
REDELIVERY: Final = 300_000
UPLINKS_REMEMBERED: Final = 10_000
# Devices without a decoder that are not named a second time.
DEVICES_REMEMBERED: Final = 10_000
# The tag of a device, or of its profile, in ChirpStack that names its decoder.
DECODER_TAG: Final = "decoder"


@dataclass(frozen=True, slots=True)
class Received:
    """An uplink's points; in one line why it is not decoded; in one line who is unknown."""

    points: list[Point]
    problem: str = ""
    introduction: str = ""


class Sensors:
    """All devices. Raises UnknownDecoderError for a rule that names no decoder."""

    def __init__(self, rules: Sequence[LoRaWANDevice], history: History) -> None:
        """Take the first rule that fits a device; `history` is the caller's to keep."""
        self._rules = [
            (rule.dev_eui.lower(), decoders.canonical(rule.decoder), rule.period) for rule in rules
        ]
        self.history = history
        self._named: set[str] = set()
        self._arrivals: dict[str, int] = {}

    def receive(self, uplink: Uplink, arrival: int) -> Received:
        """Return the points of an uplink that arrived at this time (ms).

        What cannot be decoded still has its link quality. An unknown device is named once. Raises
        PayloadError for an uplink that nothing dates, while our clock is not set.
        """
        received = uplink.time(self._first_arrival(uplink.key, arrival))
        link = link_point(uplink, received)
        if not uplink.data:
            return Received([link])
        try:
            decoder, period = self._choose(uplink.device)
            decoded = _decode(decoder, uplink)
        except (DecodeError, UnknownDecoderError) as error:
            return Received([link], f"device {uplink.device.dev_eui}: {error}")
        samples = self.history.times(uplink.device.dev_eui, decoded, received, period)
        points = [link, *value_points(uplink.device, samples)]
        return Received(points, introduction="" if decoder else self._introduce(uplink.device))

    def _first_arrival(self, key: str, arrival: int) -> int:
        """Return when an uplink came first: delivered again, it makes the same points."""
        first = self._arrivals.setdefault(key, arrival)
        if not 0 <= arrival - first <= REDELIVERY:
            first = self._arrivals[key] = arrival
        if len(self._arrivals) > UPLINKS_REMEMBERED:
            del self._arrivals[next(iter(self._arrivals))]
        return first

    def _choose(self, device: Device) -> tuple[str, float]:
        """Return decoder and period, or "" and 0 for an unknown device."""
        for pattern, decoder, period in self._rules:
            if fnmatchcase(device.dev_eui, pattern):
                return decoder, period
        if tag := device.tags.get(DECODER_TAG):
            return decoders.canonical(tag), 0
        return "", 0

    def _introduce(self, device: Device) -> str:
        if device.dev_eui in self._named:
            return ""
        if len(self._named) >= DEVICES_REMEMBERED:
            self._named.clear()
        self._named.add(device.dev_eui)
        return (
            f"device {device.dev_eui} ({_printable(device.name)}) has no decoder: add to"
            f' credentials.toml [[LoRaWAN.devices]] with dev_eui = "{device.dev_eui}"'
            ' and decoder = "FAMILY/MODEL"'
        )


def _decode(decoder: str, uplink: Uplink) -> Decoded:
    if decoder and decoder != decoders.OBJECT:
        return decoders.DECODERS[decoder](uplink.f_port, uplink.data)
    if uplink.decoded_by_server is not None:
        return object_.decode(uplink.decoded_by_server)
    if decoder:
        raise DecodeError("the network server has decoded nothing")
    return Decoded(())


def value_points(device: Device, samples: Iterable[tuple[Sample, int]]) -> list[Point]:
    """Return one point for each sample; tags without a value are left out."""
    return [
        (
            sample.quantity,
            _tags(device, unit=sample.unit, channel=sample.channel),
            {sample.quantity: sample.value},
            time,
        )
        for sample, time in samples
    ]


def link_point(uplink: Uplink, time: int) -> Point:
    """Return how well the gateways heard the device; the best figures of all of them."""
    fields = {"frame_counter": float(uplink.f_cnt)}
    if uplink.spreading_factor is not None:
        fields["spreading_factor"] = float(uplink.spreading_factor)
    fields["gateways"] = float(len({gateway.name for gateway in uplink.gateways}))
    if not uplink.gateways:
        return ("lorawan", _tags(uplink.device), fields, time)
    best = max(uplink.gateways, key=lambda gateway: gateway.rssi)
    fields["rssi"] = best.rssi
    heard = [gateway.snr for gateway in uplink.gateways if gateway.snr is not None]
    if heard:
        fields["snr"] = max(heard)
    return ("lorawan", _tags(uplink.device, gateway=best.name), fields, time)


def status_points(status: Status, arrival: int) -> list[Point]:
    """Return the battery, if the device told it, and the margin of its downlinks.

    Raises PayloadError if nothing dates them, while our clock is not set.
    """
    samples = [Sample("link_margin", status.margin, "dB")]
    if status.battery is not None:
        samples.append(Sample("battery_level", status.battery, "%"))
    time = believable(arrival, status.server_time)
    return value_points(status.device, [(sample, time) for sample in samples])


def _tags(device: Device, **more: str) -> dict[str, str]:
    tags = {"sensor": device.name, "dev_eui": device.dev_eui, "application": device.application}
    return {key: value for key, value in {**tags, **more}.items() if value}


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)[:60]
