"""The `openai` package against a server: argument 1 is its address, 2 its model, 3 its key."""

import sys
import threading

import openai

url, model, key = sys.argv[1:]
client = openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0)

# Models.
assert [m.id for m in client.models.list()] == [model]
assert client.models.retrieve(model).owned_by == "mlx-llamba"

# Completions: greedy is repeatable, streams are the same text in pieces.
ask = dict(model=model, prompt="Once upon a time", max_tokens=12, temperature=0)
whole = client.completions.create(**ask)
assert whole.choices[0].finish_reason == "length" and whole.usage.completion_tokens == 12
pieces = list(client.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
assert "".join(c.choices[0].text for c in pieces if c.choices) == whole.choices[0].text
assert pieces[-1].usage.total_tokens == whole.usage.total_tokens
echoed = client.completions.create(**ask, echo=True, logprobs=3, n=2)
assert echoed.choices[1].text == "Once upon a time" + whole.choices[0].text
logprobs = echoed.choices[0].logprobs
assert logprobs.token_logprobs[0] is None and len(logprobs.tokens) == len(logprobs.text_offset)
assert "".join(logprobs.tokens[-12:]) == whole.choices[0].text
# The sampled token stands there even if it is not among the three.
assert all(len(top) in (3, 4) for top in logprobs.top_logprobs[1:])

# Chat completions.
story = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Lily found a"}]
ask = dict(model=model, messages=story, max_completion_tokens=10, seed=3, temperature=0.7)
whole = client.chat.completions.create(**ask, logprobs=True, top_logprobs=2)
message = whole.choices[0].message
assert message.role == "assistant" and message.content
tokens = whole.choices[0].logprobs.content
assert bytes(b for token in tokens for b in token.bytes).decode().startswith(message.content)
assert all(len(token.top_logprobs) in (2, 3) for token in tokens)
assert whole.usage.prompt_tokens_details.cached_tokens is not None
text = ""
for chunk in client.chat.completions.create(**ask, stream=True):
    text += chunk.choices[0].delta.content or ""
assert text == message.content
# The model's own message goes back as the client gives it.
more = client.chat.completions.create(
    model=model, messages=[*story, message, {"role": "user", "content": "And then"}], max_tokens=3
)
assert more.usage.prompt_tokens > whole.usage.prompt_tokens
tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


# Errors come as the client's own exceptions, with the parameter's name.
def fails(kind, call, param=None, status=None):
    try:
        call()
    except kind as error:
        assert param is None or error.param == param, (error.param, param)
        assert status is None or error.status_code == status, error.status_code
        return error
    raise AssertionError(f"{kind.__name__} expected")


chat = client.chat.completions.create
fails(openai.NotFoundError, lambda: chat(model="gpt-4", messages=story), "model", 404)
fails(openai.BadRequestError, lambda: chat(model=model, messages=story, temperature=7), "temperature")
fails(openai.BadRequestError, lambda: chat(model=model, messages=story, tool_choice="required"), "tool_choice")
# This model's template has no place for them.
fails(openai.BadRequestError, lambda: chat(model=model, messages=story, tools=tools), "tools")
fails(
    openai.BadRequestError,
    lambda: chat(model=model, messages=story, response_format={"type": "xml"}),
    "response_format",
)
fails(
    openai.BadRequestError,
    lambda: client.completions.create(model=model, prompt="x", best_of=3),
    "best_of",
)
fails(openai.BadRequestError, lambda: chat(model=model, messages=story, extra_body={"x": 1}), "x")
stranger = openai.OpenAI(base_url=url + "/v1", api_key="wrong", max_retries=0)
fails(openai.AuthenticationError, stranger.models.list, status=401)

# A stream left in the middle harms nobody.
stream = client.completions.create(model=model, prompt="Tom", max_tokens=500, stream=True)
next(iter(stream))
stream.close()

# Many at once.
results = []
ask = dict(model=model, prompt="The cat", max_tokens=20, temperature=0)
run = lambda: results.append(client.completions.create(**ask).choices[0].text)
threads = [threading.Thread(target=run) for _ in range(16)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert len(results) == 16 and len(set(results)) == 1, results
print("ok")
