// A colour for each class, the same on every visit, light enough for black text on it.

const GOLDEN_ANGLE = 137.508; // degrees; neighbours in a list of classes get hues that are far apart
const LIGHTNESS = [0.78, 0.66, 0.86];
const CHROMA = 0.15;

/** "#rrggbb" of the class with this label. */
export function classColour(label) {
  return oklch(LIGHTNESS[label % LIGHTNESS.length], CHROMA, (25 + label * GOLDEN_ANGLE) % 360);
}

/** OKLCH to sRGB (B. Ottosson, "A perceptual color space for image processing", 2020), chroma reduced until it fits. */
function oklch(lightness, chroma, hue) {
  const a = chroma * Math.cos((hue * Math.PI) / 180);
  const b = chroma * Math.sin((hue * Math.PI) / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const rgb = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  if (chroma > 0 && rgb.some((value) => value < 0 || value > 1)) return oklch(lightness, Math.max(0, chroma - 0.01), hue);
  return `#${rgb.map(byte).join("")}`;
}

function byte(linear) {
  const value = linear <= 0.0031308 ? 12.92 * linear : 1.055 * linear ** (1 / 2.4) - 0.055;
  return Math.round(255 * Math.min(1, Math.max(0, value))).toString(16).padStart(2, "0");
}
