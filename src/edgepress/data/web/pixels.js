// The one way a photo becomes pixels, as edgepress's preprocess.py (Pillow) does it on the host, to the byte.
// What differs is the decoder: PNG gives equal pixels; JPEG decoders, color profiles and half-transparent pixels differ by a few levels, which the page measures and shows.

const PRECISION = 22;  // Pillow, Resample.c: PRECISION_BITS = 32 - 8 - 2
const REDUCING_GAP = 3;
const SMALLEST_REDUCED = 600;
const MOST_PIXELS = 16e6;  // of a canvas on iOS

/** A decoded image: RGBA bytes of a canvas → {width, height, data: RGB bytes}. */
export function fromCanvas({width, height, data}) {
  const rgb = new Uint8ClampedArray(width * height * 3);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    rgb[to++] = data[from];
    rgb[to++] = data[from + 1];
    rgb[to++] = data[from + 2];
  }
  return {width, height, data: rgb};
}

/** The pixels of an image file, upright, on white. */
export async function decode(blob) {
  const bitmap = await createImageBitmap(blob, {imageOrientation: 'from-image', colorSpaceConversion: 'none', premultiplyAlpha: 'default'});
  const image = draw(bitmap, bitmap.width, bitmap.height);
  bitmap.close();
  return image;
}

/** What a video element or an image shows now. */
export function draw(source, width, height) {
  const scale = Math.min(1, Math.sqrt(MOST_PIXELS / (width * height)));
  const canvas = document.createElement('canvas');
  canvas.width = Math.floor(width * scale);
  canvas.height = Math.floor(height * scale);
  const context = canvas.getContext('2d', {willReadFrequently: true, alpha: false, colorSpace: 'srgb'});
  context.fillStyle = '#fff';
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = 'high';
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return fromCanvas(context.getImageData(0, 0, canvas.width, canvas.height));
}

/** RGB bytes [h, w, 3] that a model with this spec takes of an image file: preprocess.load_pixels. */
export async function loadPixels(blob, spec) {
  const image = await decode(blob);
  const head = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  const jpeg = head[0] === 0xff && head[1] === 0xd8;
  return toPixels(jpeg ? reducedJpeg(image, Math.max(spec.input_height, spec.input_width)) : image, spec);
}

/** The host decodes large JPEGs at 1/2, 1/4 or 1/8; averaging blocks gives nearly the same (preprocess.decode_reduced). */
function reducedJpeg(image, side) {
  const smallest = Math.max(2 * side, SMALLEST_REDUCED);
  const room = Math.min(Math.floor(image.width / smallest), Math.floor(image.height / smallest));
  const factor = [8, 4, 2, 1].find(one => room >= one) ?? 1;
  return factor === 1 ? image : reduce(image, factor, factor, [0, 0, image.width, image.height]);
}

/** preprocess.to_pixels: an RGB image as [h, w, 3], stretched, cropped or padded. */
export function toPixels(image, spec) {
  const width = spec.input_width, height = spec.input_height;
  if (spec.resize === 'stretch') return resized(image, width, height, spec);
  if (spec.resize === 'crop') {
    const scale = Math.max(width / image.width, height / image.height);
    const left = Math.max(0, (image.width - width / scale) / 2), top = Math.max(0, (image.height - height / scale) / 2);
    return resized(image, width, height, spec, [left, top, image.width - left, image.height - top]);
  }
  return padded(image, width, height, spec);
}

function padded(image, width, height, spec) {
  const scale = Math.min(width / image.width, height / image.height);
  const innerWidth = Math.min(width, Math.max(1, halfEven(image.width * scale))), innerHeight = Math.min(height, Math.max(1, halfEven(image.height * scale)));
  const left = (width - innerWidth) >> 1, top = (height - innerHeight) >> 1;
  const inner = resized(image, innerWidth, innerHeight, spec), canvas = new Uint8ClampedArray(width * height * 3);
  for (let y = 0; y < innerHeight; y++) canvas.set(inner.subarray(y * innerWidth * 3, (y + 1) * innerWidth * 3), ((top + y) * width + left) * 3);
  return canvas;
}

/** Python's round. */
function halfEven(value) {
  const below = Math.floor(value), rest = value - below;
  return rest > 0.5 || (rest === 0.5 && below % 2) ? below + 1 : below;
}

