// The bars above and below the film. They show the view's state and change it by `actions`.

import { greatest, legend, span } from "./colours.js";
import { button, el, toggle } from "../dom.js";
import { number, short } from "../format.js";
import { PRESETS } from "./window.js";

const key = (name) => ({ "aria-keyshortcuts": name, title: `key ${name}` });

/** The bar above: which film, how it is laid out, windowed and zoomed. */
export function above(job, place, actions) {
  const modes = {
    film: toggle("Film", actions.single, { id: "mode-film" }),
    side: toggle("Side by side", actions.side, { id: "mode-side", disabled: true, ...key("n") }),
    swipe: toggle("Swipe", actions.swipe, { id: "mode-swipe", disabled: true, ...key("s") }),
  };
  const presets = PRESETS.map((preset) => button(preset.name, actions[`preset${preset.key}`],
    { id: `preset-${preset.key}`, ...key(preset.key) }));
  const invert = toggle("Invert", actions.invert, { id: "invert", ...key("i") });
  const states = el("output", { id: "window", "aria-label": "window, level and zoom" });
  const node = el("div", { class: "bar", role: "toolbar", "aria-label": "Film" },
    el("span", { class: "group" },
      button("\u2039", actions.previous, { "aria-label": "previous film", ...key("k") }),
      button("\u203a", actions.next, { "aria-label": "next film", ...key("j") })),
    el("span", { class: "which" }, place ? el("span", { class: "hint" }, `${place}. `) : null,
      el("span", { class: "id" }, short(job.film))),
    el("span", { class: "group", role: "group", "aria-label": "Layout" }, Object.values(modes)),
    el("span", { class: "group", role: "group", "aria-label": "Window presets" }, presets, invert),
    button("Fit", actions.fit, { id: "fit", ...key("f") }));
  const sync = (state, hasNormal) => {
    for (const [name, mode] of Object.entries(modes)) {
      mode.shows(state.shown === name);
      if (name !== "film") mode.disabled = !hasNormal;
      if (name !== "film" && !hasNormal) mode.title = "this model makes no pseudo-healthy film";
    }
    invert.shows(state.inverted);
    const range = (share) => Math.round(65535 * share);
    states.textContent = `W ${range(state.width)}  L ${range(state.centre)}  ` +
      `${Math.round(100 * state.zoom)} %${state.inverted ? "  inverted" : ""}`;
  };
  return { node, states, sync };
}

/** The bar below: the map's switch, opacity, threshold and scale, and what is under the pointer. */
export function below(actions, view) {
  const readOut = el("output", { id: "under", "aria-label": "under the pointer" });
  const empty = el("p", { class: "hint" }, "There is no map.");
  const node = el("div", { class: "bar under" }, empty);
  const shows = { sync: () => {}, readOut };
  const takeMap = (map) => {
    if (!map) {
      node.replaceChildren(empty);
      shows.sync = () => {};
      return;
    }
    const top = Math.max(span(map), greatest(map.data));
    const on = toggle("Map", actions.overlay, { id: "overlay", ...key("o") });
    const outline = toggle("Outline", actions.outline, { id: "outline", ...key("c") });
    const slider = (id, name, most, change) => {
      const input = el("input", {
        id, type: "range", min: 0, max: most, step: most / 200,
        on: { input: () => change(Number(input.value)) },
      });
      const value = el("output", { for: id });
      return { input, value, node: el("label", { class: "slider" }, el("span", {}, name), input, value) };
    };
    const opacity = slider("opacity", "Opacity", 1, (value) => view.change({ opacity: value }));
    const threshold = slider("threshold", "Threshold", top, (value) => view.change({ threshold: value }));
    const scale = el("canvas", { class: "legend", role: "img" });
    const back = button("99 %", actions.modelThreshold, {
      id: "model-threshold", title: "the model's threshold: 99 % of the pixels of normal films stay below it",
      disabled: map.threshold === null,
    });
    node.replaceChildren(
      el("span", { class: "group" }, on, outline), opacity.node, threshold.node, back, scale);
    shows.sync = (state) => {
      on.shows(state.overlay);
      outline.shows(state.outlined);
      opacity.input.value = state.opacity;
      opacity.value.textContent = `${Math.round(100 * state.opacity)} %`;
      threshold.input.value = state.threshold;
      threshold.value.textContent = number(state.threshold);
      drawScale(scale, map, state);
    };
  };
  return { node, takeMap, readOut, sync: (state) => shows.sync(state) };
}

function drawScale(canvas, map, state) {
  const top = span(map);
  const marks = [[0, "0"], [top, `\u2265 ${number(top)}`]];
  if (map.threshold) marks.splice(1, 0, [map.threshold, `99 %: ${number(map.threshold)}`]);
  const says = `Colours of the map from 0, dark, to ${number(top)} and above, bright; ` +
    `shown from ${number(state.threshold)}`;
  if (canvas.getAttribute("aria-label") === says && canvas.width > 0 && canvas.dataset.drawn) return;
  canvas.setAttribute("aria-label", says);
  canvas.title = says;
  canvas.dataset.drawn = "true";
  legend(canvas, top, state.threshold, marks);
}

/** What is under the pointer, in words. */
export function pointed(view, point, map) {
  if (!point?.inside) return "";
  const { film } = view;
  const [x, y] = [Math.floor(point.x), Math.floor(point.y)];
  const grey = `x ${x} y ${y}  grey ${film.data[y * film.columns + x]}`;
  if (!map) return grey;
  const row = Math.floor((point.y / film.rows) * map.rows);
  const column = Math.floor((point.x / film.columns) * map.columns);
  const value = map.data[row * map.columns + column];
  const times = map.threshold ? ` (${number(value / map.threshold)} \u00d7 99 %)` : "";
  return `${grey}  map ${number(value)}${times}`;
}
