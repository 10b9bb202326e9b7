"""The table and the picture of scripts/tiny-pair, out of the logs of its runs.

usage: tiny-pair.py COMMAND DIRECTORY DATA [PLOT.svg]
"""

import json
import pathlib
import subprocess
import sys

ARMS = [("all", "1+2+3"), ("2+3", "2+3"), ("3", "3")]


def records(run):
    with open(run / "log.jsonl") as lines:
        return [json.loads(line) for line in lines]


def held_out(run):
    """(tokens trained, metrics) of each evaluation."""
    return [(record["tokens"], record["held_out"]) for record in records(run) if record.get("held_out")]


def compare(command, reference, other, data, *options):
    """What `compare` says of held-out text, under the names of the log."""
    answer = subprocess.run(
        [command, "compare", "--json", str(reference), str(other), "--data", data, "--every", "50", *options],
        check=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    found = json.loads(answer.stdout)
    return {
        "perplexity": found["other"]["perplexity"]["value"],
        "kl": found["mean_kl"]["value"],
        "agreement": found["top1_agreement"]["value"],
    }


def row(name, tokens, metrics, teacher):
    share = f"{100 * tokens / teacher[0]:.0f} %" if tokens else ""
    kl, same = metrics.get("kl"), metrics.get("agreement")
    print(
        f"| {name} | {f'{tokens:,}' if tokens else ''} | {share} | {metrics['perplexity']:.3f} "
        f"| {metrics['perplexity'] / teacher[1]['perplexity']:.3f} "
        f"| {'' if kl is None else f'{kl:.3f}'} | {'' if same is None else f'{100 * same:.1f} %'} |"
    )


def main(command, out, data, plot=None):
    out = pathlib.Path(out)
    teacher = held_out(out / "teacher")[-1]
    print("| model | tokens | of the teacher's | perplexity | ratio | KL | same likeliest token |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    row("teacher", *teacher, teacher)
    runs = {
        (arm, copy): held_out(out / f"student-{arm}-copy-{copy}")
        for copy in ("true", "false")
        for arm, _ in ARMS
    }
    for (arm, copy), evaluations in runs.items():
        what = "Q, K, V, O copied" if copy == "true" else "random mixers"
        row(f"student, stages {dict(ARMS)[arm]}, {what}", *evaluations[-1], teacher)
    best = "student-all-copy-true"
    four = compare(command, out / "teacher", out / f"{best}-4bit", data)
    row("student, stages 1+2+3, 4 bits", runs["all", "true"][-1][0], four, teacher)
    limited = compare(command, out / "teacher", out / "teacher", data, "--attention-window", "64", "--sinks", "4")
    row("teacher that sees the last 64 tokens and the first 4", None, limited, teacher)
    if plot:
        draw(runs, teacher, plot)


def draw(runs, teacher, plot):
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "tiny-pair"
    figure, axes = plt.subplots(figsize=(7.5, 4.2))
    for (arm, copy), evaluations in runs.items():
        points = [(tokens / 1e3, metrics["perplexity"]) for tokens, metrics in evaluations]
        label = f"stages {dict(ARMS)[arm]}, {'Q, K, V, O copied' if copy == 'true' else 'random mixers'}"
        axes.plot(*zip(*points), marker=".", linestyle="-" if copy == "true" else "--", label=label)
    axes.axhline(teacher[1]["perplexity"], color="black", linewidth=1, label="teacher")
    axes.set(
        xlabel="thousands of tokens the student has read",
        ylabel="perplexity of held-out stories",
        yscale="log",
        title="A Llamba learns from a Llama of its size",
    )
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    figure.tight_layout()
    figure.savefig(plot, metadata={"Date": None})


main(*sys.argv[1:])
