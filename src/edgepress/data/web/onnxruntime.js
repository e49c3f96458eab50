// onnxruntime-web: ONNX files on WebAssembly (SIMD, threads) or WebGPU.

const HERE = new URL('packages/onnxruntime-web/', self.location.href).href;

let lines = null;

/** Load the library for one configuration of this worker. */
export async function load({threads, accelerator}) {
  listen();
  const ort = await import(`${HERE}${accelerator === 'webgpu' ? 'ort.webgpu.min.mjs' : 'ort.wasm.min.mjs'}`);
  ort.env.wasm.wasmPaths = HERE;
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = 'error';
  return {name: 'onnxruntime-web', version: ort.env.versions.web, open: bytes => open(ort, bytes, accelerator)};
}

async function open(ort, bytes, accelerator) {
  const session = await ort.InferenceSession.create(bytes, {executionProviders: [accelerator ?? 'wasm'], graphOptimizationLevel: 'all', logSeverityLevel: 3});
  const [input] = session.inputMetadata, [output] = session.outputMetadata;
  return {
    input: {name: input.name, dtype: input.type, shape: input.shape},
    output: {name: output.name, dtype: output.type},
    threads: () => ort.env.wasm.numThreads,
    details: async () => ({provider: accelerator ?? 'wasm', simd: true, nodes: await placements(ort, bytes, accelerator)}),
    async run(array, shape) {
      const results = await session.run({[input.name]: new ort.Tensor(input.type, array, shape)});
      return results[output.name].getData();
    },
  };
}

/** Execution provider → nodes that run there, read from what the library says while it opens the file again with its log turned up: it has no other way to tell. */
async function placements(ort, bytes, accelerator) {
  lines = [];
  try {
    const session = await ort.InferenceSession.create(bytes, {executionProviders: [accelerator ?? 'wasm'], graphOptimizationLevel: 'all', logSeverityLevel: 0});
    await session.release();
    return Object.fromEntries(lines.flatMap(line => [...line.matchAll(/placed on \[(\w+)\]\. Number of nodes: (\d+)/g)].map(([, provider, count]) => [provider, Number(count)])));
  } finally {
    lines = null;
  }
}

/** Have the console's lines while `lines` is a list. The library takes hold of the console when it is loaded, so this comes first. */
function listen() {
  for (const level of ['debug', 'info', 'log', 'warn', 'error']) {
    const say = console[level].bind(console);
    console[level] = (...parts) => lines ? lines.push(parts.join(' ')) : say(...parts);
  }
}
