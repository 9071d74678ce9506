// Whether films, scores and records are still like those that the p-values are calibrated on.

import { ApiError, get, pause } from "./api.js";
import { overTime } from "./charts.js";
import { el, section } from "./dom.js";
import { label, number, probability, share, unit } from "./format.js";

const EVERY = 60000; // milliseconds; the service works it out once a minute

/** Marks the way to the drift panel as long as a model's films have drifted. */
export async function watch(link, signedIn) {
  for (;;) {
    if (signedIn() && !document.hidden) {
      try {
        const { models } = await get("v1/drift");
        const drifted = Object.entries(models).filter(([, { alarming }]) => alarming);
        link.classList.toggle("alarm", drifted.length > 0);
        link.title = drifted.map(([name]) => `${name}: the films have drifted`).join("; ");
      } catch (error) {
        if (!(error instanceof ApiError)) throw error; // it is asked again
      }
    }
    await pause(EVERY);
  }
}

/** Shows the drift panel until it is left. */
export function drift(main) {
  const left = new AbortController();
  const body = el("div", { class: "models" }, el("p", { class: "hint" }, "Comparing \u2026"));
  main.replaceChildren(el("div", { class: "drift" },
    el("div", { class: "bar" }, el("h1", {}, "Drift"),
      el("p", { class: "hint" },
        "Are the films, scores and records still like those that the p-values are calibrated on?")),
    body));
  refresh(body, left.signal);
  return { title: "Drift", actions: {}, leave: () => left.abort() };
}

async function refresh(body, signal) {
  while (!signal.aborted) {
    try {
      const payload = await get("v1/drift", {}, signal);
      const models = Object.entries(payload.models);
      body.replaceChildren(...(models.length ? models.map(([name, about]) => model(name, about))
        : [el("p", { class: "hint" }, "No film has been scored yet.")]), refusals(payload.refused ?? []));
      await pause(EVERY, signal);
    } catch (error) {
      if (!(error instanceof ApiError)) return;
      body.replaceChildren(el("p", { class: "error", role: "alert" }, error.message));
      await pause(EVERY, signal).catch(() => {});
    }
  }
}

function model(name, about) {
  const days = (key) => about.days.map((day) => ({ day: day.day, value: day[key] }));
  return section(`Model ${name}`, `model-${name.replaceAll(/\W/g, "-")}`,
    test(about),
    el("div", { class: "charts" },
      overTime("Median p-value", days("median_p"), {
        expected: 0.5, name: "normal films: 0.5", top: 1, text: probability, tick: String }),
      overTime("Share with p \u2264 0.05", days("share_p05"), {
        expected: 0.05, name: "normal films: 5 %", top: 1, text: share }),
      overTime("Median score", days("median_score"), {
        expected: about.median_calibration_score ?? null, name: "calibration" }),
      overTime("Films a day", about.days.map(({ day, n, refused }) => ({ day, value: n, part: refused })),
        { bars: true, text: String })),
    records(about.record));
}

function test(about) {
  if (!about.tested) {
    return el("p", { class: "tested none" }, 
      `${about.n} films. Not tested: ${about.why ?? "too few films"}.`, refusedOf(about.days));
  }
  return el("p", { class: `tested ${about.alarming ? "alarm" : "calm"}`, role: "status" },
    el("strong", {}, about.alarming ? "The films have drifted. " : "No drift found. "),
    `${about.n} films`, about.line ? `: ${about.line}.` : ".", refusedOf(about.days));
}

/** How many of them the gate refused, in words. */
function refusedOf(days) {
  const many = days.reduce((sum, { refused }) => sum + (refused ?? 0), 0);
  return many ? ` The input gate refused ${many} more.` : null;
}

function records(rows) {
  if (!rows.length) return null;
  const middle = (row) => {
    if (row.median !== null && row.median !== undefined) return `${number(row.median)} ${unit(row.unit)}`;
    const parts = Object.entries(row.shares ?? {}).map(([name, part]) => `${name} ${share(part)}`);
    return parts.join(", ") || "\u2013";
  };
  const trained = (row) => (row.training_mean === null || row.training_mean === undefined ? "\u2013"
    : `${number(row.training_mean)} \u00b1 ${number(row.training_sd)} ${unit(row.unit)}`);
  return el("table", { class: "records" },
    el("caption", {}, "The record: these films against the training films"),
    el("thead", {}, el("tr", {},
      ["Field", "Known", "Known in training", "Median or shares", "Training mean \u00b1 SD"].map((name) =>
        el("th", { scope: "col" }, name)))),
    el("tbody", {}, rows.map((row) => el("tr", {},
      el("th", { scope: "row" }, label(row.field)),
      el("td", {}, known(row.known_share)), el("td", {}, known(row.training_known_share)),
      el("td", {}, middle(row)), el("td", {}, trained(row))))));
}

function known(part) {
  if (part === null || part === undefined) return "\u2013";
  const fill = el("span", { class: "fill" });
  fill.style.width = `${100 * part}%`;
  return el("span", { class: "share" },
    el("span", { class: "track", "aria-hidden": "true" }, fill), share(part));
}

function refusals(days) {
  if (!days.length) return "";
  return section("Refused by the input gate", "refused", el("div", { class: "charts" },
    overTime("Refused a day", days.map(({ day, n }) => ({ day, value: n })), { bars: true, text: String })));
}
