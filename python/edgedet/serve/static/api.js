// The server's interface, and what its errors mean in plain words.

const KEY = "edgedet.key";

/** What went wrong: `title` and `remedy` for people, `detail` in the server's words, `retryAfter` in seconds or null. */
export class ApiError extends Error {
  constructor(status, title, remedy, detail = "", retryAfter = null) {
    super(title);
    Object.assign(this, { status, title, remedy, detail, retryAfter });
  }

  /** Whether the same request may be answered another time. */
  get again() {
    return this.status === 0 || [408, 429, 503, 504].includes(this.status);
  }
}

const MEANING = {
  400: ["The server could not read the request.", ""],
  404: ["The server has no such model any more.", "Reload the page."],
  408: ["The upload took too long.", "Send a smaller image, or use a faster network."],
  413: ["This file is too large for the server.", "Shrink the image, or start the server with a larger --max-upload."],
  415: ["This is not an image that the server can read.", "Use JPEG, PNG, WebP, BMP, GIF, TIFF or PPM."],
  422: ["This is not an image that the server can read.", "Use a whole JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file."],
  429: ["The server is busy: too many requests are waiting.", ""],
  500: ["The model failed on this image.", "Try another image. If it fails on all, check the bundle with `edgedet doctor`."],
  503: ["The server is not ready: it is loading the models, or starting again.", ""],
  504: ["The server did not get to this request in time.", "Try again when it is less busy."],
};
const NO_KEY = ["This server needs an API key.", "Enter one below."];
const WRONG_KEY = ["The server does not know this API key.", "Enter another one below."];
const GONE = ["The server cannot be reached.", "Check that it still runs and that this device is on the network."];

function explain(status, detail, retryAfter) {
  const [title, remedy] = MEANING[status] ?? [`The server answered with status ${status}.`, ""];
  if (status === 401) return new ApiError(401, ...(key.get() ? WRONG_KEY : NO_KEY));
  const wait = retryAfter === null ? "" : `Try again in ${retryAfter} s.`;
  return new ApiError(status, title, [remedy, wait].filter(Boolean).join(" "), detail, retryAfter);
}

/** What there is to say of a file over the server's limit; it would close the connection while we still send. */
export function tooLarge(bytes, limit) {
  const mib = (value) => `${(value / 2 ** 20).toFixed(1)} MiB`;
  const { title, remedy } = explain(413, "", null);
  return new ApiError(413, title, `It has ${mib(bytes)}, the server takes at most ${mib(limit)}. ${remedy}`);
}

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** Paths are relative, so that the page works behind a proxy that serves it under a prefix. */
export function detectUrl(model, score) {
  return new URL(`v1/detect?${new URLSearchParams({ model, score })}`, document.baseURI);
}

async function ask(url, options = {}) {
  const headers = { ...options.headers };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let response, text;
  try {
    response = await fetch(url, { ...options, headers, cache: "no-store" });
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, ...GONE);
  }
  let answer = {};
  try {
    answer = JSON.parse(text);
  } catch {
    // A proxy's own page; the status says enough.
  }
  if (response.ok) return answer;
  const seconds = Number(response.headers.get("Retry-After"));
  throw explain(response.status, answer.error ?? "", seconds > 0 ? Math.ceil(seconds) : null);
}

/** {models, score, limits} */
export const models = () => ask("v1/models");

/** The answer to one image, with the time that the network took added to `milliseconds`. */
export async function detect(blob, { model, score, signal }) {
  const type = blob.type.startsWith("image/") ? blob.type : "application/octet-stream";
  const url = detectUrl(model, score);
  const start = performance.now();
  const answer = await ask(url, {
    method: "POST",
    body: blob,
    headers: { "Content-Type": type },
    signal,
  });
  const roundTrip = measured(url) ?? performance.now() - start;
  const server = Object.values(answer.milliseconds).reduce((sum, value) => sum + value, 0);
  return { ...answer, milliseconds: { ...answer.milliseconds, network: Math.max(0, roundTrip - server) } };
}

/** Milliseconds of the last request by the browser's own clock: without what the page did meanwhile. */
function measured(url) {
  const entry = performance.getEntriesByName(url.href).at(-1);
  performance.clearResourceTimings(); // only a few hundred are kept
  return entry?.responseEnd > entry?.requestStart ? entry.responseEnd - entry.requestStart : null;
}
