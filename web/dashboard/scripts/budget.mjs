// How much JavaScript and CSS a browser loads before it shows the page: what index.html names, and what that imports
// statically, gzipped. Fails above the budget. Reads the build, so that nothing can be forgotten.
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, posix } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';

const BUDGET = 150_000;

const root = process.argv[2] ?? join(dirname(fileURLToPath(import.meta.url)), '../../embedded');
const index = join(root, 'index.html');
if (!existsSync(index)) {
  console.error(`${index} is not there: run the build first`);
  process.exit(1);
}
const html = readFileSync(index, 'utf8');

/** Path inside the build of what a module or the page refers to. */
const resolve = (from, to) => (to.startsWith('/') ? to.slice(1) : posix.join(posix.dirname(from), to));

const seen = new Set();
function load(path) {
  if (seen.has(path)) return;
  seen.add(path);
  if (!path.endsWith('.js')) return;
  const code = readFileSync(join(root, path), 'utf8');
  // `import … from "./x.js"`, `import "./x.js"`, `export … from "./x.js"`, but not `import("./x.js")`. A module path is
  // relative and ends in .js here, which no other string in these places does.
  for (const [, to] of code.matchAll(/(?:\bfrom|\bimport)\s*["']([^"']+\.js)["']/g)) load(resolve(path, to));
}
// Scripts, module preloads and style sheets.
for (const [, to] of html.matchAll(/<(?:script|link)\b[^>]*?\b(?:src|href)="([^"]+\.(?:js|css))"/g)) {
  load(resolve('index.html', to));
}

let total = 0;
for (const path of seen) {
  const size = gzipSync(readFileSync(join(root, path)), { level: 9 }).length;
  if (path.endsWith('.js')) total += size;
  console.log(`${String(size).padStart(8)}  ${path}`);
}
if (total === 0) {
  console.error('index.html loads no script: this build cannot be right');
  process.exit(1);
}
console.log(
  `${String(total).padStart(8)}  bytes of JavaScript in the first load, gzipped; the budget is ${BUDGET}`,
);
if (total > BUDGET) {
  console.error(`over the budget by ${total - BUDGET} bytes`);
  process.exit(1);
}
