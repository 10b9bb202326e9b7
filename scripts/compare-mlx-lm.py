"""Times mlx-lm's Mamba-2 with random weights: one JSON line per test, like `mlx-llamba bench --json`.

usage: compare-mlx-lm.py small|1b BITS(0: float32) PROMPTS GENERATES REPETITIONS
"""

import json
import statistics
import sys
import time

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.mamba2 import Model, ModelArgs

PIECE = 512  # as our command reads prompts

# Parameters as close as Mamba-2's shapes come to Llamba's: 5.8 M against 5.9 M, 1.34 G against 1.41 G.
SHAPES = {
    "small": dict(hidden_size=256, num_heads=8, state_size=64, num_hidden_layers=11, vocab_size=4096),
    "1b": dict(hidden_size=2048, num_heads=64, state_size=128, num_hidden_layers=48, vocab_size=50288),
}


def build(shape, bits):
    sizes = SHAPES[shape]
    args = ModelArgs(
        model_type="mamba2",
        head_dim=64,
        intermediate_size=sizes["num_heads"] * 64,
        layer_norm_epsilon=1e-5,
        conv_kernel=4,
        n_groups=1,
        use_bias=False,
        use_conv_bias=True,
        tie_word_embeddings=True,
        time_step_limit=(0.0, float("inf")),
        time_step_rank="auto",
        **sizes,
    )
    model = Model(args)
    if bits:
        nn.quantize(model, group_size=64, bits=bits)
    for _, array in tree_flatten(model.parameters()):
        mx.eval(array)
    return model


def read(model, length):
    ids = [i * 7919 % 1000 for i in range(length)]
    cache = model.make_cache()
    for start in range(0, length, PIECE):
        logits = model(mx.array([ids[start : start + PIECE]]), cache)
        token = mx.argmax(logits[:, -1, :], axis=-1, keepdims=True)
        mx.eval([entry.state for entry in cache])
    mx.eval(token)
    return token, cache


def generate(model, count):
    token, cache = read(model, 1)
    start = time.perf_counter()
    for _ in range(count):
        following = mx.argmax(model(token, cache)[:, -1, :], axis=-1, keepdims=True)
        mx.async_eval(following)
        mx.eval(token)
        token = following
    mx.eval(token)
    return time.perf_counter() - start


def timed_read(model, length):
    start = time.perf_counter()
    read(model, length)
    return time.perf_counter() - start


def main():
    shape, bits, prompts, generates, repetitions = sys.argv[1:6]
    numbers = lambda text: [int(n) for n in text.split(",") if int(n or 0) > 0]
    model = build(shape, int(bits))
    tests = [("read", n, timed_read) for n in numbers(prompts)]
    tests += [("generate", n, generate) for n in numbers(generates)]
    for name, count, run in tests:
        run(model, count)
        mx.reset_peak_memory()
        speeds = [count / run(model, count) for _ in range(int(repetitions))]
        row = dict(
            test=f"{name} {count}",
            tokens_per_second=statistics.mean(speeds),
            peak_memory=mx.get_peak_memory(),
        )
        print(json.dumps(row), flush=True)


main()
