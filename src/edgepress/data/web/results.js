// Check the answers, measure, and make the records that edgepress reads: one Measurement for each file and configuration.

import {compareAnswers, difference, top} from './feeding.js';
import {median, quantile} from './measure.js';
import {loadPixels} from './pixels.js';
import {Engine} from './browser.js';

export const SETTINGS = {min_runs: 50, min_seconds: 2, max_seconds: 30, warmup_seconds: 0.2};
const SPREAD = 0.1;
const EQUAL_PIXELS = 2;  // levels of 255: decoders round differently

/** The bytes of a file, checked where the browser can (crypto.subtle needs https or localhost). */
export async function modelBytes(model) {
  const response = await fetch(model.file);
  if (!response.ok) throw new Error(`${model.file} cannot be loaded (${response.status})`);
  const bytes = await response.arrayBuffer();
  if (self.crypto?.subtle) {
    const digest = Array.from(new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)), byte => byte.toString(16).padStart(2, '0')).join('');
    if (digest !== model.sha256) throw new Error(`${model.file} is not the file that was packed: its sha256 differs`);
  }
  return bytes;
}

/** This browser's pixels of every photo, and how far they are from the host's (in levels of 255). */
export async function photoPixels(app, model) {
  return Promise.all(app.photos.map(async (photo, i) => {
    try {
      const pixels = await loadPixels(await (await fetch(photo.file)).blob(), model.spec);
      const host = new Uint8Array(await (await fetch(model.pixels[i])).arrayBuffer());
      return {pixels, levels: difference(pixels, host)};
    } catch (error) {
      return {pixels: null, levels: null, error: String(error.message ?? error)};
    }
  }));
}

/** Open a file in one configuration, compare its answers, and time it where they agree. */
export async function runConfiguration({app, model, bytes, photos, configuration, facts, onStep}) {
  const engine = new Engine();
  const record = emptyRecord(model, configuration, facts, app);
  try {
    onStep('opening');
    const opened = await engine.ask('open', {model, bytes, ...configuration});
    record.runtime_version = opened.runtime.version ?? app.packages[record.runtime];
    record.threads = opened.threads;
    record.input_shapes = [opened.input_shape];
    onStep('comparing answers');
    const answers = [];
    for (const photo of photos) answers.push(photo.pixels ? await engine.ask('answer', photo.pixels) : null);
    const problems = judge(app, model, answers);
    if (problems.length) return {record: {...record, status: 'failed', reason: `answers differ from the host's: ${problems[0]}`.slice(0, 300)}, answers};
    onStep('measuring');
    const raw = await engine.ask('benchmark', SETTINGS, SETTINGS.max_seconds + 60);
    const largest = Math.max(...app.photos.map((photo, i) => photo.kind === 'golden' ? difference(answers[i], model.expected[i]) : 0));
    return {record: timedRecord(record, opened, raw), answers, largest};
  } catch (error) {
    return {record: {...record, status: 'unsupported', reason: String(error.message ?? error).slice(0, 300)}, answers: []};
  } finally {
    engine.close();
  }
}

/** Golden photos decide; hard ones (turned, transparent, 16-bit …) are shown, since decoders may differ there. */
function judge(app, model, answers) {
  const golden = app.photos.flatMap((photo, i) => photo.kind === 'golden' ? [i] : []);
  const missing = golden.find(i => answers[i] === null);
  if (missing !== undefined) return [`${app.photos[missing].name} cannot be decoded by this browser`];
  return compareAnswers(golden.map(i => answers[i]), golden.map(i => model.expected[i]), golden.map(i => app.photos[i].name), model.tolerance);
}

function emptyRecord(model, {threads, accelerator}, facts, app) {
  return {schema: 1, file: model.file, sha256: model.sha256, format: model.format, size_bytes: model.size_bytes, gzip_bytes: model.gzip_bytes,
          runtime: model.format === 'onnx' ? 'onnxruntime-web' : 'litert-web', threads, target: `browser://${facts.browser}`, measured_on: facts.headless ? 'emulated' : 'real',
          accelerator, runtime_version: app.packages[model.format === 'onnx' ? 'onnxruntime-web' : 'litert-web'], status: 'ok', reason: null, remark: null,
          timed: 'inputs handed over, inference, outputs read; batch 1', input_shapes: [], settings: SETTINGS, host: facts, details: {}, rounds: []};
}

