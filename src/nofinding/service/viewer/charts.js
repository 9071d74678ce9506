// Small charts, drawn as SVG: a line over days, against what is expected.

import { el, svg } from "./dom.js";
import { number } from "./format.js";

const [WIDE, HIGH, LEFT, RIGHT, TOP, BOTTOM] = [360, 150, 44, 10, 10, 22];

/**
 * A chart of one number a day. `days` are {day, value}; a null value is a gap. `expected` is a
 * dashed line. `bars` draws counts instead of a line, with the `part` of each in another colour.
 */
export function overTime(title, days, options = {}) {
  const { expected = null, name = "", top = null, bars = false, text = number, tick = text } = options;
  const known = days.filter(({ value }) => value !== null && value !== undefined);
  const values = known.map(({ value }) => value);
  const limit = top ?? nice(Math.max(...values, expected ?? 0, 1e-9) * 1.1);
  const x = (index) => LEFT + ((index + 0.5) * (WIDE - LEFT - RIGHT)) / Math.max(1, days.length);
  const y = (value) => TOP + (1 - value / limit) * (HIGH - TOP - BOTTOM);
  const drawn = bars ? columns(days, x, y, text) : line(days, x, y, text);
  const latest = known.at(-1);
  const says = latest
    ? `${title}: ${text(latest.value)} on ${latest.day}` : `${title}: nothing yet`;
  return el("figure", { class: "chart" },
    el("figcaption", {}, title, el("span", { class: "latest" }, latest ? text(latest.value) : "\u2013")),
    svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": says },
      axis(limit, y, tick), expected === null ? null : expectation(y(expected), name),
      drawn, dates(days, x)));
}

function axis(limit, y, text) {
  return [0, limit / 2, limit].map((value) => svg("g", { class: "tick" },
    svg("line", { x1: LEFT, x2: WIDE - RIGHT, y1: y(value), y2: y(value) }),
    svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, text(value))));
}

function expectation(at, name) {
  return svg("g", { class: "expected" },
    svg("line", { x1: LEFT, x2: WIDE - RIGHT, y1: at, y2: at, "stroke-dasharray": "5 4" }),
    svg("text", { x: WIDE - RIGHT, y: at - 4, "text-anchor": "end" }, name));
}

function columns(days, x, y, text) {
  const wide = Math.max(1.5, Math.min(18, (0.7 * (WIDE - LEFT - RIGHT)) / Math.max(1, days.length)));
  const bar = (index, value, kind, says) => svg("rect", {
    x: x(index) - wide / 2, width: wide, y: y(value), height: y(0) - y(value), class: kind,
  }, svg("title", {}, says));
  return days.map(({ day, value, part = 0 }, index) => [
    bar(index, value, "bar", `${day}: ${text(value)}`),
    part ? bar(index, part, "bar part", `${day}: ${text(part)} of them refused`) : null,
  ]);
}

function line(days, x, y, text) {
  const parts = [];
  let path = "";
  days.forEach(({ day, value }, index) => {
    if (value === null || value === undefined) {
      path += " ";
      return;
    }
    path += `${path === "" || path.endsWith(" ") ? "M" : "L"}${x(index).toFixed(1)},${y(value).toFixed(1)}`;
    parts.push(svg("circle", { cx: x(index), cy: y(value), r: 3, class: "point" },
      svg("title", {}, `${day}: ${text(value)}`)));
  });
  return [svg("path", { d: path || "M0,0", class: "line" }), parts];
}

function dates(days, x) {
  const shown = days.length > 1 ? [0, days.length - 1] : days.length ? [0] : [];
  return shown.map((index) => svg("text", {
    x: x(index), y: HIGH - 6, class: "date",
    "text-anchor": days.length === 1 ? "middle" : index ? "end" : "start",
  }, days[index].day));
}

/** The next 1, 2 or 5 times a power of ten above a value. */
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((step) => step * power >= value);
}
