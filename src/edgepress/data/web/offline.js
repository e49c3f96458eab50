// The app from a plain web server: kept by a service worker, which also adds the headers that isolate the page (threads, a finer clock).

const TRIED = 'edgepress-isolated';

/** Register the service worker and tell how far it is; true where the page is about to load again to become isolated. */
export async function installOffline(tell) {
  if (!('serviceWorker' in navigator)) {
    tell(self.isSecureContext ? 'this browser keeps nothing offline' : 'plain http: not kept offline');
    return false;
  }
  navigator.serviceWorker.addEventListener('message', ({data}) => tell(data.offline ? 'works offline' : `kept offline: ${data.kept} of ${data.files} files`));
  try {
    await navigator.serviceWorker.register('service_worker.js');
    const registration = await navigator.serviceWorker.ready;
    if (!self.crossOriginIsolated && !sessionStorage.getItem(TRIED)) {
      sessionStorage.setItem(TRIED, '1');
      location.reload();
      return true;
    }
    registration.active.postMessage('keep everything');
  } catch (error) {
    tell(`not kept offline: ${error.message ?? error}`);
  }
  return false;
}
