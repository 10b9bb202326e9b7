"""The table and the picture of scripts/tiny-pair: means over seeds with their standard errors, and the
first seed's curves. The table is measured on the stories of test.jsonl, the curves come from the logs.

usage: tiny-pair.py COMMAND DIRECTORY [PLOT.svg]
"""

import json
import pathlib
import statistics
import subprocess
import sys

ARMS = [("all", "1+2+3"), ("2+3", "2+3"), ("3", "3")]
INITS = ["calibrated", "random"]
PROMPTS = ["Once upon a time", "One day", "The little rabbit", "There was a", "In the forest", "Max the dog"]


def held_out(run):
    """(tokens trained, metrics) of each evaluation."""
    with open(run / "log.jsonl") as lines:
        records = [json.loads(line) for line in lines]
    return [(record["tokens"], record["held_out"]) for record in records if record.get("held_out")]


def call(*arguments):
    return subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True).stdout


def measure(command, out, model, *options):
    """Perplexity, ratio, KL and agreement on the test stories, each with its error over documents, and
    the share of different 4-grams in what the model writes."""
    data = str(out / "test.jsonl")
    found = json.loads(call(command, "compare", "--json", str(out / "teacher"), str(model), "--data", data, *options))
    return {
        "perplexity": found["other"]["perplexity"],
        "ratio": found["perplexity_ratio"],
        "kl": found["mean_kl"],
        "agreement": found["top1_agreement"],
        "distinct": {"value": distinct(command, model), "document_error": None} if not options else None,
    }


def distinct(command, model):
    """Mean over samples at temperature 0.8 of different 4-grams of words by all of them."""
    shares = []
    for seed, prompt in enumerate(PROMPTS):
        sampling = ["--temperature", "0.8", "--seed", str(seed), "--max-tokens", "200"]
        words = call(command, "generate", "--model", str(model), *sampling, prompt).split()
        grams = list(zip(words, words[1:], words[2:], words[3:]))
        if grams:
            shares.append(len(set(grams)) / len(grams))
    return statistics.mean(shares) if shares else 0.0


def cell(found, key, digits, factor=1, unit=""):
    """The mean over seeds with its standard error; of one seed, with the error over documents."""
    if found[0][key] is None:
        return ""
    values = [factor * one[key]["value"] for one in found]
    error = factor * (found[0][key]["document_error"] or 0)
    if len(values) > 1:
        error = statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.{digits}f}" + (f" ± {error:.{digits}f}" if error else "") + unit


def row(name, found):
    cells = [cell(found, "perplexity", 3), cell(found, "ratio", 3), cell(found, "kl", 4)]
    cells += [cell(found, "agreement", 1, 100, " %"), cell(found, "distinct", 3)]
    print(f"| {' | '.join([name, *cells])} |")


def main(command, out, plot=None):
    out = pathlib.Path(out)
    runs = {
        (arm, init): [run for run in sorted(out.glob(f"student-{arm}-{init}-*")) if run.name[-1].isdigit()]
        for init in INITS
        for arm, _ in ARMS
    }
    print("| model | perplexity | ratio | KL, nats | same top-1 | distinct-4 |")
    print("|---|---:|---:|---:|---:|---:|")
    row("teacher", [measure(command, out, out / "teacher")])
    for (arm, init), students in runs.items():
        found = [measure(command, out, student) for student in students]
        row(f"student, stages {dict(ARMS)[arm]}, {init} mixers", found)
    row("student, stages 1+2+3, calibrated, 4 bits", [measure(command, out, out / "student-all-calibrated-1-4bit")])
    window = measure(command, out, out / "teacher", "--attention-window", "64", "--sinks", "4")
    row("teacher that sees the last 64 tokens and the first 4", [window])
    if plot:
        logs = {kind: [held_out(run) for run in students] for kind, students in runs.items()}
        draw(logs, held_out(out / "teacher")[-1][1]["perplexity"], plot)


def draw(runs, teacher, plot):
    """Curves of the first seeds, and how far from the teacher all of them end."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "tiny-pair"
    figure, (curves, ends) = plt.subplots(1, 2, figsize=(11.4, 4.2), width_ratios=(3, 2))
    colours = dict(zip(dict(ARMS), ("tab:blue", "tab:orange", "tab:green")))
    for (arm, init), seeds in runs.items():
        points = [(tokens / 1e3, metrics["perplexity"]) for tokens, metrics in seeds[0]]
        fitted = init == "calibrated"
        label = f"stages {dict(ARMS)[arm]}, {init} mixers"
        curves.plot(*zip(*points), marker=".", color=colours[arm], linestyle="-" if fitted else "--", label=label)
        last = [run[-1][1]["kl"] for run in seeds]
        error = statistics.stdev(last) / len(last) ** 0.5 if len(last) > 1 else None
        ends.errorbar(
            list(dict(ARMS)).index(arm), statistics.mean(last), error, color=colours[arm],
            marker="o" if fitted else "s", mfc=None if fitted else "none", capsize=4, linestyle="none",
        )  # fmt: skip
    curves.axhline(teacher, color="black", linewidth=1, label="teacher")
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
    filled = ends.plot([], [], "o", color="gray", label="calibrated mixers")
    hollow = ends.plot([], [], "s", color="gray", mfc="none", label="random mixers")
    ends.legend(handles=filled + hollow, frameon=False, fontsize="small")
    for chart in (curves, ends):
        chart.grid(True, which="both", alpha=0.3)
    figure.tight_layout()
    figure.savefig(plot, metadata={"Date": None})


main(*sys.argv[1:])
