// The film on a canvas: windowed, zoomed, under its map, beside or behind its pseudo-healthy film.

import { greyPicture, as16Bits, mapPicture, refined } from "./layers.js";
import { greys } from "./window.js";

const GAP = 6; // pixels between films side by side

/** Draws a film as its `state` says; `change` alters that and draws anew. */
export class FilmView {
  constructor(canvas, changed = () => {}) {
    this.canvas = canvas;
    this.changed = changed;
    this.film = this.map = this.normal = null;
    this.state = {
      centre: 0.5, width: 1, inverted: false, zoom: 1, x: 0.5, y: 0.5, shown: "film",
      divider: 0.5, overlay: true, outlined: false, opacity: 0.55, threshold: 0,
    };
    this.layers = {};
    this.stale = { film: true, map: true };
    this.waiting = 0;
    this.sized = new ResizeObserver(() => this.draw());
    this.sized.observe(canvas);
  }

  /** Takes another film, with a map and a pseudo-healthy film or null. */
  take(film, normal) {
    this.film = film;
    this.normal = normal && as16Bits(normal);
    this.layers = {};
    this.stale = { film: true, map: true };
  }

  /** Takes a map of the film, or null. */
  takeMap(map) {
    this.map = map && refined(map, this.film.rows, this.film.columns);
    this.layers.map = null;
    this.stale.map = true;
    this.draw();
  }

  change(part) {
    const before = this.state;
    this.state = { ...before, ...part };
    const differs = (...names) => names.some((name) => this.state[name] !== before[name]);
    if (differs("centre", "width", "inverted")) this.stale.film = true;
    if (differs("threshold", "outlined")) this.stale.map = true;
    this.draw();
  }

  /** Draws with the next frame, once however often it is asked. */
  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.drawNow();
    });
  }

  end() {
    cancelAnimationFrame(this.waiting);
    this.sized.disconnect();
  }

  /** The rectangles that films are drawn into, in canvas pixels. */
  panes() {
    const { width, height } = this.canvas;
    if (this.state.shown !== "side") return [{ left: 0, wide: width, high: height }];
    const wide = Math.floor((width - GAP) / 2);
    return [{ left: 0, wide, high: height }, { left: wide + GAP, wide, high: height }];
  }

  /** Where the film lies in a pane: scale in canvas pixels a film pixel, left and top. */
  place(pane) {
    const { zoom, x, y } = this.state;
    const { rows, columns } = this.film;
    const scale = zoom * Math.min(pane.wide / columns, pane.high / rows);
    const left = pane.left + pane.wide / 2 - x * columns * scale;
    return { scale, left, top: pane.high / 2 - y * rows * scale };
  }

  /** The film's pixel under a point of the page, or null beside the film. */
  under(clientX, clientY) {
    if (!this.film) return null;
    const box = this.canvas.getBoundingClientRect();
    const ratio = this.canvas.width / box.width;
    const [px, py] = [(clientX - box.left) * ratio, (clientY - box.top) * ratio];
    const panes = this.panes();
    const pane = panes.findLast(({ left }) => px >= left) ?? panes[0];
    const { scale, left, top } = this.place(pane);
    const [x, y] = [(px - left) / scale, (py - top) / scale];
    const inside = x >= 0 && y >= 0 && x < this.film.columns && y < this.film.rows;
    return { x, y, inside, pane, px, py };
  }

  /** Zooms by a factor; what is under that point of the page stays there. */
  zoomBy(factor, clientX = null, clientY = null) {
    const zoom = Math.min(16, Math.max(0.5, this.state.zoom * factor));
    const point = clientX === null ? null : this.under(clientX, clientY);
    if (!point) return this.change({ zoom });
    const scale = (this.place(point.pane).scale * zoom) / this.state.zoom;
    const middle = point.pane.left + point.pane.wide / 2;
    return this.change({
      zoom,
      x: clamp((point.x + (middle - point.px) / scale) / this.film.columns),
      y: clamp((point.y + (point.pane.high / 2 - point.py) / scale) / this.film.rows),
    });
  }

  /** Moves the film by so many pixels of the page. */
  panBy(dx, dy) {
    if (!this.film) return;
    const ratio = this.canvas.width / this.canvas.clientWidth;
    const { scale } = this.place(this.panes()[0]);
    this.change({
      x: clamp(this.state.x - (dx * ratio) / scale / this.film.columns),
      y: clamp(this.state.y - (dy * ratio) / scale / this.film.rows),
    });
  }

  drawNow() {
    const { canvas, film } = this;
    const ratio = window.devicePixelRatio || 1;
    const [wide, high] = [canvas.clientWidth, canvas.clientHeight].map((n) => Math.round(n * ratio));
    if (canvas.width !== wide || canvas.height !== high) Object.assign(canvas, { width: wide, height: high });
    const context = canvas.getContext("2d");
    context.fillStyle = "#000";
    context.fillRect(0, 0, wide, high);
    if (!film || !wide || !high) return;
    this.refresh();
    const [first, second] = this.panes();
    this.paint(context, first, 0, "film");
    if (second) this.paint(context, second, 0, "normal");
    if (this.state.shown === "swipe") this.paint(context, first, this.state.divider, "normal");
    const { scale, left, top } = this.place(first);
    canvas.dataset.place = [scale, left, top].join(" ");
    this.changed(this.state);
  }

  /** Makes the pictures anew that no longer are what the state says. */
  refresh() {
    const { film, map, normal, layers, stale, state } = this;
    if (stale.film) {
      const table = greys(state, state.inverted);
      layers.film = greyPicture(film, table, layers.film);
      if (normal) layers.normal = greyPicture(normal, table, layers.normal);
    }
    if (stale.map && map) layers.map = mapPicture(map, state.threshold, state.outlined, layers.map);
    this.stale = { film: false, map: false };
  }

  /** Draws a layer into the part of a pane that is right of the share `from` of it. */
  paint(context, pane, from, name) {
    const { scale, left, top } = this.place(pane);
    const { rows, columns } = this.film;
    const box = [left, top, columns * scale, rows * scale];
    context.save();
    context.beginPath();
    context.rect(pane.left + from * pane.wide, 0, (1 - from) * pane.wide, pane.high);
    context.clip();
    context.imageSmoothingQuality = "high";
    context.imageSmoothingEnabled = scale < 6;
    context.fillStyle = "#000";
    context.fillRect(...box);
    if (this.layers[name]) {
      context.imageSmoothingEnabled ||= name === "normal"; // a coarse grid is no detail
      context.drawImage(this.layers[name], ...box);
    }
    if (name === "film" && this.state.overlay && this.layers.map) {
      context.globalAlpha = this.state.outlined ? 1 : this.state.opacity;
      context.drawImage(this.layers.map, ...box);
    }
    context.restore();
  }
}

const clamp = (share) => Math.min(1, Math.max(0, share));
