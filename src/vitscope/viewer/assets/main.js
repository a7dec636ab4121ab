// The viewer: `mount` puts it into an element. Several on one page do not know of each other.

import { createRollout } from "./attention.js";
import { createBar } from "./colourBar.js";
import { attention, drawing, methods } from "./controls.js";
import { openDocument, toldApart } from "./data.js";
import { choices, el } from "./dom.js";
import { listenToKeys } from "./keys.js";
import { createStage } from "./stage.js";
import { absentScene, colourScene, DRAWN, likeScene, mapScene, queried, sameScene, sceneOf, STYLE } from "./scene.js";
import { besideOf, createSecond } from "./secondPhoto.js";
import { LANGUAGES, translator } from "./strings.js";
import { checked, createStore, fromFragment, START, toFragment } from "./store.js";
import { panel as about } from "./about.js";
import { comparable, panel as compare } from "./compare.js";
import { panel as deletion } from "./deletion.js";
import { createFilmstrip } from "./filmstrip.js";
import { createFlow } from "./flow.js";
import { createHint } from "./hint.js";
import { panel as grid } from "./grid.js";
import { panel as masking } from "./masking.js";
import { panel as models } from "./models.js";
import { numbered, panel as numbers } from "./numbers.js";
import { panel as more } from "./addMap.js";
import { panel as predictions } from "./predictions.js";
import { panel as save } from "./export.js";
import { createTabs } from "./tabs.js";
import { createTour } from "./tour.js";

const PATIENCE = 150; // milliseconds that the former picture may stay, under its own title

export const fileHost = { kind: "file" };

// Panels of the tab row, `[name, panel, whether there is something to show, whether it changes as the document grows]`;
// one at a time is open.
const always = () => true;
export const TABS = [
  ["grid", grid, ({ data }) => data.readable],
  ["numbers", numbers, numbered, true],
  ["models", models, ({ twin }) => Boolean(twin)],
  ["compare", compare, comparable, true],
  ["save", save, always],
  ["about", about, always, true],
];

const KEPT = [
  "photo",
  "lang",
  "theme",
  "panel",
  "heads",
  "flow",
  "cmap",
  "opacity",
  "norm",
  "smooth",
  "contours",
  "as_seen",
  "shared",
  "keys",
];

// A document of two photos can be seen from either: the other one is then what it is compared with.
export function mount(element, document, host = fileHost, options = {}) {
  const watchers = new Set();
  let viewer = null,
    ending = null;
  const open = (photo, fragment) => {
    const { other, ...own } = document,
      second = photo === 1;
    const twins = Boolean(document.header.twin); // two models of one photo: what is looked at stays, whichever is shown
    const both = other ? [document, other] : [document],
      models = twins ? toldApart(both.map(({ header }) => header.model.reference)) : [], // two photos have one model
      photos = twins ? [] : toldApart(both.map(({ header }) => header.photo.name));
    const names = both.map((_, i) => ({ model: models[i], photo: photos[i] }));
    const turned = other && { ...other, messages: { ...own.messages, ...other.messages }, other: own };
    ending = new AbortController();
    // The model behind the page has the first photo: of the other it is not asked.
    viewer = mountOne(
      element,
      second ? turned : document,
      second ? { kind: host.kind, fragment: host.fragment } : host,
      { ...options, names: second ? names.toReversed() : names, photos: other && (twins ? models : photos), fragment },
    );
    viewer.store.subscribe((state, before) => {
      if (state.photo !== before.photo) {
        close();
        open(state.photo, toFragment(twins ? state : Object.fromEntries(KEPT.map((key) => [key, state[key]])), {}));
      }
      for (const watcher of watchers) watcher(viewer.state, before);
    }, ending.signal);
  };
  const close = () => {
    ending.abort();
    viewer.destroy();
  };
  open(document.other && fromFragment(options.fragment ?? "").photo === 1 ? 1 : 0, options.fragment ?? "");
  return {
    destroy: () => close(),
    // The document goes on: what was made since appears, and the state stays.
    grow(more) {
      const { header, arrays } = document;
      if (!more.other && !document.other && viewer.grow(more)) return;
      const state = viewer.state;
      close();
      document = { ...document, ...more, header: { ...header, ...more.header }, arrays: { ...arrays, ...more.arrays } };
      open(state.photo, toFragment(state, {}));
    },
    watch: (listener) => watchers.add(listener),
    get state() {
      return viewer.state;
    },
    get store() {
      return viewer.store;
    },
    get ctx() {
      return viewer.ctx;
    },
  };
}

