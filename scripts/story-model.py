"""The steps of scripts/story-model that are not the command's own: prompts for a teacher, the corpus from
what it wrote, and the report.

usage: story-model.py prompts COUNT SEED OUTPUT.jsonl
       story-model.py corpus PROMPTS.jsonl WRITTEN.jsonl OUTPUT.jsonl
       story-model.py report COMMAND MODEL HELD_OUT.jsonl [OTHER_MODEL...]
"""

import collections
import json
import math
import multiprocessing
import random
import re
import subprocess
import sys

from topics import ANIMALS, EVENTS, MOODS, NAMES, PEOPLE, PLACES, WORDS, listed

ASKS = ["Tell me a story about {}.", "Write a story about {}.", "Tell me about {}.", "A story about {}, please.",
        "Can you tell me a story about {}?", "I want a story about {}.", "Write a short story about {}.", "{}",
        "Tell a bedtime story about {}."]


def prompts(count, seed, output):
    """Questions for the teacher, each with the shorter one that the student is to answer."""
    r = random.Random(int(seed))
    places, events = listed(PLACES), listed(EVENTS)
    with open(output, "w") as lines:
        for _ in range(int(count)):
            who = r.choice(ANIMALS if r.random() < 0.65 else PEOPLE).replace("_", " ")
            mood, name, place, event = r.choice(MOODS), r.choice(NAMES), r.choice(places), r.choice(events)
            one = f"{'an' if mood[0] in 'aeiou' or mood == 'honest' else 'a'} {mood} {who}"
            hero = f"{one} named {name} {place} who {event}"
            parts = [one, f"{one} named {name}", f"{one} who {event}", f"{one} {place}", hero]
            about = [who, name]
            if r.random() < 0.25:
                other, friend = r.choice(ANIMALS).replace("_", " "), r.choice(NAMES)
                hero = f"{one} named {name} and a {other} named {friend} {place}"
                about += [other]
                parts = [f"{one} and a {other}", hero, f"{name} the {who} and a {other}"]
            question = f"Write a {r.choice(['short', 'very short'])}, simple story for young children about {hero}."
            short = r.choice(ASKS).format(r.choice(parts))
            if r.random() < 0.5:
                question += " Use short sentences and easy words."
            if r.random() < 0.4:
                first, second = r.sample(WORDS, 2)
                question += f' Use the words "{first}" and "{second}".'
            if r.random() < 0.7:
                question += " Start the story right away."
            message = {"role": "user", "content": question}
            line = {"messages": [message], "short": short[0].upper() + short[1:], "about": about}
            lines.write(json.dumps(line) + "\n")


COMMON = set("said that they their there with were have from them then when what would could this very into".split())


def repeated(words):
    """The share of 4-grams that stood in the text before."""
    grams = list(zip(words, words[1:], words[2:], words[3:]))
    return 1 - len(set(grams)) / max(len(grams), 1)


# The share of the good stories that is kept, those that repeat themselves least.
KEPT = 0.75
# A word twice in a row; children's books say some words twice.
STAMMER = re.compile(r"\b(?!(?:very|had|that|far|many|long|really|so|oh|no|yes|knock|help|more|tick|ha|hush) )(\w+),? \1\b")


def clean(story):
    """The story without what is no story, up to its last whole sentence before it repeats itself; None if too
    little is left."""
    story = story.replace("<|im_end|>", "").replace("\u2019", "'").replace("\u201c", '"').replace("\u201d", '"').strip()
    story = re.sub(r"^(Title:.*|#.*|\*\*.*\*\*)\n+", "", story).strip()
    if story.startswith('"') and story.count('"') % 2:
        story = story[1:]
    sentences, seen, words, grams, old = [], set(), [], set(), 0
    for piece in re.findall(r".*?[.!?][\"']?(?:\s+|$)", story, re.S):
        key = piece.strip().lower()
        if STAMMER.search(key):
            break
        first = max(len(words) - 3, 0)
        words += key.split()
        new = list(zip(*(words[first + i :] for i in range(4))))
        old += len(new) - len(set(new) - grams)
        grams.update(new)
        if (len(key) > 12 and key in seen) or old > 0.1 * max(len(words), 20):
            break
        seen.add(key)
        sentences.append(piece)
    story = "".join(sentences).strip()
    plain = story.isascii() and not re.search(r"[*#<>\[\]{}|\\_]|https?:|\b(AI|assistant|prompt|words?:)\b", story)
    return story if plain and len(story.split()) >= 40 else None


