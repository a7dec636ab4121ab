// The first ten seconds: what one can do, and a ring that wanders over three patches, until somebody points at the photo.

import { el } from "./dom.js";
import { boxOf } from "./heat.js";

const PLACES = [
  [0.3, 0.36],
  [0.62, 0.5],
  [0.44, 0.72],
]; // of the ring, in shares of what the model saw

export function createHint(stage, ctx) {
  const { data, store, t, signal } = ctx,
    ending = new AbortController(),
    until = { signal: AbortSignal.any([signal, ending.signal]) };
  if (ctx.met) return;
  const [l, top, r, b] = boxOf(data, store.get().as_seen),
    ring = el("i", { class: "vs-ring", "aria-hidden": "true" });
  // What pointing shows follows what is shown: what a patch looks at, what looks at it, what is like it, or its value.
  const said = () => {
    const { source, hover } = store.get(),
      like = source === "like" || source === "pca";
    if (hover === "value" || !(like || data.queries.some(Boolean))) return t("hint_value");
    return t(matchMedia("(pointer: coarse)").matches ? "hint_touch" : "hint", {
      what: t(like ? "hint_like" : source === "received" ? "hint_received" : "hint_query"),
    });
  };
  const text = el("span", { text: said() }),
    words = el("p", { class: "vs-hint" }, text);
  ring.style.inlineSize = `${(100 * (r - l)) / data.columns}%`;
  ring.style.blockSize = `${(100 * (b - top)) / data.rows}%`;
  PLACES.forEach(([x, y], i) => {
    ring.style.setProperty(`--x${i}`, `${100 * (l + ((r - l) * Math.floor(x * data.columns)) / data.columns)}%`);
    ring.style.setProperty(`--y${i}`, `${100 * (top + ((b - top) * Math.floor(y * data.rows)) / data.rows)}%`);
  });
  stage.append(ring, words);
  const end = () => {
    ctx.met = true;
    ending.abort();
    ring.remove();
    words.remove();
  };
  for (const event of ["pointermove", "pointerdown", "keydown"]) stage.addEventListener(event, end, until);
  store.subscribe(({ tour }) => (tour === null ? (text.textContent = said()) : end()), until.signal);
}
