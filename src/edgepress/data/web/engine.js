// What a worker does when it is told to: open a file, answer photos, measure.

import {feedPixels, readScores} from './feeding.js';
import {measure} from './measure.js';

const RUNTIMES = {tflite: './litert.js', onnx: './onnxruntime.js'};
const POOL = 16;
let session, model, shape, input, output;

/** Load the runtime of a model's format and open the file; how long both took and what really runs. */
export async function open({model: given, bytes, threads, accelerator}) {
  const started = performance.now();
  const runtime = await (await import(RUNTIMES[given.format])).load({threads, accelerator});
  const loaded = performance.now();
  session = await runtime.open(new Uint8Array(bytes));
  const opened = performance.now();
  model = given;
  input = {...session.input, ...quantization(given.input)};
  output = {...session.output, ...quantization(given.output)};
  const {input_height: height, input_width: width, channels} = given.spec;
  shape = given.spec.layout === 'nchw' ? [1, channels, height, width] : [1, height, width, channels];
  return {runtime: {name: runtime.name, version: runtime.version}, import_ms: loaded - started, load_ms: opened - loaded, threads: session.threads(), input_shape: shape};
}

const quantization = info => ({scale: info?.scale, zero_point: info?.zero_point});

/** Probabilities of one photo's RGB bytes. */
export async function answer(pixels) {
  return readScores(await session.run(feedPixels(pixels, input, model.spec), shape), output, model.spec);
}

/** Latencies of random photos; one is: inputs handed over, inference, outputs read. */
export async function benchmark(settings) {
  const pool = randomInputs();
  return {...await measure(number => session.run(pool[number % POOL], shape), settings), details: await session.details()};
}

function randomInputs() {
  const {input_height: height, input_width: width} = model.spec;
  let state = 1;
  return Array.from({length: POOL}, () => feedPixels(Uint8Array.from({length: height * width * 3}, () => (state = Math.imul(state, 1664525) + 1013904223 | 0) >>> 24), input, model.spec));
}
