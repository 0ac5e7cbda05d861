// The picture and, over it, the boxes: an SVG in the picture's own pixels, so that they fit at every size.

import { classColour } from "./colours.js";
import { HEIGHT, placeLabels, TEXT } from "./labels.js";

const MOST_PIXELS = 4e6; // of the canvas; more is not seen on a page, and phones refuse large ones

export class Stage {
  #picture = document.getElementById("picture");
  #canvas = document.getElementById("canvas");
  #overlay = document.getElementById("overlay");
  #boxes = document.getElementById("boxes");
  #labels = document.getElementById("labels");
  #detections = [];
  #size = { width: 1, height: 1 };
  #marked = null;
  #onMark;

  /** onMark: called with a detection's place in the list, or null, as the pointer enters and leaves boxes. */
  constructor(onMark) {
    this.#onMark = onMark;
    new ResizeObserver(() => this.#placeLabels()).observe(this.#picture);
  }

  /** Shows a picture without boxes. source: what drawImage takes, null where the browser cannot show it. */
  show(source, width, height) {
    this.#size = { width, height };
    this.#picture.hidden = false;
    this.#picture.style.setProperty("--ratio", width / height);
    this.#overlay.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const scale = Math.min(1, Math.sqrt(MOST_PIXELS / (width * height)));
    this.#canvas.width = Math.max(1, Math.round(width * scale));
    this.#canvas.height = Math.max(1, Math.round(height * scale));
    if (source) this.#canvas.getContext("2d").drawImage(source, 0, 0, this.#canvas.width, this.#canvas.height);
    this.draw([]);
  }

  /** Draws the boxes of detections, best first. */
  draw(detections) {
    this.#detections = detections;
    if (this.#marked !== null && this.#marked >= detections.length) this.#marked = null;
    const groups = detections.map((one, index) => this.#box(one, index));
    // Small boxes on top, so that each can be reached with the pointer; of the same, the best.
    const order = groups.map((_, index) => index).sort((a, b) => area(detections[b]) - area(detections[a]) || b - a);
    this.#boxes.replaceChildren(...order.map((index) => groups[index]));
    this.#placeLabels();
  }

  /** Makes one detection stand out; null: none. */
  mark(index) {
    this.#marked = index;
    this.#overlay.classList.toggle("marking", index !== null);
    for (const group of [...this.#boxes.children, ...this.#labels.children]) {
      group.classList.toggle("marked", Number(group.dataset.index) === index);
    }
  }

  #box(one, index) {
    const [left, top, right, bottom] = one.box;
    const group = element("g", { class: "box" });
    group.dataset.index = index;
    const corners = { x: left, y: top, width: Math.max(0, right - left), height: Math.max(0, bottom - top) };
    group.append(element("rect", { ...corners, class: "casing" }));
    group.append(element("rect", { ...corners, class: "line", stroke: classColour(one.label) }));
    group.addEventListener("pointerenter", () => this.#onMark(index));
    group.addEventListener("pointerleave", () => this.#onMark(null));
    return group;
  }

  #label({ x, y, width, text, free }, index, scale) {
    const place = `translate(${x / scale} ${y / scale}) scale(${1 / scale})`;
    const label = element("g", { class: free ? "label" : "label covered", transform: place });
    label.dataset.index = index;
    label.append(element("rect", { width, height: HEIGHT, rx: 3, fill: classColour(this.#detections[index].label) }));
    const words = element("text", { x: TEXT.x, y: TEXT.y });
    words.textContent = text;
    label.append(words);
    return label;
  }

  #placeLabels() {
    const scale = this.#picture.clientWidth / this.#size.width;
    if (!scale) return;
    const { width, height } = this.#size;
    const places = placeLabels(this.#detections, scale, width * scale, height * scale);
    this.#labels.replaceChildren(...places.map((place, index) => this.#label(place, index, scale)));
    this.mark(this.#marked);
  }
}

function element(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

const area = ({ box: [left, top, right, bottom] }) => (right - left) * (bottom - top);
