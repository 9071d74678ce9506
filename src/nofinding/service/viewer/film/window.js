// Window and level: which greys of the 16-bit film are shown between black and white.
// Both are shares of the film's whole range: centre 0.5, width 1 shows all of it.

const BINS = 4096;

/** The values that these shares of the film's pixels stay below, as shares of the range. */
export function quantiles(data, shares) {
  const counts = new Uint32Array(BINS);
  let total = 0;
  for (const value of data) {
    if (value > 0) { // collimated or padded parts are no tissue
      counts[value >> 4]++;
      total++;
    }
  }
  return shares.map((share) => {
    let seen = 0;
    for (let bin = 0; bin < BINS; bin++) {
      seen += counts[bin];
      if (seen >= share * total) return (bin + 0.5) / BINS;
    }
    return 1;
  });
}

/** From which to which share of the pixels each preset shows, by its key. */
export const PRESETS = [
  { key: "1", name: "Auto", from: 0.005, to: 0.995 },
  { key: "2", name: "Full range", from: null, to: null },
  { key: "3", name: "Lungs", from: 0.01, to: 0.62 },
  { key: "4", name: "Mediastinum", from: 0.38, to: 0.998 },
];

/** The window of a preset for this film. */
export function windowOf(preset, data) {
  if (preset.from === null) return { centre: 0.5, width: 1 };
  const [low, high] = quantiles(data, [preset.from, preset.to]);
  return bounded({ centre: (low + high) / 2, width: high - low });
}

/** A window within what makes sense. */
export function bounded({ centre, width }) {
  return {
    centre: Math.min(1.2, Math.max(-0.2, centre)),
    width: Math.min(2, Math.max(0.005, width)),
  };
}

/** By grey value of the film: the opaque grey pixel that is shown, as 32 bits. */
export function greys({ centre, width }, inverted) {
  const table = new Uint32Array(65536);
  const low = centre - width / 2;
  for (let value = 0; value < 65536; value++) {
    const share = Math.min(1, Math.max(0, (value / 65535 - low) / width));
    const grey = Math.round(255 * (inverted ? 1 - share : share));
    table[value] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
  }
  return table;
}
