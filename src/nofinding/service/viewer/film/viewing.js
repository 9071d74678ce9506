// What the keys and buttons do to a film on the screen.

import { greatest, span } from "./colours.js";
import { say } from "../dom.js";
import { number } from "../format.js";
import { PRESETS, bounded, windowOf } from "./window.js";

// What a reader has set stays from film to film; window, zoom and threshold start anew.
const KEPT = ["overlay", "outlined", "opacity", "inverted", "shown", "divider"];
const kept = {};
const STEP = 60; // pixels that an arrow moves the film

/** The actions on a view, by name; `screen` has the map that is shown. */
export function viewing(view, screen) {
  view.state = { ...view.state, ...kept };
  const change = (part) => {
    if (!view.film) return;
    view.change(part);
    for (const name of KEPT) kept[name] = view.state[name];
  };
  const window = (centre, width) => change(bounded({
    centre: view.state.centre + centre * view.state.width, width: view.state.width * width,
  }));
  const brighter = (sign) => window((view.state.inverted ? -sign : sign) * -0.05, 1);
  const lay = (shown) => {
    if (shown !== "film" && !view.normal) return say("This model makes no pseudo-healthy film");
    return change({ shown: view.state.shown === shown ? "film" : shown });
  };
  const opacity = (by) => change({ opacity: Math.min(1, Math.max(0.05, view.state.opacity + by)) });
  const divider = (by) => change({ divider: Math.min(1, Math.max(0, view.state.divider + by)) });
  const threshold = (by) => {
    if (!screen.map) return;
    const top = Math.max(span(screen.map), greatest(screen.map.data));
    change({ threshold: Math.min(top, Math.max(0, view.state.threshold + by * top)) });
    say(`Threshold ${number(view.state.threshold)}`);
  };
  const presets = PRESETS.map((preset) => [`preset${preset.key}`, () => {
    if (!view.film) return;
    change(windowOf(preset, view.film.data));
    say(`Window: ${preset.name}`);
  }]);
  return {
    ...Object.fromEntries(presets),
    narrower: () => window(0, 1 / 1.1), wider: () => window(0, 1.1),
    brighter: () => brighter(1), darker: () => brighter(-1),
    invert: () => change({ inverted: !view.state.inverted }),
    zoomIn: () => view.film && view.zoomBy(1.25), zoomOut: () => view.film && view.zoomBy(0.8),
    fit: () => change({ zoom: 1, x: 0.5, y: 0.5 }),
    panLeft: () => view.panBy(-STEP, 0), panRight: () => view.panBy(STEP, 0),
    panUp: () => view.panBy(0, -STEP), panDown: () => view.panBy(0, STEP),
    overlay: () => {
      change({ overlay: !view.state.overlay });
      say(view.state.overlay ? "Map shown" : "Map hidden");
    },
    outline: () => change({ outlined: !view.state.outlined }),
    fainter: () => opacity(-0.1), stronger: () => opacity(0.1),
    thresholdDown: () => threshold(-0.025), thresholdUp: () => threshold(0.025),
    modelThreshold: () => change({ threshold: startOf(screen.map) }),
    single: () => change({ shown: "film" }), side: () => lay("side"), swipe: () => lay("swipe"),
    dividerLeft: () => divider(-0.02), dividerRight: () => divider(0.02),
    record: () => {
      const field = document.querySelector(".record input, .record select");
      field?.closest("details")?.setAttribute("open", "");
      field?.focus();
    },
    verdict: () => document.getElementById("agree")?.focus(),
  };
}

/** The model's threshold; of a map without one, what 99 % of its own pixels stay below. */
function startOf(map) {
  if (map.threshold !== null) return map.threshold;
  const sorted = Float32Array.from(map.data).sort();
  return sorted[Math.floor(0.99 * (sorted.length - 1))];
}