/** Image.resize(size, BILINEAR, box, reducing_gap=3). */
function resized(image, width, height, spec, box = null) {
  if (image.width === width && image.height === height && box === null) return image.data;
  let [x0, y0, x1, y1] = box ?? [0, 0, image.width, image.height];
  const factorX = Math.trunc((x1 - x0) / width / REDUCING_GAP) || 1, factorY = Math.trunc((y1 - y0) / height / REDUCING_GAP) || 1;
  if (factorX > 1 || factorY > 1) {
    const supportX = 0.5 * (x1 - x0) / width, supportY = 0.5 * (y1 - y0) / height;
    const safe = [Math.max(0, Math.trunc(x0 - supportX)), Math.max(0, Math.trunc(y0 - supportY)), Math.min(image.width, Math.ceil(x1 + supportX)), Math.min(image.height, Math.ceil(y1 + supportY))];
    image = reduce(image, factorX, factorY, safe);
    [x0, y0, x1, y1] = [(x0 - safe[0]) / factorX, (y0 - safe[1]) / factorY, (x1 - safe[0]) / factorX, (y1 - safe[1]) / factorY];
  }
  return resample(image, width, height, [x0, y0, x1, y1].map(Math.fround), spec.vertical_first);
}

/** Image.reduce: averages of factorX × factorY pixels of a box, the last ones of what is left (Reduce.c). */
export function reduce(image, factorX, factorY, [x0, y0, x1, y1]) {
  const width = Math.ceil((x1 - x0) / factorX), height = Math.ceil((y1 - y0) / factorY);
  const data = new Uint8ClampedArray(width * height * 3);
  for (let y = 0; y < height; y++) {
    const top = y0 + y * factorY, bottom = Math.min(top + factorY, y1);
    for (let x = 0; x < width; x++) {
      const left = x0 + x * factorX, right = Math.min(left + factorX, x1);
      average(image, left, top, right, bottom, data, (y * width + x) * 3);
    }
  }
  return {width, height, data};
}

function average(image, left, top, right, bottom, data, to) {
  const count = (right - left) * (bottom - top), multiplier = Math.floor(2 ** 24 / count);
  let red = count >> 1, green = red, blue = red;
  for (let y = top; y < bottom; y++) {
    for (let at = (y * image.width + left) * 3, end = (y * image.width + right) * 3; at < end; at += 3) {
      red += image.data[at];
      green += image.data[at + 1];
      blue += image.data[at + 2];
    }
  }
  data[to] = Math.floor(red * multiplier / 2 ** 24);
  data[to + 1] = Math.floor(green * multiplier / 2 ** 24);
  data[to + 2] = Math.floor(blue * multiplier / 2 ** 24);
}

/** ImagingResample: two passes with bytes between them (Resample.c). Pillow 13 does the vertical one first where that leaves fewer rows to the other. */
function resample(image, width, height, [x0, y0, x1, y1], verticalFirst) {
  const across = img => width !== image.width || x0 !== 0 || x1 !== width ? horizontal(img, width, coefficients(image.width, x0, x1, width)) : img;
  const down = img => height !== image.height || y0 !== 0 || y1 !== height ? vertical(img, height, coefficients(image.height, y0, y1, height)) : img;
  const tall = verticalFirst && height < image.height && image.height - height > 2 * (image.width - width);
  return (tall ? across(down(image)) : down(across(image))).data;
}

/** Of each output position: the first input and the integer weights of it and the following ones. Triangle filter, wider where it shrinks. */
function coefficients(size, from, to, outputs) {
  const scale = Math.fround(to - from) / outputs, support = Math.max(scale, 1);
  return Array.from({length: outputs}, (_, position) => {
    const center = from + (position + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5)), last = Math.min(size, Math.trunc(center + support + 0.5));
    const weights = Array.from({length: Math.max(0, last - first)}, (_, i) => Math.max(0, 1 - Math.abs((i + first - center + 0.5) * (1 / support))));
    const sum = weights.reduce((a, b) => a + b, 0);
    return {first, weights: Int32Array.from(weights, weight => Math.trunc(0.5 + (sum ? weight / sum : weight) * 2 ** PRECISION))};
  });
}

function horizontal(image, width, columns) {
  const data = new Uint8ClampedArray(width * image.height * 3);
  for (let y = 0, to = 0; y < image.height; y++) {
    for (const {first, weights} of columns) {
      let red = 1 << (PRECISION - 1), green = red, blue = red, at = (y * image.width + first) * 3;
      for (const weight of weights) {
        red += image.data[at++] * weight;
        green += image.data[at++] * weight;
        blue += image.data[at++] * weight;
      }
      data[to++] = red >> PRECISION;
      data[to++] = green >> PRECISION;
      data[to++] = blue >> PRECISION;
    }
  }
  return {width, height: image.height, data};
}

function vertical(image, height, rows) {
  const pitch = image.width * 3, data = new Uint8ClampedArray(pitch * height);
  rows.forEach(({first, weights}, y) => {
    for (let x = 0; x < pitch; x++) {
      let sum = 1 << (PRECISION - 1);
      for (let i = 0, at = first * pitch + x; i < weights.length; i++, at += pitch) sum += image.data[at] * weights[i];
      data[y * pitch + x] = sum >> PRECISION;
    }
  });
  return {width: image.width, height, data};
}
