// The page: takes images in, has them detected, shows what came of it.

import { ApiError, detect, detectUrl, key, models, tooLarge } from "./api.js";
import { Camera } from "./camera.js";
import { decode } from "./decode.js";
import { annotated, copy, curl, save } from "./export.js";
import { calm, complain, tell } from "./messages.js";
import { showModel } from "./model-card.js";
import { FLOOR, objects, Results } from "./results.js";
import { Stage } from "./stage.js";
import { Timing } from "./timing.js";

const POLL = 2; // seconds between questions to a server that is not there or loading
const byId = (id) => document.getElementById(id);
const pause = (seconds) => new Promise((done) => setTimeout(done, seconds * 1e3));

const camera = new Camera();
const timing = new Timing();
const stage = new Stage(mark);
const results = new Results({ onChange: shownChanged, onMark: mark });
let known = null; // what /v1/models said
let current = null; // {blob, name, answer}: what is on the stage
let running = null; // AbortController of the request under way

function mark(index) {
  stage.mark(index);
  results.mark(index);
}

function shownChanged(shown) {
  stage.draw(shown);
  showCurl();
  const canvas = byId("canvas");
  canvas.setAttribute("aria-label", `The picture, with ${objects(shown.length)} marked. The list names them.`);
  if (!camera.running) tell(`${objects(shown.length)} with a score of ${results.score.toFixed(2)} or more.`);
}

function showCurl() {
  if (!current?.answer) return;
  const url = detectUrl(byId("model").value, results.score.toFixed(2));
  byId("curl").textContent = curl(url, { name: current.name, type: current.blob.type });
}

function setState(state) {
  byId("main").dataset.state = state;
  byId("empty").hidden = state !== "empty";
  byId("working").hidden = state !== "working";
  for (const id of ["save-json", "save-png"]) byId(id).hidden = state !== "result";
  for (const id of ["results", "timing", "request"]) {
    byId(id).inert = state === "working"; // what they say is about the picture before
    if (state !== "working") byId(id).hidden = state !== "result";
  }
  if (state === "empty") byId("picture").hidden = true;
}

function note(text) {
  byId("note").textContent = text;
  byId("note").hidden = !text;
}

/** The answer goes on the stage with the picture that it is about. */
function present(answer, options) {
  current.answer = answer;
  setState("result");
  timing.show(answer.milliseconds, options);
  results.set(answer.results[0].detections, options);
}

async function takeFile(blob) {
  stopCamera();
  calm();
  note("");
  timing.reset();
  running?.abort();
  byId("picture").hidden = true;
  current = { blob, name: blob.name || "image.png", answer: null };
  await detectCurrent();
}

async function detectCurrent() {
  const mine = current;
  running?.abort();
  const request = (running = new AbortController());
  calm();
  mine.answer = null;
  setState("working");
  const picture = decode(mine.blob).then((source) => {
    if (source && running === request) stage.show(source, source.width, source.height);
    return source;
  });
  try {
    if (known && mine.blob.size > known.limits.bytes) throw tooLarge(mine.blob.size, known.limits.bytes);
    const answer = await detect(mine.blob, { model: byId("model").value, score: FLOOR, signal: request.signal });
    const { width, height } = answer.results[0];
    const source = await picture;
    if (running !== request) return;
    if (source?.width !== width || source?.height !== height) {
      stage.show(null, width, height);
      note("This browser cannot show this kind of file. The boxes are where the server found them.");
    }
    present(answer);
  } catch (error) {
    await picture;
    if (running === request) failed(error, detectCurrent);
  }
}

function failed(error, retry) {
  if (!(error instanceof ApiError)) throw error;
  if (!camera.running) setState(byId("picture").hidden ? "empty" : "error");
  if (error.status === 401) askForKey();
  complain(error, retry);
}

async function takeFrame(canvas, blob, rate) {
  try {
    const answer = await detect(blob, { model: byId("model").value, score: FLOOR, signal: running.signal });
    if (!camera.running) return;
    calm();
    current = { blob, name: "frame.jpg", answer: null };
    stage.show(canvas, canvas.width, canvas.height);
    timing.showRate(rate);
    present(answer, { live: true });
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof ApiError)) throw error;
    if (error.again) {
      complain(error);
      await pause(error.retryAfter ?? POLL);
    } else {
      stopCamera();
      failed(error, null);
    }
  }
}

