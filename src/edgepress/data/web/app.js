// The page: shows what the other modules find.

import {browserFacts, configurations} from './browser.js';
import {startLive, stopCamera} from './live.js';
import {installOffline} from './offline.js';
import {doubts, figures, milliseconds, modelBytes, photoPixels, photoVerdict, runConfiguration} from './results.js';

const at = id => document.getElementById(id);
const make = (tag, text = '', className = '') => Object.assign(document.createElement(tag), {textContent: text, className});
const state = {app: null, facts: null, records: [], outcomes: []};

async function start() {
  const app = state.app = await (await fetch('app.json')).json();
  if (!app.served && await installOffline(text => { at('mode').textContent = `· ${text}`; })) return;  // the page loads again, isolated
  const facts = state.facts = await browserFacts();
  document.title = `${app.name} – edgepress`;
  at('name').textContent = app.name;
  at('about').textContent = app.models.map(model => `${model.variant}, ${kilobytes(model.size_bytes)}`).join(' · ') + `. ${app.labels.length} classes. Nothing that you show it leaves this device.`;
  if (app.served) at('mode').textContent = '· served by a computer near you';
  at('footer').textContent = `edgepress ${app.version}; onnxruntime-web ${app.packages['onnxruntime-web']}, LiteRT.js ${app.packages['litert-web']}. Third-party licences: packages/LICENSES.txt.`;
  showPlace(facts);
  showPhotos(app);
  at('start').onclick = measureAll;
  at('save').onclick = save;
  at('start').disabled = false;
  startLive(app, facts);
}

function showPlace(facts) {
  const chips = [`${facts.browser} ${facts.browser_version ?? ''}`.trim(), facts.board || facts.system, `${facts.cpus} processor${facts.cpus > 1 ? 's' : ''}`, facts.webgpu ? `WebGPU: ${facts.webgpu}` : 'no WebGPU'];
  at('place').replaceChildren(...chips.map(text => make('li', text)), ...[
    facts.isolated ? make('li', 'threads') : make('li', facts.secure ? 'no threads: the page is not isolated' : 'plain http: no camera, threads or WebGPU', 'warn'),
    ...(facts.headless ? [make('li', 'headless: figures are marked emulated', 'warn')] : [])]);
}

function showPhotos(app) {
  const golden = app.photos.filter(photo => photo.kind === 'golden').length;
  at('photos-rule').textContent = `${golden} golden photos decide: the top class must be the host’s and no probability further off than the tolerance.`
    + (app.photos.length > golden ? ' The others are hard to decode (turned, transparent, 16-bit …) and shown for the browser’s decoder.' : '');
  at('photos').replaceChildren(...app.photos.map(photo => {
    const item = make('li'), image = Object.assign(document.createElement('img'), {src: photo.file, alt: '', loading: 'lazy'}), box = make('div');
    box.append(make('b', photo.label ?? photo.name), make('span', photo.kind === 'golden' ? 'not compared yet' : photo.name, 'small'));
    item.append(image, box);
    return item;
  }));
}

async function measureAll() {
  stopCamera();  // it would take the processor from what is measured
  at('camera').disabled = true;
  at('start').disabled = true;
  at('save').hidden = at('sent').hidden = true;
  at('progress').className = 'progress';
  state.outcomes = [];
  at('results').tBodies[0].replaceChildren();
  at('notes').replaceChildren();
  try {
    for (const model of state.app.models) await measureModel(model);
    showNotes();
    await send();
  } catch (error) {
    at('progress').textContent = String(error.message ?? error);
    at('progress').className = 'progress bad';
  } finally {
    at('start').disabled = at('camera').disabled = false;
    at('start').textContent = 'Measure again';
  }
}

/** A text that may break after the parts of a file's name. */
const breakable = text => text.split(/(?<=[_.@])(?=[a-z])/).flatMap((part, i) => i ? [document.createElement('wbr'), part] : [part]);