function timedRecord(record, opened, raw) {
  const {latencies_ms, first_run_ms, warmup_runs, runs_per_sample, timer_resolution_ms, details} = raw;
  return {...record, settings: {...record.settings, runs_per_sample, timer_resolution_ms}, details: {...details, headless: record.host.headless},
          rounds: [{latencies_ms, import_ms: opened.import_ms, load_ms: opened.load_ms, first_run_ms, warmup_runs}]};
}

/** Figures of a record for the table: null where it has none. */
export function figures(record) {
  const [round] = record.rounds;
  if (!round) return null;
  const values = round.latencies_ms;
  return {median: median(values), p90: values.length >= 44 ? quantile(values, 0.9) : null, fastest: Math.min(...values), opens: round.load_ms, spread: (quantile(values, 0.75) - quantile(values, 0.25)) / median(values)};
}

/** What is doubtful about the records, each doubt once. */
export function doubts(records, facts) {
  const timed = records.filter(record => record.rounds.length), found = [];
  if (!timed.length) return found;
  if (facts.headless) found.push('A headless browser measured this: recorded as emulated, no figure of a phone.');
  if (!facts.isolated) found.push('The page is not isolated, so this browser lends no threads and its clock is coarse. Over https or on localhost both are better.');
  const grouped = timed.filter(record => record.settings.runs_per_sample > 1);
  if (grouped.length) found.push(`The clock ticks every ${milliseconds(grouped[0].settings.timer_resolution_ms)}: where runs are short, up to ${Math.max(...grouped.map(record => record.settings.runs_per_sample))} were timed together and divided.`);
  if (timed.some(record => figures(record).spread > SPREAD)) found.push('The runs lie far apart: close other tabs and programs, plug the device in, and measure again; or compare the fastest.');
  const elsewhere = timed.filter(record => record.accelerator === 'webgpu' && (record.details.nodes?.CPUExecutionProvider || (record.details.delegate && record.details.delegate !== 'WebGPU')));
  if (elsewhere.length) found.push(`Not all of ${elsewhere.map(record => record.file.replace('models/', '')).join(', ')} runs on WebGPU: the rest runs on the processor, and is copied there and back.`);
  if (/swiftshader|llvmpipe|lavapipe/i.test(facts.webgpu ?? '')) found.push('WebGPU is emulated by the processor here: its times are those of no graphics chip.');
  const none = timed.filter(record => record.format === 'tflite' && !record.accelerator && !record.details.delegate);
  if (none.length) found.push('LiteRT named no delegate: these may be its slow reference kernels.');
  return found;
}

/** How a photo went: {text, state: good | warn | bad}. */
export function photoVerdict(photo, own, answer, expected, labels) {
  if (own.error) return {text: `cannot be decoded here (${own.error})`, state: photo.kind === 'golden' ? 'bad' : 'warn'};
  const pixels = own.levels === 0 ? 'pixels equal to the host’s' : `pixels up to ${own.levels} of 255 off`;
  if (!answer) return {text: pixels, state: own.levels <= EQUAL_PIXELS ? 'good' : 'warn'};
  const same = top(answer) === top(expected);
  const percent = value => `${(100 * value).toFixed(1)}\u00a0%`;
  return {label: `${labels[top(answer)]} ${percent(Math.max(...answer))}`, text: `${same ? 'host' : `host says ${labels[top(expected)]}`} ${percent(Math.max(...expected))}; ${pixels}`, state: !same ? 'bad' : own.levels <= EQUAL_PIXELS ? 'good' : 'warn'};
}

/** A time for people. */
export function milliseconds(value) {
  if (value === null || value === undefined) return '–';
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  if (value >= 100) return `${value.toFixed(0)} ms`;
  return value >= 0.0995 ? `${value.toPrecision(3)} ms` : `${Math.round(1000 * value)} µs`;
}
