// The objects found: threshold, classes, list. Filtering asks nobody; the server was asked for low scores already.

import { classColour } from "./colours.js";

/** Detections with lower scores are not asked for. */
export const FLOOR = 0.05;

export class Results {
  #score = document.getElementById("score");
  #rows = [];
  #found = [];
  #hidden = new Set();
  #seen = new Map(); // label -> name, of the classes to choose from
  #live = false;
  #onChange;
  #onMark;

  /** onChange: called with the detections that are left when a filter moves. onMark: as Stage's. */
  constructor({ onChange, onMark }) {
    this.#onChange = onChange;
    this.#onMark = onMark;
    this.#score.addEventListener("input", () => this.#changed());
    document.getElementById("all").addEventListener("click", () => this.#hide([]));
    document.getElementById("none").addEventListener("click", () => this.#hide(this.#seen.keys()));
  }

  get score() {
    return Number(this.#score.value);
  }

  set score(value) {
    this.#score.value = Math.max(FLOOR, value);
  }

  /** Those at or above the threshold, of the classes that are shown; best first. */
  get shown() {
    return this.#above().filter((one) => !this.#hidden.has(one.label));
  }

  /** Takes what was found in a picture. live: one of many, so classes stay that were seen before. */
  set(found, { live = false } = {}) {
    this.#found = [...found].sort((a, b) => b.score - a.score);
    if (!live || !this.#live) this.#seen.clear();
    this.#live = live;
    this.#changed();
  }

  /** Makes a row stand out; null: none. */
  mark(index) {
    this.#rows.forEach((row, place) => row.element.classList.toggle("marked", place === index));
  }

  #above() {
    return this.#found.filter((one) => one.score >= this.score);
  }

  #hide(labels) {
    this.#hidden = new Set(labels);
    this.#changed();
  }

  #changed() {
    const shown = this.shown;
    document.getElementById("score-value").textContent = this.score.toFixed(2);
    document.getElementById("count").textContent = `${shown.length} shown`;
    this.#showNothing(shown.length);
    this.#showClasses();
    this.#showRows(shown);
    this.#onChange(shown);
  }

  #showNothing(count) {
    const nothing = document.getElementById("nothing");
    nothing.hidden = count > 0;
    if (!this.#found.length) nothing.textContent = "The model found nothing here.";
    else if (!this.#above().length) nothing.textContent = `Nothing scores ${this.score.toFixed(2)} or more. Lower the threshold to see what comes next.`;
    else nothing.textContent = "Every class found is hidden.";
  }

  #showClasses() {
    if (!this.#live) this.#seen.clear();
    for (const one of this.#above()) this.#seen.set(one.label, one.name);
    const counts = new Map();
    for (const one of this.#above()) counts.set(one.label, (counts.get(one.label) ?? 0) + 1);
    const labels = [...this.#seen.keys()].sort((a, b) => a - b);
    const chips = document.getElementById("chips");
    // Chips that are there already are kept: the keyboard may be on one of them.
    const kept = new Map([...chips.children].map((chip) => [Number(chip.dataset.label), chip]));
    for (const [label, chip] of kept) if (!this.#seen.has(label)) chip.remove();
    labels.forEach((label, place) => {
      const chip = kept.get(label) ?? this.#chip(label);
      if (chips.children[place] !== chip) chips.insertBefore(chip, chips.children[place] ?? null);
      chip.querySelector("input").checked = !this.#hidden.has(label);
      chip.querySelector(".number").textContent = counts.get(label) ?? 0;
    });
    document.getElementById("classes").hidden = labels.length === 0;
  }

  #chip(label) {
    const chip = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.addEventListener("change", () => {
      if (box.checked) this.#hidden.delete(label);
      else this.#hidden.add(label);
      this.#changed();
    });
    const number = document.createElement("span");
    number.className = "number";
    chip.className = "chip";
    chip.dataset.label = label;
    chip.append(box, swatch(label), this.#seen.get(label), number);
    return chip;
  }

  #showRows(shown) {
    document.getElementById("rows").hidden = shown.length === 0;
    while (this.#rows.length < shown.length) this.#rows.push(this.#row(this.#rows.length));
    for (const { element } of this.#rows.splice(shown.length)) element.remove();
    shown.forEach((one, place) => {
      const { colour, name, score, box } = this.#rows[place];
      colour.style.backgroundColor = classColour(one.label);
      name.data = one.name;
      score.textContent = one.score.toFixed(2);
      box.textContent = one.box.map((value) => Math.round(value)).join(", ");
    });
  }

  /** A row of the list. Its button is there for the keyboard and for touch: what has the focus stands out. */
  #row(place) {
    const element = document.getElementById("table").insertRow();
    const head = document.createElement("th");
    head.scope = "row";
    const button = document.createElement("button");
    const [colour, name] = [swatch(0), document.createTextNode("")];
    button.type = "button";
    button.append(colour, name);
    head.append(button);
    element.append(head);
    const [score, box] = [element.insertCell(), element.insertCell()];
    element.addEventListener("pointerenter", () => this.#onMark(place));
    element.addEventListener("pointerleave", () => this.#onMark(null));
    button.addEventListener("focus", () => this.#onMark(place));
    button.addEventListener("blur", () => this.#onMark(null));
    return { element, colour, name, score, box };
  }
}

/** "1 object", "7 objects" */
export const objects = (count) => `${count} ${count === 1 ? "object" : "objects"}`;

function swatch(label) {
  const made = document.createElement("span");
  made.className = "swatch";
  made.style.backgroundColor = classColour(label);
  return made;
}
