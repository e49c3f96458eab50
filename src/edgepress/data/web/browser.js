// What this browser is, and what it lets a page do.

const FAMILIES = [['edge', /Edg(?:A|iOS)?\/(\d+)/], ['samsung-internet', /SamsungBrowser\/(\d+)/], ['opera', /OPR\/(\d+)/], ['firefox', /(?:Firefox|FxiOS)\/(\d+)/],
                  ['chrome', /(?:HeadlessChrome|Chrome|CriOS)\/(\d+)/], ['safari', /Version\/(\d+).*Safari/]];

/** Facts for the record; nothing that identifies a person. */
export async function browserFacts() {
  const agent = navigator.userAgent;
  const [family, version] = FAMILIES.map(([name, pattern]) => [name, agent.match(pattern)?.[1]]).find(([, found]) => found) ?? ['browser', null];
  const hints = await navigator.userAgentData?.getHighEntropyValues(['platform', 'platformVersion', 'architecture', 'model']).catch(() => null);
  const system = hints?.platform || (/Android/.test(agent) ? 'Android' : /iPhone|iPad/.test(agent) ? 'iOS' : /Mac OS/.test(agent) ? 'macOS' : /Windows/.test(agent) ? 'Windows' : /Linux/.test(agent) ? 'Linux' : 'unknown');
  return {
    browser: family, browser_version: version, system, release: hints?.platformVersion || null, machine: hints?.architecture || null, board: hints?.model || null, cpu: null,
    cpus: navigator.hardwareConcurrency || 1, memory_gb: navigator.deviceMemory ?? null, user_agent: agent.slice(0, 300), isolated: self.crossOriginIsolated === true, secure: self.isSecureContext === true,
    headless: /Headless/.test(agent) || navigator.webdriver === true, webgpu: await gpuAdapter(),
  };
}

/** What WebGPU would run on, or null. */
async function gpuAdapter() {
  try {
    const adapter = await navigator.gpu?.requestAdapter();
    return adapter ? [adapter.info?.vendor, adapter.info?.architecture].filter(Boolean).join(' ') || 'unnamed' : null;
  } catch {
    return null;
  }
}

/** Configurations to measure: one thread; several where the page is isolated; WebGPU where there is an adapter. */
export function configurations(facts, app) {
  const threads = facts.isolated && facts.cpus > 1 ? [1, Math.min(4, facts.cpus)] : [1];
  return [...threads.map(count => ({threads: count, accelerator: null})), ...(facts.webgpu && app.webgpu ? [{threads: 1, accelerator: 'webgpu'}] : [])];
}

/** One worker with one open file. A runtime that hangs or crashes takes the worker with it, not the page. */
export class Engine {
  #worker = new Worker('worker.js');
  #waiting = new Map();
  #last = 0;

  constructor() {
    this.#worker.onmessage = ({data: {id, value, error}}) => this.#settle(id, error === undefined ? null : new Error(error), value);
    this.#worker.onerror = event => this.#fail(new Error(event.message || 'the worker could not be started'));
  }

  /** Have the worker do something; rejects where it fails or takes too long. */
  ask(call, argument, seconds = 120) {
    const id = ++this.#last;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => { this.close(); this.#settle(id, new Error(`no answer within ${seconds} seconds`)); }, seconds * 1000);
      this.#waiting.set(id, {resolve, reject, timer});
      this.#worker.postMessage({id, call, argument});
    });
  }

  #settle(id, error, value) {
    const one = this.#waiting.get(id);
    if (!one) return;
    this.#waiting.delete(id);
    clearTimeout(one.timer);
    error ? one.reject(error) : one.resolve(value);
  }

  #fail(error) {
    for (const id of [...this.#waiting.keys()]) this.#settle(id, error);
  }

  /** End the worker and give its memory back. */
  close() {
    this.#worker.terminate();
  }
}
