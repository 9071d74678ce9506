// The mouse, the pen and the finger on the film.

import { bounded } from "./window.js";

const WHEEL = 1.0015; // zoom a pixel of the wheel
const LINE = 33; // pixels of a wheel that counts in lines

/** Lets a view be windowed, moved and zoomed by pointer; `fit` is for the double click. */
export function pointing(view, fit, readOut) {
  const { canvas } = view;
  let held = null;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button > 1) return;
    held = { x: event.clientX, y: event.clientY, moves: event.shiftKey || event.button === 1 };
    canvas.setPointerCapture(event.pointerId);
    canvas.focus({ preventScroll: true });
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => {
    readOut(view.under(event.clientX, event.clientY));
    if (!held) return;
    const [dx, dy] = [event.clientX - held.x, event.clientY - held.y];
    Object.assign(held, { x: event.clientX, y: event.clientY });
    if (held.moves) view.panBy(dx, dy);
    else view.change(dragged(view.state, dx, dy));
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => { held = null; });
  }
  canvas.addEventListener("pointerleave", () => readOut(null));
  canvas.addEventListener("dblclick", fit);
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const turned = event.deltaY * (event.deltaMode === WheelEvent.DOM_DELTA_LINE ? LINE : 1);
    view.zoomBy(WHEEL ** -turned, event.clientX, event.clientY);
  }, { passive: false });
}

/** The window after a drag: across changes its width, up makes the film brighter. */
function dragged({ centre, width, inverted }, dx, dy) {
  const up = inverted ? -dy : dy;
  return bounded({ width: width * 1.005 ** dx, centre: centre + (up * Math.max(width, 0.1)) / 500 });
}

/** Lets the divider of a swipe be dragged, and moved by its own arrow keys. */
export function dividing(handle, view) {
  let held = false;
  const move = (event) => {
    const box = view.canvas.getBoundingClientRect();
    view.change({ divider: Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) });
  };
  handle.addEventListener("pointerdown", (event) => {
    held = true;
    handle.setPointerCapture(event.pointerId);
    event.preventDefault();
    handle.focus();
  });
  handle.addEventListener("pointermove", (event) => held && move(event));
  for (const name of ["pointerup", "pointercancel"]) {
    handle.addEventListener(name, () => { held = false; });
  }
  handle.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.02, ArrowRight: 0.02 }[event.key];
    const end = { Home: 0, End: 1 }[event.key];
    if (step === undefined && end === undefined) return;
    event.preventDefault();
    view.change({ divider: end ?? Math.min(1, Math.max(0, view.state.divider + step)) });
  });
}
