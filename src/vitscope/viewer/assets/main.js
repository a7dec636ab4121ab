// The viewer: `mount` puts it into an element. Several on one page do not know of each other.

import { createRollout } from "./attention.js";
import { createBar } from "./colourBar.js";
import { attention, drawing, methods } from "./controls.js";
import { openDocument } from "./data.js";
import { choices, el } from "./dom.js";
import { createStage } from "./stage.js";
import { mapScene, queried, sceneOf } from "./scene.js";
import { LANGUAGES, translator } from "./strings.js";
import { checked, createStore, fromFragment, START } from "./store.js";
import { panel as about } from "./about.js";
import { comparable, panel as compare } from "./compare.js";
import { panel as deletion } from "./deletion.js";
import { panel as grid } from "./grid.js";
import { panel as masking } from "./masking.js";
import { numbered, panel as numbers } from "./numbers.js";
import { panel as more } from "./addMap.js";
import { panel as predictions } from "./predictions.js";
import { panel as save } from "./export.js";
import { createTour } from "./tour.js";

export const fileHost = { kind: "file" };

// Panels of the tab row, `[name, panel, whether there is something to show]`; one at a time is open.
const always = () => true;
export const TABS = [
  ["grid", grid, ({ data }) => data.readable], ["numbers", numbers, numbered], ["compare", compare, comparable],
  ["save", save, always], ["about", about, always],
];

