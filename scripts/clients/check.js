// Unmodified clients of npm against a server of the built-in model with tools: argument 1 is its
// address. As in check.py, what comes back must be exactly of the form that is asked for.

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, streamText, tool } from "ai";
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const baseURL = process.argv[2] + "/v1";
const MODEL = "stories";
const Pet = z.object({ kind: z.enum(["cat", "dog"]), legs: z.literal(4) });
const Paint = z.object({ color: z.enum(["red", "blue"]) });
const SAID = [{ role: "user", content: "Lily has a" }];
const checks = [];
const check = (name, run) => checks.push([name, run]);
const expect = (truth, found) => {
  if (!truth) throw new Error(`unexpected: ${JSON.stringify(found)}`);
};

const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
check("openai stream", async () => {
  const stream = client.chat.completions.stream({ model: MODEL, messages: SAID, max_tokens: 8 });
  let text = "";
  for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
  expect(text && (await stream.finalContent()) === text, text);
});
check("openai parse", async () => {
  const format = zodResponseFormat(Pet, "pet");
  const asked = { model: MODEL, messages: SAID, max_tokens: 200, response_format: format };
  Pet.parse((await client.chat.completions.parse(asked)).choices[0].message.parsed);
});
check("openai tools", async () => {
  const paint = { name: "paint", parameters: z.toJSONSchema(Paint), parse: JSON.parse, function: Paint.parse };
  const runner = client.chat.completions.runTools({
    model: MODEL, messages: SAID, max_tokens: 200,
    tools: [{ type: "function", function: paint }],
    tool_choice: { type: "function", function: { name: "paint" } },
  });
  Paint.parse(JSON.parse(await runner.finalFunctionToolCallResult()));
});
check("openai responses", async () => {
  const format = zodTextFormat(Pet, "pet");
  const asked = { model: MODEL, input: "A pet", max_output_tokens: 200, text: { format } };
  const found = await client.responses.parse(asked);
  Pet.parse(found.output_parsed);
  const more = await client.responses.create({
    model: MODEL, input: "And", max_output_tokens: 4, previous_response_id: found.id,
  });
  expect(more.usage.input_tokens > found.usage.input_tokens, more.usage);
});
check("openai embeddings", async () => {
  const found = await client.embeddings.create({ model: MODEL, input: ["a cat", "a dog"] });
  const length = found.data[0].embedding.reduce((sum, x) => sum + x * x, 0);
  expect(found.data.length === 2 && Math.abs(length - 1) < 1e-3, length);
});

const compatible = createOpenAICompatible({
  name: "stories", baseURL, apiKey: "none", supportsStructuredOutputs: true,
});
const openai = createOpenAI({ baseURL, apiKey: "none" });
const models = {
  "ai openai-compatible": compatible(MODEL),
  "ai openai chat": openai.chat(MODEL),
  "ai openai responses": openai.responses(MODEL),
};
for (const [name, model] of Object.entries(models)) {
  const asked = { model, prompt: "Lily has a", maxRetries: 0, maxOutputTokens: 200 };
  const short = { ...asked, maxOutputTokens: 8 };
  const execute = async ({ color }) => color;
  const tools = { paint: tool({ description: "Paints", inputSchema: Paint, execute }) };
  check(`${name} text`, async () => {
    const found = await generateText(short);
    expect(found.text && found.usage.outputTokens === 8, found.usage);
  });
  check(`${name} stream`, async () => {
    let text = "";
    const onError = ({ error }) => {
      throw error;
    };
    for await (const part of streamText({ ...short, onError }).textStream) text += part;
    expect(text, text);
  });
  check(`${name} object`, async () => {
    Pet.parse((await generateObject({ ...asked, schema: Pet })).object);
  });
  check(`${name} tools`, async () => {
    const choice = { type: "tool", toolName: "paint" };
    const found = await generateText({ ...asked, tools, toolChoice: choice });
    expect(found.toolResults[0]?.output === Paint.parse(found.toolCalls[0].input).color, found.content);
    await generateText({ ...short, tools });
  });
}

let failed = 0;
for (const [name, run] of checks) {
  try {
    await run();
    console.log(`ok    ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL  ${name}: ${error.name}: ${String(error.message).slice(0, 500)}`);
  }
}
process.exit(failed ? 1 : 0);
