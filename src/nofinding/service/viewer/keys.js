// The keys: what each does, and the overlay that says so. docs/viewer.md lists the same.

import { button, el } from "./dom.js";

export const KEYS = [
  ["Everywhere", [
    ["?", "help", "show or hide the keys"],
    ["g", "worklist", "go to the worklist"],
    ["d", "drift", "go to the drift panel"],
  ]],
  ["Worklist", [
    ["j", "next", "select the next film"],
    ["k", "previous", "select the previous film"],
    ["Enter", "open", "open the selected film"],
    ["]", "nextPage", "next page"],
    ["[", "previousPage", "previous page"],
  ]],
  ["Film", [
    ["j", "next", "open the next film of the worklist"],
    ["k", "previous", "open the previous film"],
    ["Escape", "back", "leave a field; else go back to the worklist"],
    ["1", "preset1", "window: auto"],
    ["2", "preset2", "window: full range"],
    ["3", "preset3", "window: lungs"],
    ["4", "preset4", "window: mediastinum"],
    ["w", "narrower", "narrower window (more contrast)"],
    ["W", "wider", "wider window (less contrast)"],
    ["l", "brighter", "lower level (brighter)"],
    ["L", "darker", "higher level (darker)"],
    ["i", "invert", "invert the greys"],
    ["+", "zoomIn", "zoom in"],
    ["-", "zoomOut", "zoom out"],
    ["f", "fit", "fit the film to the window"],
    ["ArrowLeft", "panLeft", "move the film left"],
    ["ArrowRight", "panRight", "move the film right"],
    ["ArrowUp", "panUp", "move the film up"],
    ["ArrowDown", "panDown", "move the film down"],
    ["o", "overlay", "show or hide the map"],
    ["c", "outline", "map as colours or as an outline"],
    ["a", "fainter", "map: less opaque"],
    ["A", "stronger", "map: more opaque"],
    ["t", "thresholdDown", "map: lower threshold"],
    ["T", "thresholdUp", "map: higher threshold"],
    ["n", "side", "pseudo-healthy film beside the film"],
    ["s", "swipe", "pseudo-healthy film as a swipe"],
    [",", "dividerLeft", "swipe: divider to the left"],
    [".", "dividerRight", "swipe: divider to the right"],
    ["r", "record", "go to the EHR's what-if fields"],
    ["v", "verdict", "go to the reader's feedback"],
  ]],
];

const NAMES = {
  ArrowLeft: "\u2190", ArrowRight: "\u2192", ArrowUp: "\u2191", ArrowDown: "\u2193",
  Escape: "Esc",
};
const ALSO = { "=": "+", _: "-" }; // the same key without or with shift
const IN_LIST = { ArrowDown: "j", ArrowUp: "k" };
const TYPING = "input:not([type=range]):not([type=checkbox]):not([type=radio]), textarea, select";

/** Hands a key to the screen whose `actions` it is one of. */
export function handle(event, title, actions) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const target = event.target instanceof Element ? event.target : document.body;
  if (target.closest("dialog")) return;
  if (target.matches(TYPING) && event.key !== "Escape") return;
  if (event.key === "Escape" && target !== document.body && target.closest(".panel")) {
    target.blur();
    return;
  }
  if (target.matches("[type=range], [type=radio]") && event.key.startsWith("Arrow")) return;
  if (event.key === "Enter" && target.matches("button, a, summary")) return;
  let key = ALSO[event.key] ?? event.key;
  if (title === "Worklist") key = IN_LIST[key] ?? key;
  for (const [group, rows] of KEYS) {
    const row = (group === title || group === "Everywhere") && rows.find(([own]) => own === key);
    if (row && actions[row[1]]) {
      event.preventDefault();
      actions[row[1]]();
      return;
    }
  }
}

/** Shows the keys; the page behind it waits. */
export function help() {
  const open = document.querySelector("dialog.keys");
  if (open) return open.close();
  const groups = KEYS.map(([title, rows]) => el("section", {},
    el("h3", {}, title),
    el("table", {}, el("tbody", {}, rows.map(([key, , says]) => el("tr", {},
      el("th", { scope: "row" }, el("kbd", {}, NAMES[key] ?? key)), el("td", {}, says)))))));
  const mouse = el("section", {}, el("h3", {}, "Mouse on the film"),
    el("table", {}, el("tbody", {}, [
      ["drag", "window (across) and level (up: brighter)"],
      ["Shift + drag", "move the film; also the middle button"],
      ["wheel", "zoom at the pointer"],
      ["double click", "fit the film to the window"],
    ].map(([what, says]) => el("tr", {},
      el("th", { scope: "row" }, el("kbd", {}, what)), el("td", {}, says))))));
  const dialog = el("dialog", {
    class: "keys", "aria-labelledby": "keys-title",
    on: {
      close: () => dialog.remove(),
      keydown: (event) => event.key === "?" && dialog.close(),
    },
  },
  el("h2", { id: "keys-title" }, "Keys"),
  el("div", { class: "groups" }, groups, mouse),
  button("Close", () => dialog.close(), { autofocus: true }));
  document.body.append(dialog);
  dialog.showModal();
  return undefined;
}
