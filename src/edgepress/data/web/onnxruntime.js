// onnxruntime-web: ONNX files on WebAssembly (SIMD, threads) or WebGPU.

const HERE = new URL('packages/onnxruntime-web/', self.location.href).href;

/** Load the library for one configuration of this worker. */
export async function load({threads, accelerator}) {
  const ort = await import(`${HERE}${accelerator === 'webgpu' ? 'ort.webgpu.min.mjs' : 'ort.wasm.min.mjs'}`);
  ort.env.wasm.wasmPaths = HERE;
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = 'error';
  return {name: 'onnxruntime-web', version: ort.env.versions.web, open: bytes => open(ort, bytes, accelerator)};
}

async function open(ort, bytes, accelerator) {
  const session = await ort.InferenceSession.create(bytes, {executionProviders: [accelerator ?? 'wasm'], graphOptimizationLevel: 'all'});
  const [input] = session.inputMetadata, [output] = session.outputMetadata;
  return {
    input: {name: input.name, dtype: input.type, shape: input.shape},
    output: {name: output.name, dtype: output.type},
    threads: () => ort.env.wasm.numThreads,
    details: () => ({provider: accelerator ?? 'wasm', simd: true, nodes_placed: 'not reported by onnxruntime-web'}),
    async run(array, shape) {
      const results = await session.run({[input.name]: new ort.Tensor(input.type, array, shape)});
      return results[output.name].getData();
    },
  };
}
