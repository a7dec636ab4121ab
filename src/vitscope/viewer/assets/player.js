// Layers in motion: one after another, of whatever is shown; rolled out, from the last layer down, so that it grows.

import { el } from "./dom.js";

export const PACE = 600; // milliseconds a layer

// The layers in the order in which they play.
export function orderOf(state, count) {
  const up = Array.from({ length: count }, (_, layer) => layer);
  return state.rolled && state.source === "query" ? up.reverse() : up;
}

// Shows layer after layer; `each` is awaited with each one drawn. Ends early with its signal, when the reader goes to
// another layer, or where `each` gives false.
export async function playLayers(ctx, signal, each) {
  const { store, data } = ctx;
  await ctx.step(0); // of a map it becomes clear what is stepped through
  for (const layer of orderOf(store.get(), data.layers.length)) {
    await ctx.step(layer - store.get().layer);
    if (signal.aborted) return;
    if ((await each(layer)) === false || signal.aborted || store.get().layer !== layer) return;
  }
}

export const pause = (signal, time = PACE) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, time);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve(null)), { once: true });
  });

export function playButton(ctx) {
  const { t, signal } = ctx;
  let ending = null;
  const button = el("button", { type: "button", class: "vs-quiet vs-play" });
  const show = () => {
    button.textContent = ending ? `❚❚ ${t("play_stop")}` : `▶ ${t("play_short")}`;
    button.setAttribute("aria-label", t(ending ? "play_stop" : "play"));
    button.title = t(ending ? "play_stop" : "play");
  };
  const stop = () => {
    ending?.abort();
    ending = null;
    show();
  };
  button.addEventListener("click", async () => {
    if (ending) return stop();
    const mine = (ending = new AbortController());
    show();
    await playLayers(ctx, mine.signal, () => pause(mine.signal));
    if (ending === mine) stop();
  });
  signal.addEventListener("abort", () => ending?.abort(), { once: true });
  show();
  return button;
}
