// The measured steps of deletion: the map's hottest patches hidden one step after another, and what the score becomes.

import { el, figure, predicted } from "./dom.js";
import { entryOf } from "./scene.js";

export function panel(root, ctx) {
  const { data, store, t, signal } = ctx;
  const input = el("input", {
    type: "range",
    min: "0",
    step: "1",
    oninput: () => store.set({ deletion_step: Number(input.value) || null }),
  });
  const status = el("p", { class: "vs-note", "aria-live": "polite" });
  const field = el("label", { class: "vs-field" }, el("span", { text: t("deletion") }), input);
  root.append(field, status);
  let order = null,
    of = null;
  const curve = (state) =>
    entryOf(state, data).measurement?.numbers.find((one) => one.name === "deletion" && one.x.length);
  ctx.deleted = () => {
    const state = store.get(),
      number = curve(state);
    if (!number || !order || of !== state.map || !state.deletion_step || state.source !== "map") return [];
    const count = Math.round(number.x[state.deletion_step] * order.length);
    return Array.from(order.subarray(0, count), (patch) => patch + data.prefix.length);
  };
  const show = async (state) => {
    const number = curve(state),
      entry = entryOf(state, data);
    root.hidden = !number || state.source !== "map";
    if (!number) return;
    if (of !== state.map) {
      const found = await data.array(`order.${entry.id}`);
      if (signal.aborted || store.get().map !== state.map) return;
      order = found;
      of = state.map;
    }
    const step = Math.min(state.deletion_step ?? 0, number.x.length - 1),
      m = entry.measurement;
    input.max = number.x.length - 1;
    input.value = step;
    status.textContent = step
      ? t("deletion_at", {
          count: Math.round(number.x[step] * order.length),
          all: order.length,
          score: figure(number.y[step]),
          whole: figure(m.whole),
          random: figure(number.around[step]?.[0]),
        })
      : t.message(m.score);
    const likely = step ? (entry.steps?.[step] ?? []) : [];
    if (likely.length)
      status.textContent += t("deletion_then", {
        list: t.list(
          likely.map(([label, p]) => t("deletion_class", { label, p: predicted(p, data.header.activation) })),
        ),
      });
    input.setAttribute("aria-valuetext", status.textContent);
    ctx.stage.marks();
  };
  show(store.get());
  ctx.grown.subscribe(() => show(store.get()), signal);
  store.subscribe((state, before) => {
    if (["map", "source", "deletion_step"].some((key) => state[key] !== before[key])) show(state);
  }, signal);
}
