"""Renders conversations with jinja2, set up as transformers does it, into golden.json and templates.json.

Run in this directory: python3 make_golden.py (jinja2 3.1.6).
"""
import datetime
import glob
import json
import os
import sys
import time

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

os.environ["TZ"] = "UTC"
time.tzset()
NOW = 1767787200  # 2026-01-07 12:00 UTC: the same day nearly everywhere


class Generation(Extension):
    """The tags that mark the assistant's text; they leave it as it is."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_same")
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _same(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent,
                          separators=separators, sort_keys=sort_keys)

    def strftime_now(form):
        return datetime.datetime.fromtimestamp(NOW).strftime(form)

    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = strftime_now
    return env


def says(role, content, **fields):
    return {"role": role, "content": content, **fields}


WEATHER = {"type": "function", "function": {
    "name": "weather", "description": "The weather at a place: \"now\" or <later>",
    "parameters": {"type": "object", "properties": {
        "place": {"type": "string", "description": "Ort, z. B. Köln"},
        "days": {"type": "integer", "default": 3, "minimum": 0.5}},
        "required": ["place"]}}}
CALL = {"type": "function", "id": "c1", "function": {
    "name": "weather", "arguments": {"place": "Zürich", "days": 1, "exact": True, "unit": None}}}

CONVERSATIONS = {
    "one": [says("user", "Hello")],
    "system": [says("system", "  Be brief.\n"), says("user", "Name three rivers.")],
    "turns": [says("system", "Be brief."), says("user", "Hi"), says("assistant", "Hello! "),
              says("user", " \n Why?\n\n"), says("assistant", "Because."), says("user", "Oh")],
    "unicode": [says("user", "日本語 🦙 e\u0301 \u200d ß\u00a0x"), says("assistant", "¡Sí! \"ok\" \\n"),
                says("user", "<b>&amp;</b> {{ x }} {% if %}")],
    "whitespace": [says("system", ""), says("user", "\n\n"), says("assistant", "\t a \r\n b "),
                   says("user", "a\n\n\nb   ")],
    "thinking": [says("user", "2+2"), says("assistant", "<think>\nEasy.\n</think>\n\nFour."),
                 says("user", "+1"), says("assistant", "<think>hm</think>Five.")],
    "call": [says("user", "Weather in Zürich?"), says("assistant", "", tool_calls=[CALL]),
             says("tool", "{\"t\": 3.5}"), says("tool", "cold")],
    "ends": [says("system", "s"), says("user", "u"), says("assistant", "a")],
    "other roles": [says("user", "a"), says("skip", "b"), says("user", "c"), says("stop", "d"),
                    says("user", "e")],
    "nobody": [],
    "many": [says("user", "x")] * 41,
}

CASES = []
for template in ["llama3", "chatml", "features"]:
    for name, messages in CONVERSATIONS.items():
        for reply in [False, True]:
            CASES.append((template, name, messages, reply, {}))
    CASES.append((template, "tools", CONVERSATIONS["system"], True, {"tools": [WEATHER, WEATHER]}))
    CASES.append((template, "tools, call", CONVERSATIONS["call"], True, {"tools": [WEATHER]}))
    CASES.append((template, "tools, nobody", [], True, {"tools": [WEATHER]}))
    CASES.append((template, "documents", CONVERSATIONS["one"], False,
                  {"documents": [{"title": "T", "text": "x"}]}))
CASES.append(("llama3", "tools above", CONVERSATIONS["system"], True,
              {"tools": [WEATHER], "tools_in_user_message": False}))
CASES.append(("llama3", "date", CONVERSATIONS["one"], True, {"date_string": "5 May 2020"}))
CASES.append(("chatml", "no thinking", CONVERSATIONS["thinking"], True, {"enable_thinking": False}))


# The conversations for the templates in the directory of that name.
SHARED = [(name, CONVERSATIONS[name], reply, given) for name, reply, given in [
    ("one", True, {}), ("system", True, {}), ("turns", False, {}), ("turns", True, {}),
    ("unicode", True, {}), ("whitespace", False, {}), ("thinking", True, {"enable_thinking": False}),
    ("thinking", False, {}), ("call", True, {"tools": [WEATHER]}), ("system", False, {"tools": [WEATHER, WEATHER]}),
    ("other roles", False, {"documents": [{"title": "T", "text": "x"}]}), ("nobody", True, {})]]


def render(path, messages, reply, given):
    """The text of a template, or its error."""
    special = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    variables = {"tools": None, "documents": None, **given}
    with open(path, newline="") as f:
        source = f.read()
    try:
        return {"text": environment().from_string(source).render(
            messages=messages, add_generation_prompt=reply, **variables, **special)}
    except jinja2.exceptions.TemplateError as e:
        return {"error": str(e)}


def described(messages, reply, given):
    """A conversation as the tests read it."""
    case = {"messages": messages, "reply": reply, "now": NOW}
    case.update({k: v for k, v in given.items() if k in ["tools", "documents"]})
    case["variables"] = {k: v for k, v in given.items() if k not in ["tools", "documents"]}
    return case


def write(name, value):
    with open(name, "w") as f:
        json.dump(value, f, ensure_ascii=False, indent=0)
        f.write("\n")


def main():
    golden = []
    for template, name, messages, reply, given in CASES:
        case = {"template": template, "name": name, **described(messages, reply, given)}
        golden.append({**case, **render(template + ".jinja", messages, reply, given)})
    write("golden.json", golden)
    conversations = [{"name": name, **described(*given)} for name, *given in SHARED]
    texts = {os.path.basename(path)[:-len(".jinja")]: [render(path, *given) for _, *given in SHARED]
             for path in sorted(glob.glob("templates/*.jinja"))}
    write("templates.json", {"conversations": conversations, "texts": texts})


if __name__ == "__main__":
    sys.exit(main())
