// One immutable state, who wants to hear of its changes, and its form as a URL fragment.

export const START = {
  map: null,
  layer: 0,
  head: "mean",
  source: "map",
  query: -1,
  pinned: [],
  rolled: false,
  hover: "attend",
  cmap: "auto",
  opacity: 0.65,
  norm: "auto",
  smooth: true,
  as_seen: false,
  shared: false,
  panel: "grid",
  heads: "kinds",
  lang: "en",
  theme: "auto",
  tour: null,
  compare: null,
  deletion_step: null,
  hidden: [],
  mode: "fill",
  sinks: false,
  flow: false,
  keys: true,
  contours: false,
  photo: 0,
};

export function createStore(initial) {
  let state = Object.freeze({ ...initial });
  const listeners = new Set();
  return {
    get: () => state,
    set(change) {
      const before = state;
      const next = typeof change === "function" ? change(state) : change;
      if (Object.keys(next).every((key) => Object.is(next[key], state[key]))) return;
      state = Object.freeze({ ...state, ...next });
      for (const listener of [...listeners]) listener(state, before);
    },
    subscribe(listener, signal) {
      listeners.add(listener);
      signal?.addEventListener("abort", () => listeners.delete(listener), { once: true });
    },
  };
}

export function toFragment(state, initial) {
  const changed = Object.keys(START).filter((key) => JSON.stringify(state[key]) !== JSON.stringify(initial[key]));
  return changed.map((key) => `${key}=${encodeURIComponent(JSON.stringify(state[key]))}`).join("&");
}

export function fromFragment(text) {
  const found = {};
  for (const part of text.replace(/^#/, "").split("&")) {
    const at = part.indexOf("=");
    const key = part.slice(0, at);
    if (at < 0 || !Object.hasOwn(START, key)) continue;
    try {
      found[key] = JSON.parse(decodeURIComponent(part.slice(at + 1)));
    } catch {
      /* not one of ours */
    }
  }
  return found;
}

// A link may say anything: what does not fit the document falls back to what the page starts with.
export function checked(given, initial, data) {
  const { layers, maps, tokens, prefix, likeness } = data;
  const whole = (value, low, high) => Number.isInteger(value) && value >= low && value < high;
  const among =
    (...choices) =>
    (value) =>
      choices.includes(value);
  const list = (low, most) => (value) =>
    Array.isArray(value) && value.length <= most && value.every((one) => whole(one, low, tokens));
  const flag = (value) => typeof value === "boolean";
  const tests = {
    map: (value) => maps.some((one) => one.id === value),
    layer: (value) => whole(value, 0, layers.length),
    head: (value) => value === "mean" || value === "max" || whole(value, 0, data.heads),
    source: among("map", "query", "received", ...(likeness ? ["like", "pca"] : [])),
    query: (value) => whole(value, data.pooled ? -2 : -1, tokens),
    pinned: list(0, 2),
    rolled: flag,
    hover: among("attend", "value"),
    cmap: (value) => typeof value === "string" && value.length < 20,
    opacity: (value) => value >= 0 && value <= 1,
    norm: among("auto", "range", "robust", "positive", "share", "balance"),
    smooth: flag,
    as_seen: flag,
    shared: flag,
    heads: among("kinds", "layers"),
    panel: (value) => typeof value === "string" && /^[a-z]{1,20}$/.test(value),
    lang: among("en", "zh"),
    theme: among("auto", "light", "dark"),
    hidden: list(prefix.length, tokens),
    mode: among("fill", "drop"),
    sinks: flag,
    flow: flag,
    keys: flag,
    contours: flag,
    photo: among(0, 1),
    tour: (value) => value === null || whole(value, 0, 6),
    compare: (value) =>
      value === null ||
      (typeof value === "object" &&
        [value.left, value.right].every((one) => typeof one === "string") &&
        whole(value.at, 0, 101)),
    deletion_step: (value) => value === null || whole(value, 0, 1000),
  };
  const kept = Object.entries(given).filter(([key, value]) => (tests[key] ?? (() => true))(value));
  const state = { ...initial, ...Object.fromEntries(kept) };
  return state.source === "like" && state.query < prefix.length ? { ...state, source: initial.source } : state;
}
