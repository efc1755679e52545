// The embedded dashboard in Chromium: it opens and moves, survives a killed server and a hidden tab, keeps up, and fits.
import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { PATIENCE, Stage, until } from './stage.mjs';

let stage;
beforeEach(() => {
  stage = new Stage();
});
afterEach(() => stage.close());

const config = (redis) => `
[access]
anonymous = true
origins = ["*"]
[source.redis]
url = "${redis.url}"
[namespace.quotes]
class = "merge"
[namespace.book]
class = "merge"
[namespace.trades]
class = "stream"
[namespace.signals]
class = "stream"
history_size = 1000
`;

const SYMBOLS = ['BTCUSDT', 'ETHUSDT', 'ES', 'NQ'];

function open(redis) {
  for (const symbol of SYMBOLS) {
    redis.add(
      `quotes:${symbol}`,
      { symbol, bid: '100.00', ask: '100.01', last: '100.00', open: '100.00' },
      'snapshot',
    );
  }
}

let published = 0;
/** One more signal and a change of every price; returns the signal's id. */
function move(redis) {
  published += 1;
  for (const symbol of SYMBOLS) {
    const price = (100 + published / 100).toFixed(2);
    redis.add(`quotes:${symbol}`, { last: price, bid: price, ask: (Number(price) + 0.01).toFixed(2) });
  }
  const id = `test:${published}`;
  const time = Date.now();
  redis.add('signals:all', {
    id,
    source: 'test',
    time,
    symbol: 'ES',
    signal: 'BUY',
    confidence: 60,
    price: '100.00',
  });
  return id;
}

const value = (page, symbol, cell) =>
  page.locator(`[data-testid="row-${symbol}"] [data-testid="${cell}"]`).getAttribute('data-value');

/** Offsets of the signals that the page shows. */
const shownSignals = (page) =>
  page.$$eval('[data-testid^="signal-"]', (rows) => rows.map((row) => Number(row.dataset.testid.slice(7))));

async function signalsOf(server) {
  const { data } = await (await fetch(`${server.url}/api/topics/signals:all`)).json();
  return data.map((event) => event.offset);
}

/** The page shows exactly the server's data, price by price and signal by signal. */
async function agrees(page, server, signals) {
  await until('the page agrees with the server', async () => {
    for (const symbol of SYMBOLS) {
      const { data } = await (await fetch(`${server.url}/api/topics/quotes:${symbol}`)).json();
      for (const cell of ['last', 'bid', 'ask']) {
        assert.equal(await value(page, symbol, cell), data[cell], `${symbol} ${cell}`);
      }
    }
    const offsets = await signalsOf(server);
    assert.equal(offsets.length, signals, 'signals at the server');
    assert.deepEqual(
      (await shownSignals(page)).sort((a, b) => a - b),
      offsets,
    );
    return true;
  });
}

test('it opens, prices move within two seconds, and it says that they are simulated', async () => {
  const server = await stage.server({});
  const { page, errors } = await stage.browser();
  await page.goto(server.url);
  const row = page.locator('[data-testid="row-BTCUSDT"]');
  await row.waitFor({ timeout: PATIENCE });
  await until(
    'connected',
    async () =>
      (await page.locator('[data-testid="conn-status"]').first().getAttribute('data-state')) === 'connected',
  );
  const prices = () =>
    page.$$eval('[data-testid^="row-"]', (rows) =>
      rows.map((r) => r.querySelector('[data-testid="bid"]')?.dataset.value),
    );
  await until('prices are there', async () => (await prices()).some(Boolean));
  const before = await prices();
  await page.waitForTimeout(2_000);
  const after = await prices();
  const moved = after.filter((price, i) => price !== before[i]).length;
  assert.ok(moved >= 3, `${moved} of ${after.length} prices moved`);
  assert.ok(await page.locator('[data-testid="sim-badge"]').first().isVisible());
  // The chart and the book of the selected instrument are there.
  await page.locator('canvas').first().waitFor({ timeout: PATIENCE });
  assert.deepEqual(errors, []);
});

