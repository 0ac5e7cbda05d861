// Image files to pictures that are the right way up, as the server reads them.
//
// Browsers turn JPEG and PNG by their EXIF data; of WebP some do and some do not. So a WebP file is shown with its EXIF
// data out of the way, and turned here.

const ORIENTATION = 0x0112; // the tag of EXIF
const TURNS = {
  2: (w, h) => [-1, 0, 0, 1, w, 0],
  3: (w, h) => [-1, 0, 0, -1, w, h],
  4: (w, h) => [1, 0, 0, -1, 0, h],
  5: () => [0, 1, 1, 0, 0, 0],
  6: (w, h) => [0, 1, -1, 0, h, 0],
  7: (w, h) => [0, -1, -1, 0, h, w],
  8: (w) => [0, -1, 1, 0, 0, w],
};

/** What drawImage takes, with `width` and `height`; null where the browser cannot show the file. */
export async function decode(blob) {
  try {
    const head = new DataView(await blob.slice(0, 12).arrayBuffer());
    const webp = head.byteLength === 12 && fourLetters(head, 0) === "RIFF" && fourLetters(head, 8) === "WEBP";
    return webp ? await decodeWebp(await blob.arrayBuffer()) : await createImageBitmap(blob);
  } catch {
    return null;
  }
}

async function decodeWebp(buffer) {
  const view = new DataView(buffer);
  let turn = null;
  for (let at = 12; at + 8 <= view.byteLength; ) {
    const size = view.getUint32(at + 4, true);
    if (fourLetters(view, at) === "EXIF" && at + 8 + size <= view.byteLength) {
      view.setUint32(at, 0x58585858); // a chunk of no known name is passed over
      turn = TURNS[orientation(new DataView(buffer, at + 8, size))];
    }
    at += 8 + size + (size % 2);
  }
  const bitmap = await createImageBitmap(new Blob([buffer], { type: "image/webp" }));
  if (!turn) return bitmap;
  const { width, height } = bitmap;
  const matrix = turn(width, height);
  const canvas = document.createElement("canvas");
  Object.assign(canvas, matrix[0] === 0 ? { width: height, height: width } : { width, height });
  const context = canvas.getContext("2d");
  context.setTransform(...matrix);
  context.drawImage(bitmap, 0, 0);
  return canvas;
}

/** Of a TIFF structure, the body of an EXIF chunk; 0 if it says none. */
function orientation(view) {
  try {
    return tag(view);
  } catch {
    return 0; // cut off: as the server takes it
  }
}

function tag(view) {
  const start = fourLetters(view, 0) === "Exif" ? 6 : 0;
  const little = view.getUint16(start) === 0x4949;
  const folder = start + view.getUint32(start + 4, little);
  const entries = view.getUint16(folder, little);
  for (let entry = folder + 2; entry < folder + 2 + 12 * entries; entry += 12) {
    if (view.getUint16(entry, little) === ORIENTATION) return view.getUint16(entry + 8, little);
  }
  return 0;
}

function fourLetters(view, at) {
  return String.fromCharCode(...[0, 1, 2, 3].map((place) => view.getUint8(at + place)));
}
