// Hosts that can run the model: paint patches away; its answer goes to the predictions and a line below the photo.

import { choices, el, figure, percent, toggle } from "./dom.js";

const PAUSE = 60; // milliseconds without a stroke before the model runs

export function panel(root, ctx) {
  const { data, store, t, host, signal } = ctx;
  if (!host.mask) return;
  let painting = false,
    running = null,
    timer = 0;
  ctx.paints = () => painting;
  const brush = toggle(t("paint"), false, (value) => {
    painting = value;
    ctx.stage.element.classList.toggle("vs-painting", value);
  });
  const mode = choices(
    t("masking"),
    [
      ["fill", t("fill")],
      ["drop", t("drop")],
    ],
    store.get().mode,
    (value) => store.set({ mode: value }),
  );
  const clear = el("button", {
    type: "button",
    class: "vs-quiet",
    text: t("clear"),
    onclick: () => store.set({ hidden: [] }),
  });
  const status = el("p", { class: "vs-masked", "aria-live": "polite" });
  root.append(
    el("div", { class: "vs-row" }, brush, mode, clear),
    el("p", { class: "vs-note", text: t("masking_hint") }),
  );
  ctx.below.prepend(status);

  async function predict(state) {
    running?.abort();
    if (!state.hidden.length) {
      status.textContent = "";
      ctx.masked.set({ answer: null });
      return;
    }
    running = new AbortController();
    const mine = running;
    status.textContent = t("busy");
    const began = performance.now();
    try {
      const patches = state.hidden.map((token) => token - data.prefix.length);
      const found = await host.mask(patches, state.mode, AbortSignal.any([mine.signal, signal]));
      if (mine.signal.aborted) return;
      t.learn(found.messages);
      status.dataset.beyond = performance.now() - began - found.forward_ms; // what a request costs besides the model itself
      const words = [
        t("masked", {
          count: patches.length,
          score: figure(found.score),
          whole: figure(found.whole),
          what: t.message(found.words),
          ms: Math.round(found.total_ms),
        }),
      ];
      const { values } = ctx.scene;
      if (values) {
        const total = values.reduce((sum, value) => sum + Math.max(value, 0), 0) || 1;
        words.push(
          t("masked_share", {
            share: percent(patches.reduce((sum, patch) => sum + Math.max(values[patch], 0), 0) / total),
          }),
        );
      }
      status.textContent = words.join(" ");
      ctx.masked.set({ answer: found });
    } catch (error) {
      if (!mine.signal.aborted) status.textContent = t.error(error);
    }
  }
  const show = (state) => mode.show(state.mode);
  show(store.get());
  if (store.get().hidden.length) timer = setTimeout(() => predict(store.get()), PAUSE);
  store.subscribe((state, before) => {
    show(state);
    if (state.hidden === before.hidden && state.mode === before.mode) return;
    ctx.stage.marks();
    ctx.masked.set({ answer: null }); // of other patches
    clearTimeout(timer);
    timer = setTimeout(() => predict(state), PAUSE);
  }, signal);
}