test('killed with -9 and started again, it recovers by itself: no signal lost, no price wrong', async () => {
  const redis = await stage.redis();
  open(redis);
  let server = await stage.server({ config: config(redis) });
  const { page, errors } = await stage.browser();
  await page.goto(server.url);
  await page.locator('[data-testid="row-ES"]').waitFor({ timeout: PATIENCE });
  const start = published;
  for (let i = 0; i < 5; i += 1) move(redis);
  await agrees(page, server, published - start);
  await server.kill();
  for (let i = 0; i < 7; i += 1) move(redis);
  await until(
    'the page notices',
    async () =>
      (await page.locator('[data-testid="conn-status"]').first().getAttribute('data-state')) !== 'connected',
  );
  server = await server.again();
  await agrees(page, server, published - start);
  for (let i = 0; i < 3; i += 1) move(redis);
  await agrees(page, server, published - start);
  assert.deepEqual(errors, []);
});

test('a tab that was hidden for long lets go of its topics, and is right when it is back', async () => {
  const redis = await stage.redis();
  open(redis);
  const server = await stage.server({ config: config(redis) });
  const { page, errors } = await stage.browser();
  // The ten minutes are shortened to half a second.
  await page.goto(`${server.url}/?hidden_after=500`);
  await page.locator('[data-testid="row-ES"]').waitFor({ timeout: PATIENCE });
  const start = published;
  for (let i = 0; i < 3; i += 1) move(redis);
  await agrees(page, server, published - start);
  const visibility = (state) =>
    page.evaluate((to) => {
      Object.defineProperty(document, 'visibilityState', { configurable: true, get: () => to });
      Object.defineProperty(document, 'hidden', { configurable: true, get: () => to === 'hidden' });
      document.dispatchEvent(new Event('visibilitychange'));
    }, state);
  await visibility('hidden');
  await until(
    'nothing is subscribed',
    async () => (await (await fetch(`${server.url}/status`)).json()).subscriptions === 0,
  );
  for (let i = 0; i < 40; i += 1) move(redis);
  await visibility('visible');
  await agrees(page, server, published - start);
  assert.deepEqual(errors, []);
});

test('two thousand updates a second leave the page responsive', async () => {
  const server = await stage.server({ env: { NEXUS_SOURCE__SIMULATOR__RATE: '2000.0' } });
  const { page, errors } = await stage.browser();
  await page.goto(server.url);
  await page.locator('[data-testid="row-BTCUSDT"]').waitFor({ timeout: PATIENCE });
  await page.locator('canvas').first().waitFor({ timeout: PATIENCE });
  await page.waitForTimeout(2_000);
  // The length of a task depends on the machine as much as on the page. A page that cannot keep up has no free time: in most
  // of these windows the main thread must be free for a fifth of the time. Tasks of less than 50 ms are not reported; between
  // them the page answers.
  const windows = await page.evaluate(async () => {
    const found = [];
    let row = 0;
    while (row < 4 && found.length < 15) {
      let [busy, longest] = [0, 0];
      const observer = new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) {
          busy += entry.duration;
          longest = Math.max(longest, entry.duration);
        }
      });
      observer.observe({ entryTypes: ['longtask'] });
      const began = performance.now();
      await new Promise((resolve) => setTimeout(resolve, 2_000));
      observer.disconnect();
      found.push({ share: busy / (performance.now() - began), longest });
      row = longest === 0 ? row + 1 : 0;
    }
    return found;
  });
  const told = windows.map(
    ({ share, longest }) => `${Math.round(100 * share)} % (${Math.round(longest)} ms)`,
  );
  console.log(`long tasks in each window of 2 s, and the longest: ${told.join(', ')}`);
  const shares = windows.map(({ share }) => share).sort((a, b) => a - b);
  assert.ok(shares[Math.floor(shares.length / 2)] < 0.8, `busy with long tasks: ${told}`);
  const rate = await page.locator('[data-testid="msg-rate"]').first().textContent();
  assert.match(rate, /\d/);
  assert.deepEqual(errors, []);
});

