// The worklist: every film that came in, the most unusual first.

import { pause } from "./api.js";
import { button, el, say } from "./dom.js";
import { number, probability, short, time } from "./format.js";
import { MOST, address, page, queryOf } from "./list.js";

const EVERY = 3000; // milliseconds between looks at the service
const STATES = [["", "All"], ["done", "Done"], ["working", "Working"], ["waiting", "Waiting"],
  ["failed", "Failed"]];
const COLUMNS = [
  ["p_value", "p-value"], ["score", "Score"], ["state", "State"], ["created", "Received"],
  [null, "Film"], [null, "Model"], [null, "Remarks"],
];

let selected = null; // the job that the keys act on, kept over screens

/** Shows the worklist until it is left. */
export function worklist(main, text) {
  const query = queryOf(text);
  const left = new AbortController();
  const body = el("tbody", {});
  const tabs = el("div", { class: "tabs", role: "group", "aria-label": "Films by state" });
  const turning = el("div", { class: "turning" });
  const table = el("table", { class: "films" },
    el("caption", { class: "unseen" }, "Films, sorted by the service"),
    el("thead", {}, el("tr", {}, COLUMNS.map((column) => heading(column, query)))), body);
  main.replaceChildren(el("div", { class: "worklist" },
    el("div", { class: "bar" }, el("h1", {}, "Worklist"), tabs, turning), table));
  let shown = [];

  const select = (job, focus) => {
    selected = job;
    for (const row of body.rows) {
      const own = row.dataset.job === job;
      row.setAttribute("aria-selected", String(own));
      const link = row.querySelector("a");
      link?.setAttribute("tabindex", own ? "0" : "-1");
      if (own && focus) link?.focus();
    }
  };
  const show = ({ jobs, counts }) => {
    shown = jobs.map(({ job }) => job);
    const focused = document.activeElement?.closest("tr")?.dataset.job;
    const rows = jobs.map((job) => row(job));
    body.replaceChildren(...(rows.length ? rows : [nothing(query)]));
    select(shown.includes(selected) ? selected : shown[0], shown.includes(focused));
    tabs.replaceChildren(...STATES.map(([state, name]) => tab(state, name, counts, query)));
    turning.replaceChildren(...turns(query, jobs.length));
  };
  const step = (by) => {
    const index = Math.max(0, shown.indexOf(selected)) + by;
    if (shown[index]) select(shown[index], true);
  };
  body.addEventListener("focusin", (event) => {
    const job = event.target.closest("tr")?.dataset.job;
    if (job && job !== selected) select(job, false);
  });
  const go = (skip) => { location.hash = address({ ...query, skip }); };
  refresh(query, show, left.signal);
  return {
    title: "Worklist",
    actions: {
      next: () => step(1),
      previous: () => step(-1),
      open: () => selected && (location.hash = `#/film/${selected}`),
      nextPage: () => shown.length === MOST && go(query.skip + MOST),
      previousPage: () => query.skip > 0 && go(Math.max(0, query.skip - MOST)),
    },
    leave: () => left.abort(),
  };
}

/** Asks again and again, as long as somebody looks. */
async function refresh(query, show, signal) {
  const connection = document.getElementById("connection");
  for (let first = true; !signal.aborted; first = false) {
    try {
      if (first || !document.hidden) {
        const answer = await page(query, signal);
        if (signal.aborted) return;
        show(answer);
        connection.textContent = "";
        if (first) say(`Worklist, ${answer.jobs.length} films shown`);
      }
      await pause(EVERY, signal);
    } catch (error) {
      if (error.name === "AbortError" || error.status === 401) return;
      connection.textContent = error.message;
      await pause(EVERY, signal).catch(() => {});
    }
  }
}

function heading([order, name], query) {
  if (!order) return el("th", { scope: "col" }, name);
  const own = query.order === order;
  const down = Boolean(query.descending);
  const turned = own ? (down ? "" : "true") : (order === "score" || order === "created" ? "true" : "");
  const sort = own ? (down ? "descending" : "ascending") : "none";
  const arrow = own ? (down ? " \u25bc" : " \u25b2") : "";
  const act = () => {
    location.hash = address({ ...query, order, descending: turned, skip: 0 });
  };
  return el("th", { scope: "col", "aria-sort": sort, class: `by-${order}` },
    button(`${name}${arrow}`, act, { data: { order } }));
}

function tab(state, name, counts, query) {
  const all = Object.values(counts).reduce((sum, count) => sum + count, 0);
  const own = query.state === state;
  return el("a", {
    href: address({ ...query, state, skip: 0 }), "aria-current": own ? "true" : null,
    data: { state },
  }, name, " ", el("span", { class: "count" }, String(state ? counts[state] ?? 0 : all)));
}

function turns(query, many) {
  const from = many ? query.skip + 1 : 0;
  const turn = (text, says, skip, able) => (able
    ? el("a", { href: address({ ...query, skip }), "aria-label": says }, text)
    : el("span", { class: "off", "aria-hidden": "true" }, text));
  return [
    el("span", { class: "range" }, `${from}\u2013${query.skip + many}`),
    turn("\u2039", "previous page", Math.max(0, query.skip - MOST), query.skip > 0),
    turn("\u203a", "next page", query.skip + MOST, many === MOST),
  ];
}

function nothing(query) {
  const says = query.state ? "No film in this state." : "No film has come in yet.";
  return el("tr", { class: "nothing" }, el("td", { colspan: COLUMNS.length }, says));
}

/** What became of a job, in a word: a film that the gate refused was done without a score. */
export function outcome(job) {
  return job.state === "done" && job.refused ? "refused" : job.state;
}

function row(job) {
  const state = outcome(job);
  const link = el("a", { href: `#/film/${job.job}`, tabindex: -1 }, short(job.film));
  return el("tr", {
    data: { job: job.job, state }, "aria-selected": "false",
    on: { click: (event) => event.target.closest("a") ?? (location.hash = link.hash) },
  },
  el("td", { class: "p_value" }, el("span", { class: "figure" }, probability(job.p_value)),
    unusual(job.p_value)),
  el("td", { class: "score" }, number(job.score)),
  el("td", {}, el("span", { class: `state ${state}` }, state)),
  el("td", { class: "created" }, time(job.created)),
  el("td", { class: "film" }, link),
  el("td", { class: "model" }, job.model ?? "\u2013"),
  el("td", { class: "remarks" }, remarks(job)));
}

/** A bar that is the longer the smaller p is: full at 0.001. */
function unusual(p) {
  if (p === null || p === undefined) return null;
  const bar = el("span", { class: "fill" });
  bar.style.width = `${Math.min(100, (-100 * Math.log10(Math.max(p, 1e-9))) / 3)}%`;
  return el("span", { class: "gauge", "aria-hidden": "true" }, bar);
}

function remarks(job) {
  const flags = job.flags ?? [];
  const why = job.state === "failed" ? job.why : job.refused && `it ${job.refused}`;
  const parts = [];
  if (job.conflict) {
    parts.push(el("span", { class: "mark conflict" }, "conflict"), " same film id, other pixels");
  }
  if (why) parts.push(el("span", { class: "why" }, why));
  const others = flags.filter((flag) => !flag.startsWith("refused: ") &&
    !(job.conflict && flag.startsWith("film: the same")));
  if (others.length) {
    parts.push(el("span", { class: "mark" }, `${others.length} flag${others.length > 1 ? "s" : ""}`),
      el("span", { class: "first" }, others[0]));
  }
  return parts.flatMap((part) => [part, " "]);
}
