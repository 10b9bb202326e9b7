"""Unmodified clients against a server of the built-in model with tools: argument 1 is its address.

The model tells stories and was not trained for tools or JSON: everything here is asked for by schemas
with few values, and what comes back must be exactly of that form.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from typing import Literal

import agents
import anthropic
import instructor
import litellm
import openai
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

URL = sys.argv[1]
MODEL = "stories"
SAID = [{"role": "user", "content": "Lily has a"}]
client = openai.OpenAI(base_url=URL + "/v1", api_key="none", max_retries=0)
claude = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0)
checks = []


def check(function):
    checks.append(function)
    return function


class Pet(BaseModel):
    """A pet."""

    kind: Literal["cat", "dog"]
    legs: Literal[2, 4]


class Paint(BaseModel):
    """Paints."""

    color: Literal["red", "blue"]


TOOLS = [openai.pydantic_function_tool(Paint)]
LIMIT = {"model": MODEL, "max_tokens": 200}


@check
def openai_parse():
    answer = client.chat.completions.parse(**LIMIT, messages=SAID, response_format=Pet)
    assert isinstance(answer.choices[0].message.parsed, Pet)
    assert answer.choices[0].finish_reason == "stop"


@check
def openai_parse_stream():
    with client.chat.completions.stream(**LIMIT, messages=SAID, response_format=Pet) as stream:
        for _ in stream:
            pass
    assert isinstance(stream.get_final_completion().choices[0].message.parsed, Pet)


@check
def openai_vllm_fields():
    for fields in ({"guided_choice": ["a", "b"]}, {"structured_outputs": {"regex": "[ab]"}}):
        answer = client.chat.completions.create(**LIMIT, messages=SAID, extra_body=fields)
        assert answer.choices[0].message.content in ("a", "b")


@check
def openai_tools():
    asked = dict(**LIMIT, messages=SAID, tools=TOOLS, parallel_tool_calls=False)
    answer = client.chat.completions.parse(**asked, tool_choice="required")
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls" and message.content is None
    (call,) = message.tool_calls
    assert isinstance(call.function.parsed_arguments, Paint)
    result = {"role": "tool", "tool_call_id": call.id, "content": "done"}
    more = client.chat.completions.create(
        model=MODEL, messages=[*SAID, message, result], tools=TOOLS, max_tokens=4
    )
    assert more.usage.prompt_tokens > answer.usage.prompt_tokens


@check
def openai_tools_stream():
    named = {"type": "function", "function": {"name": "Paint"}}
    with client.chat.completions.stream(
        **LIMIT, messages=SAID, tools=TOOLS, tool_choice=named
    ) as stream:
        kinds = [event.type for event in stream]
    assert "tool_calls.function.arguments.done" in kinds
    (call,) = stream.get_final_completion().choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Paint)


@check
def openai_responses():
    answer = client.responses.create(model=MODEL, input="Once", max_output_tokens=8)
    assert answer.output_text and answer.usage.output_tokens == 8
    parsed = client.responses.parse(
        model=MODEL, input=SAID, text_format=Pet, max_output_tokens=200, previous_response_id=answer.id
    )
    assert isinstance(parsed.output_parsed, Pet) and parsed.usage.input_tokens > answer.usage.input_tokens


@check
def openai_responses_stream():
    asked = dict(model=MODEL, input="Once", max_output_tokens=200, text_format=Pet)
    with client.responses.stream(**asked) as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
    final = stream.get_final_response()
    assert final.output_text == text and isinstance(final.output_parsed, Pet)


@check
def openai_responses_tools():
    function = {"type": "function", "name": "paint", "parameters": Paint.model_json_schema()}
    answer = client.responses.create(
        model=MODEL, input="Paint", tools=[function], max_output_tokens=200,
        tool_choice={"type": "function", "name": "paint"},
    )
    (call,) = answer.output
    Paint.model_validate_json(call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "done"}
    more = client.responses.create(
        model=MODEL, input=[*SAID, *answer.output, result], max_output_tokens=4
    )
    assert more.status == "incomplete"


@check
def openai_embeddings():
    data = client.embeddings.create(model=MODEL, input=["a cat", "a dog"]).data
    assert len(data) == 2 and abs(sum(x * x for x in data[0].embedding) - 1) < 1e-3


@check
def anthropic_messages():
    answer = claude.messages.create(**LIMIT, messages=SAID, system="Be brief.", stop_sequences=["."])
    assert answer.content[0].text and answer.stop_reason in ("stop_sequence", "end_turn", "max_tokens")
    counted = claude.messages.count_tokens(model=MODEL, messages=SAID, system="Be brief.")
    assert counted.input_tokens == answer.usage.input_tokens
    prefilled = [*SAID, {"role": "assistant", "content": "red"}]
    claude.messages.create(model=MODEL, max_tokens=4, messages=prefilled)


@check
def anthropic_stream():
    with claude.messages.stream(model=MODEL, max_tokens=8, messages=SAID) as stream:
        text = "".join(stream.text_stream)
    final = stream.get_final_message()
    assert final.content[0].text == text and final.usage.output_tokens == 8


@check
def anthropic_tools():
    tools = [{"name": "paint", "input_schema": Paint.model_json_schema()}]
    asked = dict(**LIMIT, messages=SAID, tools=tools, tool_choice={"type": "tool", "name": "paint"})
    answer = claude.messages.create(**asked)
    (block,) = answer.content
    assert answer.stop_reason == "tool_use" and Paint.model_validate(block.input)
    with claude.messages.stream(**asked) as stream:
        (block,) = stream.get_final_message().content
    assert Paint.model_validate(block.input)
    result = {"type": "tool_result", "tool_use_id": block.id, "content": "done"}
    again = [*SAID, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    claude.messages.create(model=MODEL, max_tokens=4, messages=again, tools=tools)


@check
def instructor_modes():
    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
        patched = instructor.from_openai(client, mode=mode)
        pet = patched.chat.completions.create(**LIMIT, messages=SAID, response_model=Pet, max_retries=0)
        assert isinstance(pet, Pet), mode


@check
def langchain_structured_output():
    model = ChatOpenAI(model=MODEL, base_url=URL + "/v1", api_key="none", max_tokens=200)
    for method in ("function_calling", "json_schema"):
        assert isinstance(model.with_structured_output(Pet, method=method).invoke("A pet"), Pet), method


@check
def langchain_tools():
    @tool
    def paint(color: Literal["red", "blue"]) -> str:
        """Paints."""
        return color

    model = ChatOpenAI(model=MODEL, base_url=URL + "/v1", api_key="none", max_tokens=200)
    bound = model.bind_tools([paint], tool_choice="paint")
    (call,) = bound.invoke("Paint").tool_calls
    assert call["name"] == "paint" and call["args"]["color"] in ("red", "blue")
    whole = None
    for chunk in bound.stream("Paint"):
        whole = chunk if whole is None else whole + chunk
    assert whole.tool_calls[0]["args"]["color"] in ("red", "blue")


@check
def langchain_embeddings():
    model = OpenAIEmbeddings(
        model=MODEL, base_url=URL + "/v1", api_key="none", check_embedding_ctx_length=False
    )
    assert len(model.embed_documents(["a", "b"])) == 2


@check
def litellm_completion():
    asked = dict(model="openai/" + MODEL, api_base=URL + "/v1", api_key="none", messages=SAID, max_tokens=200)
    Pet.model_validate_json(litellm.completion(**asked, response_format=Pet).choices[0].message.content)
    named = {"type": "function", "function": {"name": "Paint"}}
    message = litellm.completion(**asked, tools=TOOLS, tool_choice=named).choices[0].message
    Paint.model_validate_json(message.tool_calls[0].function.arguments)
    text = ""
    for chunk in litellm.completion(**{**asked, "max_tokens": 8}, stream=True):
        text += chunk.choices[0].delta.content or ""
    assert text


@check
def litellm_anthropic():
    answer = litellm.completion(
        model="anthropic/" + MODEL, api_base=URL, api_key="none", messages=SAID, max_tokens=8
    )
    assert answer.choices[0].message.content


@check
def pydantic_ai_outputs():
    provider = OpenAIProvider(base_url=URL + "/v1", api_key="none")
    for kind in (OpenAIChatModel, OpenAIResponsesModel):
        model = kind(MODEL, provider=provider)
        assert Agent(model, model_settings={"max_tokens": 8}).run_sync("Lily has a").output
        for form in (NativeOutput, ToolOutput):
            agent = Agent(model, output_type=form(Pet), model_settings={"max_tokens": 200})
            assert isinstance(agent.run_sync("A pet").output, Pet), (kind, form)


@check
def openai_agents():
    @agents.function_tool
    def paint(color: Literal["red", "blue"]) -> str:
        """Paints."""
        return color

    agents.set_tracing_disabled(True)
    server = openai.AsyncOpenAI(base_url=URL + "/v1", api_key="none")

    async def run(said, tokens, choice=None, **more):
        settings = agents.ModelSettings(max_tokens=tokens, tool_choice=choice)
        agent = agents.Agent(name="a", model_settings=settings, **more)
        return (await agents.Runner.run(agent, said)).final_output

    async def all_of_them():
        for kind in (agents.OpenAIChatCompletionsModel, agents.OpenAIResponsesModel):
            model = kind(model=MODEL, openai_client=server)
            assert await run("Lily has", 8, model=model, instructions="Be brief.")
            assert isinstance(await run("A pet", 200, model=model, output_type=Pet), Pet)
            end = {"tools": [paint], "tool_use_behavior": "stop_on_first_tool"}
            assert await run("Paint", 200, "required", model=model, **end) in ("red", "blue")

    asyncio.run(all_of_them())


@check
def llm_schemas():
    with tempfile.TemporaryDirectory() as home:
        with open(os.path.join(home, "extra-openai-models.yaml"), "w") as models:
            json.dump([{"model_id": MODEL, "model_name": MODEL, "api_base": URL + "/v1", "supports_schema": True}], models)
        command = os.path.join(os.path.dirname(sys.executable), "llm")
        environment = {**os.environ, "LLM_USER_PATH": home, "OPENAI_API_KEY": "none"}

        def run(*words):
            return subprocess.check_output([command, "-m", MODEL, *words], env=environment, text=True)

        assert run("Lily has", "-o", "max_tokens", "8").strip()
        schema = json.dumps(Pet.model_json_schema())
        Pet.model_validate_json(run("A pet", "--schema", schema, "-o", "max_tokens", "200"))


failed = 0
for function in checks:
    name = function.__name__.replace("_", " ", 1)
    try:
        function()
        print(f"ok    {name}", flush=True)
    except Exception as error:
        failed += 1
        print(f"FAIL  {name}: {type(error).__name__}: {str(error)[:500]}", flush=True)
sys.exit(1 if failed else 0)
