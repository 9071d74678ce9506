// The film screen: the film with its map, and beside it all that is said of it.

import { ApiError, ended, get, pixels } from "./api.js";
import { above, below, pointed } from "./film/controls.js";
import { el, say } from "./dom.js";
import { feedback } from "./feedback.js";
import { FilmView } from "./film/filmview.js";
import { probability, short } from "./format.js";
import { address, neighbour, page, placeOf, queryOf } from "./list.js";
import { dividing, pointing } from "./film/pointer.js";
import { record } from "./record.js";
import { downloads, flags, provenance, verdict } from "./result.js";
import { viewing } from "./film/viewing.js";
import { PRESETS, windowOf } from "./film/window.js";

/** Shows one film until it is left. */
export function film(main, id) {
  const left = new AbortController();
  const screen = { id, main, signal: left.signal, actions: {}, view: null, maps: new Map() };
  Object.assign(screen.actions, moving(screen));
  main.replaceChildren(el("p", { class: "hint loading", role: "status" }, "Loading \u2026"));
  open(screen).catch((error) => {
    if (!(error instanceof ApiError) || error.status === 401) return;
    main.replaceChildren(el("div", { class: "lost" },
      el("p", { class: "error", role: "alert" }, error.message),
      el("a", { href: address() }, "Back to the worklist")));
  });
  return {
    title: "Film",
    actions: screen.actions,
    leave: () => {
      left.abort();
      screen.view?.end();
    },
  };
}

/** Going to other films, which works before this one is loaded. */
function moving({ id, signal }) {
  const go = async (step) => {
    try {
      const job = await neighbour(id, step, signal);
      if (job) location.hash = `#/film/${job}`;
      else say(step > 0 ? "This is the last film" : "This is the first film");
    } catch (error) {
      if (error instanceof ApiError) say(error.message);
    }
  };
  return {
    next: () => go(1),
    previous: () => go(-1),
    back: () => { location.hash = address(); },
  };
}

/** Loads what there is of a film, and lays it out. A film that is not done yet is waited for. */
async function open(screen) {
  const { id, signal } = screen;
  if (placeOf(id) === null) await page(queryOf(""), signal); // opened by its address
  let job = await get(`v1/jobs/${id}`, {}, signal);
  if (job.state !== "done" && job.state !== "failed") {
    laidOut(screen, job, null);
    job = await ended(id, signal);
  }
  if (job.state === "failed") {
    laidOut(screen, job, null);
    return;
  }
  const [result, own, map, normal, about] = await loaded(id, signal);
  laidOut(screen, job, result, about);
  say(result.refused ? `Film ${short(job.film)}, refused`
    : `Film ${short(job.film)}, p-value ${probability(result.p_value)}`);
  shown(screen, own, map, normal);
}

/** The result first: it says which of the others there are. */
async function loaded(id, signal) {
  const result = await get(`v1/jobs/${id}/result`, {}, signal);
  const [own, map, normal, kinds, fields] = await Promise.all([
    pixels(id, "film", signal),
    result.map ? pixels(id, "map", signal) : null,
    result.normal ? pixels(id, "normal", signal) : null,
    get(`v1/jobs/${id}/objects`, {}, signal),
    get("v1/fields", {}, signal),
  ]);
  return [result, own, map, normal, { kinds: kinds.objects, fields: fields.fields }];
}

/** Puts the screen together; the canvas is still black. */
function laidOut(screen, job, result, { kinds, fields } = {}) {
  screen.view?.end();
  const canvas = el("canvas", {
    id: "film", tabindex: 0, role: "img", "aria-label": `Film ${short(job.film)}`,
    "aria-describedby": "about-verdict",
  });
  const divider = el("div", {
    id: "divider", role: "separator", tabindex: 0, hidden: true, "aria-orientation": "vertical",
    "aria-label": "Divider between film and pseudo-healthy film", "aria-valuemin": 0, "aria-valuemax": 100,
  });
  const names = el("div", { class: "names", "aria-hidden": "true" });
  const view = new FilmView(canvas, (state) => screen.sync(state));
  Object.assign(screen, { view, divider, names, job, result });
  Object.assign(screen.actions, viewing(view, screen));
  screen.top = above(job, placeOf(job.job), screen.actions);
  screen.bottom = below(screen.actions, view);
  const stage = el("div", { class: "stage" }, canvas, divider, names,
    el("span", { class: "research", "aria-hidden": "true" }, "Research use only"),
    screen.bottom.readOut, screen.top.states);
  screen.sync = (state) => synced(screen, state);
  const mapOf = (of) => showMap(screen, of);
  const panel = el("aside", { class: "panel", "aria-label": "Result", tabindex: -1 },
    verdict(job, result), flags(job, result),
    result && !result.refused ? record(job, result, fields, mapOf, screen.signal) : null,
    result && !result.refused ? feedback(job, screen.signal) : null,
    result ? downloads(job, kinds) : null, provenance(job, result));
  screen.main.replaceChildren(el("div", { class: "viewer" },
    el("div", { class: "left" }, screen.top.node, stage, screen.bottom.node), panel));
}

/** Hands film and maps to the view, and the mouse to the canvas. */
function shown(screen, own, map, normal) {
  const { view, id } = screen;
  screen.maps.set(id, map);
  view.take(own, normal);
  const wanted = view.state.shown;
  view.change({ ...windowOf(PRESETS[0], own.data), shown: normal ? wanted : "film" });
  takeMap(screen, map);
  pointing(view, screen.actions.fit, (point) => {
    screen.bottom.readOut.textContent = pointed(view, point, screen.map);
  });
  dividing(screen.divider, view);
  view.canvas.focus({ preventScroll: true });
}

function takeMap(screen, map) {
  screen.map = map;
  screen.bottom.takeMap(map);
  screen.view.takeMap(map);
  if (map) screen.actions.modelThreshold();
}

/** Shows the map of this job, or of a what-if of it. */
async function showMap(screen, of) {
  if (screen.map === screen.maps.get(of)) return;
  try {
    if (!screen.maps.has(of)) screen.maps.set(of, await pixels(of, "map", screen.signal));
    takeMap(screen, screen.maps.get(of));
  } catch (error) {
    if (error instanceof ApiError) say(error.message);
  }
}

/** Brings bars, divider and captions to what the view shows. */
function synced({ view, top, bottom, divider, names }, state) {
  top.sync(state, Boolean(view.normal));
  bottom.sync(state);
  const swipes = state.shown === "swipe";
  divider.hidden = !swipes;
  divider.style.left = `${100 * state.divider}%`;
  divider.setAttribute("aria-valuenow", String(Math.round(100 * state.divider)));
  const two = state.shown !== "film";
  if (names.childElementCount !== (two ? 2 : 0)) {
    names.replaceChildren(...(two ? ["Film", "Pseudo-healthy"].map((name) => el("span", {}, name)) : []));
  }
  names.style.setProperty("--from", swipes ? `${100 * state.divider}%` : "50%");
}
