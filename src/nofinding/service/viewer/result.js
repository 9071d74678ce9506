// What is said of a film: score, p-value and what it means, flags, and what all of it rests on.

import { at } from "./api.js";
import { el, section } from "./dom.js";
import { meaning, number, probability, time } from "./format.js";

/** The score, the p-value and its sentence; or why there is none. */
export function verdict(job, result) {
  if (job.state === "failed") return objection("Not scored: it failed", job.why);
  if (result?.refused) return objection("Not scored: the input gate refused it", `It ${result.refused}.`);
  if (!result) return section("Result", "verdict", el("p", {}, `The film is ${job.state} \u2026`));
  return section("Result", "verdict",
    el("div", { class: "figures" },
      figure("p-value", probability(result.p_value), "p"),
      figure("score", number(result.score), "score")),
    scale(result.p_value),
    el("p", { class: "meaning" }, meaning(result)),
    el("p", { class: "against" }, `Calibration: ${calibration(result)}`));
}

function objection(title, why) {
  return el("section", { class: "verdict objection", role: "alert" },
    el("h2", {}, title), el("p", {}, why ?? ""));
}

function figure(name, value, id) {
  return el("div", { class: "number" },
    el("span", { class: "name" }, name), el("output", { class: "value", id: `shown-${id}` }, value));
}

/** Which normal films p is against. */
export function calibration(result) {
  const text = result.calibration && result.calibration !== "none" ? result.calibration : "none";
  return result.stratum ? `${text}; of them ${result.stratum}` : text;
}

/** A bar from 1 down to p, as in the worklist; each power of ten is as wide as the next. */
function scale(p) {
  if (p === null || p === undefined) return null;
  const place = (value) => `${Math.min(100, (-100 * Math.log10(Math.max(value, 1e-9))) / 3)}%`;
  const fill = el("span", { class: "fill" });
  fill.style.width = place(p);
  const ticks = [[1, "1"], [0.1, "0.1"], [0.05, "0.05"], [0.01, "0.01"], [0.001, "0.001"]];
  return el("div", { class: "p-scale", "aria-hidden": "true" },
    el("div", { class: "track" }, fill),
    ticks.map(([value, text]) => {
      const tick = el("span", { class: "tick" }, text);
      tick.style.left = place(value);
      return tick;
    }));
}

/** Flags, each a line; a conflict comes first. */
export function flags(job, result) {
  const lines = (result?.flags ?? job.flags ?? []).filter((flag) => !flag.startsWith("refused: "));
  const conflict = Boolean(job.conflict || result?.conflict);
  if (!lines.length && !conflict) return null;
  const first = (line) => conflict && line.startsWith("film: the same instance");
  if (conflict && !lines.some(first)) lines.unshift("film: the same instance came before with other pixels");
  lines.sort((one, other) => first(other) - first(one));
  return section("Flags", "flags", el("ul", {},
    lines.map((line) => el("li", { class: first(line) ? "conflict" : null },
      first(line) ? el("strong", {}, "Conflict: ") : null, line))));
}

/** Model, version, hash, film, deliveries: what a second reader needs to repeat it. */
export function provenance(job, result) {
  const rows = [
    ["Model", result?.model && `${result.model} (${result.method})`],
    ["Version", result?.version && `nofinding ${result.version}`],
    ["Model SHA-256", result?.sha256, "hash"],
    ["Calibration", result && calibration(result)],
    ["Film", job.film, "hash"],
    ["Job", job.job, "hash"],
    ["Size", result?.size && `${result.size[1]} \u00d7 ${result.size[0]} pixels`],
    ["Received", time(job.created)],
    ["Computing", result && `${result.seconds} s, ${job.tries} ${job.tries === 1 ? "try" : "tries"}`],
    ...(job.deliveries ?? []).map(({ target, state, why }) =>
      ["Sent to", `${target}: ${state}${why ? `, ${why}` : ""}`]),
  ];
  return section("What it rests on", "provenance", el("dl", {},
    rows.filter(([, value]) => value).map(([name, value, kind]) =>
      [el("dt", {}, name), el("dd", { class: kind ?? null }, value)])));
}

const OBJECTS = {
  report: "Structured report (SR)", picture: "Picture (secondary capture)",
  map: "Parametric map", segmentation: "Segmentation",
};

/** Links to the report and to the DICOM objects. */
export function downloads(job, kinds) {
  const path = `v1/jobs/${job.job}`;
  return section("Downloads", "downloads",
    el("ul", {},
      el("li", {}, el("a", { href: at(`${path}/report`), target: "_blank", rel: "noopener" },
        "Report (HTML)")),
      kinds.map((kind) => el("li", {},
        el("a", { href: at(`${path}/objects/${kind}`), download: `${kind}.dcm` },
          `DICOM: ${OBJECTS[kind] ?? kind}`)))),
    kinds.length ? el("p", { class: "hint" },
      "DICOM objects carry the patient's identity; each download is written to the audit log.") : null);
}
