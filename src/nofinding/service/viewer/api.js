// What the page asks the service. Nothing is ever asked of anybody else.

const ROOT = new URL("../", import.meta.url);

/** An answer that is none; its message is one line for the reader. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The address of something that the service gives. */
export function at(path, query = {}) {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(query)) {
    if (value !== "" && value !== null && value !== undefined) url.searchParams.set(name, value);
  }
  return url.href;
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { credentials: "same-origin", cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "the service does not answer");
  }
  if (answer.ok) return answer;
  let message = `the service answered ${answer.status}`;
  try {
    const payload = await answer.json();
    if (typeof payload.error === "string") message = payload.error;
  } catch {
    // no JSON: the status says enough
  }
  if (answer.status === 401) document.dispatchEvent(new Event("signed-out"));
  throw new ApiError(answer.status, message);
}

/** JSON from the service. */
export async function get(path, query = {}, signal = undefined) {
  return (await ask(at(path, query), { signal })).json();
}

/** Sends JSON, gives what comes back. */
export async function post(path, body, signal = undefined) {
  const answer = await ask(at(path), {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  return answer.status === 204 ? null : answer.json();
}

const KINDS = { film: Uint16Array, map: Float32Array, normal: Float32Array };

/** The numbers of a job's film, map or pseudo-healthy film, with rows, columns and threshold. */
export async function pixels(job, name, signal = undefined) {
  const answer = await ask(at(`v1/jobs/${job}/${name}`, { format: "raw" }), { signal });
  const number = (header) => Number.parseFloat(answer.headers.get(header) ?? "");
  const [rows, columns, threshold] = ["X-Rows", "X-Columns", "X-Threshold"].map(number);
  const data = new KINDS[name](await answer.arrayBuffer());
  if (data.length !== rows * columns) throw new ApiError(0, `the ${name} came cut off`);
  return { data, rows, columns, threshold: Number.isFinite(threshold) ? threshold : null };
}

/** Waits, unless the signal ends it. */
export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(new DOMException("left", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}

/** A job once it is done or has failed; `tell` hears of its state in between. */
export async function ended(job, signal, tell = () => {}) {
  for (let wait = 150; ; wait = Math.min(1500, wait * 1.4)) {
    const now = await get(`v1/jobs/${job}`, {}, signal);
    if (now.state === "done" || now.state === "failed") return now;
    tell(now);
    await pause(wait, signal);
  }
}
