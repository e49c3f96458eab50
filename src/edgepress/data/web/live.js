// A photo or the camera through the model, live.

import {Engine} from './browser.js';
import {milliseconds, modelBytes} from './results.js';
import {draw, loadPixels, toPixels} from './pixels.js';

const at = id => document.getElementById(id);
const SHOWN = 4;
const AVERAGED = 10;  // frames
let engine = null, open = null, stream = null;

/** Make the controls work. */
export function startLive(app, facts) {
  at('pick-model').hidden = app.models.length < 2;
  at('model').replaceChildren(...app.models.map((model, i) => new Option(model.variant, i)));
  at('model').onchange = () => { engine?.close(); open = null; };
  const model = () => app.models[Number(at('model').value)];
  at('camera').disabled = false;
  at('camera').onclick = () => guarded(() => stream ? stopCamera() : startCamera(model, facts));
  at('file').onchange = event => guarded(async () => {
    const [file] = event.target.files;
    event.target.value = '';
    if (file) await classifyFile(file, model(), facts);
  });
}

async function guarded(action) {
  try {
    await action();
  } catch (error) {
    stopCamera();
    at('live-note').className = 'progress bad';
    at('live-note').textContent = explain(error);
  }
}

function explain(error) {
  if (error.name === 'NotAllowedError') return 'The browser did not allow the camera. Allow it for this page and try again, or choose a photo.';
  if (error.name === 'NotFoundError') return 'This device has no camera. Choose a photo instead.';
  return String(error.message ?? error);
}

function note(text) {
  at('live-note').className = 'progress';
  at('live-note').textContent = text;
}

/** The engine with a model open; opened once. */
async function opened(model, facts) {
  open ??= (async () => {
    note('opening the model …');
    engine = new Engine();
    await engine.ask('open', {model, bytes: await modelBytes(model), threads: facts.isolated ? Math.min(2, facts.cpus) : 1, accelerator: null});
    note('');
  })().catch(error => { open = null; throw error; });
  await open;
  return engine;
}

async function startCamera(model, facts) {
  if (!navigator.mediaDevices?.getUserMedia) throw new Error('Browsers lend the camera to https pages and to localhost only. Have the page served with https, or choose a photo: on a phone that offers the camera too.');
  const picked = model();
  await opened(picked, facts);
  stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: 'environment', width: {ideal: 640}, height: {ideal: 480}}, audio: false});
  const video = at('video');
  video.srcObject = stream;
  await video.play();
  show('video');
  at('camera').textContent = 'Stop camera';
  watch(video, stream, model, facts).catch(error => guarded(() => { throw error; }));
}

/** End the camera, and give the processor back. */
export function stopCamera() {
  stream?.getTracks().forEach(track => track.stop());
  stream = null;
  at('camera').textContent = 'Start camera';
}

async function watch(video, mine, model, facts) {
  const times = [];
  while (stream === mine) {
    const picked = model(), one = await opened(picked, facts);
    const started = performance.now();
    const pixels = toPixels(draw(video, video.videoWidth, video.videoHeight), picked.spec);
    const prepared = performance.now();
    const answer = await one.ask('answer', pixels);
    times.push([prepared - started, performance.now() - prepared]);
    if (times.length > AVERAGED) times.shift();
    showAnswer(answer, picked.spec);
    const [preparing, running] = [0, 1].map(i => times.reduce((sum, pair) => sum + pair[i], 0) / times.length);
    at('live-time').textContent = `${milliseconds(preparing)} to prepare a frame, ${milliseconds(running)} to answer; ${(1000 / (preparing + running)).toFixed(0)} a second at most`;
    await new Promise(resolve => requestAnimationFrame(resolve));
  }
}

async function classifyFile(file, model, facts) {
  stopCamera();
  const one = await opened(model, facts);
  let pixels;
  try {
    pixels = await loadPixels(file, model.spec);
  } catch {
    throw new Error(`${file.name} is no image that this browser can decode. JPEG, PNG, WebP and GIF work everywhere.`);
  }
  const started = performance.now();
  showAnswer(await one.ask('answer', pixels), model.spec);
  at('live-time').textContent = `${milliseconds(performance.now() - started)} to answer`;
  URL.revokeObjectURL(at('shown').src);
  at('shown').src = URL.createObjectURL(file);
  show('shown');
}

function show(id) {
  at('live').hidden = false;
  for (const one of ['video', 'shown']) at(one).hidden = one !== id;
}

function showAnswer(answer, spec) {
  const order = answer.map((_, i) => i).sort((a, b) => answer[b] - answer[a]).slice(0, SHOWN);
  const unsure = spec.reject_threshold !== null && answer[order[0]] < spec.reject_threshold;
  at('verdict').textContent = unsure ? 'unknown' : spec.labels[order[0]];
  at('top').replaceChildren(...order.map(i => {
    const item = document.createElement('li'), bar = Object.assign(document.createElement('progress'), {max: 1, value: answer[i]}), name = document.createElement('span'), share = document.createElement('span');
    bar.setAttribute('aria-hidden', 'true');
    name.textContent = spec.labels[i];
    share.textContent = `${(100 * answer[i]).toFixed(1)} %`;
    item.append(bar, name, share);
    return item;
  }));
}