test('it fits a phone, and is reached by keyboard', async () => {
  const server = await stage.server({});
  const { page, errors } = await stage.browser({
    viewport: { width: 360, height: 740 },
    hasTouch: true,
    isMobile: true,
  });
  await page.goto(server.url);
  await page.locator('[data-testid^="row-"]').first().waitFor({ timeout: PATIENCE });
  const overflow = await page.evaluate(
    () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
  );
  assert.equal(overflow, 0, 'nothing scrolls sideways');
  await page.keyboard.press('/');
  assert.equal(await page.evaluate(() => document.activeElement?.tagName), 'INPUT', '`/` goes to the filter');
  await page.keyboard.type('ETHUSDT');
  await until('filtered', async () => (await page.locator('[data-testid^="row-"]').count()) === 1);
  assert.deepEqual(errors, []);
});

test('operators see nodes, sources and rates', async () => {
  const server = await stage.server({});
  const { page, errors } = await stage.browser();
  await page.goto(`${server.url}/ops`);
  await until('the node is there', async () => (await page.getByText('simulator').count()) > 0);
  await until('rates are there', async () => /ready/i.test(await page.locator('body').textContent()));
  assert.deepEqual(errors, []);
});

/** Values that a publisher may put where the dashboard expects a text. */
const ODD = [
  ...[
    '1.5',
    'null',
    'true',
    '[]',
    '{}',
    '[[1,2],["x"],null]',
    '{"a":{"b":[null]}}',
    '1e400',
    '-1e400',
    '1e-400',
    '-7',
  ],
  ...['9007199254740993', '"abc"', '""', '" "', '"0.000000000012"', '"1e400"', '"2024-08-09T00:54:16Z"'],
  ...[`"${'N'.repeat(70)}"`, `"${'9'.repeat(300)}"`, '"\\u0000"', '"<script>"', '{"__proto__":{"a":1}}'],
];
const MEMBERS = {
  quotes: ['bid', 'ask', 'bid_size', 'ask_size', 'last', 'open', 'sim'],
  book: ['b', 'a'],
  trades: ['p', 'q', 'side'],
  signals: [
    'id',
    'symbol',
    'signal',
    'confidence',
    'price',
    'target',
    'stop_loss',
    'reason',
    'source',
    'time',
  ],
};
const GOOD = {
  quotes: { bid: '"100.00"', ask: '"100.01"', last: '"100.00"', open: '"99.00"' },
  book: { b: '{"99.5":"1"}', a: '{"100.5":"2"}' },
  trades: { p: '"100.00"', q: '"1"', side: '"buy"' },
  signals: { id: '"odd"', symbol: '"ES"', signal: '"BUY"', confidence: '60', time: '1723164856000' },
};
/** Variants of an object: in each, one member is odd or missing; in one more, all are. */
function oddObjects(kind) {
  const text = (members) => `{${Object.entries(members).map(([name, value]) => `"${name}":${value}`)}}`;
  const objects = [];
  for (const [at, odd] of ODD.entries()) {
    const name = MEMBERS[kind][at % MEMBERS[kind].length];
    objects.push(text({ ...GOOD[kind], [name]: odd }));
    objects.push(text(Object.fromEntries(MEMBERS[kind].map((member) => [member, odd]))));
  }
  return [...objects, '{}', '{"confidence":1.7,"symbol":"ES","signal":"BUY"}', '{"bid":1.5}', '{"p":1.5}'];
}

/** No part of the page has failed, and the healthy row shows this price. */
async function stands(page, price, what) {
  await until(
    `${what}: the healthy row goes on`,
    async () =>
      (await page.locator('[data-testid="row-A"] [data-testid="last"]').getAttribute('data-value')) === price,
  );
  assert.equal(await page.locator('[data-testid="bad-panel"], [role="alert"]').count(), 0, what);
}

