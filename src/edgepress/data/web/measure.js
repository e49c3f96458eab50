// The measuring loop of edgepress's timing.py: warm-up until the time settles, then raw latencies. Statistics as in measurement.py.

const WINDOW_RUNS = 10, SETTLED = 0.02;
const MOST_RUNS = 5000;
const TICKS = 20;  // of the timer that a sample shall last at least: then its rounding is below 5 %

/** Smallest step of the browser's clock, in milliseconds: coarse on purpose where a page is not isolated. */
export function timerResolution() {
  const steps = [];
  for (let last = performance.now(), limit = last + 50; steps.length < 30 && last < limit;) {
    const now = performance.now();
    if (now > last) steps.push(now - last);
    last = now;
  }
  return steps.length ? Math.min(...steps) : 1;
}

/** Time `run` (an async function of a run's number): {latencies_ms, first_run_ms, warmup_runs, runs_per_sample, timer_resolution_ms}. */
export async function measure(run, settings) {
  const resolution = timerResolution();
  const first = await timed(run, 0, 1);
  const {runs, median: settled} = await warmUp(run, settings.warmup_seconds);
  const group = Math.max(1, Math.ceil(TICKS * resolution / Math.max(settled, resolution / 10)));
  const latencies = [];
  const start = performance.now();
  for (let number = 0; latencies.length < MOST_RUNS; number++) {
    const spent = (performance.now() - start) / 1000;
    if ((latencies.length >= settings.min_runs && spent >= settings.min_seconds) || (latencies.length > 0 && spent >= settings.max_seconds)) break;
    latencies.push(await timed(run, number * group, group));
  }
  return {latencies_ms: latencies, first_run_ms: first, warmup_runs: runs, runs_per_sample: group, timer_resolution_ms: resolution};
}

async function timed(run, number, group) {
  const start = performance.now();
  for (let i = 0; i < group; i++) await run(number + i);
  return Math.max(performance.now() - start, 1e-4) / group;  // a clock that stood still is no latency of zero
}

async function warmUp(run, seconds) {
  const latencies = [];
  const start = performance.now();
  for (let number = 0; ; number++) {
    latencies.push(await timed(run, number, 1));
    const spent = (performance.now() - start) / 1000, windows = [latencies.slice(-2 * WINDOW_RUNS, -WINDOW_RUNS), latencies.slice(-WINDOW_RUNS)];
    const settled = windows[0].length === WINDOW_RUNS && Math.abs(median(windows[0]) - median(windows[1])) <= SETTLED * median(windows[0]);
    if ((spent >= seconds && settled) || spent >= 10 * seconds) break;
  }
  return {runs: latencies.length, median: median(latencies.slice(-2 * WINDOW_RUNS)) || (performance.now() - start) / latencies.length};
}

/** Middle value (the mean of two where their number is even), as Python's statistics.median. */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

/** Smallest observed value that at least `share` of the values do not exceed. */
export function quantile(values, share) {
  return [...values].sort((a, b) => a - b)[Math.max(0, Math.ceil(share * values.length - 1e-9) - 1)];
}
