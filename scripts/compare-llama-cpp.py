"""Decoding with llama.cpp and with mlx-llamba in turns: GB of weights each second, and their ratio.

usage: compare-llama-cpp.py random DIR LAYERS
       compare-llama-cpp.py run COMMAND LLAMA_BENCH TOKENS REPETITIONS THREADS GGUF=DIR...

`random` writes a Llamba as wide as SmolLM2-135M with random float32 weights. `run` measures each pair
of a llama.cpp model and a Llamba of like size, and prints a table of medians. Both have the head
tied to the embedding, so that each token reads every weight once.
"""

import json
import math
import os
import pathlib
import statistics
import struct
import subprocess
import sys

WIDTH, INSIDE, VOCAB, HEADS, STATE = 576, 1536, 49152, 9, 64


def tensors(layers):
    """Names and shapes as published for PyTorch."""
    mixed = WIDTH + 2 * HEADS * STATE  # x, B and C
    yield "backbone.embedding.weight", (VOCAB, WIDTH)
    yield "backbone.final_layernorm.weight", (WIDTH,)
    for layer in (f"backbone.layers.{i}." for i in range(layers)):
        yield layer + "input_layernorm.weight", (WIDTH,)
        yield layer + "post_attention_layernorm.weight", (WIDTH,)
        yield layer + "mixer.D", (HEADS,)
        yield layer + "mixer.z_bias", (WIDTH,)
        yield layer + "mixer.conv1d.weight", (mixed, 1, 4)
        yield layer + "mixer.conv1d.bias", (mixed,)
        yield layer + "mixer.in_proj.weight", (mixed + WIDTH + HEADS, WIDTH)
        yield layer + "mixer.out_proj.weight", (WIDTH, WIDTH)
        yield layer + "mlp.gate_proj.weight", (INSIDE, WIDTH)
        yield layer + "mlp.up_proj.weight", (INSIDE, WIDTH)
        yield layer + "mlp.down_proj.weight", (WIDTH, INSIDE)


# The highest byte of a float32 has its sign and most of its exponent: these are of 2^-7 to 2^-5.
HIGHEST = bytes(0x3C | byte & 0x80 for byte in range(256))


def random_floats(count):
    data = bytearray(os.urandom(4 * count))
    data[3::4] = data[3::4].translate(HIGHEST)
    return data


def random(directory, layers):
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True)
    config = dict(
        model_type="llamba",
        vocab_size=VOCAB,
        pad_vocab_size_multiple=1,
        tie_embeddings=True,
        lm_head_bias=False,
        d_model=WIDTH,
        n_layer=layers,
        norm_epsilon=1e-5,
        mlp_cfg=dict(intermediate_size=INSIDE, bias=False, act_fn="silu"),
        ssm_cfg=dict(
            d_state=STATE,
            n_v_heads=HEADS,
            n_qk_heads=HEADS,
            expand=1,
            activation="identity",
            bias=False,
            d_conv=4,
            conv_bias=True,
        ),
    )
    (directory / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for name, shape in tensors(layers):
        start, end = end, end + 4 * math.prod(shape)
        header[name] = dict(dtype="F32", shape=shape, data_offsets=[start, end])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(directory / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, shape in tensors(layers):
            file.write(random_floats(math.prod(shape)))


def output(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{done.stderr}\nfailed: {' '.join(command)}")
    return done.stdout


def weight_bytes(directory):
    """Bytes of a checkpoint's tensors."""
    total = 0
    for path in pathlib.Path(directory).glob("*.safetensors"):
        with open(path, "rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        total += max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    return total


def run(command, llama_bench, tokens, repetitions, threads, *pairs):
    print("| llama.cpp's model | MB | tok/s | GB/s | Llamba, MB | tok/s | GB/s | ratio of GB/s | of the best |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for pair in pairs:
        gguf, _, directory = pair.partition("=")
        theirs, ours = [], []
        for _ in range(int(repetitions)):
            shared = ["-p", "0", "-n", tokens, "-r", "1"]
            row = json.loads(output(llama_bench, "-m", gguf, *shared, "-t", threads, "-ngl", "0", "-o", "json"))[0]
            theirs.append(row["avg_ts"])
            line = output(command, "bench", "--model", directory, *shared, "--json").splitlines()[0]
            ours.append(json.loads(line)["tokens_per_second"])
        cells, medians, bests = [], [], []
        for size, rates in (row["model_size"], theirs), (weight_bytes(directory), ours):
            rate = statistics.median(rates)
            medians.append(rate * size / 1e9)
            bests.append(max(rates) * size)
            cells += [f"{size / 1e6:.1f}", f"{rate:.1f}", f"{medians[-1]:.2f}"]
        cells += [f"{medians[1] / medians[0]:.2f}", f"{bests[1] / bests[0]:.2f}"]
        print(f"| {pathlib.Path(gguf).stem} | {' | '.join(cells)} |", flush=True)


def main():
    what, *arguments = sys.argv[1:]
    if what == "random":
        random(arguments[0], int(arguments[1]))
    else:
        run(*arguments)


main()
