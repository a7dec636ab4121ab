// The few controls beside the photo: what is shown, of which layer and head, from which token; drawing is folded away.

import { COLOURS } from "./colours.js";
import { choices, el, percent, toggle } from "./dom.js";
import { playButton } from "./player.js";
import { POOLING, nameOfMap, numberText, verdictOf, verdictText } from "./scene.js";

function select(label, options, take) {
  const list = el("select", { onchange: () => take(list.value) });
  list.append(...options.map(([value, text]) => el("option", { value, text })));
  return el("label", { class: "vs-field" }, el("span", { text: label }), list);
}

function slider(label, attributes, take) {
  const shown = el("span", { class: "vs-figure" }),
    input = el("input", { type: "range", ...attributes, oninput: () => take(Number(input.value)) });
  const made = el("label", { class: "vs-field vs-slider" }, el("span", {}, label, shown), input);
  made.show = (value, text) => {
    input.value = value;
    shown.textContent = text;
    input.setAttribute("aria-valuetext", text);
  };
  return made;
}

const GROUPS = ["group_where", "group_why", "group_control"];
const groupOf = (entry) =>
  entry.method === "random" ? "group_control" : entry.label || entry.uses_target ? "group_why" : "group_where";
const aboutOf = ({ method }) => `about_${method.replaceAll("-", "_")}`;

// The maps of all methods by what they answer, each in one plain line, with what its measurement says.
export function methods(root, ctx) {
  const { data, store, t, signal } = ctx;
  const list = el("div", { class: "vs-methods", role: "radiogroup", "aria-label": t("method") });
  root.append(list);
  let of = null;
  const item = (entry) =>
    el(
      "button",
      {
        type: "button",
        role: "radio",
        class: "vs-method",
        "data-map": entry.id,
        onclick: () => store.set({ map: entry.id, source: "map", deletion_step: null }),
      },
      el("span", { text: nameOfMap(entry, t) }),
      t.has(aboutOf(entry)) ? el("small", { text: t(aboutOf(entry)) }) : null,
      ...verdicts(entry, t),
    );
  const all = () => [...list.querySelectorAll("button")];
  const fill = () => {
    const state = store.get(),
      shown = data.maps.filter((one) => !one.label || one.id === state.map),
      key = shown.map(({ id, measurement }) => id + Boolean(measurement)).join();
    const focused = of !== key && list.contains(document.activeElement);
    if (of !== key) {
      of = key;
      const groups = GROUPS.map((group) => [group, shown.filter((one) => groupOf(one) === group)]).filter(
        ([, found]) => found.length,
      );
      list.replaceChildren(
        ...groups
          .flatMap(([group, found]) => [groups.length > 1 ? el("h3", { text: t(group) }) : null, ...found.map(item)])
          .filter(Boolean),
      );
    }
    for (const button of all()) {
      const on = state.source === "map" && button.dataset.map === state.map;
      button.setAttribute("aria-checked", on);
      button.tabIndex = button.dataset.map === state.map ? 0 : -1;
      if (focused && button.tabIndex === 0) button.focus({ preventScroll: true });
    }
  };
  list.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key],
      buttons = all();
    if (!by) return;
    event.preventDefault();
    const next = buttons[(buttons.indexOf(event.target) + by + buttons.length) % buttons.length];
    next.focus();
    next.click();
  });
  fill();
  store.subscribe(fill, signal);
  ctx.grown.subscribe(fill, signal);
}

// Each verdict with the numbers it is of: a map may be better by one and worse by the other.
function verdicts(entry, t) {
  if (entry.method === "random") return [];
  const by = new Map();
  for (const one of entry.measurement?.numbers ?? []) by.set(verdictOf(one), [...(by.get(verdictOf(one)) ?? []), one]);
  return [...by].map(([kind, those]) =>
    el("small", {
      class: `vs-${kind}`,
      text: t("verdict_by", {
        verdict: verdictText(those[0], t),
        names: t.list(those.map((one) => t.named(one.name))),
      }),
      title: those.map((one) => `${numberText(one, t)}. ${t.message(one.sentence)}`).join("\n"),
    }),
  );
}

