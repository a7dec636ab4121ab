// Hosts that can run the model: paint patches away, and compare its new answer with what the map put there.

import { choices, el, figure, percent, predicted, toggle } from "./dom.js";

const PAUSE = 60; // milliseconds without a stroke before the model runs

export function panel(root, ctx) {
  const { data, store, t, host, signal } = ctx;
  if (!host.mask) return;
  let painting = false, running = null, timer = 0;
  ctx.paints = () => painting;
  const brush = toggle(t("paint"), false, (value) => {
    painting = value;
    ctx.stage.element.classList.toggle("vs-painting", value);
  });
  const mode = choices(t("masking"), [["fill", t("fill")], ["drop", t("drop")]], store.get().mode, (value) => store.set({ mode: value }));
  const clear = el("button", { type: "button", class: "vs-quiet", text: t("clear"), onclick: () => store.set({ hidden: [] }) });
  const status = el("p", { class: "vs-note", "aria-live": "polite" }), list = el("ul", { class: "vs-predictions" });
  root.append(el("div", { class: "vs-row" }, brush, mode, clear), el("p", { class: "vs-note", text: t("masking_hint") }), status, list);

  async function predict(state) {
    running?.abort();
    if (!state.hidden.length) {
      status.textContent = "";
      list.replaceChildren();
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
      status.dataset.beyond = performance.now() - began - found.forward_ms; // what a request costs besides the model itself
      const { values } = await data.map(state.map ?? data.maps[0].id);
      const total = values.reduce((sum, value) => sum + Math.max(value, 0), 0) || 1;
      const share = patches.reduce((sum, patch) => sum + Math.max(values[patch], 0), 0) / total;
      status.textContent = `${t("masked", { count: patches.length, score: figure(found.score), whole: figure(found.whole), ms: Math.round(found.total_ms) })} ${t("masked_share", { share: percent(share) })}`;
      list.replaceChildren(...found.predictions.map(([label, p]) => {
        const bar = el("span", { class: "vs-bar" });
        bar.style.inlineSize = data.header.activation === "value" ? "0" : `${100 * p}%`;
        return el("li", {}, el("div", {}, el("span", { text: label }), el("span", { class: "vs-number", text: predicted(p, data.header.activation) }), bar));
      }));
    } catch (error) {
      if (!mine.signal.aborted) status.textContent = t.error(error);
    }
  }
  const show = (state) => mode.show(state.mode);
  show(store.get());
  store.subscribe((state, before) => {
    show(state);
    if (state.hidden === before.hidden && state.mode === before.mode) return;
    ctx.stage.marks();
    clearTimeout(timer);
    timer = setTimeout(() => predict(state), PAUSE);
  }, signal);
}