// Up and Down step layers where no other element wants them and the photo is in view. Where the page is not the
// viewer's alone, only for the viewer that the pointer or the focus is on.
function listen(ctx) {
  const { root, data, host, signal } = ctx, page = root.ownerDocument;
  page.addEventListener("keydown", (event) => {
    const by = { ArrowUp: 1, ArrowDown: -1 }[event.key], { target } = event, inside = root.contains(target);
    if (!by || !data.readable || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    if (inside ? !target.matches("h2, button:not([role])") || target.closest(".vs-grid") : target !== page.body) return;
    const alone = host.kind !== "notebook" && page.querySelectorAll(".vs").length === 1, { top, bottom } = ctx.stage.element.getBoundingClientRect();
    if (!(inside || alone || root.matches(":hover")) || bottom < 0 || top > innerHeight) return;
    event.preventDefault();
    ctx.step(by);
  }, { signal });
}

export function mount(element, document, host = fileHost, options = {}) {
  const ending = new AbortController(), { signal } = ending, data = openDocument(document);
  const initial = {
    ...START, map: data.maps[0]?.id ?? null, layer: Math.max(data.layers.length - 1, 0),
    lang: options.lang ?? (navigator.language.startsWith("zh") ? "zh" : "en"), ...options.state,
  };
  const store = createStore(checked(fromFragment(options.fragment ?? ""), initial, data));
  const t = translator(() => store.get().lang), layers = new Map();
  t.learn(document.messages);
  t.learn(document.other?.messages);
  const ctx = { data, store, t, host, signal, initial, rollout: createRollout(data, signal), root: element };
  ctx.other = document.other ? openDocument(document.other) : null;

  const toQuery = () => (store.get().source === "map" ? { source: "query", query: -1 } : {});
  // One layer up or down; from rollout's map one sees rollout itself grow and shrink.
  ctx.step = (by) => {
    const { source, map, layer, rolled } = store.get(), grown = source === "map" && data.maps.some((one) => one.id === map && one.method === "rollout");
    if (grown && ctx.rollout.possible && data.queries.slice(Math.max(layer + by, 0)).every(Boolean) && !rolled) store.set({ rolled: true, ...toQuery() });
    ctx.layer(layer + by);
  };
  ctx.layer = (value) => {
    store.set({ layer: Math.max(0, Math.min(data.layers.length - 1, value)), ...toQuery() });
  };
  ctx.head = (value) => store.set({ head: value, ...toQuery() });
  ctx.keep = (layer, head) => store.set({ layer, head, rolled: false, ...toQuery() });
  // One head on the photo for as long as it is pointed at; null goes back to what was kept.
  ctx.peek = (change) => refresh(change ? { ...store.get(), ...toQuery(), rolled: false, ...change } : store.get());
  ctx.query = (token) => {
    const { source } = store.get();
    store.set({ query: token, source: source === "received" && token >= 0 ? "received" : "query" });
  };
  ctx.pin = (token) => {
    const { pinned } = store.get();
    store.set({ pinned: pinned.includes(token) ? pinned.filter((one) => one !== token) : [...pinned, token].slice(-2) });
  };
  const tokensOf = (query, state, slot) => {
    if (!state.rolled || state.source !== "query" || !ctx.rollout.possible) return queried(state, data, query, layers);
    if (!data.queries.slice(state.layer).every(Boolean)) return null;
    return rolled(query, state, slot);
  };
  async function rolled(query, state, slot) {
    const r = query < 0 ? await data.array("readout") : new Float32Array(data.tokens);
    if (query >= 0) r[query] = 1;
    return ctx.rollout.from(r, state.layer, state.head, (done, total) => { status.textContent = t("rolling", { done, total }); }, slot);
  }
  ctx.overlap = async (one, other) => {
    const state = { ...store.get(), source: "query" };
    const [a, b] = await Promise.all([tokensOf(one, state, "one"), tokensOf(other, state, "other")]);
    return a && b ? a.reduce((sum, value, i) => sum + Math.min(value, b[i]), 0) : null;
  };
  ctx.valueText = () => bar.value();

  // Draws what the state asks for, or what a token under the pointer attends to; true when something was drawn.
  function paint(scene, token) {
    ctx.scene = scene;
    ctx.stage.draw(scene);
    bar.draw(scene, token);
    status.textContent = "";
    return true;
  }
  let run = 0;
  ctx.preview = (token) => {
    const state = store.get();
    if (token === null) return refresh();
    if (state.hover === "value" && ctx.scene) return bar.draw(ctx.scene, token), false;
    const query = state.source === "map" ? { ...state, source: "query", rolled: false } : state;
    const ticket = ++run, found = tokensOf(token, query);
    if (!found) return ctx.scene && bar.draw(ctx.scene, token), false;
    if (found instanceof Float32Array) return paint(sceneOf(found, query, data, t, token), token);
    return found.then((tokens) => ticket === run && tokens && paint(sceneOf(tokens, query, data, t, token), token));
  };
  async function refresh(state = store.get()) {
    const ticket = ++run;
    if (state.source === "map") {
      const scene = await mapScene(state, data, t);
      return ticket === run && !signal.aborted && paint(scene, null);
    }
    const tokens = await tokensOf(state.query, state);
    if (ticket !== run || signal.aborted) return false;
    if (!tokens) return void (status.textContent = t(state.rolled && !ctx.rollout.possible ? "too_many" : "rows_missing", { layer: state.layer }));
    return paint(sceneOf(tokens, state, data, t, state.query), state.query);
  }
  ctx.refresh = refresh;

  let bar, status, inner;
  function build() {
    inner?.abort();
    inner = new AbortController();
    ctx.signal = AbortSignal.any([signal, inner.signal]);
    const state = store.get();
    element.classList.add("vs");
    element.lang = state.lang === "zh" ? "zh-Hans" : "en";
    const stageRoot = el("div", { class: "vs-main" }), side = el("aside", { class: "vs-side" });
    status = el("p", { class: "vs-status", role: "status" });
    const tabbed = el("div", { class: "vs-tabbed" });
    const opener = el("button", { type: "button", class: "vs-quiet", text: t("tour"), "aria-expanded": "false" }), card = el("div", {});
    element.replaceChildren(head(opener), stageRoot, side, tabbed);
    stageRoot.append(card);
    ctx.stage = createStage(stageRoot, ctx);
    ctx.stage.label();
    const below = el("div", { class: "vs-below" });
    stageRoot.append(below);
    bar = ctx.bar = createBar(below, ctx);
    below.append(status);
    const section = (title, fill, open = true) => {
      const root = el("details", { class: "vs-section", open }, el("summary", { text: title }));
      const body = el("div", {});
      root.append(body);
      side.append(root);
      fill(body, ctx);
      root.hidden = !body.childElementCount;
    };
    section(t("method"), methods);
    section(t("predictions"), predictions, data.header.predictions.length > 0);
    section(t("more"), more);
    section(t("show"), attention);
    const steps = el("div", { class: "vs-steps" });
    below.append(steps);
    deletion(steps, ctx);
    section(t("masking"), masking);
    section(t("drawing"), drawing, false);
    tabs(tabbed);
    theme(store.get());
    refresh();
    createTour(card, ctx, opener);
  }

  function tabs(root) {
    const body = el("div", { class: "vs-tab", role: "tabpanel" }), shownTabs = TABS.filter(([, , has]) => has(ctx)), names = shownTabs.map(([name]) => name);
    let open = null, shown = null;
    const row = el("div", { class: "vs-tabs", role: "tablist" }, ...names.map((name) => el("button", {
      type: "button", role: "tab", text: t(`panel_${name}`), onclick: () => store.set({ panel: name }),
    })));
    row.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      event.preventDefault();
      const next = names[(names.indexOf(store.get().panel) + by + names.length) % names.length];
      store.set({ panel: next });
      row.children[names.indexOf(next)].focus();
    });
    root.append(row, body);
    const show = ({ panel }) => {
      const name = names.includes(panel) ? panel : names[0];
      if (name === shown) return;
      shown = name;
      [...row.children].forEach((tab, i) => {
        tab.setAttribute("aria-selected", names[i] === name);
        tab.tabIndex = names[i] === name ? 0 : -1;
      });
      body.setAttribute("aria-label", t(`panel_${name}`));
      open?.abort();
      open = new AbortController();
      body.replaceChildren();
      shownTabs[names.indexOf(name)][1](body, Object.create(ctx, { signal: { value: AbortSignal.any([ctx.signal, open.signal]) } }));
    };
    show(store.get());
    store.subscribe(show, ctx.signal);
  }

  function head(opener) {
    const state = store.get(), { header } = data;
    const lang = choices(t("language"), LANGUAGES, state.lang, (value) => store.set({ lang: value }));
    const look = choices(t("theme"), ["auto", "light", "dark"].map((name) => [name, t(`theme_${name}`)]), state.theme, (value) => store.set({ theme: value }));
    store.subscribe(({ theme: now }) => look.show(now), ctx.signal);
    return el("header", { class: "vs-head" },
      el("div", {}, el("h1", { text: header.photo.name }), el("p", { text: header.model.reference })), el("div", { class: "vs-switches" }, opener, lang, look));
  }
  const theme = (state) => { element.dataset.theme = state.theme; };

  const DRAWN = ["map", "layer", "head", "source", "query", "rolled"], STYLE = ["cmap", "opacity", "norm", "smooth", "as_seen", "pinned", "sinks"];
  store.subscribe((state, before) => {
    const changed = (keys) => keys.some((key) => state[key] !== before[key]);
    if (state.lang !== before.lang) build();
    else if (changed(DRAWN)) refresh();
    else if (changed(STYLE) && ctx.scene) {
      ctx.stage.redraw();
      bar.draw(ctx.scene, null);
    }
    if (state.theme !== before.theme) theme(state);
  }, signal);
  listen(ctx);
  build();
  return {
    destroy() {
      ending.abort();
      element.replaceChildren();
    },
    get state() { return store.get(); },
    store, ctx,
  };
}
