// LiteRT.js: TFLite files on WebAssembly (XNNPACK, relaxed SIMD, threads) or WebGPU.

const HERE = new URL('packages/litert/', self.location.href).href;
const said = [];  // what the library says while it opens a file: the only place where it names the delegate it really made

/** Load the library for one configuration of this worker. */
export async function load({threads, accelerator}) {
  // Threads start from the script that made the module; inside a worker they would take this worker's own script for it.
  self.Module = {locateFile: name => `${HERE}wasm/${name}`, mainScriptUrlOrBlob: `${HERE}wasm/litert_wasm_threaded_internal.js`, printErr: line => said.push(line), print: line => said.push(line)};
  const litert = await import(`${HERE}index.js`);
  const relaxed = await litert.supportsFeature('relaxedSimd');
  const threaded = threads > 1 && relaxed && await litert.supportsFeature('threads');
  await litert.loadLiteRt(`${HERE}wasm/`, {threads: threaded});
  return {name: 'litert-web', version: null, open: bytes => open(litert, bytes, {accelerator: accelerator ?? 'wasm', threads: threaded ? threads : 1, relaxed})};
}

async function open(litert, bytes, {accelerator, threads, relaxed}) {
  const model = await litert.loadAndCompile(bytes, {accelerator, cpuOptions: {numThreads: threads}});
  const [input] = model.getInputDetails(), [output] = model.getOutputDetails();
  return {
    input: {name: input.name, dtype: input.dtype, shape: [...input.shape]},
    output: {name: output.name, dtype: output.dtype},
    threads: () => threads,
    details: async () => ({delegate: delegateIn(said, accelerator, model.isFullyAccelerated), fully_accelerated: model.isFullyAccelerated, relaxed_simd: relaxed, said: said.filter(line => !/accelerator_registry|environment\.cc/.test(line)).slice(-8)}),
    async run(array, shape) {
      let tensor = new litert.Tensor(array, shape);
      if (accelerator === 'webgpu') tensor = await tensor.moveTo('webgpu');
      const results = await model.run([tensor]);
      const numbers = accelerator === 'webgpu' ? await (await results[0].copyTo('wasm')).data() : results[0].toTypedArray().slice();
      for (const one of [tensor, ...results]) one.delete();
      return numbers;
    },
  };
}

/** The delegate that was really made. On WebGPU, XNNPACK takes what is left over, where something is. */
function delegateIn(lines, accelerator, whole) {
  const cpu = lines.some(line => /XNNPACK delegate/.test(line)) ? 'XNNPACK' : null;
  if (accelerator !== 'webgpu') return cpu;
  return lines.some(line => /delegate_webgpu|delegate_kernel/.test(line)) ? (whole ? 'WebGPU' : `WebGPU and ${cpu ?? 'reference kernels'}`) : cpu;
}
