// One runtime in one configuration with one open file: a fresh worker for each, so that nothing of another one is measured. A classic worker, because LiteRT.js loads its module by importScripts.
'use strict';

let engine = null;

self.onmessage = async ({data: {id, call, argument}}) => {
  try {
    engine ??= await import(new URL('engine.js', self.location.href).href);
    self.postMessage({id, value: await engine[call](argument)});
  } catch (error) {
    self.postMessage({id, error: String(error?.message ?? error).slice(0, 600)});
  }
};
