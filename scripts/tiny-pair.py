"""The table and the picture of scripts/tiny-pair, out of the logs of its runs: means over seeds with
their standard errors, and the first seed's curves.

usage: tiny-pair.py COMMAND DIRECTORY DATA [PLOT.svg]
"""

import json
import pathlib
import statistics
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


def mean(values):
    """The mean with its standard error, if there is one."""
    middle = statistics.mean(values)
    return middle, statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def number(values, digits, factor=1, unit=""):
    middle, error = mean([factor * value for value in values])
    return f"{middle:.{digits}f}" + (f" ± {error:.{digits}f}" if error is not None else "") + unit


def row(name, tokens, metrics, teacher):
    """`metrics`: of each model of that kind."""
    share = f"{100 * tokens / teacher[0]:.0f} %" if tokens else ""
    perplexity = [one["perplexity"] for one in metrics]
    cells = [name, f"{tokens:,}" if tokens else "", share, number(perplexity, 3)]
    cells.append(number(perplexity, 3, 1 / teacher[1]["perplexity"]))
    compared = "kl" in metrics[0]
    cells.append(number([one["kl"] for one in metrics], 4) if compared else "")
    cells.append(number([one["agreement"] for one in metrics], 1, 100, " %") if compared else "")
    print(f"| {' | '.join(cells)} |")


def main(command, out, data, plot=None):
    out = pathlib.Path(out)
    teacher = held_out(out / "teacher")[-1]
    print("| model | tokens | of the teacher's | perplexity | ratio | KL | same top-1 token |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    row("teacher", teacher[0], [teacher[1]], teacher)
    runs = {
        (arm, copy): [held_out(run) for run in sorted(out.glob(f"student-{arm}-copy-{copy}-*")) if run.name[-1].isdigit()]
        for copy in ("true", "false")
        for arm, _ in ARMS
    }
    for (arm, copy), seeds in runs.items():
        what = "Q, K, V, O copied" if copy == "true" else "random mixers"
        row(f"student, stages {dict(ARMS)[arm]}, {what}", seeds[0][-1][0], [run[-1][1] for run in seeds], teacher)
    best = "student-all-copy-true-1"
    four = compare(command, out / "teacher", out / f"{best}-4bit", data)
    row("student, stages 1+2+3, Q, K, V, O copied, 4 bits", runs["all", "true"][0][-1][0], [four], teacher)
    limited = compare(command, out / "teacher", out / "teacher", data, "--attention-window", "64", "--sinks", "4")
    row("teacher that sees the last 64 tokens and the first 4", None, [limited], teacher)
    if plot:
        draw(runs, teacher, plot)


def draw(runs, teacher, plot):
    """Curves of the first seeds, and how far from the teacher all of them end."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "tiny-pair"
    figure, (curves, ends) = plt.subplots(1, 2, figsize=(11.4, 4.2), width_ratios=(3, 2))
    colours = dict(zip(dict(ARMS), ("tab:blue", "tab:orange", "tab:green")))
    for (arm, copy), seeds in runs.items():
        points = [(tokens / 1e3, metrics["perplexity"]) for tokens, metrics in seeds[0]]
        copied = copy == "true"
        label = f"stages {dict(ARMS)[arm]}, {'Q, K, V, O copied' if copied else 'random mixers'}"
        curves.plot(*zip(*points), marker=".", color=colours[arm], linestyle="-" if copied else "--", label=label)
        kl, error = mean([run[-1][1]["kl"] for run in seeds])
        place = list(dict(ARMS)).index(arm)
        ends.errorbar(
            place, kl, error, color=colours[arm], marker="o" if copied else "s", mfc=None if copied else "none",
            capsize=4, linestyle="none",
        )  # fmt: skip
    curves.axhline(teacher[1]["perplexity"], color="black", linewidth=1, label="teacher")
    curves.set(
        xlabel="thousands of tokens the student has read",
        ylabel="perplexity of held-out stories",
        yscale="log",
        title="A Llamba learns from a Llama of its size",
    )
    curves.yaxis.set_major_formatter("{x:g}")
    curves.yaxis.set_minor_formatter("{x:g}")
    curves.legend(frameon=False, fontsize="small")
    ends.set(
        xlabel="stages", ylabel="KL from the teacher at the end, nats", xlim=(-0.5, 2.5),
        xticks=range(len(ARMS)), xticklabels=dict(ARMS).values(),
    )  # fmt: skip
    filled = ends.plot([], [], "o", color="gray", label="Q, K, V, O copied")
    hollow = ends.plot([], [], "s", color="gray", mfc="none", label="random mixers")
    ends.legend(handles=filled + hollow, frameon=False, fontsize="small")
    for chart in (curves, ends):
        chart.grid(True, which="both", alpha=0.3)
    figure.tight_layout()
    figure.savefig(plot, metadata={"Date": None})


main(*sys.argv[1:])
