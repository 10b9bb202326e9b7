"""Measures speed and memory against depth: our command and a Llama in mlx-lm, in turns, as medians.

usage: compare-depth.py COMMAND small|medium DEPTHS ROUNDS [PLOT.svg]
       compare-depth.py --peer small|medium DEPTHS    (one round of the peer, a JSON line a row)
"""

import json
import os
import statistics
import subprocess
import sys
import time

READ, GENERATE = 256, 32  # tokens
REPETITIONS = 3  # in a round, for a mean
ENOUGH = 1.0  # seconds: the peer's long runs are not repeated
HEAD = 64

# The same width, layers, MLPs and vocabulary on both sides.
SHAPES = {
    "small": dict(width=256, layers=6, mlp=704, vocab=4096),
    "medium": dict(width=768, layers=12, mlp=3072, vocab=32000),
}


def peer(shape, depths):
    """Runs one round: reads and generates at a depth."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.models.llama import Model, ModelArgs

    heads = shape["width"] // HEAD
    groups = max(heads // 4, 1)  # as in the Llamas whose attention Llamba replaces
    model = Model(
        ModelArgs(
            model_type="llama",
            hidden_size=shape["width"],
            num_hidden_layers=shape["layers"],
            intermediate_size=shape["mlp"],
            num_attention_heads=heads,
            num_key_value_heads=groups,
            head_dim=HEAD,
            rms_norm_eps=1e-5,
            vocab_size=shape["vocab"],
            rope_theta=500000.0,
            max_position_embeddings=1 << 20,
            tie_word_embeddings=True,
        )
    )
    mx.eval(model.parameters())
    weights = sum(array.nbytes for _, array in tree_flatten(model.parameters()))

    def read(cache):
        ids = mx.array([[i * 7919 % shape["vocab"] for i in range(READ)]])
        mx.eval(mx.argmax(model(ids, cache)[:, -1, :], axis=-1), [entry.state for entry in cache])

    def generate(cache, count=GENERATE):
        token = mx.array([[1]])
        for _ in range(count):
            following = mx.argmax(model(token, cache)[:, -1, :], axis=-1, keepdims=True)
            mx.async_eval(following)
            mx.eval(token)
            token = following
        mx.eval(token)

    for depth in depths:
        # The time of a step depends on the size of the cache, not on its contents: random keys and
        # values replace a text that would take minutes to read.
        cache = make_prompt_cache(model)
        for entry in cache:
            if depth:
                shape_of = (1, groups, depth, HEAD)
                entry.update_and_fetch(mx.random.normal(shape_of), mx.random.normal(shape_of))
                mx.eval(entry.state)
        for test, tokens, run in [("read", READ, read), ("generate", GENERATE, generate)]:

            def once():
                start = time.perf_counter()
                run(cache)
                seconds = time.perf_counter() - start
                active = mx.get_active_memory()
                for entry in cache:
                    entry.trim(tokens)
                return seconds, active

            mx.clear_cache()
            once()
            mx.reset_peak_memory()
            runs = [once()]
            while len(runs) < REPETITIONS and sum(seconds for seconds, _ in runs) < ENOUGH:
                runs.append(once())
            active = runs[-1][1]
            row = dict(
                test=test,
                depth=depth,
                tokens_per_second=statistics.mean(tokens / seconds for seconds, _ in runs),
                peak_memory=mx.get_peak_memory(),
                active_memory=active,
                weight_bytes=weights,
            )
            print(json.dumps(row), flush=True)
        del cache


def rows(command, environment=None):
    run = subprocess.run(command, stdout=subprocess.PIPE, env=environment, text=True)
    if run.returncode:
        sys.exit(f"{command[0]} ended with {run.returncode}")
    return [json.loads(line) for line in run.stdout.splitlines()]


def compare(command, name, depths, rounds):
    """{(side, test, depth): row of medians}"""
    shape = SHAPES[name]
    ours = [command, "bench", "--json", "--shape", "custom", "-d", depths]
    ours += ["-p", str(READ), "-n", str(GENERATE), "-r", str(REPETITIONS)]
    for size in ("width", "layers", "mlp", "vocab"):
        ours += [f"--{size}", str(shape[size])]
    theirs = [sys.executable, __file__, "--peer", name, depths]
    blas = {**os.environ, "LD_PRELOAD": os.environ.get("PEER_BLAS", "")}
    found = {}
    for i in range(rounds):
        print(f"== round {i + 1} of {rounds}", file=sys.stderr, flush=True)
        for side, lines in (("ours", rows(ours)), ("theirs", rows(theirs, blas))):
            for row in lines:
                found.setdefault((side, row["test"], row["depth"]), []).append(row)
    numbers = lambda row: {k: v for k, v in row.items() if isinstance(v, (int, float))}
    return {
        key: {name: statistics.median(row[name] for row in group) for name in numbers(group[0])}
        for key, group in found.items()
    }


def table(medians, depths):
    mib = lambda row, what: row[what] / 2**20
    weights = [mib(medians[side, "read", depths[0]], "weight_bytes") for side in ("ours", "theirs")]
    print(f"Weights: mlx-llamba {weights[0]:.0f} MiB, mlx-lm's Llama {weights[1]:.0f} MiB.\n")
    print(
        f"| tokens before | generate, tok/s | mlx-lm | ratio | read {READ}, tok/s | mlx-lm | ratio "
        "| in use, MiB | mlx-lm | peak, MiB | mlx-lm |"
    )
    print("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for depth in depths:
        cells = [str(depth)]
        for test in ("generate", "read"):
            speeds = [medians[side, test, depth]["tokens_per_second"] for side in ("ours", "theirs")]
            cells += [f"{speed:.1f}" for speed in speeds] + [f"{speeds[0] / speeds[1]:.2f}"]
        for what in ("active_memory", "peak_memory"):
            cells += [f"{most(medians, side, depth, what):.0f}" for side in ("ours", "theirs")]
        print(f"| {' | '.join(cells)} |")


def most(medians, side, depth, what):
    return max(medians[side, test, depth][what] for test in ("read", "generate")) / 2**20


def plot(medians, name, depths, file):
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "depth", "font.family": "sans-serif"})
    speed = lambda test: lambda side, depth: medians[side, test, depth]["tokens_per_second"]
    panels = [
        ("generating, tokens a second", speed("generate")),
        (f"reading {READ} more, tokens a second", speed("read")),
        ("peak memory, MiB", lambda side, depth: most(medians, side, depth, "peak_memory")),
    ]
    sides = [("ours", "mlx-llamba", "#0072b2", "o"), ("theirs", "Llama of like size, mlx-lm", "#d55e00", "s")]
    figure, charts = plt.subplots(1, 3, figsize=(11.4, 3.9))
    label = lambda n: f"{n // 1024}k" if n and n % 1024 == 0 else str(n)
    for chart, (title, value) in zip(charts, panels):
        for side, legend, colour, marker in sides:
            values = [value(side, depth) for depth in depths]
            chart.plot(range(len(depths)), values, color=colour, marker=marker, label=legend)
        chart.set_title(title, fontsize=11)
        chart.set_xticks(range(len(depths)), [label(depth) for depth in depths])
        chart.set_xlabel("tokens before")
        chart.set_ylim(bottom=0)
        chart.margins(y=0.12)
        chart.grid(color="#e1e1e1")
        chart.set_axisbelow(True)
        chart.spines[["top", "right"]].set_visible(False)
    handles, names = charts[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=2, frameon=False)
    sizes = SHAPES[name]
    figure.suptitle(f"{sizes['layers']} layers of {sizes['width']}, float32, CPU", fontsize=11)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(file, metadata={"Date": None, "Creator": None})


def main():
    if sys.argv[1:2] == ["--peer"]:
        name, depths = sys.argv[2:4]
        return peer(SHAPES[name], [int(depth) for depth in depths.split(",")])
    command, name, depths, rounds, *file = sys.argv[1:]
    medians = compare(command, name, depths, int(rounds))
    depths = sorted({int(depth) for depth in depths.split(",")})
    table(medians, depths)
    if file:
        plot(medians, name, depths, file[0])


main()
