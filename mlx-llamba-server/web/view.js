// A branch on the screen. Text of the model and of the user becomes text nodes only, never HTML; that
// of the model is read as Markdown.

import { element, button } from "./element.js";
import { markdown } from "./markdown.js";

const ROLES = { user: "You", assistant: "Model", system: "System", tool: "Tool" };
const IDEAS = ["Tell me a story about a cat.", "A dog found a red ball.", "Once upon a time"];

export class View {
  /** `act` has a function for everything the user can ask a branch for. */
  constructor(branch, act) {
    this.branch = branch;
    this.act = act;
    this.editing = -1;
    const name = element("h2", { text: branch.name });
    const action = (label, title, work) => button(label, { title, onclick: work });
    this.undo = action("Undo", "Drop your last message and its reply", () => act.undo(branch));
    this.again = action("Again", "Another reply to your last message", () => act.again(branch));
    this.fork = action("Fork", "Go on in a copy beside this one", () => act.fork(branch));
    this.export = action("Export", "Save as a session file", () => act.export(branch));
    this.close = action("Close", "Forget this branch", () => act.close(branch));
    const tools = element("div", { class: "tools" }, [
      this.undo, this.again, this.fork, this.export, this.close,
    ]);
    tools.setAttribute("role", "toolbar");
    tools.setAttribute("aria-label", `${branch.name}: actions`);
    this.facts = element("p", { class: "facts" });
    this.log = element("ol", { class: "log" });
    this.log.setAttribute("role", "log");
    this.log.setAttribute("aria-label", `${branch.name}: messages`);
    this.log.tabIndex = 0;
    this.notice = element("div", { class: "notice", hidden: true });
    this.notice.setAttribute("role", "alert");
    this.field = element("textarea", { rows: 2, placeholder: "Say something" });
    this.field.setAttribute("aria-label", `${branch.name}: your message`);
    this.button = element("button", { class: "main", type: "submit", text: "Send" });
    this.form = element("form", { class: "composer" }, [this.field, this.button]);
    this.root = element("section", { class: "branch" }, [
      element("header", {}, [name, tools, this.facts]), this.log, this.notice, this.form,
    ]);
    this.root.setAttribute("aria-label", branch.name);
    this.#listen();
    this.update();
  }

  focus() {
    this.field.focus();
    this.root.scrollIntoView({ inline: "nearest", block: "nearest" });
  }

  /** Shows the branch as it is; with "text", only the reply that grows. */
  update(what) {
    if (what === "text" && this.growing) {
      this.#keepingEnd(() => this.growing.replaceChildren(...markdown(this.branch.running.text)));
      return;
    }
    const { branch } = this;
    const busy = branch.running !== null;
    const empty = branch.lastQuestion() < 0;
    for (const one of [this.undo, this.again]) one.disabled = busy || empty;
    for (const one of [this.fork, this.export]) one.disabled = busy;
    this.button.textContent = busy ? "Stop" : "Send";
    this.button.classList.toggle("stop", busy);
    this.facts.replaceChildren(...facts(branch));
    this.log.setAttribute("aria-busy", String(busy));
    this.#keepingEnd(() => this.log.replaceChildren(...this.#messages()));
    this.#explain();
    if (branch.draft && !this.field.value) this.field.value = branch.draft;
    branch.draft = "";
  }

