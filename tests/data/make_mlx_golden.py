"""What mlx.core itself computes with quantized matrices, for tests/mlx_parity.rs.

    pip install "mlx[cpu]==0.32.2" numpy && python make_mlx_golden.py

Writes mlx_golden.safetensors beside this file:

| tensor | of | shape |
|---|---|---|
| x.{in} | the activations that all products are made with | (3, in) float32 |
| NAME.dequantized | SHA-256 of the float32 bytes that mx.dequantize gives | (32,) uint8 |
| NAME.vector | mx.quantized_matmul of the first row of x | (1, out) float32 |
| NAME.rows | mx.quantized_matmul of all three | (3, out) float32 |

NAME is file.PREFIX for the quantized matrices of the fixture m_mlx_4bit (names as in the file), and
scheme.MODE.BITS.GROUP for one matrix of the fixture a_base, quantized by mx.quantize.
"""

import hashlib
import json
import pathlib

import mlx.core as mx
import numpy as np

HERE = pathlib.Path(__file__).parent
FIXTURES = HERE.parent / "fixtures"
MATRIX = "backbone.layers.0.mlp.down_proj.weight"
SCHEMES = [("affine", bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)]
SCHEMES += [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]

mx.set_default_device(mx.cpu)
random = np.random.default_rng(20)
golden = {}


def activations(columns):
    name = f"x.{columns}"
    if name not in golden:
        golden[name] = mx.array(random.standard_normal((3, columns)).astype(np.float32))
    return golden[name]


def note(name, columns, weight, scales, biases, **scheme):
    dense = mx.dequantize(weight, scales, biases, dtype=mx.float32, **scheme)
    assert dense.shape == (weight.shape[0], columns) and dense.dtype == mx.float32
    digest = hashlib.sha256(np.array(dense).tobytes()).digest()
    golden[f"{name}.dequantized"] = mx.array(np.frombuffer(digest, np.uint8))
    x = activations(columns)
    for what, rows in (("vector", x[:1]), ("rows", x)):
        product = mx.quantized_matmul(rows, weight, scales, biases, transpose=True, **scheme)
        golden[f"{name}.{what}"] = product


tensors, header = mx.load(str(FIXTURES / "m_mlx_4bit" / "model.safetensors"), return_metadata=True)
scheme = {key: json.loads(header[f"quantization_kwargs.{key}"]) for key in ("bits", "group_size")}
for name in sorted(tensors):
    if name.endswith(".scales"):
        prefix = name.removesuffix(".scales")
        parts = [tensors[f"{prefix}.{part}"] for part in ("weight", "scales", "biases")]
        note(f"file.{prefix}", parts[1].shape[1] * scheme["group_size"], *parts, **scheme)

dense = mx.load(str(FIXTURES / "a_base" / "model.safetensors"))[MATRIX]
for mode, bits, group in SCHEMES:
    parts = mx.quantize(dense, group_size=group, bits=bits, mode=mode)
    parts = [*parts, None][:3]
    note(f"scheme.{mode}.{bits}.{group}", dense.shape[1], *parts,
         group_size=group, bits=bits, mode=mode)

mx.save_safetensors(str(HERE / "mlx_golden.safetensors"), golden, {"mlx": mx.__version__})
