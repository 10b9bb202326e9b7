"""Measures decoding with llama.cpp and mlx-llamba in turns: GB of weights per second, and the ratio.

usage: compare-llama-cpp.py COMMAND LLAMA_BENCH TOKENS REPETITIONS THREADS GGUF=LAYERS...

Measures each pair of a llama.cpp model and a Llamba of SmolLM2-135M's widths with random weights, and
prints a table of medians: ours with activations in float32 and in int8, which is what theirs are. Both
have the head tied to the embedding, so that each token reads every weight once.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys

SHAPE = ["--shape", "custom", "--width", "576", "--mlp", "1536", "--vocab", "49152", "--bits", "4"]


def output(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{done.stderr}exit {done.returncode}: {' '.join(command)}")
    return done.stdout


def main():
    command, llama_bench, tokens, repetitions, threads, *pairs = sys.argv[1:]
    test = ["-p", "0", "-n", tokens, "-r", "1"]
    os.environ["MLX_LLAMBA_THREADS"] = threads
    load = os.getloadavg()[0]
    print("| llama.cpp's model | MB | tok/s | GB/s | Llamba's activations | MB | tok/s | GB/s | ratio of GB/s | of the best | GB/s read |")
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for pair in pairs:
        gguf, _, layers = pair.partition("=")
        theirs, ours = [], {"float32": [], "int8": []}
        for _ in range(int(repetitions)):
            row = json.loads(output(llama_bench, "-m", gguf, *test, "-t", threads, "-ngl", "0", "-o", "json"))[0]
            theirs.append(row["avg_ts"])
            for activations, lines in ours.items():
                kind = ["--layers", layers, "--activations", activations]
                lines.append(json.loads(output(command, "bench", *SHAPE, *kind, *test, "--json").splitlines()[0]))
        for activations, lines in ours.items():
            speeds = [line["tokens_per_second"] for line in lines]
            cells, medians, bests = [], [], []
            for size, rates in (row["model_size"], theirs), (lines[0]["weight_bytes"], speeds):
                rate = statistics.median(rates)
                medians.append(rate * size / 1e9)
                bests.append(max(rates) * size)
                cells += [f"{size / 1e6:.1f}", f"{rate:.1f}", f"{medians[-1]:.2f}"]
            cells.insert(3, activations)
            memory = statistics.median(line["read_bandwidth"] for line in lines)
            cells += [f"{medians[1] / medians[0]:.2f}", f"{bests[1] / bests[0]:.2f}", f"{memory / 1e9:.1f}"]
            print(f"| {pathlib.Path(gguf).stem} | {' | '.join(cells)} |", flush=True)
    kernels = ours["float32"][0]["kernels"]
    print(f"\nmlx-llamba's kernels: {kernels}; load of the machine before: {load:.1f}")


main()
