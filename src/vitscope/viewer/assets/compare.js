// Two maps, or two photos, on one another under a handle that wipes, or beside one another.

import { limits } from "./colours.js";
import { choices, el, figure, toggle } from "./dom.js";
import { drawHeat, drawRamp, setPhoto, shapeOf } from "./heat.js";
import { colourOf, mapScene, nameOfMap, numberText, scaleOf } from "./scene.js";

const FINEST = 560; // pixels of a map's longer side
const STEPS = { ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, PageDown: -10, PageUp: 10 };

export const comparable = ({ data, other }) => data.maps.length > 1 || Boolean(other);

// What is compared by default: what makes the two photos alike, or the shown map beside chance.
export function startOf({ data, other }, { map: left }) {
  if (other) {
    const of = (one) => (one.maps.find(({ alike }) => alike) ?? one.maps[0]).id;
    return { left: `own:${of(data)}`, right: `other:${of(other)}`, at: 50, beside: true };
  }
  const rest = data.maps.filter(({ id }) => id !== left);
  return {
    left: `own:${left}`,
    right: `own:${(rest.find(({ label }) => !label) ?? rest[0]).id}`,
    at: 50,
    beside: false,
  };
}

// Spearman's: how alike two maps of the same patches rank them.
export function agreement(a, b) {
  const ranks = (values) => {
    const order = Array.from(values.keys()).sort((i, j) => values[i] - values[j]),
      out = new Float32Array(values.length);
    for (let from = 0; from < order.length;) {
      let to = from;
      while (to + 1 < order.length && values[order[to + 1]] === values[order[from]]) to++;
      for (let i = from; i <= to; i++) out[order[i]] = (from + to) / 2;
      from = to + 1;
    }
    return out;
  };
  const x = ranks(a),
    y = ranks(b),
    middle = (x.length - 1) / 2;
  let xy = 0,
    xx = 0,
    yy = 0;
  for (let i = 0; i < x.length; i++) {
    xy += (x[i] - middle) * (y[i] - middle);
    xx += (x[i] - middle) ** 2;
    yy += (y[i] - middle) ** 2;
  }
  return xy / Math.sqrt(xx * yy);
}

// Two maps of one method and photo for two classes: what one of them has more of than the other can be drawn.
export const contrasted = (one, other) =>
  one.from === other.from &&
  one.entry.id !== other.entry.id &&
  one.entry.method === other.entry.method &&
  JSON.stringify(one.entry.options) === JSON.stringify(other.entry.options) &&
  [one, other].every(({ entry }) => entry.label);

// Photo, map and legend of one of several things beside each other.
export function half(side) {
  const image = el("img", { alt: "", draggable: "false" }),
    below = el("img", { class: "vs-photo-below", alt: "", draggable: "false" }),
    heat = el("canvas", {}),
    ramp = el("canvas", { class: "vs-ramp", width: "256", height: "1", role: "img" });
  const name = el("strong"),
    low = el("span"),
    high = el("span"),
    unit = el("span", { class: "vs-note" });
  return {
    image,
    below,
    heat,
    ramp,
    name,
    low,
    high,
    unit,
    picture: el("div", { class: `vs-half vs-half-${side}`, role: "img" }, image, below, heat),
    legend: el(
      "div",
      { class: side === "difference" ? "vs-difference-told" : "vs-half-told" },
      name,
      ramp,
      el("div", { class: "vs-ends" }, low, high),
      unit,
    ),
  };
}

// A scene of a document `from`, drawn with its name, its scale and unit, and what else is said of it.
export function drawHalf(made, from, scene, scale, state, t, name, more = []) {
  const { image, below, heat, ramp, low, high, unit, picture } = made,
    [w, h] = shapeOf(from, state.as_seen),
    colours = colourOf(scale, state);
  const small = Math.min(1, FINEST / Math.max(w, h));
  setPhoto(from, state.as_seen, image, below);
  picture.classList.toggle("vs-over", state.opacity > 0);
  heat.width = Math.round(w * small);
  heat.height = Math.round(h * small);
  drawHeat(heat, scene.values, from, scale, colours, state);
  drawRamp(ramp, colours);
  made.name.textContent = name;
  picture.setAttribute("aria-label", name);
  low.textContent = figure(scale.low);
  high.textContent = figure(scale.high);
  ramp.setAttribute("aria-label", t("scale_label", { low: figure(scale.low), high: figure(scale.high) }));
  unit.textContent = [`${scene.unit} · ${t(`norm_${scale.kind}`)}`, ...more].filter(Boolean).join(" · ");
}

function select(label, groups, take) {
  const list = el("select", { onchange: () => take(list.value) });
  for (const [name, options] of groups) {
    const made = options.map(([value, text]) => el("option", { value, text }));
    list.append(...(groups.length > 1 ? [el("optgroup", { label: name }, ...made)] : made));
  }
  return el("label", { class: "vs-field" }, el("span", { text: label }), list);
}

