// Uses the page as somebody at a browser would: node check.js CHROMIUM PROGRAM PAGE [PICTURE]

import assert from "node:assert/strict";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { files, freePort, Llamba } from "./servers.js";

const [executablePath, program, directory, picture] = process.argv.slice(2);
const WAIT = 30_000;
/** Would set a global and load a file, were it HTML. */
const HTML = `<img src="x" onerror="window.harmed = 1"><b>bold</b>`;
/** What an empty profile must not do on a network that answers nothing. */
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync"];

const scratch = await mkdtemp(join(tmpdir(), "web-check-"));
const web = await files(directory);
const llamba = new Llamba(program, await freePort());
const browser = await chromium.launch({ executablePath, args: FLAGS });
try {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
  const page = await context.newPage();
  page.setDefaultTimeout(WAIT);
  const broken = [];
  page.on("pageerror", (error) => broken.push(error.stack));
  await drive(page);
  assert.deepEqual(broken, [], "the page's scripts threw");
} finally {
  await browser.close();
  await llamba.end("SIGKILL");
  web.server.close();
  await rm(scratch, { recursive: true });
}
console.log("web-check: all is well");

async function drive(page) {
  const serve = (...options) => llamba.start("--cors", web.origin, ...options);
  const branch = (n) => page.locator(".branch").nth(n);
  const texts = (n) => branch(n).locator(".message:not(.lost) .text").allTextContents();
  const press = (n, name) => branch(n).getByRole("button", { name, exact: true }).click();
  const field = (n) => branch(n).locator(".composer textarea");
  const banner = page.locator("#banner");
  const notice = (n) => branch(n).locator(".notice");
  const say = async (n, text) => {
    await field(n).fill(text);
    await field(n).press("Enter");
  };
  /** Waits until a branch has so many messages and does nothing. */
  const rest = async (n, count) => {
    await branch(n).locator(".log[aria-busy=false]").waitFor();
    await until(`branch ${n} has ${count} messages`, async () => (await texts(n)).length === count);
  };
  const choose = async (values) => {
    if (!(await page.locator("#settings").isVisible())) await page.locator("#settings-open").click();
    for (const [name, value] of Object.entries(values)) {
      await page.locator(`#settings [name=${name}]`).fill(value);
    }
    await page.locator("#settings button[value=save]").click();
  };

  step("no server, then one that does not allow the page, then one that does");
  await page.goto(`${web.origin}/?server=${encodeURIComponent(llamba.url)}`);
  await has(banner, "No server answers");
  await has(page.locator("#banner-command"), `--cors ${web.origin}`);
  await llamba.start();
  await has(banner, "does not allow this page");
  await llamba.end();
  await serve();
  await has(page.locator("#server-text"), "llamba");
  await branch(0).waitFor();
  assert.equal(await banner.isVisible(), false);

  step("the page comes with the server; replies are Markdown");
  const own = await page.context().newPage();
  await own.goto(llamba.url);
  await own.locator(".branch").waitFor();
  await has(own.locator("#server-text"), "llamba");
  const shown = await own.evaluate(async () => {
    const { markdown } = await import("/markdown.js");
    const place = document.createElement("div");
    const text = "# Title\n\nA **bold** `x` <b>no</b> [a](https://a.b) [b](javascript:c)\n- one\n- two\n\n```js\nlet a;\n```\n> said";
    place.append(...markdown(text));
    return place.innerHTML;
  });
  assert.equal(shown, '<h3>Title</h3><p>A <strong>bold</strong> <code>x</code> &lt;b&gt;no&lt;/b&gt; ' +
    '<a href="https://a.b" target="_blank" rel="noopener noreferrer">a</a> [b](javascript:c)</p>' +
    '<ul><li>one</li><li>two</li></ul><div class="program"><button class="copy" type="button" ' +
    'title="Copy this code">Copy</button><pre><code data-language="js">let a;</code></pre></div>' +
    '<blockquote><p>said</p></blockquote>');
  // Texts that would exhaust the stack, or take seconds each time that a piece arrives.
  const slowest = await own.evaluate(async () => {
    const { markdown } = await import("/markdown.js");
    const texts = ["[", ">", "> ", "`", "**a ", "*a", "[a](https://", "```\n", "- "].map((part) => part.repeat(5000));
    const times = texts.map((text) => {
      const start = performance.now();
      document.createElement("div").append(...markdown(text));
      return performance.now() - start;
    });
    return Math.max(...times);
  });
  assert.ok(slowest < 2000, `a text takes ${slowest} ms to show`);
  await own.close();

  step("a reply streams");
  await choose({ temperature: "0.8", seed: "7", max: "60" });
  await page.evaluate(watch);
  await say(0, "Tell me a story about a cat.");
  await rest(0, 2);
  const [, first] = await texts(0);
  const pieces = (await page.evaluate(() => window.seen)).filter((piece) => piece !== "" && piece !== first);
  assert.ok(pieces.length > 1, "the reply came all at once");
  assert.ok(pieces.every((piece) => first.startsWith(piece)), "the reply did not grow");
  await has(branch(0).locator(".cost"), /read [1-9]\d* · cached 0 · wrote [1-9]/);

  step("a second turn finds its state; HTML stays text");
  await say(0, HTML);
  await rest(0, 4);
  assert.equal((await texts(0))[2], HTML);
  await has(branch(0).locator(".cost").last(), /cached [1-9]/);

  step("again, undo");
  const before = (await texts(0))[3];
  await press(0, "Again");
  await until("another reply", async () => (await texts(0)).length === 4 && (await texts(0))[3] !== before);
  await rest(0, 4);
  await press(0, "Undo");
  await rest(0, 2);
  assert.equal(await field(0).inputValue(), HTML, "what was undone can be sent anew");
  assert.equal((await texts(0))[1], first);
  await field(0).fill("");

  step("fork, and edit");
  await press(0, "Fork");
  await rest(1, 2);
  await say(1, "The dog came.");
  await rest(1, 4);
  assert.equal((await texts(0)).length, 2, "a fork left its origin as it was");
  await press(0, "Edit");
  const changed = branch(0).getByLabel("Your changed message");
  await changed.fill("Tell me about a big red ball.");
  await changed.press("Enter");
  await rest(0, 2);
  await until("the edited message", async () => (await texts(0))[0] === "Tell me about a big red ball.");
  assert.equal((await texts(1)).length, 4, "an edit left the fork as it was");
  const [log, keys] = await Promise.all([branch(0), page.locator(".keys")].map((one) => one.boundingBox()));
  assert.ok(keys.y >= log.y + log.height, "the keys are told below the branches");
  if (picture) {
    await page.screenshot({ path: picture });
    assert.ok((await stat(picture)).size < 200 * 1024, "the picture is too large");
  }

  step("export, close, import");
  const [download] = await Promise.all([page.waitForEvent("download"), press(1, "Export")]);
  const saved = join(scratch, "saved.session");
  await download.saveAs(saved);
  const kept = await texts(1);
  await press(1, "Close");
  await until("one branch", async () => (await page.locator(".branch").count()) === 1);
  await page.locator("#import-file").setInputFiles(saved);
  await rest(1, 4);
  assert.deepEqual(await texts(1), kept);
  await page.locator("#import-file").setInputFiles({ name: "no.session", mimeType: "", buffer: Buffer.from("no session") });
  await banner.waitFor();
  assert.notEqual(await banner.textContent(), "");

  step("a reload keeps the branches");
  await page.reload();
  await rest(1, 4);
  assert.deepEqual(await texts(1), kept);

  step("a reply that is stopped");
  await choose({ max: "4000" });
  // A story may end before the button is pressed: this one does not end by itself.
  const replies = "**/v1/sessions/*/chat/completions";
  const goOn = (route) => {
    const body = JSON.parse(route.request().postData());
    return route.continue({ postData: JSON.stringify({ ...body, ignore_eos: true }) });
  };
  await page.route(replies, goOn);
  await say(1, "Once upon a time");
  await growingText(branch(1));
  await press(1, "Stop");
  await has(notice(1), "Stopped.");
  await page.unroute(replies);
  assert.deepEqual(await texts(1), kept, "what was stopped is no part of the conversation");
  assert.equal(await field(1).inputValue(), "Once upon a time");

  step("a model that writes HTML, and a stream that ends early");
  const delta = { choices: [{ index: 0, delta: { content: HTML } }] };
  await page.route(replies, (route) => route.fulfill({
    headers: { "content-type": "text/event-stream", "access-control-allow-origin": web.origin },
    body: `data: ${JSON.stringify(delta)}\n\n`,
  }));
  await field(1).press("Enter");
  await has(notice(1), "before it was whole");
  assert.equal(await branch(1).locator(".lost .text").textContent(), HTML);
  await page.unroute(replies);
  assert.equal(await page.locator(".log img, .log b").count(), 0, "a text became HTML");
  assert.equal(await page.evaluate(() => window.harmed), undefined);

  step("a server that dies in the middle of a reply");
  await page.route(replies, goOn);
  await field(1).press("Enter");
  await growingText(branch(1));
  await llamba.end("SIGKILL");
  await has(notice(1), "The connection broke");

  step("a new server asks for a key, and has no room");
  await serve("--api-key", "secret", "--max-rows", "1", "--max-queue", "1");
  await field(1).press("Enter");
  await page.locator("#settings[open]").waitFor();
  await has(page.locator("#server-text"), "no valid key");
  await choose({ key: "secret", max: "20" });
  await has(page.locator("#server-text"), "llamba");
  await field(1).press("Enter");
  await has(notice(1), "does not have this conversation");
  await press(1, "Read it again");
  await until("the notice is gone", async () => !(await notice(1).isVisible()));
  const hold = new AbortController();
  const others = Promise.all([0, 1, 2].map(() => occupy(hold.signal)));
  await until("the server has no room", async () => await full());
  await field(1).press("Enter");
  await has(notice(1), "The server is busy.");
  hold.abort();
  await others;
  await rest(1, 6);
  assert.deepEqual((await texts(1)).slice(0, 4), kept);
}