def dullness(story, about):
    """The share of 3-grams that stood in the story before, and the share of its most frequent long word beside those
    that it is about."""
    words = re.findall(r"[a-z']+", story.lower())
    grams = list(zip(words, words[1:], words[2:]))
    known = {word for name in about for word in name.lower().split()}
    count = collections.Counter(word for word in words if len(word) > 3 and word not in known and word not in COMMON)
    return 1 - len(set(grams)) / len(grams) + max(count.values(), default=0) / len(words)


def question_and_story(line):
    """The teacher's question and the clean story of a line that it wrote; None of a bad one."""
    text = json.loads(line)["text"]
    found = re.search(r"<\|im_start\|>user\n(.*?)<\|im_end\|>\n<\|im_start\|>assistant\n(.*)", text, re.S)
    story = found and clean(found.group(2))
    return (found.group(1), story) if story else None


def corpus(questions, written, output):
    """The stories that are about what was asked for and say the same least often, half of them as the answer to the
    short question."""
    r = random.Random(5)
    with open(questions) as lines:
        lines = map(json.loads, lines)
        asked = {line["messages"][0]["content"]: line for line in lines}
    count, seen, good = 0, set(), []
    with multiprocessing.Pool() as pool, open(written) as lines:
        for found in pool.imap(question_and_story, lines, 500):
            count += 1
            if not found or found[1][:200] in seen:
                continue
            question, story = found
            line = asked.get(question)
            lower = story.lower()
            if line and all(name.lower() in lower for name in line["about"]):
                seen.add(story[:200])
                good.append((dullness(story, line["about"]), line["short"], story))
    limit = sorted(score for score, _, _ in good)[int(KEPT * (len(good) - 1))]
    kept = [(short, story) for score, short, story in good if score <= limit]
    with open(output, "w") as out:
        for short, story in kept:
            if r.random() < 0.5:
                story = f"{short}<|begin_of_text|>{story}"
            out.write(json.dumps({"text": story}) + "\n")
    print(f"{count} stories, {len(good)} about what was asked for, {len(kept)} kept: "
          f"{sum(len(story) for _, story in kept)} characters")


def call(*arguments):
    return subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True).stdout


def report(command, model, held_out, *others):
    """Bits of a byte on held-out stories, and the share of different 4-grams at temperature 0.8."""
    with open(held_out) as lines:
        texts = [json.loads(line)["text"] for line in lines]
    letters = sum(len(text.encode()) for text in texts)
    print("| model | perplexity | per byte | bits a byte | distinct-4 |")
    print("|---|---:|---:|---:|---:|")
    for one in [model, *others]:
        found = json.loads(call(command, "perplexity", "--json", "--model", one, "--data", held_out))
        shares = []
        for seed in range(20):
            sampling = ["--temperature", "0.8", "--repetition-penalty", "1", "--seed", str(seed), "--max-tokens", "256"]
            words = call(command, "generate", "--model", one, *sampling, "Once upon a time").split()
            shares.append(1 - repeated(words))
        loss = math.log(found["perplexity"]["value"]) * found["tokens"] / letters
        cells = [one, f"{found['perplexity']['value']:.3f}", f"{math.exp(loss):.4f}", f"{loss / math.log(2):.4f}"]
        print(f"| {' | '.join(cells)} | {sum(shares) / len(shares):.3f} |")


if __name__ == "__main__":
    {"prompts": prompts, "corpus": corpus, "report": report}[sys.argv[1]](*sys.argv[2:])
