// What the model predicts: a bar for each class; a click shows the map of that class.

import { el, predicted } from "./dom.js";

export function panel(root, ctx) {
  const { data, store, t, signal } = ctx, { predictions, activation } = data.header;
  if (!predictions.length) {
    root.append(el("p", { class: "vs-note", text: t("no_predictions") }));
    return;
  }
  const list = el("ul", { class: "vs-predictions" });
  root.append(list);
  for (const [label, probability] of predictions) {
    const entry = data.maps.find((one) => one.label === label);
    const bar = el("span", { class: "vs-bar" });
    bar.style.inlineSize = activation === "value" ? "0" : `${100 * probability}%`;
    const inside = [el("span", { text: label }), el("span", { class: "vs-number", text: predicted(probability, activation) }), bar];
    const go = () => store.set({ map: entry.id, source: "map", deletion_step: null });
    list.append(el("li", {}, entry
      ? el("button", { type: "button", "data-map": entry.id, title: t("class_map", { label }), onclick: go }, ...inside)
      : el("div", {}, ...inside)));
  }
  const show = (state) => {
    for (const button of list.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", state.source === "map" && button.dataset.map === state.map);
    }
  };
  show(store.get());
  store.subscribe(show, signal);
}
