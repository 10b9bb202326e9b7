"""Draws the guide's pictures: COMMAND, the directory of its MLX, the directory for the pictures and,
if not all are wanted, their names."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from draw import svg
from session import Session

TREE = Path.cwd()
STORIES = TREE / "mlx-llamba-mohawk/data/stories.jsonl"
LARGEST = 200 << 10
TEACHER = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
TEACHER |= {"num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 176}


def story(shell):
    generate = "mlx-llamba generate --echo --temperature 0.6 --seed"
    shell.run(f'{generate} 5 -n 40 \\\n  --state-out lily.state "Lily found a key in the garden."')
    shell.run("ls -sh lily.state")
    shell.run(f'{generate} 2 -n 30 \\\n  --state-in lily.state " The next morning"')


def chat(shell):
    shell.run("mlx-llamba chat --seed 1 --max-tokens 40", prompt="> ")
    lines = ["Tell me a story about a brave penguin.", "/fork", "Tell me more about Coco."]
    lines += ["/switch 1", "/undo", "A story about a robot named Pip, please.", "/history"]
    for line in lines:
        shell.run(line, prompt="> ")


def doctor(shell):
    shell.run("mlx-llamba doctor")


def quantize(shell):
    lines = STORIES.read_text().splitlines()[-12:]
    shell.file("stories.txt", "\n".join(json.loads(line)["text"] for line in lines))
    shell.run("mlx-llamba inspect")
    shell.run("mlx-llamba quantize --bits 3 --requantize --report stories.txt --output small")


def distill(shell):
    sizes = [part for size in TEACHER.items() for part in ("--set", "model.{}={}".format(*size))]
    shell.file("stories.jsonl", STORIES.read_text())
    tokenizer = str(TREE / "mlx-llamba/assets/llamba-stories")
    train = ["train", "--arch", "llama", "--data", "stories.jsonl", "--tokenizer", tokenizer]
    shell.quietly(*train, *sizes, "--batch", "8", "--tokens", "200000", "--output", "teacher")
    shell.run(
        "mlx-llamba distill --teacher teacher --data stories.jsonl --config tiny \\\n"
        "  --tokens 60000 --set evaluation.every=200 --output student",
        prompt=None,
    )
    shell.until_shows(r"distillation \S+ +2\d\d/")


# Each with its number of columns.
PICTURES = {story: 88, chat: 88, doctor: 116, quantize: 112, distill: 104}


class Shell(Session):
    """Opens a shell in a new home that knows the command and nothing of this machine."""

    def __init__(self, home, command, mlx, columns):
        # Laid out as in the archives, so that the command finds MLX.
        (home / "bin").mkdir()
        (home / "lib").mkdir()
        shutil.copy(command, home / "bin")
        for library in [*Path(mlx).iterdir(), *Path(mlx, "../../mlx_cpu.libs").glob("*")]:
            if library.is_file():
                shutil.copy(library, home / "lib")
        self.place = home
        path = f"{home}/bin:/usr/bin:/bin"
        self.environment = {"PATH": path, "HOME": str(home), "TERM": "xterm-256color"}
        super().__init__(self.environment | {"LANG": "C.UTF-8"}, str(home), columns)

    def file(self, name, text):
        (self.place / name).write_text(text)

    def quietly(self, *arguments):
        command = [self.place / "bin/mlx-llamba", *arguments]
        subprocess.run(command, cwd=self.place, env=self.environment, check=True, capture_output=True)


def private(text, *places):
    """Lists parts of a screen that would tell where it was made."""
    words = [*map(str, places), str(Path.home()), socket.gethostname(), str(TREE)]
    return [word for word in words if len(word) > 3 and word in text]


def main(command, mlx, directory, *names):
    Path(directory).mkdir(exist_ok=True)
    unknown = set(names) - {picture.__name__ for picture in PICTURES}
    if unknown:
        raise SystemExit(f"there is no picture {', '.join(unknown)}")
    for picture, columns in PICTURES.items():
        name = picture.__name__
        if names and name not in names:
            continue
        print(f"== {name}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as home:
            shell = Shell(Path(home).resolve(), command, mlx, columns)
            picture(shell)
            drawn, shown = svg(shell.screen, name), shell.text()
            shell.close()
        if words := private(shown, home, Path(command).parent, mlx):
            raise SystemExit(f"the picture {name} has {', '.join(words)} in it")
        if "http" in drawn.replace("http://www.w3.org/2000/svg", ""):
            raise SystemExit(f"the picture {name} refers to something elsewhere")
        if len(drawn) > LARGEST:
            raise SystemExit(f"the picture {name} has {len(drawn)} bytes; {LARGEST} are allowed")
        part = Path(directory, f"{name}.svg.part")
        part.write_text(drawn)
        os.replace(part, part.with_suffix(""))


main(*sys.argv[1:])
