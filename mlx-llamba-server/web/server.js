// The server's HTTP interface: requests, streams, and what can go wrong with them.

import { events } from "./events.js";

/**
 * Something that did not go as asked. `kind` says what the page can do about it:
 * `down` (nobody answers), `origin` (the server does not allow this page), `key`, `busy` (later there
 * may be room), `full` (too many sessions), `gone` (no such session), `lost` (a stream broke off),
 * `stopped` (by the user), `refused` (anything else that the server says no to).
 */
export class Failure extends Error {
  constructor(kind, message, seconds = 0) {
    super(message);
    this.kind = kind;
    this.seconds = seconds;
  }
}

const KINDS = { 401: "key", 404: "gone", 429: "busy" };
/** Between two tries of what a session that is still ending a reply refuses, in milliseconds. */
const PAUSE = 100;
const TRIES = 50;

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

export class Server {
  constructor(url, key) {
    this.url = url.replace(/\/+$/, "");
    this.key = key;
    this.model = null;
  }

  /** The name of the model served. */
  async connect() {
    const list = await (await this.#ask("GET", "/v1/models")).json();
    this.model = list.data[0].id;
    return this.model;
  }

  /** A new session that begins with these messages. */
  create(messages) {
    return this.#json("POST", "/v1/sessions", { model: this.model, messages });
  }

  get(id) {
    return this.#json("GET", `/v1/sessions/${id}`);
  }

  fork(id) {
    return this.#json("POST", `/v1/sessions/${id}/fork`);
  }

  undo(id) {
    return this.#json("POST", `/v1/sessions/${id}/undo`);
  }

  /** Goes back to the first `messages` messages. */
  rewind(id, messages) {
    return this.#json("POST", `/v1/sessions/${id}/rewind`, { messages });
  }

  delete(id) {
    return this.#json("DELETE", `/v1/sessions/${id}`);
  }

  /** The session as a file's content. */
  async export(id) {
    return (await this.#ask("GET", `/v1/sessions/${id}/export`)).blob();
  }

  async import(file) {
    return (await this.#ask("POST", "/v1/sessions/import", file)).json();
  }

  /**
   * The reply of a session to one more message of the user: calls `onText` with every piece, and
   * gives the tokens' counts at the end.
   */
  async reply(id, text, options, signal, onText) {
    const body = {
      model: this.model,
      messages: [{ role: "user", content: text }],
      stream: true,
      stream_options: { include_usage: true },
      ...options,
    };
    const answer = await this.#ask("POST", `/v1/sessions/${id}/chat/completions`, body, signal);
    let usage = null;
    try {
      for await (const data of events(answer.body)) {
        if (data === "[DONE]") return usage;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Failure("refused", chunk.error.message);
        usage = chunk.usage ?? usage;
        const piece = chunk.choices[0]?.delta.content;
        if (piece) onText(piece);
      }
    } catch (error) {
      if (error instanceof Failure) throw error;
      if (signal.aborted) throw new Failure("stopped", "Stopped.");
      throw new Failure("lost", "The connection broke in the middle of the reply.");
    }
    throw new Failure("lost", "The reply ended before it was whole.");
  }

  async #json(method, path, body) {
    return (await this.#ask(method, path, body)).json();
  }

  async #ask(method, path, body, signal) {
    for (let left = TRIES; ; left -= 1) {
      const answer = await this.#send(method, path, body, signal);
      if (answer.ok) return answer;
      const { message, code } = await detail(answer);
      // A reply that was stopped ends a moment later on the server.
      if (code === "session_busy" && left > 0) {
        await pause(PAUSE);
        continue;
      }
      const kind = code === "too_many_sessions" ? "full" : (KINDS[answer.status] ?? "refused");
      throw new Failure(kind, message, Number(answer.headers.get("retry-after")) || 2);
    }
  }

  async #send(method, path, body, signal) {
    const headers = {};
    if (this.key) headers.Authorization = `Bearer ${this.key}`;
    const binary = body instanceof Blob;
    if (body) headers["Content-Type"] = binary ? "application/octet-stream" : "application/json";
    try {
      const content = body && !binary ? JSON.stringify(body) : body;
      return await fetch(this.url + path, { method, headers, body: content, signal });
    } catch {
      if (signal?.aborted) throw new Failure("stopped", "Stopped.");
      throw await this.#unreachable();
    }
  }

  /** A browser does not say why a request failed. Without CORS one can still tell who is there. */
  async #unreachable() {
    try {
      await fetch(`${this.url}/health`, { mode: "no-cors", cache: "no-store" });
      return new Failure("origin", "The server is there, but it does not allow this page.");
    } catch {
      return new Failure("down", `No server answers at ${this.url}.`);
    }
  }
}

/** What an error's body says. */
async function detail(answer) {
  try {
    const { error } = await answer.json();
    return { message: String(error.message), code: error.code };
  } catch {
    return { message: `The server answered with status ${answer.status}.`, code: null };
  }
}
