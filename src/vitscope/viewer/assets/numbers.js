// The numbers behind the pictures: every head by depth, what hiding patches does to the score, and where sinks are.

import { chart, lineOf, svg } from "./chart.js";
import { el, figure, percent, toggle } from "./dom.js";
import { entryOf, nameOfMap, verdictOf, verdictText } from "./scene.js";

const NEAR = 26; // how far from a dot, in the chart's units, a pointer still means it

export const numbered = ({ data }) =>
  Boolean(data.header.statistics?.layers?.length) || data.maps.some((one) => one.measurement?.numbers.length);

export function panel(root, ctx) {
  const { data, t } = ctx,
    layers = data.header.statistics?.layers ?? [];
  const curves = el("div", {});
  root.append(curves);
  curvesOf(curves, ctx);
  if (layers.length) root.append(el("h3", { text: t("by_depth") }), depth(ctx, layers));
  if (data.header.statistics?.sinks) root.append(el("h3", { text: t("sinks_found") }), sinks(ctx));
}

// Two charts with a dot for each head; one dot at a time can be reached by Tab, arrow keys move among them.
function depth(ctx, layers) {
  const { data, store, t, signal } = ctx,
    both = [];
  const status = el("p", { class: "vs-note", "aria-live": "polite" }),
    hint = t(data.readable ? "depth_hint" : "depth_plain");
  const charts = [
    ["distance", t("distance"), t("distance_unit")],
    ["entropy_normalised", t("entropy"), t("entropy_unit")],
  ].filter(([name]) => layers.some((one) => one[name]?.some(Number.isFinite)));
  const point = (layer, head) => {
    for (const dots of both)
      for (const one of dots) one.circle.classList.toggle("vs-near", one.layer === layer && one.head === head);
    status.textContent =
      layer === null
        ? hint
        : `${t("where_head", { layer, head })}: ${t.list(charts.map(([name, label]) => `${label} ${figure(layers[layer][name]?.[head])}`))}`;
    if (data.readable) ctx.peek(layer === null ? null : { layer, head });
  };
  const made = charts.map(([name, label, unit]) => {
    const found = layers.flatMap((one, layer) =>
      (one[name] ?? []).map((value, head) => ({ layer, head, value })).filter(({ value }) => Number.isFinite(value)),
    );
    const most = Math.max(...found.map(({ value }) => value)) * 1.08;
    const plot = chart({
      label,
      across: t("layer"),
      up: unit,
      xs: [-0.5, layers.length - 0.5],
      ys: [0, most],
      whole: true,
    });
    const means = layers
      .map((_, layer) => found.filter((one) => one.layer === layer))
      .filter((one) => one.length)
      .map((one) => [one[0].layer, one.reduce((sum, { value }) => sum + value / one.length, 0)]);
    plot.root.append(
      svg("path", {
        d: lineOf(
          means.map(([layer]) => plot.x(layer)),
          means.map(([, value]) => plot.y(value)),
        ),
        class: "vs-mean",
        "aria-hidden": "true",
      }),
    );
    const dots = found.map((one) => ({
      ...one,
      x: plot.x(one.layer),
      y: plot.y(one.value),
      circle: svg("circle", {
        cx: plot.x(one.layer),
        cy: plot.y(one.value),
        r: 4.2,
        class: "vs-dot",
        role: "button",
        tabindex: "-1",
        "aria-label": `${t("where_head", one)}: ${figure(one.value)}`,
      }),
    }));
    plot.root.append(...dots.map(({ circle }) => circle));
    both.push(dots);
    listen(plot, dots, ctx, point);
    return el("figure", { class: "vs-figure-box" }, el("figcaption", { text: label }), plot.root);
  });
  const show = ({ source, layer, head }) => {
    for (const dots of both) {
      const chosen = dots.find((one) => source !== "map" && one.layer === layer && one.head === head);
      for (const one of dots) {
        one.circle.setAttribute("aria-pressed", one === chosen);
        one.circle.setAttribute("tabindex", one === (chosen ?? dots.at(-1)) ? "0" : "-1");
      }
    }
  };
  status.textContent = hint;
  show(store.get());
  store.subscribe(show, signal);
  return el("div", {}, el("div", { class: "vs-charts" }, ...made), status);
}

function listen({ root, wide, high }, dots, ctx, point) {
  let now = null;
  const at = (event) => {
    const bounds = root.getBoundingClientRect();
    const x = ((event.clientX - bounds.left) / bounds.width) * wide,
      y = ((event.clientY - bounds.top) / bounds.height) * high;
    const [near, far] = dots.reduce(
      ([best, least], one) => {
        const off = Math.hypot(one.x - x, one.y - y);
        return off < least ? [one, off] : [best, least];
      },
      [null, Infinity],
    );
    return far < NEAR ? near : null;
  };
  const go = (one) => {
    if (one === now) return;
    now = one;
    point(one?.layer ?? null, one?.head ?? null);
  };
  const keep = (one) => one && ctx.data.readable && ctx.keep(one.layer, one.head);
  root.addEventListener("pointermove", (event) => go(at(event)));
  root.addEventListener("pointerleave", () => go(null));
  root.addEventListener("click", (event) => keep(at(event)));
  root.addEventListener("focusin", (event) => go(dots.find(({ circle }) => circle === event.target) ?? null));
  root.addEventListener("focusout", () => go(null));
  root.addEventListener("keydown", (event) => {
    const one = dots.find(({ circle }) => circle === event.target);
    if (!one) return;
    const beside = dots.filter(({ layer }) => layer === one.layer).sort((a, b) => a.value - b.value),
      rank = beside.indexOf(one);
    const other = (by) =>
      dots
        .filter(({ layer }) => layer === one.layer + by)
        .sort((a, b) => Math.abs(a.value - one.value) - Math.abs(b.value - one.value))[0];
    const next = {
      ArrowUp: () => beside[rank + 1],
      ArrowDown: () => beside[rank - 1],
      ArrowLeft: () => other(-1),
      ArrowRight: () => other(1),
    }[event.key];
    if (next) next()?.circle.focus();
    else if (event.key === "Enter" || event.key === " ") keep(one);
    else return;
    event.preventDefault();
  });
}

