// From numbers to pictures: the film under a window, the map in colours.

import { COLOURS, span } from "./colours.js";

/** A canvas that is not shown, with pixels of 32 bits that `fill` writes. */
export function picture(columns, rows, fill, before = null) {
  const canvas = before ?? new OffscreenCanvas(columns, rows);
  const image = new ImageData(columns, rows);
  fill(new Uint32Array(image.data.buffer));
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

/** The film in greys, by a table of 65536 pixels. */
export function greyPicture(film, table, before) {
  return picture(film.columns, film.rows, (out) => {
    for (let i = 0; i < out.length; i++) out[i] = table[film.data[i]];
  }, before);
}

/** A pseudo-healthy film in [0, 1] as one of 16 bits. */
export function as16Bits({ data, rows, columns }) {
  const whole = new Uint16Array(data.length);
  for (let i = 0; i < data.length; i++) {
    whole[i] = Math.round(65535 * Math.min(1, Math.max(0, data[i])));
  }
  return { data: whole, rows, columns };
}

/**
 * The map on a finer grid that covers the same film: values between the middles of its cells are
 * linear, so that thresholds cut smooth outlines, and nothing moves.
 */
export function refined(map, rows, columns) {
  const data = new Float32Array(rows * columns);
  const across = places(columns, map.columns);
  const down = places(rows, map.rows);
  for (let y = 0, i = 0; y < rows; y++) {
    const { from, to, share } = down[y];
    const [upper, lower] = [from * map.columns, to * map.columns];
    for (let x = 0; x < columns; x++, i++) {
      const at = across[x];
      const above = map.data[upper + at.from] * (1 - at.share) + map.data[upper + at.to] * at.share;
      const below = map.data[lower + at.from] * (1 - at.share) + map.data[lower + at.to] * at.share;
      data[i] = above * (1 - share) + below * share;
    }
  }
  return { data, rows, columns, threshold: map.threshold };
}

function places(many, few) {
  return Array.from({ length: many }, (_, i) => {
    const place = Math.min(few - 1, Math.max(0, ((i + 0.5) * few) / many - 0.5));
    const from = Math.floor(place);
    return { from, to: Math.min(few - 1, from + 1), share: place - from };
  });
}

/** The map where it is at or above the threshold, in colours; elsewhere nothing. */
export function mapPicture(map, threshold, outlined, before) {
  const top = span(map);
  const { data, rows, columns } = map;
  const colour = (value) => COLOURS[Math.min(255, Math.max(0, Math.round((255 * value) / top)))];
  return picture(columns, rows, (out) => {
    for (let y = 0, i = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++, i++) {
        if (data[i] < threshold || data[i] <= 0) continue;
        if (!outlined || atEdge(data, threshold, x, y, rows, columns)) {
          out[i] = outlined ? COLOURS[214] : colour(data[i]);
        }
      }
    }
  }, before);
}

/** Whether a pixel above the threshold is within two pixels of one below it. */
function atEdge(data, threshold, x, y, rows, columns) {
  const i = y * columns + x;
  return (x > 1 && data[i - 2] < threshold) || (x < columns - 2 && data[i + 2] < threshold) ||
    (y > 1 && data[i - 2 * columns] < threshold) ||
    (y < rows - 2 && data[i + 2 * columns] < threshold);
}
