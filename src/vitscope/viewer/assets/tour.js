// Six short steps on the reader's own photo. Each sets the viewer's state; leaving puts back what was there.
// Who opens a page for the first time is offered it, once.

import { el, figure, percent } from "./dom.js";
import { nameOfMap } from "./scene.js";

const KEPT = [
  "map",
  "layer",
  "head",
  "source",
  "query",
  "pinned",
  "rolled",
  "sinks",
  "panel",
  "smooth",
  "deletion_step",
];

// The patch that a map holds for the hottest, as a token.
async function hottest({ data }) {
  const { values } = await data.map(data.maps[0].id);
  return data.prefix.length + values.reduce((best, value, i) => (value > values[best] ? i : best), 0);
}

const COLLECTS = 5; // times its share: less is no sink that one could learn from

const curveOf = (entry, name) => entry.measurement?.numbers.find((one) => one.name === name);

// The head whose readout looks at the fewest tokens.
function sharpest(layer) {
  const found = layer?.readout_entropy ?? [];
  return found.reduce((best, value, head) => (value < found[best] ? head : best), 0);
}

// Each step: `{state, values}`; texts are `tour_N` and `tour_N_title`; the part of the page that they describe is marked.
const STEPS = [
  async ({ data, t }) => {
    const query = await hottest({ data }),
      rows = data.queries.at(-1);
    return {
      state: rows
        ? { source: "query", query, layer: data.layers.length - 1, head: "mean", rolled: false, smooth: false }
        : { source: "map", smooth: false },
      values: {
        rows: data.rows,
        columns: data.columns,
        count: data.tokens,
        token: data.nameOf(query, t),
        prefix: t.list(data.prefix.map(t.token)) || "–",
      },
      at: ".vs-stage",
    };
  },
  async ({ data }) => {
    const layer = Math.max(data.layers.length - 1, 0),
      head = sharpest(data.header.statistics?.layers?.[layer]);
    return {
      state: data.readable ? { source: "query", query: -1, layer, head, rolled: false, panel: "grid" } : {},
      values: { layers: data.layers.length, heads: data.heads, layer, head },
      at: ".vs-tabbed",
    };
  },
  async ({ data, rollout }) => {
    const entry = data.maps.find(({ method }) => method === "rollout");
    const here = rollout.possible && data.readable && data.queries.every(Boolean);
    return {
      state: here
        ? { source: "query", query: -1, head: "mean", layer: 0, rolled: true }
        : entry
          ? { source: "map", map: entry.id }
          : {},
      values: { last: data.layers.length - 1 },
      at: ".vs-caption",
    };
  },
  async ({ data, t }) => {
    const patches = (data.header.statistics?.sinks ?? []).filter(({ token }) => token >= data.prefix.length),
      last = data.layers.length - 1;
    const [sink] = patches.filter(({ factor }) => factor >= COLLECTS).sort((a, b) => b.factor - a.factor);
    if (!sink) return { state: { sinks: false }, values: { times: COLLECTS }, text: "tour_4_none", at: ".vs-stage" };
    return {
      state: data.queries[last]
        ? { sinks: true, source: "received", query: sink.token, layer: last, head: "mean", rolled: false }
        : { sinks: true },
      values: { token: data.nameOf(sink.token, t), factor: figure(sink.factor), count: patches.length },
      at: ".vs-stage",
    };
  },
  async ({ data }) => {
    const entry = data.maps.find(({ method }) => method === "random");
    return {
      state: entry ? { source: "map", map: entry.id } : { source: "map" },
      values: {},
      text: entry ? "tour_5" : "tour_5_none",
      at: ".vs-methods",
    };
  },
  async ({ data, t }) => {
    // Of classes only the map of the answer itself: hiding what speaks for an unlikely one teaches nothing.
    const measured = data.maps.filter((one) => !one.label && one.method !== "random" && curveOf(one, "deletion"));
    const below = (one) => curveOf(one, "deletion").random - curveOf(one, "deletion").value;
    const [best] = measured.sort((a, b) => below(b) - below(a));
    if (!best) return { state: { panel: "numbers" }, values: {}, text: "tour_6_none", at: ".vs-tabbed" };
    const deletion = curveOf(best, "deletion"),
      step = deletion.x.findIndex((x) => x >= 0.25),
      m = best.measurement;
    return {
      state: { source: "map", map: best.id, panel: "numbers", deletion_step: step, smooth: true },
      values: {
        map: nameOfMap(best, t),
        share: percent(deletion.x[step]),
        score: figure(deletion.y[step]),
        whole: figure(m.whole),
        random: figure(deletion.around[step]?.[0]),
      },
      at: ".vs-steps",
    };
  },
];

