// Between pixels and a file's tensors, as edgepress's feeding.py does it: normalise, order channels, quantise on the way in; dequantise, softmax on the way out.

export const ARRAYS = {uint8: Uint8Array, int8: Int8Array, float32: Float32Array, int32: Int32Array, int16: Int16Array};
const LUMA = [0.299, 0.587, 0.114].map(Math.fround);  // ITU-R 601
const LIMITS = {uint8: [0, 255], int8: [-128, 127], int16: [-32768, 32767], int32: [-(2 ** 31), 2 ** 31 - 1]};

/** RGB bytes [H, W, 3] as what the file's input takes. */
export function feedPixels(pixels, info, spec) {
  const values = spec.channels === 1 ? grey(pixels) : pixels;
  const count = values.length / spec.channels, array = new ARRAYS[info.dtype](values.length);
  for (let pixel = 0, from = 0; pixel < count; pixel++) {
    for (let channel = 0; channel < spec.channels; channel++) {
      const to = spec.layout === 'nchw' ? placed(channel, spec) * count + pixel : pixel * spec.channels + placed(channel, spec);
      array[to] = spec.normalization_inside ? values[from++] - (info.dtype === 'int8' ? 128 : 0) : normalized(values[from++], channel, info, spec);
    }
  }
  return array;
}

function placed(channel, spec) {
  return !spec.normalization_inside && spec.channel_order === 'bgr' ? spec.channels - 1 - channel : channel;
}

function normalized(value, channel, info, spec) {
  const real = Math.fround(Math.fround(value * Math.fround(spec.scale[channel])) + Math.fround(spec.offset[channel]));
  if (info.dtype === 'float32') return real;
  const [low, high] = LIMITS[info.dtype];
  return Math.min(high, Math.max(low, halfEven(Math.fround(real / Math.fround(info.scale))) + info.zero_point));
}

function grey(pixels) {
  const out = new Uint8Array(pixels.length / 3);
  for (let to = 0, from = 0; to < out.length; to++, from += 3) {
    out[to] = halfEven(Math.fround(Math.fround(pixels[from] * LUMA[0]) + Math.fround(pixels[from + 1] * LUMA[1]) + Math.fround(pixels[from + 2] * LUMA[2])));
  }
  return out;
}

/** NumPy's rint. */
function halfEven(value) {
  const below = Math.floor(value), rest = value - below;
  return rest > 0.5 || (rest === 0.5 && below % 2 !== 0) ? below + 1 : below;
}

/** An output as real numbers. */
export function readScores(output, info, spec) {
  const real = info.scale == null || info.dtype === 'float32' ? Array.from(output) : Array.from(output, value => (value - (info.zero_point ?? 0)) * info.scale);
  return spec.output === 'logits' ? softmax(real) : real;
}

function softmax(logits) {
  const most = Math.max(...logits), powers = logits.map(value => Math.exp(value - most)), sum = powers.reduce((a, b) => a + b, 0);
  return powers.map(value => value / sum);
}

/** Differences that matter between two lists of answers, in words: bundle_files.compare_answers. */
export function compareAnswers(answers, expected, names, tolerance) {
  if (answers.some(row => row.some(value => !Number.isFinite(value)))) return ['the model answers with numbers that are not finite (NaN or infinite)'];
  if (answers.length > 1 && spread(answers) < 1e-6 && spread(expected) >= 1e-6) return ['the model gives the same answer to every photo: the runtime opens the file but does not compute it'];
  return answers.flatMap((row, i) => {
    if (row.length !== expected[i].length) return [`${names[i]}: ${row.length} numbers where ${expected[i].length} were expected`];
    if (top(row) !== top(expected[i])) return [`${names[i]}: the top class is number ${top(row)} where ${top(expected[i])} was expected`];
    const largest = difference(row, expected[i]);
    return largest > tolerance ? [`${names[i]}: a probability is off by ${largest.toFixed(4)}; accepted: ${tolerance}`] : [];
  });
}

/** Index of the largest number. */
export const top = row => row.indexOf(Math.max(...row));

/** Largest difference of two lists. */
export const difference = (one, other) => one.reduce((most, value, i) => Math.max(most, Math.abs(value - other[i])), 0);

const spread = rows => rows[0].reduce((most, _, i) => Math.max(most, Math.max(...rows.map(row => row[i])) - Math.min(...rows.map(row => row[i]))), 0);
