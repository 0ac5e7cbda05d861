// Where labels go: never outside the picture, and not over one another where that can be helped.

export const FONT = "600 12px system-ui, sans-serif";
export const HEIGHT = 18;
const PADDING = 5;
const context = document.createElement("canvas").getContext("2d");

/** Name and score, as on a label. */
export const labelText = (one) => `${one.name} ${one.score.toFixed(2)}`;

/**
 * A place {x, y, width, text} for each detection, best first; `free` is false where it would cover a better one's label.
 * scale: units of the drawing for a pixel of the picture. width, height: of the drawing.
 */
export function placeLabels(detections, scale, width, height) {
  context.font = FONT;
  const taken = [];
  return detections.map((one) => {
    const text = shortened(labelText(one), width - 2 * PADDING);
    const size = context.measureText(text).width + 2 * PADDING;
    const [left, top, , bottom] = one.box.map((value) => value * scale);
    const x = clamp(left, 0, width - size);
    const tops = [top - HEIGHT, top, bottom - HEIGHT, bottom].map((y) => clamp(y, 0, height - HEIGHT));
    const places = tops.map((y) => ({ x, y, width: size, text }));
    const place = places.find((wanted) => !taken.some((other) => overlap(wanted, other)));
    if (!place) return { ...places[0], free: false };
    taken.push(place);
    return { ...place, free: true };
  });
}

/** Where the text of a label starts, from the label's corner. */
export const TEXT = { x: PADDING, y: 13 };

function shortened(text, width) {
  let short = text;
  while (short.length > 1 && context.measureText(short).width > width) short = `${short.slice(0, -2)}…`;
  return short;
}

const clamp = (value, low, high) => Math.max(low, Math.min(value, Math.max(low, high)));
const overlap = (a, b) => a.x < b.x + b.width && b.x < a.x + a.width && Math.abs(a.y - b.y) < HEIGHT;
