// The record as a table with the model's attention, and the same film scored with another record.

import { ApiError, ended, get, post } from "./api.js";
import { button, el, say, section } from "./dom.js";
import { label, number, probability, share, source, unit } from "./format.js";

/** The record; `mapOf` shows the map of a job over the film: this one's or the what-if's. */
export function record(job, result, fields, mapOf, signal) {
  const known = result.record.map(({ field }) => field);
  const more = fields.filter(({ field }) => !known.includes(field));
  const others = more.map((field) => ({ ...field, value: null, text: "", used: false, attention: null }));
  const rows = [...result.record, ...others].map((entry) => fieldRow(entry));
  const note = el("p", { class: "note", role: "status" });
  const compared = el("div", { class: "compared" });
  const rescore = button("Rescore", () => ask(), { class: "main", id: "rescore" });
  const reset = button("Reset", () => {
    for (const row of rows) row.reset();
    compared.replaceChildren();
    note.textContent = "";
    mapOf(job.job);
  }, { id: "reset" });
  const ask = async () => {
    rescore.disabled = true;
    note.textContent = "Scoring \u2026";
    try {
      const other = await whatIf(job, recordOf(rows), signal, (state) => {
        note.textContent = `The question is ${state} \u2026`;
      });
      note.textContent = "";
      compared.replaceChildren(...beside(job, result, other, mapOf));
      compared.scrollIntoView({ block: "nearest" });
      say(`What if: score ${number(other.score)}, p ${probability(other.p_value)}`);
    } catch (error) {
      if (!(error instanceof ApiError)) return;
      note.textContent = error.message;
    } finally {
      rescore.disabled = false;
    }
  };
  const submit = (event) => {
    event.preventDefault();
    ask();
  };
  return section("Record", "record", el("form", { on: { submit } }, tables(rows),
    el("div", { class: "acts" }, rescore, reset, note), compared));
}

/** The fields that the model was given, and folded away those that it was not. */
function tables(rows) {
  const used = rows.filter((row) => row.used);
  const rest = rows.filter((row) => !row.used);
  const table = (part) => el("table", { class: "fields" },
    el("thead", {}, el("tr", {}, ["Field", "Value", "Attention", "What if"].map((name) =>
      el("th", { scope: "col" }, name)))),
    el("tbody", {}, part.map(({ node }) => node)));
  const many = `${rest.length} ${used.length ? "more " : ""}fields that the model was not given`;
  return [
    used.length ? table(used)
      : el("p", { class: "hint" }, "The model was given nothing of the record for this score."),
    rest.length ? el("details", {}, el("summary", {}, many), table(rest)) : null,
  ];
}

/** The whole record that is asked for; what was emptied is not in it. */
function recordOf(rows) {
  const wanted = {};
  for (const row of rows) {
    const value = row.value();
    if (value !== null) wanted[row.field] = value;
  }
  return wanted;
}

async function whatIf(job, wanted, signal, tell) {
  const asked = await post(`v1/jobs/${job.job}/what-if`, { record: wanted }, signal);
  const done = await ended(asked.job, signal, ({ state }) => tell(state));
  if (done.state === "failed") throw new ApiError(0, `It could not be scored: ${done.why}`);
  return { job: asked.job, ...(await get(`v1/jobs/${asked.job}/result`, {}, signal)) };
}

function fieldRow(entry) {
  const unknown = entry.value === null || entry.value === undefined;
  const name = label(entry.field);
  const id = `if-${entry.field}`;
  const start = unknown ? "" : entry.categories.length ? entry.text : String(entry.value);
  const field = entry.categories.length
    ? el("select", { id, "aria-label": `${name}, what if` },
      el("option", { value: "" }, "unknown"),
      entry.categories.map((text) => el("option", { value: text }, text)))
    : el("input", {
      id, type: "number", step: "any", inputmode: "decimal", placeholder: "unknown",
      "aria-label": `${name}${entry.unit ? ` in ${unit(entry.unit)}` : ""}, what if`,
    });
  const drop = button("\u00d7", () => {
    field.value = "";
    mark();
    field.focus();
  }, { class: "drop", "aria-label": `drop ${name}`, title: `drop ${name}` });
  const node = el("tr", { data: { field: entry.field } },
    el("th", { scope: "row" }, name,
      el("span", { class: "source" }, unknown ? "not recorded" : source(entry.source))),
    el("td", { class: "value" }, unknown ? "\u2013" : `${entry.text} ${unit(entry.unit)}`.trim()),
    el("td", { class: "attention" }, bar(entry.attention)),
    el("td", { class: "if" }, el("span", { class: "edit" }, field, drop)));
  const mark = () => node.classList.toggle("changed", field.value !== start);
  const reset = () => {
    field.value = start;
    mark();
  };
  field.addEventListener("input", mark);
  reset();
  const value = () => {
    if (field.value === "") return null;
    return entry.categories.length ? field.value : Number(field.value);
  };
  return { node, field: entry.field, used: entry.used, value, reset };
}

/** Where the model's attention went, as a bar and a number. */
function bar(attention, kind = "") {
  if (attention === null || attention === undefined) return el("span", { class: "hint" }, "\u2013");
  const fill = el("span", { class: `fill ${kind}` });
  fill.style.width = `${Math.min(100, 100 * attention)}%`;
  return el("span", { class: "share" },
    el("span", { class: "track", "aria-hidden": "true" }, fill), share(attention));
}

/** Both results side by side. */
function beside(job, result, other, mapOf) {
  const before = new Map(result.record.map((entry) => [entry.field, entry]));
  const after = new Map(other.record.map((entry) => [entry.field, entry]));
  const names = [...new Set([...before.keys(), ...after.keys()])];
  const shown = (entry) => (entry && entry.value !== null
    ? `${entry.text} ${unit(entry.unit)}`.trim() : "unknown");
  const changed = names.filter((name) => shown(before.get(name)) !== shown(after.get(name)));
  const line = (name, one, two, id) => el("tr", {}, el("th", { scope: "row" }, name),
    el("td", {}, one), el("td", { id }, two));
  const difference = other.score - result.score;
  const attended = names.filter((name) => before.get(name)?.attention || after.get(name)?.attention);
  const rows = [
    line("p-value", probability(result.p_value), probability(other.p_value), "if-p"),
    line("score", number(result.score),
      `${number(other.score)} (${signed(difference)})`, "if-score"),
    ...changed.map((name) => line(label(name), shown(before.get(name)), shown(after.get(name)))),
    ...attended.map((name) => line(`attention: ${label(name)}`,
      bar(before.get(name)?.attention), bar(after.get(name)?.attention, "other"))),
  ];
  const parts = [el("table", { class: "beside" },
    el("caption", {}, "The same film with another record"),
    el("thead", {}, el("tr", {}, el("td", {}), el("th", { scope: "col" }, "As recorded"),
      el("th", { scope: "col" }, "What if"))), el("tbody", {}, rows))];
  if (result.map && other.map) parts.push(mapChoice(job, other, mapOf));
  return parts;
}

/** A difference with its sign, to two digits that count. */
function signed(value) {
  const size = Math.abs(value);
  return `${value < 0 ? "\u2212" : "+"}${size < 0.001 ? "< 0.001" : Number(size.toPrecision(2))}`;
}

function mapChoice(job, other, mapOf) {
  const choice = (text, of, checked) => el("label", {}, el("input", {
    type: "radio", name: "map-of", checked, on: { change: () => mapOf(of) },
  }), ` ${text}`);
  return el("fieldset", { class: "map-of" }, el("legend", {}, "Map over the film"),
    choice("as recorded", job.job, true), choice("what if", other.job, false));
}