/** In the page: keeps every text that a growing reply had, as a look now and then may miss it. */
function watch() {
  window.seen = [];
  new MutationObserver(() => {
    const growing = document.querySelector(".growing");
    if (growing) window.seen.push(growing.textContent);
  }).observe(document.body, { childList: true, subtree: true });
}

/** Has the server write long texts for nobody, one after the other, until `signal` says stop. */
async function occupy(signal) {
  const body = JSON.stringify({ model: await model(), prompt: "Once", max_tokens: 4000, stream: true });
  const headers = { authorization: "Bearer secret", "content-type": "application/json" };
  try {
    for (;;) {
      const answer = await fetch(`${llamba.url}/v1/completions`, { method: "POST", headers, body, signal });
      await answer.text();
      // This may be one of those that the server has no room for.
      if (!answer.ok) await new Promise((done) => setTimeout(done, 20));
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

/** Whether the server refuses another text. */
async function full() {
  const answer = await fetch(`${llamba.url}/v1/completions`, {
    method: "POST",
    headers: { authorization: "Bearer secret", "content-type": "application/json" },
    body: JSON.stringify({ model: await model(), prompt: "Once", max_tokens: 1 }),
    signal: AbortSignal.timeout(1000),
  }).catch(() => null);
  return answer?.status === 429;
}

async function model() {
  const answer = await fetch(`${llamba.url}/v1/models`, { headers: { authorization: "Bearer secret" } });
  return (await answer.json()).data[0].id;
}

async function growingText(branch) {
  await branch.locator(".growing:not(:empty)").waitFor({ state: "attached" });
}

async function has(locator, wanted) {
  const found = (text) => (wanted instanceof RegExp ? wanted.test(text) : text.includes(wanted));
  await until(`"${wanted}" is shown`, async () => {
    const all = (await locator.allTextContents()).join("\n");
    return found(all) ? true : `shown is "${all}"`;
  });
}

async function until(what, holds) {
  const end = Date.now() + WAIT;
  for (;;) {
    const answer = await holds();
    if (answer === true) return;
    if (Date.now() > end) throw new Error(`not so after ${WAIT / 1000} s: ${what}. ${answer || ""}`);
    await new Promise((done) => setTimeout(done, 20));
  }
}

function step(text) {
  console.log(`  ${text}`);
}