export function panel(root, ctx) {
  const { data, other, store, t, signal } = ctx;
  const now = () => ({ ...startOf(ctx, store.get()), ...store.get().compare });
  const set = (change) => store.set({ compare: { ...now(), ...change } });
  const partOf = (key) => {
    const at = key.indexOf(":"),
      from = key.startsWith("other:") && other ? other : data;
    return { from, entry: from.maps.find(({ id }) => id === key.slice(at + 1)) ?? from.maps[0] };
  };
  const listed = (from, prefix) => from.maps.map((entry) => [`${prefix}:${entry.id}`, nameOfMap(entry, t)]);
  const groups = [[data.photo, listed(data, "own")], ...(other ? [[other.photo, listed(other, "other")]] : [])];
  const left = select(t("left"), groups, (value) => set({ left: value })),
    right = select(t("right"), groups, (value) => set({ right: value }));
  const way = choices(
    t("layout"),
    [
      [false, t("swipe")],
      [true, t("beside")],
    ],
    false,
    (value) => set({ beside: value }),
  );
  const one = toggle(t("one_scale"), false, (value) => store.set({ shared: value }));
  const halves = { left: half("left"), right: half("right"), difference: half("difference") };
  const { difference } = halves,
    contrast = el("div", { class: "vs-contrast", hidden: true });
  const handle = el("div", {
    class: "vs-handle",
    role: "slider",
    tabindex: "0",
    "aria-label": t("handle"),
    "aria-valuemin": "0",
    "aria-valuemax": "100",
  });
  const pair = el("div", { class: "vs-pair" }, halves.left.picture, halves.right.picture, handle);
  const status = el("p", { class: "vs-note", role: "status" });
  root.append(
    el("div", { class: "vs-row vs-wide" }, left, right, way, one),
    pair,
    el("div", { class: "vs-told-pair" }, halves.left.legend, halves.right.legend),
    status,
    contrast,
  );

  const move = (at) => set({ at: Math.round(Math.max(0, Math.min(100, at))) });
  const drag = (event) => {
    const bounds = pair.getBoundingClientRect();
    move((100 * (event.clientX - bounds.left)) / bounds.width);
  };
  pair.addEventListener("pointerdown", (event) => {
    if (now().beside) return;
    pair.setPointerCapture(event.pointerId);
    handle.focus({ preventScroll: true });
    drag(event);
  });
  pair.addEventListener("pointermove", (event) => pair.hasPointerCapture(event.pointerId) && drag(event));
  handle.addEventListener("keydown", (event) => {
    const { at } = now(),
      to = { Home: 0, End: 100 }[event.key] ?? (event.key in STEPS ? at + STEPS[event.key] : null);
    if (to === null) return;
    event.preventDefault();
    move(to);
  });

  function paint(side, { from, entry }, scene, scale, state) {
    const name = other ? `${from.photo} · ${nameOfMap(entry, t)}` : nameOfMap(entry, t);
    const numbers = entry.measurement?.numbers ?? [];
    drawHalf(halves[side], from, scene, scale, state, t, name, [
      state.shared && t("norm_shared"),
      ...numbers.map((number) => numberText(number, t)),
    ]);
  }

  // The one map minus the other, on a scale of its own with zero in the middle.
  function paintDifference({ from, entry }, other, one, two, state) {
    const values = one.values.map((value, i) => value - two.values[i]),
      scale = limits(values, "balance", true),
      names = { a: entry.label, b: other.entry.label };
    paint("difference", { from, entry }, { values, unit: one.unit }, scale, {
      ...state,
      cmap: "balance",
      shared: false,
    });
    difference.name.textContent = t("difference", { method: entry.method, ...names });
    difference.picture.setAttribute("aria-label", difference.name.textContent);
    const [w, h] = shapeOf(from, state.as_seen);
    difference.picture.style.aspectRatio = `${w} / ${h}`;
    difference.unit.textContent = t("difference_note", names);
  }

  let run = 0,
    drawn = null;
  async function draw(state) {
    const mine = ++run,
      { left: a, right: b } = now(),
      parts = [partOf(a), partOf(b)];
    drawn = [a, b].join();
    const scenes = await Promise.all(parts.map(({ from, entry }) => mapScene({ map: entry.id }, from, t)));
    if (mine !== run || signal.aborted) return;
    const scales = scenes.map((scene) => scaleOf(scene, state));
    if (state.shared) {
      const together = Float32Array.from([...scenes[0].values, ...scenes[1].values]),
        signed = scenes.some((scene) => scene.signed);
      scales.fill(
        limits(together, scales[0].kind === scales[1].kind ? scales[0].kind : signed ? "positive" : "range", signed),
      );
    }
    ["left", "right"].forEach((side, i) => paint(side, parts[i], scenes[i], scales[i], state));
    contrast.hidden = !contrasted(parts[0], parts[1]);
    contrast.replaceChildren(...(contrast.hidden ? [] : [difference.picture, difference.legend]));
    if (!contrast.hidden) paintDifference(parts[0], parts[1], scenes[0], scenes[1], state);
    const same = parts[0].from === parts[1].from;
    status.textContent = same
      ? t("agreement", { value: agreement(scenes[0].values, scenes[1].values).toFixed(2) })
      : t("two_photos");
  }
  const place = () => {
    const { at, beside, left: a, right: b } = now();
    left.lastChild.value = a;
    right.lastChild.value = b;
    way.show(beside);
    one.show(store.get().shared);
    handle.hidden = beside;
    pair.classList.toggle("vs-swipe", !beside);
    halves.left.picture.style.clipPath = beside ? "" : `inset(0 ${100 - at}% 0 0)`;
    for (const [side, key] of [
      ["left", a],
      ["right", b],
    ]) {
      const [w, h] = shapeOf(partOf(key).from, store.get().as_seen);
      halves[side].picture.style.aspectRatio = `${w} / ${h}`;
      if (side === "left") pair.style.setProperty("--shape", w / h);
    }
    handle.style.insetInlineStart = `${at}%`;
    handle.setAttribute("aria-valuenow", at);
    handle.setAttribute("aria-valuetext", t("handle_at", { at, name: halves.left.name.textContent }));
  };
  draw(store.get());
  place();
  const DRAWN = ["cmap", "opacity", "norm", "smooth", "contours", "as_seen", "shared"];
  store.subscribe((state, before) => {
    if (DRAWN.some((key) => state[key] !== before[key]) || drawn !== [now().left, now().right].join()) draw(state);
    place();
  }, signal);
}
