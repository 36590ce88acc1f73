"""Adeunis products. A frame does not name its product: the configuration does."""

from datetime import UTC, datetime
from typing import Final

from openenergy.lorawan.adeunis import building, comfort, contacts, modbus, pulse, temp, tic
from openenergy.lorawan.adeunis.common import HEAD_SIZE, Model
from openenergy.lorawan.layout import Draft, Reader
from openenergy.lorawan.sample import Decoded, DecodeError, Info, Sample

MODELS: Final = {
    **pulse.MODELS,
    **temp.MODELS,
    **comfort.MODELS,
    **building.MODELS,
    **contacts.MODELS,
    **tic.MODELS,
    **modbus.MODELS,
}

# Frames that carry a time stamp when status bit 2 of a product that can do so is set.
STAMPED: Final = frozenset(
    {0x30, 0x38, 0x40, 0x41, 0x46, 0x47, 0x4C, 0x4D, 0x51, 0x52, 0x57, 0x58, 0x59, 0x5A, 0x5B}
    | {0x6A, 0x6B, 0x6F, 0x70, 0x71, 0x72}
)
STAMP_SIZE: Final = 4
# Seconds from 1970 to 2013-01-01, from which the device's clock counts.
STAMP_EPOCH: Final = 1_356_998_400

CONFIGURATION_DONE: Final = 0x01
LOW_BATTERY: Final = 0x02
BIT_2: Final = 0x04
FLAG_1: Final = 0x08
FLAG_2: Final = 0x10


def decode(model: Model, data: bytes) -> Decoded:
    """Decode one frame: its code, a status byte, then what the code says.

    Raises DecodeError for a frame that this product does not send.
    """
    if len(data) < HEAD_SIZE:
        raise DecodeError(f"truncated: {len(data)} bytes, a frame has at least {HEAD_SIZE}")
    code, status = data[:HEAD_SIZE]
    part = model.frames.get(code)
    if part is None:
        raise DecodeError(f"unknown frame code 0x{code:02x}")
    draft = Draft(status, info=_head(model, code, status))
    reader = Reader(data[HEAD_SIZE:])
    can_have_stamp = model.has_stamp and code in STAMPED
    try:
        if can_have_stamp and status & BIT_2 and reader.left:
            reader, stamp = reader.split(STAMP_SIZE)
            read_stamp(stamp, draft)
        part(reader, draft, 0)
        # The maker's own example of a PULSE V4 frame 0x46 has a stamp that it does not announce.
        if can_have_stamp and reader.left == STAMP_SIZE:
            read_stamp(reader, draft)
        reader.finish()
    except DecodeError as error:
        raise DecodeError(f"frame 0x{code:02x} of {len(data)} bytes: {error}") from None
    is_low = Sample("battery_low", float(bool(status & LOW_BATTERY)))
    series = f"{code:02x}" if draft.periodic else ""
    return Decoded((*draft.samples, is_low), series, draft.periods, draft.info)


def read_stamp(reader: Reader, draft: Draft) -> None:
    """Read the device's clock. Its time zone is not told, so it dates no sample."""
    stamp = datetime.fromtimestamp(reader.number("u32") + STAMP_EPOCH, UTC)
    draft.info["device_time"] = stamp.strftime("%Y-%m-%dT%H:%M:%S")


def _head(model: Model, code: int, status: int) -> dict[str, Info]:
    head: dict[str, Info] = {
        "frame": f"0x{code:02x}",
        "frame_counter": status >> 5,
        "configuration_done": bool(status & CONFIGURATION_DONE),
    }
    if not model.has_stamp:
        head["hardware_error"] = bool(status & BIT_2)
    if model.flag_1:
        head[model.flag_1] = bool(status & FLAG_1)
    if model.flag_2:
        head[model.flag_2] = bool(status & FLAG_2)
    return head