// The measured numbers of the map that is shown: curves with the band of random maps, and what each number means.
function curvesOf(root, ctx) {
  const { data, store, t, signal } = ctx;
  let of = null;
  const show = (state) => {
    const key = [state.map, state.deletion_step].join();
    if (key === of) return;
    of = key;
    const entry = entryOf(state, data),
      numbers = entry?.measurement?.numbers ?? [];
    root.replaceChildren();
    if (!entry) return;
    root.append(el("h3", { text: t("curves", { map: nameOfMap(entry, t) }) }));
    if (!numbers.length) return void root.append(el("p", { class: "vs-note", text: t("not_measured") }));
    const legend = el(
      "p",
      { class: "vs-legend" },
      el("span", { class: "vs-key vs-key-map", text: t("curve_map") }),
      el("span", { class: "vs-key vs-key-random", text: t("curve_random") }),
    );
    const boxes = numbers.map((one) => numberBox(one, entry.measurement, state, ctx));
    root.append(el("div", { class: "vs-charts" }, ...boxes), legend);
  };
  show(store.get());
  store.subscribe(show, signal);
}

const TITLES = {
  deletion: "deletion_curve",
  insertion: "insertion",
  infidelity: "infidelity",
  "sensitivity-n": "sensitivity_n",
};

function numberBox(number, measurement, state, ctx) {
  const { t } = ctx,
    drawn = number.around.length > 0,
    label = t(TITLES[number.name] ?? number.name);
  const range = Number.isFinite(number.low) ? ` (${figure(number.low)} – ${figure(number.high)})` : "";
  const words = t(drawn ? "verdict_area" : "verdict_value", {
    value: figure(number.value),
    random: figure(number.random) + range,
    better: t(number.better === "lower" ? "lower" : "higher"),
  });
  const meaning = t.message(number.sentence),
    weak = number.power !== null && number.power < 0.9 ? ` ${t("power", { share: percent(number.power) })}` : "";
  const spoken = [label, verdictText(number, t), words, meaning].join(". ");
  return el(
    "figure",
    { class: "vs-figure-box" },
    el(
      "figcaption",
      {},
      el("span", { text: label }),
      el("strong", { class: `vs-${verdictOf(number)}`, text: verdictText(number, t) }),
    ),
    drawn ? curve(number, measurement, state, t, label, spoken) : null,
    el("p", { text: meaning }),
    el("p", { class: "vs-note", text: words + weak }),
  );
}

function curve(number, measurement, state, t, label, spoken) {
  const { x: xs, y: ys, around } = number;
  const known = [...ys, ...around.map(([mean]) => mean), measurement.whole, measurement.empty].filter(Number.isFinite);
  const [low, high] = [Math.min(...known), Math.max(...known)],
    room = (high - low || 1) * 0.08;
  const across = t(number.name === "insertion" ? "share_shown" : "share_hidden");
  const plot = chart({ label, across, up: t("score"), xs: [0, 1], ys: [low - room, high + room] });
  const within = (value) => plot.y(Math.max(low - room, Math.min(high + room, value ?? 0)));
  const places = xs.map(plot.x),
    middle = around.map(([mean]) => within(mean));
  const up = around.map(([, , top]) => within(top)),
    down = around.map(([, bottom]) => within(bottom));
  plot.root.append(
    svg("path", {
      d: `${lineOf(places, up)}L${lineOf([...places].reverse(), [...down].reverse()).slice(1)}Z`,
      class: "vs-band",
    }),
    svg("path", { d: lineOf(places, middle), class: "vs-random" }),
    svg("path", { d: lineOf(places, ys.map(within)), class: "vs-curve" }),
  );
  if (number.name === "deletion" && state.deletion_step) {
    const step = Math.min(state.deletion_step, xs.length - 1);
    plot.root.append(svg("circle", { cx: places[step], cy: within(ys[step]), r: 5, class: "vs-at" }));
  }
  plot.root.setAttribute("role", "img");
  plot.root.setAttribute("aria-label", spoken);
  return plot.root;
}

// Tokens that collect attention; each leads to who looks at it.
function sinks(ctx) {
  const { data, store, t, signal } = ctx,
    found = data.header.statistics.sinks;
  if (!found.length) return el("p", { class: "vs-note", text: t("no_sinks") });
  const mark = toggle(t("sinks"), store.get().sinks, (value) => store.set({ sinks: value }));
  const list = el(
    "div",
    { class: "vs-row" },
    ...found
      .slice(0, 12)
      .map((sink) =>
        el("button", {
          type: "button",
          class: "vs-quiet",
          text: `${data.nameOf(sink.token, t)} · ${figure(sink.factor)} ×`,
          onclick: () =>
            store.set({
              sinks: true,
              ...(data.queries[store.get().layer] ? { source: "received", query: sink.token, rolled: false } : {}),
            }),
        }),
      ),
  );
  store.subscribe((state) => mark.show(state.sinks), signal);
  return el("div", {}, el("p", { class: "vs-note", text: t("sinks_hint") }), mark, list);
}