  #listen() {
    const { branch, act } = this;
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (branch.running) return branch.stop();
      this.#send();
    });
    this.field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        if (!branch.running) this.#send();
      } else if (this.field.value === "" && !branch.running) {
        if (event.key === "ArrowUp" && branch.lastQuestion() >= 0) {
          event.preventDefault();
          this.#edit(branch.lastQuestion());
        } else if (event.key === "z" && (event.ctrlKey || event.metaKey)) {
          event.preventDefault();
          act.undo(branch);
        }
      }
    });
    this.root.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      if (this.editing >= 0) this.#edit(-1);
      else branch.stop();
    });
  }

  #send() {
    const text = this.field.value.trim();
    if (text === "") return;
    this.field.value = "";
    // Wherever the log was looked at, the new reply is in sight.
    this.log.scrollTop = this.log.scrollHeight;
    this.act.say(this.branch, text);
  }

  #edit(index) {
    this.editing = index;
    this.update();
    const field = this.log.querySelector("textarea");
    if (field) field.focus();
    else this.field.focus();
  }

  #messages() {
    const { branch } = this;
    const { running } = branch;
    const end = running ? running.index : branch.messages.length;
    const all = branch.messages.slice(0, end).map((message, index) => this.#message(message, index));
    this.growing = null;
    if (running) {
      all.push(message("user", [element("p", { class: "text", text: running.question })]));
      this.growing = element("div", { class: "text growing" }, markdown(running.text));
      all.push(message("assistant", [this.growing]));
    } else if (branch.problem?.partial) {
      const text = element("p", { class: "text", text: branch.problem.partial });
      all.push(message("assistant lost", [text], "Model, not kept"));
    } else if (all.length === 0) {
      all.push(this.#welcome());
    }
    return all;
  }

  #message({ role, content }, index) {
    const { branch, act } = this;
    if (index === this.editing && !branch.running) return this.#editor(content, index);
    const actions = element("div", { class: "actions" });
    if (!branch.running && role === "user") {
      const title = "Change this message; what follows is answered anew";
      actions.append(button("Edit", { title, onclick: () => this.#edit(index) }));
    }
    if (!branch.running && role === "assistant") {
      const title = "Go on from here in a branch of its own";
      actions.append(button("Fork here", { title, onclick: () => act.fork(branch, index + 1) }));
    }
    const cost = branch.costs.get(index);
    if (cost) actions.append(element("span", { class: "cost", text: spelled(cost) }));
    const text =
      role === "assistant"
        ? element("div", { class: "text" }, markdown(content))
        : element("p", { class: "text", text: content });
    return message(role, [text, actions]);
  }

  #editor(content, index) {
    const { branch, act } = this;
    const field = element("textarea", { rows: 3, value: content });
    field.setAttribute("aria-label", "Your changed message");
    const done = (beside) => {
      const text = field.value.trim();
      this.editing = -1;
      if (text === "") return this.update();
      if (beside) this.update();
      act.edit(branch, index, text, beside);
    };
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      done(false);
    });
    const buttons = element("div", { class: "actions shown" }, [
      button("Send", { class: "main", onclick: () => done(false) }),
      button("Send beside", { title: "In a branch of its own", onclick: () => done(true) }),
      button("Cancel", { onclick: () => this.#edit(-1) }),
    ]);
    return message("user editing", [field, buttons], "You");
  }

  #welcome() {
    const ideas = IDEAS.map((text) =>
      button(text, { class: "idea", onclick: () => this.act.say(this.branch, text) }),
    );
    return element("li", { class: "welcome" }, [
      element("p", { text: "Say something, or begin with one of these:" }),
      element("div", { class: "ideas" }, ideas),
    ]);
  }

  #explain() {
    const { branch } = this;
    const note = branch.running?.note;
    const problem = branch.problem;
    this.notice.hidden = !note && !problem;
    const parts = [];
    if (note) parts.push(element("p", { text: note }));
    if (problem) {
      const { kind, message, partial } = problem;
      const lost = partial ? " What came of the reply is not part of the conversation." : "";
      const what = kind === "gone" ? "The server does not have this conversation any more." : message;
      parts.push(element("p", { text: what + lost }));
      if (kind === "gone") {
        parts.push(button("Read it again", { onclick: () => branch.reread() }));
      } else if (kind === "full") {
        parts.push(element("p", { text: "Close a branch that is not needed." }));
      }
    }
    this.notice.replaceChildren(...parts);
  }

  /** Changes the log; whoever looks at its end goes on looking at its end. */
  #keepingEnd(change) {
    const { log } = this;
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    change();
    if (atEnd) log.scrollTop = log.scrollHeight;
  }
}

function message(kind, children, label = ROLES[kind] ?? kind) {
  const who = element("span", { class: "who", text: label });
  return element("li", { class: `message ${kind}` }, [who, ...children]);
}

/** What a branch holds. */
function facts({ tokens, bytes, states }) {
  const size = bytes < 1 << 20 ? `${Math.round(bytes / 1024)} KiB` : `${(bytes / (1 << 20)).toFixed(1)} MiB`;
  const fact = (value, text, title) => element("span", { title }, [
    element("b", { text: value }), ` ${text}`,
  ]);
  const count = (n, one) => (n === 1 ? one : `${one}s`);
  return [
    fact(tokens.toLocaleString("en"), count(tokens, "token"), "Read and written so far"),
    fact(size, `in ${states} ${count(states, "state")}`, "All that the server keeps: the state now, and those to go back to. A state's size does not depend on the text's length"),
  ];
}

function spelled({ read, cached, written, seconds }) {
  return `read ${read} · cached ${cached} · wrote ${written} · ${seconds.toFixed(1)} s`;
}