async function measureModel(model) {
  const {app, facts} = state;
  const bytes = await modelBytes(model), photos = await photoPixels(app, model);
  for (const configuration of configurations(facts, app)) {
    const name = `${state.outcomes.length + 1} of ${app.models.length * configurations(facts, app).length}: ${model.variant}, ${where(configuration)}`;
    const outcome = await runConfiguration({app, model, bytes, photos, configuration, facts, onStep: step => { at('progress').textContent = `${name}: ${step} …`; }});
    state.outcomes.push(outcome);
    showRow(model, configuration, outcome);
    if (state.outcomes.length === 1) showAnswers(model, photos, outcome.answers);
  }
  at('progress').textContent = '';
}

const where = ({threads, accelerator}) => accelerator === 'webgpu' ? 'WebGPU' : `${threads}\u00a0thread${threads > 1 ? 's' : ''}`;

function showRow(model, configuration, {record, largest}) {
  const found = figures(record), row = make('tr');
  const good = record.status === 'ok';
  const cells = [['File', model.variant], ['Runs in', `${record.runtime} ${record.runtime_version ?? ''}, ${where(configuration)}`],
                 ['Answers', good ? `as on the host${largest < 0.00005 ? '' : ` (± ${largest.toFixed(4)})`}` : record.status === 'failed' ? record.reason : `does not run: ${record.reason}`, good ? 'good' : 'bad']];
  cells.push(...[['Median', found?.median], ['p90', found?.p90], ['Fastest', found?.fastest], ['Opens in', found?.opens]].map(([label, value]) => [label, milliseconds(value), 'n']));
  for (const [label, text, className = ''] of cells) {
    const cell = make('td', '', className);
    cell.dataset.label = label;
    cell.append(make('span', ''));
    cell.firstChild.append(...breakable(text));
    row.append(cell);
  }
  at('results').hidden = false;
  at('results').tBodies[0].append(row);
}

function showAnswers(model, photos, answers) {
  state.app.photos.forEach((photo, i) => {
    const verdict = photoVerdict(photo, photos[i], answers[i], model.expected[i], model.spec.labels);
    const box = at('photos').children[i].lastChild;
    box.replaceChildren(make('b', verdict.label ?? photo.name, verdict.state), make('span', verdict.text, 'small'), ...(photo.kind === 'golden' ? [] : [make('span', ` (${photo.name})`, 'small')]));
  });
}

function showNotes() {
  at('notes').replaceChildren(...doubts(state.outcomes.map(one => one.record), state.facts).map(text => make('li', text)));
}

async function send() {
  const records = state.outcomes.map(one => one.record);
  at('save').hidden = false;
  if (!state.app.served) return;
  const body = JSON.stringify({schema: 1, results: state.outcomes.map(({record, answers}) => ({measurement: record, answers: state.app.photos.flatMap((photo, i) => photo.kind === 'golden' && answers[i] ? [answers[i]] : [])}))});
  const response = await fetch('results', {method: 'POST', headers: {'Content-Type': 'application/json'}, body}).catch(() => null);
  const reply = await response?.json().catch(() => null);
  at('sent').hidden = false;
  at('sent').className = response?.ok ? 'sent' : 'sent bad';
  at('sent').textContent = response?.ok ? `The computer that serves this page has ${records.length} record${records.length > 1 ? 's' : ''} now: ${reply.file}` : `The results could not be handed over: ${reply?.error ?? 'the computer that serves this page does not answer'}. Save them instead.`;
}

function save() {
  const blob = new Blob([JSON.stringify(state.outcomes.map(one => one.record), null, 1)], {type: 'application/json'});
  const link = Object.assign(document.createElement('a'), {href: URL.createObjectURL(blob), download: 'measurements.json'});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const kilobytes = bytes => bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.max(1, Math.round(bytes / 1e3))} kB`;

start().catch(error => {
  at('name').textContent = 'This page could not be loaded';
  at('about').textContent = String(error.message ?? error);
});
