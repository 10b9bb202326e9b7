"""A shell in its own terminal: types text and reads the screen."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time

import pyte

PROMPT = "$ "
# Typed text is bold: colors begin after the prompt and end before the command runs.
COLOURS = {"PS1": "\\e[1;32m$ \\e[0;1m", "PS2": "\\e[1;32m> \\e[0;1m", "PS0": "\\e[0m"}


class Session:
    """Bash with a screen of `columns` and plenty of lines. `home` reads `~` on the screen."""

    def __init__(self, environment, home, columns, lines=100):
        self.home = os.fsencode(home)
        self.raw = b""
        self.columns, self.lines = columns, lines
        self.screen = pyte.Screen(columns, lines)
        self.child, self.fd = pty.fork()
        if self.child == 0:
            os.chdir(home)
            # Without readline, the terminal itself echoes what is typed.
            shell = ["bash", "--norc", "--noprofile", "--noediting"]
            os.execvpe("bash", shell, environment | COLOURS)
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, size)
        self.wait(PROMPT)

    def run(self, text, prompt=PROMPT):
        """Types `text`, line by line, and waits for `prompt`, if any, on a line of its own."""
        for line in text.split("\n"):
            start = self.screen.cursor.y
            os.write(self.fd, line.encode() + b"\n")
            awaited = "> " if line.endswith("\\") else prompt
            if awaited:
                self.wait(awaited, start)

    def wait(self, prompt, after=-1, patience=120):
        """Waits for a line below `after` that is only `prompt`, with the cursor behind it."""
        self.until(lambda: self.at(prompt, after), f"the prompt {prompt!r}", patience)

    def at(self, prompt, after):
        cursor = self.screen.cursor
        line = self.screen.display[cursor.y].rstrip()
        return cursor.y > after and cursor.x == len(prompt) and line == prompt.rstrip()

    def until_shows(self, pattern, patience=300):
        """Waits until the screen matches `pattern`."""
        self.until(lambda: re.search(pattern, self.text()), pattern, patience)

    def until(self, condition, what, patience):
        end = time.monotonic() + patience
        while not condition():
            if time.monotonic() > end:
                raise SystemExit(f"{what} did not come. The screen:\n{self.text()}")
            if select.select([self.fd], [], [], 0.05)[0]:
                self.read()

    def read(self):
        self.raw += os.read(self.fd, 1 << 16)
        # The whole screen, because a path may arrive in two parts.
        self.screen.reset()
        pyte.ByteStream(self.screen).feed(self.raw.replace(self.home, b"~"))

    def text(self):
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def close(self):
        """Ends the running command, then the shell."""
        running = os.tcgetpgrp(self.fd)
        if running != self.child:
            os.killpg(running, signal.SIGKILL)
            self.until(lambda: os.tcgetpgrp(self.fd) == self.child, "the shell", 10)
        os.kill(self.child, signal.SIGHUP)
        os.close(self.fd)
        os.waitpid(self.child, 0)
