// Starts what the browser tests need: the server, Redis, Chromium. If one cannot be started, the test fails.
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const root = join(dirname(fileURLToPath(import.meta.url)), '../..');
const program = process.env.NEXUS_PUSH ?? join(root, 'target/debug/nexus-push');

/** Longest wait for an expected event, in ms. */
export const PATIENCE = 30_000;

export function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer().on('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

export async function until(what, so) {
  const deadline = Date.now() + PATIENCE;
  let last;
  while (Date.now() < deadline) {
    try {
      if (await so()) return;
    } catch (error) {
      last = error;
    }
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  throw new Error(`not in time: ${what}${last ? ` (${last.message})` : ''}`);
}

export class Stage {
  #undo = [];

  folder = mkdtempSync(join(tmpdir(), 'nexus-browser-'));

  async close() {
    for (const undo of this.#undo.reverse()) await undo();
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** A server on a port of its own; `again(port)` starts one more with the same configuration. */
  async server({ args = [], config, env = {}, port }) {
    port ??= await freePort();
    if (config) {
      const path = join(this.folder, 'nexus-push.toml');
      writeFileSync(path, config);
      args = [...args, '--config', path];
    }
    if (!existsSync(program)) throw new Error(`${program} is not there: cargo build`);
    const child = spawn(program, ['serve', '--listen', `127.0.0.1:${port}`, ...args], {
      env: { ...process.env, ...env },
      stdio: 'ignore',
    });
    const ended = new Promise((resolve) => child.on('exit', resolve));
    const kill = () => child.kill('SIGKILL') && ended;
    this.#undo.push(kill);
    const url = `http://127.0.0.1:${port}`;
    await until('the server is ready', async () => (await fetch(`${url}/readyz`)).ok);
    return { url, port, kill, again: () => this.server({ args, env, port }) };
  }

  async redis() {
    const port = await freePort();
    const child = spawn(
      'redis-server',
      ['--port', port, '--bind', '127.0.0.1', '--save', '', '--dir', this.folder],
      {
        stdio: 'ignore',
      },
    );
    this.#undo.push(() => child.kill('SIGKILL'));
    const cli = (...args) =>
      execFileSync('redis-cli', ['-p', port, ...args.map(String)], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      }).trim();
    await until('Redis answers', () => cli('PING') === 'PONG');
    /** Adds a delta with this text as its data, valid or not. */
    const addText = (topic, text, kind) =>
      cli('XADD', 'nexus:deltas', '*', 'topic', topic, 'data', text, ...(kind ? ['kind', kind] : []));
    const add = (topic, data, kind) => addText(topic, JSON.stringify(data), kind);
    return { url: `redis://127.0.0.1:${port}`, add, addText };
  }

  async browser(options = {}) {
    const path = process.env.CHROMIUM ?? '/usr/bin/chromium';
    const browser = await chromium.launch({ executablePath: path, args: ['--no-sandbox', '--disable-gpu'] });
    this.#undo.push(() => browser.close());
    const page = await browser.newPage({ viewport: { width: 1440, height: 900 }, ...options });
    const errors = [];
    page.on('pageerror', (error) => errors.push(String(error)));
    page.on('console', (message) => {
      // Errors about a server that is down are part of the tests; other errors are not.
      const expected = /WebSocket|net::ERR_|Failed to load resource/.test(message.text());
      if (message.type() === 'error' && !expected) errors.push(message.text());
    });
    return { page, errors };
  }
}
