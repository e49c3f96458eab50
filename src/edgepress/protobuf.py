"""Read protobuf messages without their library or schema (devices have neither): protobuf.dev/programming-guides/encoding."""
from __future__ import annotations

import struct
from typing import Iterator, Tuple, Union

Field = Tuple[int, Union[int, float, memoryview]]


def read_fields(data: memoryview) -> Iterator[Field]:
    """(number, value) of each field of one message: varints as int, fixed-width numbers as float, everything with a length as a view.

    Raises:
        ValueError, IndexError, struct.error: damaged, or not a protobuf message.
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
        elif wire == 2:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError("a field is longer than its message")
            yield number, data[at:at + size]
            at += size
        elif wire in (1, 5):
            width, kind = (8, "<d") if wire == 1 else (4, "<f")
            yield number, struct.unpack_from(kind, data, at)[0]
            at += width
        else:
            raise ValueError(f"wire type {wire}")


def _varint(data: memoryview, at: int) -> Tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise ValueError("a number is longer than ten bytes")
