"""Bodies that schemathesis makes up: JSON Schema cannot say what a grammar is."""

import schemathesis

FORMATS = {
    "guided_choice": ["a", "b"],
    "guided_grammar": 'start: "a" | "b"',
    "guided_json": {"type": "boolean"},
    "guided_regex": "[ab]+",
}


@schemathesis.hook
def before_call(context, case, kwargs):
    """Leaves out tools: the model's template has no place for them, which the description cannot say."""
    body = case.body
    if case.operation.path.endswith("count_tokens") and isinstance(body, dict):
        if all(map(is_tool, body.get("tools") or [None])):
            case.body = body | {"tools": []}


def is_tool(found):
    """True for what the description takes as a tool."""
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return False
    text = isinstance(found.get("description"), (str, type(None)))
    return text and isinstance(found.get("input_schema", {}), dict)


def fits(outputs):
    """True for what the description takes as structured outputs."""
    types = {"json": (dict, str), "regex": str, "grammar": str, "choice": list, "json_object": bool}
    choices = outputs.get("choice") or []
    return all(outputs.get(name) is None or isinstance(outputs[name], of) for name, of in types.items()) and all(
        isinstance(choice, str) and choice for choice in choices
    )


@schemathesis.hook
def map_body(context, body):
    """Replaces made-up grammars by one that is a grammar, and leaves values of wrong types alone."""
    if not isinstance(body, dict):
        return body
    for name, value in FORMATS.items():
        if name in body and type(body[name]) in {type(value), str if name == "guided_json" else type(value)}:
            body[name] = value
    outputs, form = body.get("structured_outputs"), body.get("response_format")
    if isinstance(outputs, dict) and fits(outputs):
        body["structured_outputs"] = {}
    if isinstance(form, dict) and form.get("type") in ("json_object", "json_schema"):
        body["response_format"] = {"type": "json_object"}
    given = [name for name in [*FORMATS, "response_format"] if body.get(name)]
    for name in given[1:]:
        if isinstance(body[name], dict) or body[name] == FORMATS.get(name):
            del body[name]
    return body
