// One branch: a session of the server, and what is being done with it.

import { Failure } from "./server.js";

/** So often a reply is asked for again while the server has no room. */
const PATIENCE = 10;

export class Branch {
  /** `session` is as the server tells it; `changed` is called after every change. */
  constructor(server, name, session, changed) {
    this.server = server;
    this.name = name;
    this.changed = changed;
    /** What a reply cost, by the message's index. */
    this.costs = new Map();
    /** What is not sent yet. */
    this.draft = "";
    /** A reply that grows: `{ index, question, text, stop, note }`. */
    this.running = null;
    /** What went wrong last, as a Failure. */
    this.problem = null;
    this.attempts = 0;
    this.take(session);
  }

  /** Takes over what the server says of the session. */
  take({ id, messages, tokens, snapshots, bytes }) {
    Object.assign(this, { id, messages, tokens, bytes, states: snapshots.length + 1 });
    for (const index of this.costs.keys()) {
      if (index >= messages.length) this.costs.delete(index);
    }
  }

  /** The index of the user's last message, or -1. */
  lastQuestion() {
    return this.messages.findLastIndex((message) => message.role === "user");
  }

  /**
   * Says something, as message `index`: after all others, or in the place of an earlier one. The
   * latter happens in a copy: until the new reply is whole, the old one stays.
   */
  async say(text, options, index = this.messages.length) {
    await this.#turn(index, text, options);
  }

  /** Another reply to the last message. */
  async again(makeOptions) {
    const index = this.lastQuestion();
    if (index < 0) return;
    this.attempts += 1;
    await this.#turn(index, this.messages[index].content, makeOptions(this.attempts));
  }

  /** Drops the last message of the user and what followed; it can be sent anew. */
  async undo() {
    const index = this.lastQuestion();
    if (index < 0 || this.running) return;
    await this.#try(async () => {
      const text = this.messages[index].content;
      this.take(await this.server.undo(this.id));
      this.draft ||= text;
    });
  }

  /** A copy that holds the first `count` messages. */
  async fork(count = this.messages.length) {
    let copy = null;
    await this.#try(async () => {
      const whole = await this.server.fork(this.id);
      copy = await this.server.rewind(whole.id, count);
    });
    return copy;
  }

  /** The session as a file's content. */
  async export() {
    let file = null;
    await this.#try(async () => {
      file = await this.server.export(this.id);
    });
    return file;
  }

  stop() {
    this.running?.stop.abort();
  }

  /** Lets the server forget the session. */
  async close() {
    this.stop();
    await this.server.delete(this.id).catch(() => {});
  }

  /** Makes a session anew out of the messages, where the server has lost it. */
  async reread() {
    await this.#try(async () => {
      const messages = this.messages.map(({ role, content }) => ({ role, content }));
      this.take(await this.server.create(messages));
    });
  }

  async #try(work) {
    this.problem = null;
    try {
      await work();
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      this.problem = error;
    }
    this.changed(this);
  }

  async #turn(index, question, options) {
    if (this.running) return;
    const stop = new AbortController();
    const running = { index, question, text: "", stop, note: "", asked: 0 };
    this.running = running;
    this.problem = null;
    this.changed(this);
    let id = this.id;
    try {
      if (index < this.messages.length) {
        id = (await this.server.fork(this.id)).id;
        await this.server.rewind(id, index);
      }
      const usage = await this.#patiently(running, () =>
        this.server.reply(id, question, options, stop.signal, (piece) => {
          running.text += piece;
          this.changed(this, "text");
        }),
      );
      const seconds = (performance.now() - running.asked) / 1000;
      const session = await this.server.get(id);
      if (id !== this.id) this.server.delete(this.id).catch(() => {});
      this.running = null;
      this.take(session);
      this.costs.set(session.messages.length - 1, { ...cost(usage), seconds });
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      this.running = null;
      this.problem = error;
      // The server keeps whole replies only. What there was stays in sight, the question at hand.
      this.problem.partial = running.text;
      if (index === this.messages.length) this.draft ||= question;
      if (id !== this.id) this.server.delete(id).catch(() => {});
    } finally {
      this.running = null;
      this.changed(this);
    }
  }

  /** Tries again when the server has no room, as long as the user lets it. */
  async #patiently(running, ask) {
    for (let left = PATIENCE; ; left -= 1) {
      try {
        running.asked = performance.now();
        return await ask();
      } catch (error) {
        if (error.kind !== "busy" || left === 0) throw error;
        for (let seconds = error.seconds; seconds > 0; seconds -= 1) {
          running.note = `The server is busy. Trying again in ${seconds} s.`;
          this.changed(this);
          await second(running.stop.signal);
        }
        running.note = "";
        this.changed(this);
      }
    }
  }
}

/** Tokens that were read, those whose state was kept, and those written. */
function cost(usage) {
  const cached = usage.prompt_tokens_details.cached_tokens;
  return { read: usage.prompt_tokens - cached, cached, written: usage.completion_tokens };
}

function second(signal) {
  return new Promise((done, stopped) => {
    const end = () => stopped(new Failure("stopped", "Stopped."));
    if (signal.aborted) return end();
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", over);
      done();
    }, 1000);
    const over = () => {
      clearTimeout(timer);
      end();
    };
    signal.addEventListener("abort", over, { once: true });
  });
}
