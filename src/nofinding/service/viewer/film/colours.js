// The colours of the map: inferno (van der Walt and Smith, 2015; CC0). Its brightness rises evenly,
// so that stronger looks stronger also to colour-blind readers and on a grey print. The same as in
// the pictures that `score` writes, over the same span: 0 to twice the model's threshold.

const STOPS = [
  [0, 0, 4], [11, 7, 36], [33, 12, 74], [61, 9, 101], [87, 16, 110], [113, 25, 110],
  [138, 34, 106], [163, 44, 97], [188, 55, 84], [210, 70, 68], [228, 90, 49], [241, 115, 29],
  [249, 142, 9], [252, 172, 17], [249, 203, 53], [242, 234, 105], [252, 255, 164],
];

/** 256 colours, each as the 32 bits of an opaque pixel. */
export const COLOURS = new Uint32Array(256);
const bytes = new Uint8ClampedArray(COLOURS.buffer);
for (let i = 0; i < 256; i++) {
  const place = (i / 255) * (STOPS.length - 1);
  const low = Math.min(Math.floor(place), STOPS.length - 2);
  for (let channel = 0; channel < 3; channel++) {
    const from = STOPS[low][channel];
    bytes[4 * i + channel] = from + (place - low) * (STOPS[low + 1][channel] - from);
  }
  bytes[4 * i + 3] = 255;
}

/** The map's value at the top of the scale: one colour means one thing in all films of a model. */
export function span(map) {
  return map.threshold ? 2 * map.threshold : greatest(map.data) || 1;
}

/** The largest of many numbers. */
export function greatest(data) {
  let most = -Infinity;
  for (const value of data) if (value > most) most = value;
  return most;
}

/** Draws the scale with what is hidden below `threshold` dimmed, and ticks at `marks`. */
export function legend(canvas, top, threshold, marks) {
  const ratio = window.devicePixelRatio || 1;
  const [wide, high] = [canvas.clientWidth || 180, canvas.clientHeight || 30];
  canvas.width = Math.round(wide * ratio);
  canvas.height = Math.round(high * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const bar = 12;
  const strip = new ImageData(256, 1);
  new Uint32Array(strip.data.buffer).set(COLOURS);
  const narrow = new OffscreenCanvas(256, 1);
  narrow.getContext("2d").putImageData(strip, 0, 0);
  context.drawImage(narrow, 0, 0, wide, bar);
  const hidden = wide * Math.min(1, threshold / top);
  context.fillStyle = "rgb(20 24 29 / 78%)";
  context.fillRect(0, 0, hidden, bar);
  context.strokeStyle = "#e6ebf0";
  context.strokeRect(0.5, 0.5, wide - 1, bar - 1);
  context.fillStyle = "#e6ebf0";
  context.fillRect(Math.min(wide - 2, Math.max(0, hidden - 1)), 0, 2, bar + 3);
  context.fillStyle = "#b3bec9";
  context.font = "11px system-ui, sans-serif";
  for (const [value, text] of marks) {
    const x = (wide * value) / top;
    context.textAlign = x < 10 ? "left" : x > wide - 30 ? "right" : "center";
    context.fillText(text, x, high - 4);
  }
}
