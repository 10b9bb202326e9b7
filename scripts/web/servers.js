// A browser's servers: the page's files, and `mlx-llamba serve`.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { basename, extname, join } from "node:path";
import { createInterface } from "node:readline";

const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css" };

/** Serves a directory's files; gives the server and its origin. */
export async function files(directory) {
  const server = createServer(async ({ url }, answer) => {
    const name = basename(new URL(url, "http://page").pathname) || "index.html";
    try {
      const content = await readFile(join(directory, name));
      answer.writeHead(200, { "content-type": TYPES[extname(name)] }).end(content);
    } catch {
      answer.writeHead(404).end();
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return { server, origin: `http://127.0.0.1:${server.address().port}` };
}

/** A port that nobody listens on. */
export async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** The command as a server that can be started and ended more than once. */
export class Llamba {
  constructor(program, port) {
    this.program = program;
    this.bind = `127.0.0.1:${port}`;
    this.url = `http://${this.bind}`;
    this.child = null;
  }

  async start(...options) {
    const child = spawn(this.program, ["serve", "--bind", this.bind, ...options], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    this.child = child;
    const said = [];
    for await (const line of createInterface({ input: child.stderr })) {
      said.push(line);
      if (line.startsWith("serving ")) {
        child.stderr.resume();
        return;
      }
    }
    throw new Error(`the server did not start:\n${said.join("\n")}`);
  }

  async end(signal = "SIGTERM") {
    const { child } = this;
    this.child = null;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill(signal);
    await ended;
  }
}
