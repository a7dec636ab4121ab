"""Reader of ONNX files: protobuf messages and the tensors in them, without the onnx package."""

from typing import Any

import numpy as np
from jaxtyping import Float32


def onnx_message(data: memoryview) -> dict[int, list[Any]]:
    """Parse one protobuf message: field number -> its values in order, integers or byte strings, without copies."""
    fields: dict[int, list[Any]] = {}
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            value |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                return value

    while at < len(data):
        key, value = varint(), varint()
        if key & 7 not in {0, 2}:
            raise ValueError(f"wire type {key & 7}")
        if key & 7 == 2:
            at += value
            if at > len(data):
                raise ValueError("it is cut short")
        fields.setdefault(key >> 3, []).append(data[at - value : at] if key & 7 == 2 else value)
    return fields


def onnx_tensor(data: memoryview) -> tuple[str, Float32[np.ndarray, "..."]]:
    """Return the name and a view of the values of a TensorProto with raw 32-bit floats."""
    fields = onnx_message(data)
    if not fields.keys() <= {1, 2, 8, 9} or fields[2] != [1]:
        raise ValueError("a tensor is not raw float32")
    (name,), (raw,) = fields[8], fields[9]
    return str(name, "utf-8"), np.frombuffer(raw, "<f4").reshape(fields.get(1, []))
