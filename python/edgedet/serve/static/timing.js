// Where the time of a request went.

const NAMES = {
  queue: "Queue",
  read: "Read image",
  wait: "Wait for batch",
  preprocess: "Preprocess",
  inference: "Inference",
  decode: "Decode boxes",
  network: "Network",
};
const FRAMES = 10; // of a camera, that a figure is the mean of

/** 0.03, 6.2, 140: as many digits as mean something. */
export const format = (ms) => ms.toFixed(ms < 0.995 ? 2 : ms < 99.5 ? 1 : 0);

export class Timing {
  #last = [];

  /** Shows a request's milliseconds by stage. live: the mean of the last frames of a camera. */
  show(milliseconds, { live = false } = {}) {
    this.#last = live ? [...this.#last, milliseconds].slice(-FRAMES) : [milliseconds];
    const mean = Object.keys(milliseconds).map((stage) => [stage, average(this.#last.map((one) => one[stage] ?? 0))]);
    const total = mean.reduce((sum, [, value]) => sum + value, 0);
    document.getElementById("total").textContent = `${format(total)} ms`;
    document.getElementById("bar").replaceChildren(...mean.map(([stage, value]) => piece(stage, value)));
    document.getElementById("stages").replaceChildren(...mean.map(([stage, value]) => line(stage, value)));
  }

  /** Forgets earlier frames. */
  reset() {
    this.#last = [];
    this.showRate(null);
  }

  /** Frames a second, and how many were skipped so far, null where the browser does not say. null: no camera. */
  showRate(rate) {
    const fps = document.getElementById("fps");
    fps.hidden = rate === null;
    if (!rate) return;
    const skipped = rate.skipped === null ? "" : `, ${rate.skipped} frames skipped`;
    fps.textContent = `${rate.detected.toFixed(1)} frames/s detected${skipped}`;
  }
}

function piece(stage, value) {
  const made = document.createElement("span");
  made.dataset.stage = stage;
  made.style.flexGrow = value;
  return made;
}

function line(stage, value) {
  const made = document.createElement("div");
  const [term, figure] = [document.createElement("dt"), document.createElement("dd")];
  const mark = document.createElement("span");
  mark.className = "swatch";
  mark.dataset.stage = stage;
  term.append(mark, NAMES[stage] ?? stage);
  figure.textContent = `${format(value)} ms`;
  made.append(term, figure);
  return made;
}

const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
