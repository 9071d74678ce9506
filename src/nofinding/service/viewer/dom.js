// Elements, made from plain values. Text goes in as text: nothing here reads HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element; `properties` are attributes, but `on` (listeners by event) and `data`. */
export function el(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** The same of a drawing. */
export function svg(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

function filled(node, { on = {}, data = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) {
      node.setAttribute(name, String(value));
    }
  }
  for (const [name, value] of Object.entries(data)) node.dataset[name] = String(value);
  for (const [event, act] of Object.entries(on)) node.addEventListener(event, act);
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

/** A button that does something. */
export function button(text, act, properties = {}) {
  return el("button", { type: "button", ...properties, on: { click: act } }, text);
}

/** A button that is pressed or not; `shows(true)` presses it. */
export function toggle(text, act, properties = {}) {
  const node = button(text, act, { "aria-pressed": "false", ...properties });
  node.shows = (on) => node.setAttribute("aria-pressed", String(Boolean(on)));
  return node;
}

/** A part of a panel, under a heading. */
export function section(title, name, ...children) {
  const heading = el("h2", { id: `about-${name}` }, title);
  return el("section", { class: name, "aria-labelledby": `about-${name}` }, heading, ...children);
}

/** Says something to who cannot see it. */
export function say(text) {
  document.getElementById("said").textContent = text;
}
