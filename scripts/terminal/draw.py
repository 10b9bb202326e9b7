"""Draws a screen as a self-contained SVG."""

import io
import re
from itertools import groupby

from rich.console import CONSOLE_SVG_FORMAT, Console
from rich.style import Style
from rich.terminal_theme import TerminalTheme
from rich.text import Text

FONTS = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
BASIC = [(40, 44, 52), (224, 108, 117), (152, 195, 121), (229, 192, 123)]
BASIC += [(97, 175, 239), (198, 120, 221), (86, 182, 194), (200, 204, 212)]
THEME = TerminalTheme((30, 33, 39), (212, 215, 221), BASIC)
# rich's picture without the fonts that it downloads and the name of its origin.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}|<!--.*?-->", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
FORMAT = FORMAT.replace("Fira Code, monospace", FONTS)


def colour(name):
    """Converts a color of pyte to rich's name: a name, or six hexadecimal digits."""
    if name == "default":
        return None
    name = "yellow" if name == "brown" else name
    return f"#{name}" if re.fullmatch("[0-9a-f]{6}", name) else name


def style(cell):
    return Style(
        color=colour(cell.fg),
        bgcolor=colour(cell.bg),
        bold=cell.bold,
        italic=cell.italics,
        underline=cell.underscore,
        reverse=cell.reverse,
    )


def styled(screen, row):
    """Converts a line of the screen, without trailing blanks."""
    cells = [screen.buffer[row][column] for column in range(len(screen.display[row].rstrip()))]
    line = Text()
    for look, run in groupby(cells, style):
        text = "".join(cell.data for cell in run)
        # Not every viewer draws leading blanks of a text; separate blanks are not drawn.
        indent = len(text) - len(text.lstrip())
        line.append(text[:indent], look).append(text[indent:], look)
    return line


def svg(screen, name):
    """Draws the lines of the screen down to the last non-blank one; `name` must consist of letters."""
    height = max(row for row, line in enumerate(screen.display) if line.strip()) + 1
    console = Console(
        record=True,
        width=screen.columns,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
    )
    for row in range(height):
        console.print(styled(screen, row), no_wrap=True, overflow="ignore", crop=False)
    picture = console.export_svg(title="", theme=THEME, code_format=FORMAT, unique_id=name)
    return "\n".join(line.rstrip() for line in picture.splitlines() if line.strip()) + "\n"
