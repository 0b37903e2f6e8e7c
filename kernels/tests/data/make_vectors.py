"""Write blocks.txt: blocks of every weight type and the f32 bits the format's Python package widens them to.

    pip install gguf==0.19.0 && python3 make_vectors.py > blocks.txt

One line a case: type name, bytes in hex, f32 bits in hex. Cases are random codes with ordinary scales, all bits of the
codes set or clear, and scales that are zero, negative, denormal or the largest there is.
"""

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

# Where the f16 factors of a block are.
FACTORS = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}
SCALES = [0.0117, -0.0032, 0.0, -0.0, 6e-8, -3e-5, 65504.0, -1.5]


def case(name, data):
    if name == "F32":
        values = data.view(np.float32)
    elif name == "F16":
        values = data.view(np.float16).astype(np.float32)
    else:
        with np.errstate(over="ignore"):
            values = dequantize(data, T[name]).astype(np.float32)
    bits = "".join(f"{bits:08x}" for bits in values.reshape(-1).view(np.uint32))
    print(name, data.tobytes().hex(), bits)


def main():
    rng = np.random.default_rng(7)
    for name in ["F32", "F16", "BF16"]:
        size = 4 if name == "F32" else 2
        values = np.concatenate([rng.standard_normal(24), [0.0, -0.0, 1.0, -65504.0, 6e-8, -3e-5, 1e-3, 7.5]])
        floats = values.astype(np.float32)
        if name == "BF16":
            data = (floats.view(np.uint32) >> 16).astype(np.uint16)
        else:
            data = floats if size == 4 else floats.astype(np.float16)
        case(name, data.view(np.uint8))
    for name, factors in FACTORS.items():
        _, block_bytes = GGML_QUANT_SIZES[T[name]]
        for index, scale in enumerate(SCALES):
            data = rng.integers(0, 256, block_bytes, dtype=np.uint8)
            if index == 1:
                data[:] = 0xFF
            if index == 2:
                data[:] = 0
            for at, factor in zip(factors, [scale, SCALES[(index + 3) % len(SCALES)]]):
                data[at : at + 2] = np.array([factor], dtype=np.float16).view(np.uint8)
            case(name, data)


main()
