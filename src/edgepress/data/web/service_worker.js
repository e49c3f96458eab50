// Keeps the app for offline use. Every file is known by its sha256: a changed file is fetched again, an unexpected one is never kept.
'use strict';

const FILES = {/* path: sha256 */};
const NAME = 'edgepress-VERSION';
const LAZY = /^packages\/.*\.(wasm|js|mjs)$/;  // runtimes are large: only what this browser asked for is kept
const HEADERS = {'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp', 'Cross-Origin-Resource-Policy': 'same-origin', 'X-Content-Type-Options': 'nosniff'};
const ROOT = new URL('./', self.location.href).href;

self.addEventListener('install', event => event.waitUntil(Promise.all(Object.keys(FILES).filter(path => !LAZY.test(path)).map(keep)).then(() => self.skipWaiting())));
self.addEventListener('activate', event => event.waitUntil(removeOthers().then(() => self.clients.claim())));
self.addEventListener('fetch', event => {
  const path = nameOf(event.request.url);
  if (event.request.method === 'GET' && path in FILES) event.respondWith(answer(path));
});
self.addEventListener('message', event => event.waitUntil(keepEverything(event.source)));

const nameOf = url => url.startsWith(ROOT) ? decodeURIComponent(url.slice(ROOT.length).split(/[?#]/)[0]) || 'index.html' : '';

async function answer(path) {
  const cache = await caches.open(NAME);
  const kept = await cache.match(ROOT + path) ?? await keep(path);
  const headers = new Headers(kept.headers);
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  return new Response(kept.body, {status: kept.status, headers});
}

/** Fetch a file, check its bytes and keep it. */
async function keep(path) {
  const response = await fetch(ROOT + path, {cache: 'no-cache'});
  const bytes = await response.clone().arrayBuffer();
  const digest = Array.from(new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)), byte => byte.toString(16).padStart(2, '0')).join('');
  if (!response.ok || digest !== FILES[path]) throw new Error(`${path} is not the file that was packed`);
  const checked = new Response(bytes, {headers: {'Content-Type': response.headers.get('Content-Type') ?? 'application/octet-stream'}});
  await (await caches.open(NAME)).put(ROOT + path, checked.clone());
  return checked;
}

/** Fetch the runtimes that this browser would use, so that the app works offline before anything was measured. */
async function keepEverything(client) {
  const cache = await caches.open(NAME);
  const wanted = Object.keys(FILES).filter(path => !/compat|asyncify|webgpu/.test(path));
  let kept = 0;
  for (const path of wanted) {
    if (await cache.match(ROOT + path) || await keep(path).catch(() => null)) kept += 1;
  }
  client?.postMessage({kept, files: wanted.length, offline: kept === wanted.length});
}

async function removeOthers() {
  for (const name of await caches.keys()) if (name.startsWith('edgepress-') && name !== NAME) await caches.delete(name);
}
