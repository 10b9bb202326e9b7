"""Times cartesia-mlx's Llamba of the 1B shape and `mlx-llamba bench --shape 1b` in turns.

usage: compare-cartesia.py COMMAND BITS(0: float32) PROMPTS GENERATES REPETITIONS

Prints a table of medians. cartesia-mlx takes its convolution and its decode step from
cartesia_metal, which is for Apple GPUs alone; here array operations stand in for them. Their share
of the time is small: the products with the weights, which it leaves to MLX, take the rest.
"""

import json
import os
import statistics
import subprocess
import sys
import time
import types
from unittest.mock import MagicMock

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

WIDTH, LAYERS, INSIDE, VOCAB, HEADS, STATE = 2048, 16, 8192, 128256, 32, 64


def conv1d_forward(x, weight, bias, state, swish):
    """x (b, l, c), weight (c, k), bias (c,), state (b, c, k - 1) to y (b, l, c) and the state."""
    kept, length = weight.shape[1] - 1, x.shape[1]
    rows = mx.concatenate([state.swapaxes(1, 2), x], axis=1)
    y = bias + sum(rows[:, i : i + length] * weight[:, i] for i in range(kept + 1))
    return nn.silu(y) if swish else y, rows[:, length:].swapaxes(1, 2)


def conv1d_update(x, weight, bias, state, swish):
    """As `conv1d_forward` for one token: x (b, c) to y (b, c)."""
    window = mx.concatenate([state, x[:, :, None]], axis=-1)
    y = (window * weight).sum(axis=-1) + bias
    return nn.silu(y) if swish else y, window[:, :, 1:]


@mx.compile
def advance(x, dt, B, C, state):
    state = state * mx.exp(-dt)[..., None, None] + (x * dt[..., None])[..., None] * B[:, :, None]
    return (state @ C[..., None]).squeeze(-1), state


def ssd_update(x, dt, A, B, C, D, dt_bias, dt_min, dt_max, state, softplus, flip_A_sign):
    """One token: x (b, h, p), dt (b, h), B and C (b, h, n), state (b, h, p, n). Llamba has A = -1,
    no bias or limits of dt, and D = 0, as it adds D x itself."""
    assert A is None and dt_bias is None and softplus and flip_A_sign
    return advance(x, nn.softplus(dt), B, C, state)


def peer(bits):
    """Returns its Llamba with random weights."""
    metal = types.ModuleType("cartesia_metal")
    for function in conv1d_forward, conv1d_update, ssd_update:
        setattr(metal, function.__name__, function)
    sys.modules["cartesia_metal"] = metal
    # Needed only for downloads and texts.
    sys.modules["transformers"] = sys.modules["huggingface_hub"] = MagicMock()
    from cartesia_mlx.utils.configure import instantiate

    def block(layer, stateful):
        return dict(
            _class_="layers.residual_block.ResidualBlock",
            d_model=WIDTH,
            norm_point="pre",
            stateful=stateful,
            layer=dict(d_model=WIDTH, bias=False, quantization_kwargs=scheme) | layer,
        )

    scheme = dict(group_size=64, bits=bits) if bits else None
    mixer = dict(
        _class_="layers.ssd.llamba_ssd.LlambaSSD",
        expand=1,
        kernel_size=4,
        d_state=STATE,
        n_heads=HEADS,
        conv_bias=True,
        conv_swish=False,
    )
    mlp = dict(
        _class_="layers.ffn.SwiGLU",
        expand=INSIDE / WIDTH,
        glu=True,
        norm=None,
        activation="swish",
        quantize_gate=True,
    )
    model = instantiate(
        dict(
            _class_="models.llamba.Llamba",
            quantization_kwargs=scheme,
            d_model=WIDTH,
            n_tokens=VOCAB,
            embedding=dict(_class_="layers.embedding.Embedding", d_model=WIDTH, n_tokens=VOCAB),
            model=dict(
                _class_="layers.sequence_model.SequenceModel",
                quantization_kwargs=scheme,
                d_model=WIDTH,
                n_layer_repeats=LAYERS,
                unique_layers=[block(mixer, True), block(mlp, False)],
                pre_norm=False,
                post_norm=True,
            ),
            head=dict(
                _class_="layers.linear.Linear",
                quantization_kwargs=scheme,
                input_dims=WIDTH,
                output_dims=VOCAB,
                bias=False,
            ),
        )
    )
    if not bits:
        model.head.linear.weight = model.embedding.encoder.weight  # the shape ties them
    for _, array in tree_flatten(model.parameters()):
        mx.eval(array)
    return model


def read(model, length):
    logits, state = model.prefill(mx.array([[i * 7919 % 1000 for i in range(length)]]))
    token = mx.argmax(logits, axis=-1)
    mx.eval(token, state)
    return token, state


def timed_read(model, length):
    start = time.perf_counter()
    read(model, length)
    return length / (time.perf_counter() - start)


def timed_generate(model, count):
    token, state = read(model, 1)
    start = time.perf_counter()
    for _ in range(count):
        logits, state = model.step(token, state)
        following = mx.argmax(logits, axis=-1)
        mx.async_eval(following)
        mx.eval(token)
        token = following
    mx.eval(token)
    return count / (time.perf_counter() - start)


def ours(command, bits, prompt, generate):
    arguments = ["bench", "--shape", "1b", "-p", str(prompt), "-n", str(generate), "-r", "1", "--json"]
    if bits:
        arguments += ["--bits", str(bits)]
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    done = subprocess.run([command] + arguments, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"exit {done.returncode}: {command} {' '.join(arguments)}")
    return json.loads(done.stdout.splitlines()[0])


def main():
    command, bits, prompts, generates, repetitions = sys.argv[1:]
    bits = int(bits)
    numbers = lambda text: [int(n) for n in text.split(",") if int(n or 0) > 0]
    tests = [(f"read {n}", timed_read, n, (n, 0)) for n in numbers(prompts)]
    tests += [(f"generate {n}", timed_generate, n, (0, n)) for n in numbers(generates)]
    mx.set_default_device(mx.cpu)
    model = peer(bits)
    timed_generate(model, 1)
    kernels = ""
    load = os.getloadavg()[0]
    print("| test | mlx-llamba tok/s | cartesia-mlx tok/s | ratio | peak MiB | cartesia-mlx's |")
    print("|---|---|---|---|---|---|", flush=True)
    for name, run, count, wanted in tests:
        mx.clear_cache()
        mx.reset_peak_memory()
        speeds, theirs, peak = [], [], 0
        for _ in range(int(repetitions)):
            row = ours(command, bits, *wanted)
            speeds.append(row["tokens_per_second"])
            kernels = row["kernels"]
            peak = max(peak, row["peak_memory"])
            theirs.append(run(model, count))
        a, b = statistics.median(speeds), statistics.median(theirs)
        print(
            f"| {name} | {a:.2f} | {b:.2f} | {a / b:.2f} | {peak / 2**20:.0f} | {mx.get_peak_memory() / 2**20:.0f} |",
            flush=True,
        )
    print(f"\nmlx-llamba's kernels: {kernels}; load of the machine before: {load:.1f}")


main()