// Layer, head, what is shown of attention, and from which token.
export function attention(root, ctx) {
  const { data, store, t, signal } = ctx,
    last = data.layers.length - 1;
  if (!data.readable) {
    root.append(el("p", { class: "vs-note", text: t.message(data.header.attention.why) }));
    return;
  }
  const shows = [
    ["map", t("source_map")],
    ["query", t("source_query")],
  ];
  if (data.queries.some(Boolean)) shows.push(["received", t("source_received")]);
  if (data.likeness) shows.push(["like", t("source_like")], ["pca", t("source_pca")]);
  const middle = data.prefix.length + Math.floor(data.rows / 2) * data.columns + Math.floor(data.columns / 2);
  const least = { received: [0, 0], like: [data.prefix.length, middle] }; // the first token that can be asked of, else
  const source = choices(t("show"), shows, "map", (value) => {
    const [first, instead] = least[value] ?? [-Infinity];
    store.set({ source: value, ...(store.get().query < first ? { query: instead } : {}) });
  });
  const layer = slider(t("layer"), { min: "0", max: String(last), step: "1" }, (value) => ctx.layer(value));
  const heads = [
    ["mean", t("mean")],
    ["max", t("max")],
    ...Array.from({ length: data.heads }, (_, h) => [h, String(h)]),
  ];
  const head = choices(t("head"), heads, "mean", (value) => ctx.head(value));
  const tokens = [
    [-1, t("readout")],
    ...(data.pooled ? [[POOLING, t("pooling")]] : []),
    ...(data.queries.some(Boolean) ? data.prefix.map((name, i) => [i, t.token(name)]) : []),
  ];
  const token = choices(t("query"), tokens, -1, (value) => ctx.query(value));
  // From the last layer there is nothing to roll out: then it is all layers that are here.
  const rolled = toggle(t("rolled"), false, (value) => {
    const { layer: first } = store.get();
    store.set({
      rolled: value,
      source: "query",
      layer: value && first === last ? data.queries.lastIndexOf(false) + 1 : first,
    });
  });
  const flow = toggle(t("flow"), false, (value) =>
    store.set({ flow: value, ...(value && store.get().source !== "query" ? ask(store.get()) : {}) }),
  );
  // Arcs need a patch that looks: the one that is asked of, else the middle one.
  const ask = ({ query }) => ({ source: "query", rolled: false, query: query < data.prefix.length ? middle : query });
  const row = (label, control) =>
    el("div", { class: "vs-row" }, el("span", { class: "vs-label", text: label }), control);
  const play = last > 0 && playButton(ctx);
  root.append(
    row(t("show"), source),
    el("div", { class: "vs-row vs-layer" }, layer, play || null),
    row(t("head"), head),
    row(t("query"), token),
  );
  if (data.queries[last] && ctx.rollout.possible) root.append(rolled, flow);
  const [rows, columns] = data.header.layout.grid;
  root.append(
    el("p", {
      class: "vs-note",
      text: t(`explained_${data.pooled ? "map" : data.header.layout.pooling}`, { rows, columns }),
    }),
  );
  const pins = el("div", { class: "vs-pins" });
  root.append(pins);
  let shown = null;
  const show = (state) => {
    source.show(state.source);
    layer.show(state.layer, ` ${state.layer}`);
    head.show(state.head);
    token.show(["map", "pca"].includes(state.source) ? null : state.query);
    rolled.show(state.rolled);
    flow.show(state.flow);
    const key = JSON.stringify([state.pinned, state.query, state.source, state.layer, state.head, state.rolled]);
    if (key !== shown) showPins(pins, state, ctx);
    shown = key;
  };
  show(store.get());
  store.subscribe(show, signal);
}

function showPins(root, state, ctx) {
  const { data, store, t } = ctx;
  root.replaceChildren(
    ...state.pinned.map((token, i) =>
      el(
        "span",
        { class: `vs-pin vs-pin-${i}` },
        el("button", { type: "button", text: data.nameOf(token, t), onclick: () => ctx.query(token) }),
        el("button", {
          type: "button",
          text: "×",
          "aria-label": t("unpin"),
          onclick: () => store.set({ pinned: state.pinned.filter((one) => one !== token) }),
        }),
      ),
    ),
  );
  if (
    !["map", "pca"].includes(state.source) &&
    state.query >= data.prefix.length &&
    !state.pinned.includes(state.query)
  ) {
    root.append(
      el("button", {
        type: "button",
        class: "vs-quiet",
        text: `${t("pin")} ${data.nameOf(state.query, t)}`,
        onclick: () => ctx.pin(state.query),
      }),
    );
  }
  if (state.pinned.length === 2) {
    const note = el("p", { class: "vs-note" });
    root.append(note);
    ctx.overlap(...state.pinned).then((share) => {
      note.textContent = share === null ? "" : t("overlap", { share: percent(share) });
    });
  }
}

// How things are drawn.
export function drawing(root, ctx) {
  const { store, t, signal } = ctx;
  const opacity = slider(t("opacity"), { min: "0", max: "1", step: "0.05" }, (value) => store.set({ opacity: value }));
  const cmap = select(t("colours"), [["auto", t("norm_auto")], ...COLOURS.map((name) => [name, name])], (value) =>
    store.set({ cmap: value }),
  );
  const norms = ["auto", "range", "robust", "positive", "share", "balance"].map((name) => [name, t(`norm_${name}`)]);
  const norm = select(t("norm"), norms, (value) => store.set({ norm: value }));
  const hover = choices(
    t("hover"),
    [
      ["attend", t("hover_attend")],
      ["value", t("hover_value")],
    ],
    "attend",
    (value) => store.set({ hover: value }),
  );
  const flags = ["smooth", "contours", "as_seen", "shared", "sinks", "keys"].map((name) => [
    name,
    toggle(t(name === "sinks" ? "sinks_mark" : name), false, (value) => store.set({ [name]: value })),
  ]);
  root.append(
    opacity,
    norm,
    cmap,
    el("div", { class: "vs-row" }, el("span", { class: "vs-label", text: t("hover") }), hover),
    ...flags.map(([, one]) => one),
  );
  const show = (state) => {
    opacity.show(state.opacity, ` ${Math.round(state.opacity * 100)} %`);
    cmap.lastChild.value = state.cmap;
    norm.lastChild.value = state.norm;
    hover.show(state.hover);
    for (const [name, one] of flags) one.show(state[name]);
  };
  show(store.get());
  store.subscribe(show, signal);
}
