// What can be taken away: the answer as JSON, the picture with its boxes, the request as a curl line.

import { key } from "./api.js";
import { classColour } from "./colours.js";
import { FONT, HEIGHT, placeLabels, TEXT } from "./labels.js";

const UNITS = 1000; // of the longer side of a drawing: lines and labels are as large on it as on a page

/** The request as a command for a shell; the key is left to the environment. */
export function curl(url, file) {
  const parts = ["curl -fsS", `--data-binary @${quoted(file.name)}`, `-H ${quoted(`Content-Type: ${file.type || "application/octet-stream"}`)}`];
  if (key.get()) parts.push('-H "Authorization: Bearer $EDGEDET_KEY"');
  return [...parts, quoted(url.href)].join(" \\\n  ");
}

const quoted = (text) => (/^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** A PNG of a picture with detections drawn over it, at its own size. */
export async function annotated(source, width, height, detections) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.drawImage(source, 0, 0, width, height);
  const unit = Math.max(1, Math.max(width, height) / UNITS);
  context.scale(unit, unit);
  const places = placeLabels(detections, 1 / unit, width / unit, height / unit);
  for (const one of detections) {
    const [left, top, right, bottom] = one.box.map((value) => value / unit);
    for (const [colour, size] of [["#0009", 4], [classColour(one.label), 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = size;
      context.strokeRect(left, top, right - left, bottom - top);
    }
  }
  context.font = FONT;
  detections.forEach((one, index) => {
    const place = places[index];
    if (!place.free) return;
    context.fillStyle = classColour(one.label);
    context.fillRect(place.x, place.y, place.width, HEIGHT);
    context.fillStyle = "#000";
    context.fillText(place.text, place.x + TEXT.x, place.y + TEXT.y);
  });
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

/** Saves a file. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1e4);
}

/** Copies text; also on pages that came over plain HTTP, which have no clipboard of their own. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}
