"""Values that the network server's own codec decoded: `object`, or `decoded_payload`."""

from collections.abc import Mapping
from typing import Any, Final

from openenergy.lorawan.sample import Decoded, DecodeError, Sample

MOST_VALUES: Final = 1000


def decode(decoded_by_server: Mapping[str, Any]) -> Decoded:
    """Return every number, named by its path of keys joined by "_"; list items by their place.

    Raises DecodeError for more values than a sensor sends.
    """
    samples: list[Sample] = []
    waiting: list[tuple[str, Any]] = [("", decoded_by_server)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, Mapping):
            waiting += [(f"{path}_{key}" if path else key, child) for key, child in node.items()]
        elif isinstance(node, list):
            waiting += [(f"{path}_{place}", child) for place, child in enumerate(node)]
        elif isinstance(node, int | float) and path:
            samples.append(Sample(path, _number(path, node)))
        if len(samples) + len(waiting) > MOST_VALUES:
            raise DecodeError(f"more than {MOST_VALUES} values")
    return Decoded(tuple(samples))


def _number(path: str, value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        raise DecodeError(f"{path[:60]!r} is too large a number") from None