for (const quotes of ['merge', 'latest']) {
  test(`odd JSON spoils its own row and nothing else, also after a reload (${quotes})`, async () => {
    const redis = await stage.redis();
    const whole = quotes === 'merge' ? 'snapshot' : undefined;
    const classes = (text) => text.replaceAll('class = "merge"', `class = "${quotes}"`);
    const server = await stage.server({ config: classes(config(redis)) });
    const { page, errors } = await stage.browser();
    let price = 100;
    const healthy = () => {
      price += 1;
      redis.add('quotes:A', { last: `${price}.0`, bid: `${price}.0`, ask: `${price}.1`, open: '100' }, whole);
      return `${price}.0`;
    };
    // One instrument for the odd quotes that stay, and one that gets all of them.
    redis.addText('quotes:ODD', '{"bid":1.5,"last":{},"ask":"x"}', whole);
    redis.addText('book:ODD', '{"b":{"99.5":"1"},"a":{}}', whole);
    healthy();
    await page.goto(`${server.url}/#ODD`);
    await stands(page, `${price}.0`, 'at first');
    const bad = page.locator('[data-testid="row-ODD"][data-bad]');
    await bad.waitFor({ timeout: PATIENCE });
    assert.match(await bad.locator('[data-testid="problem"]').getAttribute('title'), /^quotes:ODD: /);
    assert.equal(await bad.locator('[data-testid="bid"]').textContent(), '1.5', 'a number is a price too');

    let events = 0;
    for (const kind of ['quotes', 'book', 'trades', 'signals']) {
      const stream = kind === 'trades' || kind === 'signals';
      const anything = stream || quotes === 'latest' ? ODD : [];
      for (const [at, data] of [...oddObjects(kind), ...anything].entries()) {
        redis.addText(kind === 'signals' ? 'signals:all' : `${kind}:ODD`, data, stream ? undefined : whole);
        if (kind === 'signals') events += 1;
        if (at % 8 === 0) await stands(page, healthy(), `${kind}, ${data}`);
      }
      await stands(page, healthy(), kind);
    }
    const shown = async () =>
      (await page.locator('[data-testid^="signal-"]').count()) === Math.min(events, 200);
    await until('every signal has its row', shown);
    assert.ok((await page.locator('.signal[data-bad]').count()) > 10, 'and those that are none say so');
    assert.ok((await page.locator('.tape-list [data-bad]').count()) > 0, 'trades too');
    redis.addText('quotes:ODD', '{"last":[],"bid":1.5}', whole);
    await bad.waitFor({ timeout: PATIENCE });

    await page.reload();
    await stands(page, `${price}.0`, 'after a reload');
    await bad.waitFor({ timeout: PATIENCE });
    await until('every signal has its row again', shown);
    await page.locator('canvas').first().waitFor({ timeout: PATIENCE });
    await stands(page, healthy(), 'and on');
    const sideways = () => document.documentElement.scrollWidth - document.documentElement.clientWidth;
    assert.equal(await page.evaluate(sideways), 0, 'no value is so wide that the page scrolls');
    assert.deepEqual(errors, []);
  });
}

test('operators see the healthy node beside reports that cannot be read', async () => {
  const server = await stage.server({});
  const { page, errors } = await stage.browser();
  // No publisher can write ops:nodes, so the test inserts the odd reports on the way, as another version might send them.
  const parse = (text) => JSON.parse(text);
  const ghosts = Object.fromEntries(ODD.map((odd, at) => [`ghost${at}`, parse(odd)]));
  for (const [at, odd] of ODD.entries()) {
    const report = [
      'name',
      'at',
      'started_at',
      'sessions',
      'sessions_by_shard',
      'rates',
      'sources',
      'reasons',
    ];
    ghosts[`half${at}`] = Object.fromEntries(report.map((name) => [name, parse(odd)]));
  }
  await page.routeWebSocket(/connection\/websocket/, (socket) => {
    socket.connectToServer().onMessage((message) => {
      const lines = String(message)
        .split('\n')
        .map((line) => {
          if (!line.includes('"channel":"ops:nodes"')) return line;
          const reply = JSON.parse(line);
          Object.assign(reply.push.pub.data, ghosts);
          return JSON.stringify(reply);
        });
      socket.send(lines.join('\n'));
    });
  });
  await page.goto(`${server.url}/ops`);
  const healthy = page.locator('tbody tr[data-testid^="node-"]:not([data-bad])', { hasText: /ready/ });
  const all = page.locator('tbody tr[data-testid^="node-"]');
  const seen = async () => (await healthy.count()) >= 1 && (await all.count()) > ODD.length;
  await until('the node and the ghosts are there', seen);
  assert.ok((await page.locator('tr[data-bad]').count()) > ODD.length / 2, 'what cannot be read says so');
  await page.reload();
  await until('and again after a reload', seen);
  assert.equal(await page.locator('[data-testid="bad-panel"], [role="alert"]').count(), 0);
  assert.deepEqual(errors, []);
});