async function startCamera(device) {
  calm();
  note("");
  running?.abort();
  running = new AbortController();
  timing.reset();
  if (!current?.answer) setState("empty");
  try {
    await camera.start({ device, onFrame: takeFrame, onEnd: (error) => (stopCamera(), complain(error)) });
  } catch (error) {
    stopCamera();
    complain(error);
    return;
  }
  byId("camera").textContent = "Stop camera";
  tell("The camera runs.");
  const { current: used, devices } = await camera.devices();
  byId("camera-choice").hidden = devices.length < 2;
  byId("camera-device").replaceChildren(
    ...devices.map((one, place) => new Option(one.label || `Camera ${place + 1}`, one.deviceId, false, one.deviceId === used)),
  );
}

/** The last frame and its boxes stay. */
function stopCamera() {
  if (camera.running) tell("The camera is off.");
  camera.stop();
  byId("camera").textContent = "Use camera";
  byId("camera-choice").hidden = true;
}

function askForKey() {
  byId("key-form").hidden = false;
  byId("key-plain").hidden = location.protocol === "https:" || isSecureContext;
  byId("forget").hidden = true;
  byId("key").focus();
}

/** Asks what runs here, until the server is there. */
async function learn() {
  const first = known === null;
  for (;;) {
    try {
      known = await models();
      break;
    } catch (error) {
      complain(error);
      if (error.status === 401) return askForKey();
      byId("model-body").textContent = "Waiting for the server …";
      await pause(error.retryAfter ?? POLL);
    }
  }
  calm();
  byId("key-form").hidden = true;
  byId("forget").hidden = !key.get();
  if (first) results.score = known.score;
  byId("model").replaceChildren(...known.models.map((one) => new Option(one.name, one.name)));
  byId("model-choice").hidden = known.models.length < 2;
  showModel(known.models[0]);
  tell("The server is ready.");
  if (current && !current.answer) await detectCurrent();
}

byId("choose").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", ({ target }) => {
  if (target.files.length) takeFile(target.files[0]);
  target.value = ""; // so that the same file can be chosen again
});
byId("empty").addEventListener("click", () => byId("file").click());
byId("camera").addEventListener("click", () => (camera.running ? stopCamera() : startCamera()));
byId("camera-device").addEventListener("change", ({ target }) => startCamera(target.value));
byId("model").addEventListener("change", ({ target }) => {
  showModel(known.models[target.selectedIndex]);
  if (current && !camera.running) detectCurrent();
});
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(byId("key").value.trim());
  byId("key").value = "";
  learn();
});
byId("forget").addEventListener("click", () => (key.set(null), location.reload()));
byId("save-json").addEventListener("click", () => {
  const { model, results: [image], milliseconds } = current.answer;
  const shown = { model, results: [{ ...image, detections: results.shown }], milliseconds };
  save(new Blob([JSON.stringify(shown, null, 1)], { type: "application/json" }), `${current.name}.json`);
});
byId("save-png").addEventListener("click", async () => {
  const { width, height } = current.answer.results[0];
  const source = (await decode(current.blob)) ?? byId("canvas");
  save(await annotated(source, width, height, results.shown), `${current.name}.boxes.png`);
});
byId("copy").addEventListener("click", async ({ target }) => {
  await copy(byId("curl").textContent);
  target.textContent = "Copied";
  tell("Copied.");
  setTimeout(() => (target.textContent = "Copy"), 2000);
});

addEventListener("dragover", (event) => {
  event.preventDefault();
  byId("frame").classList.add("over");
});
addEventListener("dragleave", ({ relatedTarget }) => {
  if (!relatedTarget) byId("frame").classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  byId("frame").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) takeFile(file);
  else complain({ title: "That is not a file.", remedy: "Save the image first, then drop the file." });
});
addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) takeFile(file);
});

setState("empty");
learn();