function mountOne(element, document, host, options) {
  const ending = new AbortController(),
    { signal } = ending,
    [own, others] = options.names,
    data = openDocument(document, own),
    paired = document.other ? openDocument(document.other, others) : null,
    twins = Boolean(data.header.twin ?? paired?.header.twin);
  const initial = {
    ...START,
    panel: twins ? "models" : START.panel,
    map: data.maps[0]?.id ?? null,
    layer: Math.max(data.layers.length - 1, 0),
    lang: options.lang ?? (navigator.language.startsWith("zh") ? "zh" : "en"),
    ...options.state,
  };
  const photo = options.photos && { photo: fromFragment(options.fragment).photo === 1 ? 1 : 0 };
  const store = createStore(checked(fromFragment(options.fragment), { ...initial, ...photo }, data));
  const t = translator(() => store.get().lang),
    layers = new Map();
  t.learn(document.messages);
  t.learn(document.other?.messages);
  const ctx = { data, store, t, host, signal, initial, layers, rollout: createRollout(data, signal), root: element };
  ctx.other = twins ? null : paired; // another photo by this model
  ctx.twin = twins ? paired : null; // this photo by another model
  ctx.shown = createStore({ scene: null }); // what is on the photo now
  ctx.grown = createStore({ times: 0 }); // how often the document was added to
  ctx.masked = createStore({ answer: null }); // what the model says without the painted patches
  Object.defineProperty(ctx, "scene", { get: () => ctx.shown.get().scene });

  // What has no layers and heads gives way to attention, of the patch that was asked of.
  const toQuery = () => {
    const { source, query } = store.get();
    if (source === "query" || source === "received") return {};
    return { source: "query", query: source === "like" ? query : -1 };
  };
  // One layer up or down: of what the pointed patch looks at; from rollout's map one sees rollout itself grow and shrink.
  ctx.step = async (by) => {
    const { source, map, layer, rolled, hover } = store.get(),
      grown = source === "map" && data.maps.some((one) => one.id === map && one.method === "rollout");
    if (ctx.stage.pointed() !== null && hover === "attend")
      store.set({ layer: within(layer + by), ...(source === "like" || source === "pca" ? toQuery() : {}) });
    else {
      if (grown && ctx.rollout.possible && data.queries.slice(Math.max(layer + by, 0)).every(Boolean) && !rolled)
        store.set({ rolled: true, ...toQuery() });
      ctx.layer(layer + by);
    }
    await painted;
    ctx.stage.say(bar.value());
  };
  const within = (layer) => Math.max(0, Math.min(data.layers.length - 1, layer));
  ctx.layer = (value) => store.set({ layer: within(value), ...toQuery() });
  ctx.head = (value) => store.set({ head: value, ...toQuery() });
  ctx.keep = (layer, head) => store.set({ layer, head, rolled: false, ...toQuery() });
  // One head, or a scene, on the photo for as long as it is pointed at; null goes back to what was kept.
  let peeking = false,
    held = false;
  // While a film is recorded, nothing is pointed at.
  ctx.hold = (on) => (held = on);
  ctx.held = () => held;
  ctx.peek = (change, scene = null) => {
    if (ctx.held()) return;
    peeking = Boolean(change ?? scene);
    if (scene) return arrive(store.get(), scene, null);
    return refresh(change ? { ...store.get(), ...toQuery(), rolled: false, ...change } : store.get());
  };
  // What was pointed at is gone, and nothing else will say that the pointer left it.
  ctx.unpeek = () => peeking && ctx.peek(null);
  ctx.query = (token) => {
    const { source } = store.get();
    const kept = source === "received" ? token >= 0 : besideOf({ source }) && token >= data.prefix.length;
    store.set({ query: token, source: !kept ? "query" : source === "pca" ? "like" : source });
  };
  ctx.pin = (token) => {
    const { pinned } = store.get();
    store.set({
      pinned: pinned.includes(token) ? pinned.filter((one) => one !== token) : [...pinned, token].slice(-2),
    });
  };
  // What is drawn of a state: tokens, a scene, or a promise of either; null where it is not in this page.
  const foundOf = (state) => {
    if (state.source === "map") return mapScene(state, data, t);
    if (state.source === "like") return likeScene(state, data, ctx.other, t);
    return state.source === "pca" ? colourScene(state, data, ctx.other, t) : tokensOf(state.query, state);
  };
  const tokensOf = (query, state, slot) => {
    if (!state.rolled || state.source !== "query" || !ctx.rollout.possible) return queried(state, data, query, layers);
    if (!data.queries.slice(state.layer).every(Boolean)) return null;
    return rolled(query, state, slot);
  };
  async function rolled(query, state, slot) {
    const r = query < 0 ? await data.array("readout") : new Float32Array(data.tokens);
    if (query >= 0) r[query] = 1;
    return ctx.rollout.from(
      r,
      state.layer,
      state.head,
      (done, total) => {
        if (ctx.scene && !ctx.scene.values && sameScene(ctx.scene, state))
          status.textContent = t("rolling", { done, total });
      },
      slot,
    );
  }
  ctx.overlap = async (one, other) => {
    const state = { ...store.get(), source: "query" };
    const [a, b] = await Promise.all([tokensOf(one, state, "one"), tokensOf(other, state, "other")]);
    return a && b ? a.reduce((sum, value, i) => sum + Math.min(value, b[i]), 0) : null;
  };
  ctx.valueText = () => bar.value();

  // Draws a scene; the value of a token is said beside it.
  function paint(scene, token) {
    ctx.stage.draw(scene);
    bar.draw(scene, token);
    status.textContent = scene.why ?? "";
    ctx.shown.set({ scene });
    return true;
  }
  let run = 0,
    painted = null;
  const absent = (state, token) => (
    run++,
    paint(
      absentScene(
        state,
        data,
        t,
        t(state.rolled && !ctx.rollout.possible ? "too_many" : "rows_missing", { layer: state.layer }),
      ),
      token,
    )
  );
  // `found`: tokens, a scene, or a promise of either; what takes long is announced under its own title.
  function arrive(state, found, token) {
    const ticket = ++run,
      current = () => ticket === run && !signal.aborted;
    const done = (one) => current() && one !== null && paint(one.of ? one : sceneOf(one, state, data, t), token);
    if (!(found instanceof Promise)) return done(found);
    const late = setTimeout(() => current() && paint(absentScene(state, data, t, t("busy")), token), PATIENCE);
    return found.then(done).finally(() => clearTimeout(late));
  }
  // What a token under the pointer or the cursor looks at; true when something was drawn.
  ctx.preview = (token) => {
    const state = store.get();
    if (token === null) return refresh();
    const value = () => (ctx.scene && bar.draw(ctx.scene, token), false);
    if (state.hover === "value") return value();
    const source = { map: "query", pca: "like" }[state.source] ?? state.source,
      asked = { ...state, query: token, source, rolled: state.rolled && state.source === "query" },
      found = foundOf(asked);
    if (found) return arrive(asked, found, token);
    return data.queries.some(Boolean) ? absent(asked, token) : value();
  };
  const askedBy = ({ source, query }) => (source === "map" ? null : query); // whose value is said
  async function refresh(state = store.get()) {
    const found = foundOf(state),
      token = askedBy(state);
    return found ? arrive(state, found, token) : absent(state, token);
  }
  // After the state has changed: what is pointed at stays pointed at.
  const redraw = () => {
    const pointed = ctx.stage.pointed();
    painted = pointed !== null && store.get().hover === "attend" ? ctx.preview(pointed) : refresh();
  };

  let bar, status, inner;
  function build() {
    inner?.abort();
    inner = new AbortController();
    ctx.signal = AbortSignal.any([signal, inner.signal]);
    const state = store.get();
    element.classList.add("vs");
    element.classList.toggle("vs-page", host.kind !== "notebook" && !options.embed);
    element.classList.toggle("vs-embed", Boolean(options.embed));
    element.lang = state.lang === "zh" ? "zh-Hans" : "en";
    const stageRoot = el("div", { class: "vs-main" }),
      side = el("aside", { class: "vs-side" }),
      tabbed = el("div", { class: "vs-tabbed" });
    const opener = el("button", { type: "button", class: "vs-quiet", "aria-expanded": "false" }),
      card = el("div", { class: "vs-guide" });
    const rest = el("div", { class: "vs-rest" }, grab(), card, ...(twins ? [tabbed, side] : [side, tabbed]));
    status = el("p", { class: "vs-status", role: "status" });
    // The element is the container whose width decides the layout, so that what it decides lies in an element within.
    ctx.body = el("div", { class: "vs-body" }, head(opener), stageRoot, rest);
    element.replaceChildren(ctx.body);
    const photos = el("div", { class: "vs-photos" });
    stageRoot.append(photos);
    ctx.stage = createStage(photos, ctx);
    ctx.stage.label();
    createHint(ctx.stage.element, ctx);
    const below = (ctx.below = el("div", { class: "vs-below" })),
      steps = el("div", { class: "vs-steps" });
    stageRoot.append(below);
    createFilmstrip(below, ctx);
    bar = ctx.bar = createBar(below, ctx);
    bar.legend.after(steps);
    createFlow(below, ctx);
    below.append(status);
    deletion(steps, ctx);
    const column = (...sections) =>
      side.append(
        el(
          "div",
          { class: "vs-sections" },
          ...sections.map(([title, fill, open = true]) => {
            const body = el("div", {}),
              made = el("details", { class: "vs-section", open }, el("summary", { text: title }), body);
            const show = () => {
              if (!body.childElementCount) fill(body, ctx);
              made.hidden = !body.childElementCount;
            };
            show();
            ctx.grown.subscribe(show, ctx.signal); // the model may have come
            return made;
          }),
        ),
      );
    column([t("method"), methods], [t("more"), more], [t("masking"), masking]);
    column([t("predictions"), predictions], [t("attention"), attention], [t("drawing"), drawing, false]);
    if (!options.embed) createTabs(tabbed, ctx, TABS);
    createSecond(photos, ctx);
    theme(store.get());
    refresh();
    createTour(card, ctx, opener);
  }

  // On a phone the controls are a sheet at the lower edge: its handle makes room for the photo.
  function grab() {
    const made = el("button", {
      type: "button",
      class: "vs-grab",
      text: t("controls"),
      "aria-expanded": "true",
      onclick: () => {
        made.setAttribute("aria-expanded", element.classList.toggle("vs-low") ? "false" : "true");
      },
    });
    return made;
  }

  function head(opener) {
    const state = store.get();
    const lang = choices(t("language"), LANGUAGES, state.lang, (value) => store.set({ lang: value }));
    const look = choices(
      t("theme"),
      ["auto", "light", "dark"].map((name) => [name, t(`theme_${name}`)]),
      state.theme,
      (value) => store.set({ theme: value }),
    );
    const which =
      options.photos &&
      choices(
        t(twins ? "model" : "photo"),
        options.photos.map((name, i) => [i, name, name]),
        state.photo,
        (value) => store.set({ photo: value }),
      );
    which?.classList.add("vs-which");
    store.subscribe(({ theme: now }) => look.show(now), ctx.signal);
    return el(
      "header",
      { class: "vs-head" },
      el("div", {}, el("h1", { text: data.photo }), el("p", { text: data.model })),
      el("div", { class: "vs-switches" }, which, opener, lang, look),
    );
  }
  const theme = (state) => {
    element.dataset.theme = state.theme;
  };

  store.subscribe((state, before) => {
    const changed = (keys) => keys.some((key) => state[key] !== before[key]);
    if (state.lang !== before.lang) build();
    else if (changed(DRAWN)) redraw();
    else if (changed(STYLE) && ctx.scene) {
      ctx.stage.redraw();
      bar.draw(ctx.scene, ctx.stage.pointed() ?? askedBy(ctx.scene.of));
    }
    if (state.theme !== before.theme) theme(state);
  }, signal);
  listenToKeys(ctx);
  build();
  return {
    grow(more) {
      if (!data.grow(more)) return false;
      t.learn(more.messages);
      ctx.grown.set(({ times }) => ({ times: times + 1 }));
      redraw();
      return true;
    },
    destroy() {
      ending.abort();
      element.replaceChildren();
    },
    get state() {
      return store.get();
    },
    store,
    ctx,
  };
}
