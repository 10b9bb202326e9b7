// The page: its branches, its server, and the buttons above them.

import { Branch } from "./branch.js";
import { Failure, Server } from "./server.js";
import * as settings from "./settings.js";
import { View } from "./view.js";

/** Between two looks whether the server is there, in milliseconds. */
const LOOK_EVERY = 2000;

const at = (id) => document.getElementById(id);
let chosen = settings.load();
let server = new Server(chosen.url, chosen.key);
/** Views of the branches, from left to right. */
let views = [];
let named = 0;
let timer = 0;

const act = {
  say: (branch, text) => branch.say(text, settings.generation(chosen)),
  again: (branch) => branch.again((attempt) => settings.generation(chosen, attempt)),
  undo: (branch) => branch.undo(),
  async fork(branch, count) {
    const copy = await branch.fork(count);
    return copy && add(copy, branch);
  },
  async edit(branch, index, text, beside) {
    if (!beside) return branch.say(text, settings.generation(chosen), index);
    const copy = await act.fork(branch, index);
    if (copy) await copy.say(text, settings.generation(chosen));
  },
  async export(branch) {
    const file = await branch.export();
    if (!file) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = `${branch.name.replaceAll(" ", "-").toLowerCase()}.session`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  },
  async close(branch) {
    const index = views.findIndex((view) => view.branch === branch);
    const [view] = views.splice(index, 1);
    view.root.remove();
    remember();
    await branch.close();
    if (views.length === 0) await begin();
    else views[Math.max(0, index - 1)].focus();
  },
};

/** Shows a session, beside the branch that it came from. */
function add(session, beside = null, name = `Branch ${letter(named)}`) {
  named += 1;
  const branch = new Branch(server, name, session, (changed, what) => {
    views.find((view) => view.branch === changed)?.update(what);
    if (what !== "text") remember();
    if (["down", "origin", "key"].includes(changed.problem?.kind)) lost(changed.problem);
  });
  if (beside) beside.costs.forEach((cost, i) => i < session.messages.length && branch.costs.set(i, cost));
  const view = new View(branch, act);
  const index = beside ? views.findIndex((one) => one.branch === beside) + 1 : views.length;
  at("branches").insertBefore(view.root, views[index]?.root ?? null);
  views.splice(index, 0, view);
  remember();
  view.focus();
  return branch;
}

/** A, B, ... Z, AA, ... */
function letter(n) {
  const last = String.fromCharCode(65 + (n % 26));
  return n < 26 ? last : letter(Math.floor(n / 26) - 1) + last;
}

/** Begins a conversation. */
async function begin() {
  const system = chosen.system.trim();
  await attempt(async () => add(await server.create(system ? [{ role: "system", content: system }] : [])));
}

/** Does something with the server; what goes wrong is told above the branches. */
async function attempt(work) {
  try {
    await work();
    tell("");
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    lost(error);
  }
}

/** The tab's branches live through a reload of the page. */
function remember() {
  const all = views.map(({ branch }) => ({ id: branch.id, name: branch.name }));
  sessionStorage.setItem("branches", JSON.stringify({ named, all }));
}

async function restore() {
  const kept = JSON.parse(sessionStorage.getItem("branches") ?? '{"named":0,"all":[]}');
  for (const { id, name } of kept.all) {
    try {
      add(await server.get(id), null, name);
    } catch (error) {
      // The server was started anew.
      if (error.kind !== "gone") throw error;
    }
  }
  named = kept.named;
  if (views.length === 0) await begin();
}

/** Looks for the server until it is there. */
async function connect() {
  clearTimeout(timer);
  status("wait", "connecting");
  try {
    await server.connect();
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    return lost(error);
  }
  status("on", server.model);
  tell("");
  if (views.length === 0) await attempt(restore);
}

/** Says that there is no server to talk to, and why, and goes on looking where that helps. */
function lost(failure) {
  clearTimeout(timer);
  const { kind, message } = failure;
  if (!["down", "origin", "key"].includes(kind)) return tell(message);
  status("off", { down: "no server", origin: "not allowed", key: "no valid key" }[kind]);
  if (kind === "key") {
    tell("This server asks for an API key. Write it into the settings.");
    return at("settings").open || openSettings("key");
  }
  tell(`${message} Start one that does, in a terminal:`, `mlx-llamba serve --cors ${location.origin}`);
  timer = setTimeout(connect, LOOK_EVERY);
}

function status(state, text) {
  at("server").dataset.state = state;
  at("server-text").textContent = text;
}

function tell(text, command = "") {
  at("banner").hidden = text === "";
  at("banner-text").textContent = text;
  at("banner-command").hidden = command === "";
  at("banner-command").textContent = command;
}

function openSettings(field) {
  const form = at("settings-form");
  for (const input of form.querySelectorAll("[name]")) input.value = chosen[input.name];
  at("settings").showModal();
  if (field) form.elements[field].focus();
}

function closeSettings() {
  if (at("settings").returnValue !== "save") return;
  const before = chosen;
  chosen = Object.fromEntries([...new FormData(at("settings-form"))].map(([k, v]) => [k, v.trim()]));
  settings.save(chosen);
  if (before.url === chosen.url && before.key === chosen.key && server.model) return;
  const moved = before.url !== chosen.url;
  Object.assign(server, new Server(chosen.url, chosen.key));
  // Sessions of another server mean nothing to this one.
  if (moved) for (const view of views.splice(0)) view.root.remove();
  connect();
}

function move(step) {
  const index = views.findIndex((view) => view.root.contains(document.activeElement));
  views[index + step]?.focus();
}

at("new").addEventListener("click", begin);
at("import").addEventListener("click", () => at("import-file").click());
at("import-file").addEventListener("change", async ({ target }) => {
  const [file] = target.files;
  if (file) await attempt(async () => add(await server.import(file)));
  target.value = "";
});
at("settings-open").addEventListener("click", () => openSettings());
at("settings").addEventListener("close", closeSettings);
document.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const typing = document.activeElement?.value;
  if (!step || !event.altKey || typing) return;
  event.preventDefault();
  move(step);
});
connect();