// True once for each reader; where the browser keeps nothing for this page, never.
function firstVisit() {
  try {
    const first = localStorage.getItem("vitscope met") === null;
    localStorage.setItem("vitscope met", "1");
    return first;
  } catch {
    return false;
  }
}

export function createTour(root, ctx, opener) {
  const { data, store, t, signal } = ctx;
  const title = el("h2", { tabindex: "-1" }),
    text = el("p"),
    count = el("span", { class: "vs-note" });
  const button = (label, onclick, kind = "vs-quiet") =>
    el("button", { type: "button", class: kind, text: t(label), onclick });
  const back = button("back", () => go(store.get().tour - 1)),
    next = button("next", () => go(store.get().tour + 1), "vs-quiet vs-strong");
  const skip = button("skip", () => go(null));
  const card = el(
    "section",
    { class: "vs-tour", "aria-label": t("tour"), hidden: true },
    el("div", { class: "vs-tour-top" }, title, count),
    text,
    el("div", { class: "vs-row" }, back, next, skip),
  );
  root.append(card);
  const go = (step) => store.set({ tour: step === null || step >= STEPS.length ? null : Math.max(0, step) });
  card.addEventListener("keydown", (event) => event.key === "Escape" && (event.preventDefault(), go(null)));
  const offer = (first) => {
    opener.replaceChildren(first ? el("span", { class: "vs-offer", text: t("tour_offer") }) : "", t("tour"));
    opener.classList.toggle("vs-strong", first);
  };
  ctx.first ??= firstVisit();
  offer(ctx.first);
  opener.addEventListener("click", () => go(store.get().tour === null ? 0 : null));
  let run = 0,
    marked = null,
    shown = null;
  const mark = (selector) => {
    marked?.classList.remove("vs-spot");
    marked = selector ? ctx.root.querySelector(selector) : null;
    marked?.classList.add("vs-spot");
    marked?.scrollIntoView({ block: "nearest" });
  };
  async function show(step, focus) {
    const mine = ++run;
    shown = step;
    opener.setAttribute("aria-expanded", step !== null);
    if (step !== null) offer((ctx.first = false));
    if (step === null) return leave(focus);
    ctx.before ??= Object.fromEntries(KEPT.map((key) => [key, store.get()[key]]));
    const { state, values, text: key = `tour_${step + 1}`, at } = await STEPS[step](ctx);
    if (mine !== run || signal.aborted) return;
    title.textContent = t(`tour_${step + 1}_title`);
    text.textContent = t(key, values);
    count.textContent = t("step_of", { step: step + 1, all: STEPS.length });
    back.disabled = step === 0;
    next.textContent = t(step === STEPS.length - 1 ? "finish" : "next");
    skip.hidden = step === STEPS.length - 1;
    card.hidden = false;
    store.set({ ...ctx.before, ...state });
    if (focus) title.focus({ preventScroll: true });
    mark(at);
  }
  function leave(focus) {
    const open = !card.hidden;
    card.hidden = true;
    mark(null);
    if (ctx.before) store.set(ctx.before);
    ctx.before = null;
    if (open && focus) opener.focus();
  }
  if (data.maps.length && store.get().tour !== null) show(store.get().tour, false);
  store.subscribe((state) => state.tour !== shown && show(state.tour, true), signal);
}
