// Two models on one photo: what is shown by both, the one minus the other, and how far apart they are in each layer.

import { createRollout } from "./attention.js";
import { chart, lineOf, svg } from "./chart.js";
import { limits } from "./colours.js";
import { agreement, drawHalf, half } from "./compare.js";
import { el, figure } from "./dom.js";
import { likeScene, mapScene, queried, scaleOf, sceneOf } from "./scene.js";

// Whether patches of two models lie on the same places, to half a patch, as Python has it.
export function samePatches(one, other) {
  if (one.rows !== other.rows || one.columns !== other.columns) return false;
  const [a, b] = [one, other].map(({ region }) => region.cells ?? region.box),
    steps = [(a[2] - a[0]) / one.columns, (a[3] - a[1]) / one.rows];
  return a.every((end, i) => Math.abs(end - b[i]) <= steps[i % 2] / 2);
}

// Each made a share of its sum of absolute values, the second minus the first.
export function differenceOf(one, other) {
  const sums = [one, other].map((values) => values.reduce((sum, value) => sum + Math.abs(value), 0) || 1);
  return one.map((value, i) => other[i] / sums[1] - value / sums[0]);
}

// The map that another model has for the same question.
export const sameMap = (entry, maps) =>
  maps.find((one) => one.method === entry.method && (one.label ?? null) === (entry.label ?? null));

export function panel(root, ctx) {
  const { data, twin, store, t, signal } = ctx,
    same = samePatches(data, twin),
    layers = new Map(),
    rollout = createRollout(twin, signal);
  const halves = { left: half("left"), right: half("right"), difference: half("difference") };
  const pair = el("div", { class: "vs-pair" }, halves.left.picture, halves.right.picture),
    contrast = el("div", { class: "vs-contrast" }, halves.difference.picture, halves.difference.legend),
    status = el("p", { class: "vs-note", role: "status" });
  root.append(
    pair,
    el("div", { class: "vs-told-pair" }, halves.left.legend, halves.right.legend),
    status,
    contrast,
    distances(data.header.twin ?? twin.header.twin, t),
  );

  // What the other model has for what is shown; null where it has none.
  async function counterpart(of) {
    if (of.source === "map") {
      const entry = sameMap(
        data.maps.find(({ id }) => id === of.map),
        twin.maps,
      );
      return entry ? mapScene({ ...of, map: entry.id }, twin, t) : null;
    }
    if (of.query >= 0 && !same) return null;
    if (of.source === "like") return twin.likeness ? likeScene(of, twin, null, t) : null;
    if (of.source === "pca" || of.layer >= twin.layers.length || of.query >= twin.tokens) return null;
    if (typeof of.head === "number" && of.head >= twin.heads) return null;
    const tokens = await (of.rolled && of.source === "query" ? rolled(of) : queried(of, twin, of.query, layers));
    return tokens && sceneOf(tokens, of, twin, t);
  }
  async function rolled({ query, layer, head }) {
    if (!rollout.possible || !twin.queries.slice(layer).every(Boolean)) return null;
    const r = query < 0 ? await twin.array("readout") : new Float32Array(twin.tokens);
    if (query >= 0) r[query] = 1;
    return rollout.from(r, layer, head, () => null);
  }

  let run = 0;
  async function draw() {
    const { scene } = ctx,
      state = store.get(),
      mine = ++run;
    if (!scene || scene.passing || !(scene.values ?? scene.rgb)) return; // or on its way
    const found = scene.values ? await counterpart(scene.of) : null;
    if (mine !== run || signal.aborted) return;
    const names = [data.model, twin.model],
      shapes = [data.region.size, twin.region.size];
    [halves.left, halves.right, halves.difference].forEach(({ picture }, i) => {
      picture.style.aspectRatio = (shapes[i] ?? shapes[0]).join(" / ");
    });
    const targets = [scene, found].map((one) => one?.entry?.target),
      told = (one, i) =>
        [names[i], one.caption, targets[0] !== targets[1] && targets[i] && t.message(targets[i])]
          .filter(Boolean)
          .join(" · ");
    for (const one of [halves.left.picture, halves.left.legend]) one.hidden = !scene.values;
    for (const one of [halves.right.picture, halves.right.legend]) one.hidden = !found;
    if (scene.values) drawHalf(halves.left, data, scene, scaleOf(scene, state), state, t, told(scene, 0));
    contrast.hidden = !found || !same;
    if (!found) return void (status.textContent = t("twin_without", { model: names[1], what: scene.caption }));
    drawHalf(halves.right, twin, found, scaleOf(found, state), state, t, told(found, 1));
    if (!same) {
      const [one, other] = [data, twin].map(({ rows, columns }) => `${rows} × ${columns}`);
      return void (status.textContent = t("twin_grids", { one, other }));
    }
    status.textContent = t("agreement", { value: agreement(scene.values, found.values).toFixed(2) });
    const values = differenceOf(scene.values, found.values),
      [a, b] = names;
    drawHalf(
      halves.difference,
      data,
      { values, unit: t("twin_unit") },
      limits(values, "balance", true),
      { ...state, cmap: "balance" },
      t,
      t("twin_difference", { a, b }),
    );
  }
  draw();
  ctx.shown.subscribe(draw, signal);
  const DRAWN = ["cmap", "opacity", "norm", "smooth", "contours", "as_seen"];
  store.subscribe((state, before) => DRAWN.some((key) => state[key] !== before[key]) && draw(), signal);
}

// A chart for each distance, or why there is none.
function distances({ layers, why }, t) {
  const box = el("div", {}, el("h3", { text: t("twin_layers") }));
  if (!layers.length) {
    box.append(el("p", { class: "vs-note", text: t.message(why) }));
    return box;
  }
  const plots = ["cka", "relative"].filter((name) => layers.every((one) => Number.isFinite(one[name])));
  const made = plots.map((name) => {
    const values = layers.map((one) => one[name]),
      label = t(`twin_${name}`),
      most = name === "cka" ? 1 : Math.max(...values, 1e-6) * 1.08;
    const plot = chart({
      label,
      across: t("layer"),
      up: label,
      xs: [-0.5, layers.length - 0.5],
      ys: [0, most],
      whole: true,
    });
    const places = values.map((value, layer) => [plot.x(layer), plot.y(value)]);
    plot.root.append(
      svg("path", {
        d: lineOf(
          places.map(([x]) => x),
          places.map(([, y]) => y),
        ),
        class: "vs-curve",
      }),
      ...places.map(([cx, cy]) => svg("circle", { cx, cy, r: 4, class: "vs-at" })),
    );
    plot.root.setAttribute("role", "img");
    const told = t.list(values.map((value, layer) => `${t("layer")} ${layer}: ${figure(value)}`));
    plot.root.setAttribute("aria-label", `${label}. ${told}`);
    return el(
      "figure",
      { class: "vs-figure-box" },
      el("figcaption", { text: label }),
      plot.root,
      el("p", { class: "vs-note", text: t(`twin_${name}_note`) }),
    );
  });
  box.append(el("div", { class: "vs-charts" }, ...made));
  return box;
}
