"""Decoders by name: FAMILY or FAMILY/MODEL, as in credentials.toml or a device's tag."""

import difflib
from collections.abc import Callable
from functools import partial
from typing import Final

from openenergy.lorawan import adeunis, cayenne_lpp, flasho, lopy
from openenergy.lorawan.adeunis import ftd
from openenergy.lorawan.adeunis.common import Model
from openenergy.lorawan.sample import Decoded

# From a port and a payload to what it says; raises DecodeError.
Decoder = Callable[[int, bytes], Decoded]

# Values that the network server decoded; there are no bytes to decode.
OBJECT: Final = "object"


class UnknownDecoderError(ValueError):
    """No decoder has this name; `hint` says which has one like it, or all there are."""

    def __init__(self, name: str, hint: str) -> None:
        """Say what was asked for."""
        super().__init__(f"no decoder {name[:60]!r}: {hint}")
        self.hint = hint


def _any_port(decode: Callable[[bytes], Decoded]) -> Decoder:
    return lambda _port, data: decode(data)


def _adeunis(model: Model) -> Decoder:
    return _any_port(partial(adeunis.decode, model))


DECODERS: Final[dict[str, Decoder]] = {
    **{f"adeunis/{name}": _adeunis(model) for name, model in adeunis.MODELS.items()},
    "adeunis/ftd": _any_port(ftd.decode),
    "cayenne_lpp": _any_port(cayenne_lpp.decode),
    "flasho": flasho.decode,
    "lopy": _any_port(lopy.decode),
}


def canonical(name: str) -> str:
    """Return a decoder's name in its one spelling: adeunis/comfort_co2 is adeunis/comfortCo2.

    Raises UnknownDecoderError.
    """
    names = {_bare(known): known for known in (*DECODERS, OBJECT)}
    bare = _bare(name)
    if bare in names:
        return names[bare]
    near = difflib.get_close_matches(bare, names, n=1)
    hint = f"did you mean {names[near[0]]!r}?" if near else f"known are {', '.join(names.values())}"
    raise UnknownDecoderError(name, hint)


def _bare(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
