// Every layer and head at a glance: small maps of what one token attends to, by what heads do or by layer.
// A click enlarges one, and pointing at it shows it on the photo for as long.

import { limits } from "./colours.js";
import { choices, el } from "./dom.js";
import { askedOf } from "./filmstrip.js";
import { kindsOf } from "./headKinds.js";
import { column, ofLayer, row, sceneOf } from "./scene.js";

export function panel(root, ctx) {
  const { data, store, t, signal } = ctx;
  if (!data.readable) return;
  const order = choices(
    t("heads_order"),
    [
      ["kinds", t("heads_by_kind")],
      ["layers", t("heads_by_layer")],
    ],
    "kinds",
    (value) => store.set({ heads: value }),
  );
  const note = el("p", { class: "vs-note" }),
    table = el("div", { class: "vs-grid", role: "grid", "aria-label": t("heads") }),
    choice = el("div", { class: "vs-row" }, el("span", { class: "vs-label", text: t("heads_order") }), order);
  root.append(choice, note, table);
  const [left, top, right, bottom] = data.region.cells ?? data.region.box;
  table.style.setProperty("--heads", data.heads);
  table.style.setProperty("--shape", (right - left) / (bottom - top));
  // While it is pointed at, a map is on the photo.
  const shown = (element, make) => {
    element.addEventListener("pointerenter", make);
    element.addEventListener("pointerleave", () => ctx.peek(null));
    return element;
  };
  const words = (layer, head) => t("where_head", { layer, head });
  let cells = [],
    means = [],
    laid = null;

  function cellOf(layer, head, kind) {
    const canvas = el("canvas", { width: String(data.columns), height: String(data.rows) });
    const cell = el(
      "button",
      {
        type: "button",
        tabindex: "-1",
        "aria-label": kind ? `${layer}·${head}: ${words(layer, head)}, ${t(`kind_${kind}`)}` : words(layer, head),
        title: kind ? words(layer, head) : null,
        onclick: () => ctx.keep(layer, head),
      },
      canvas,
      kind ? el("span", { text: `${layer}·${head}`, "aria-hidden": "true" }) : null,
    );
    shown(cell, () => ctx.peek({ ...asked(store.get()), layer, head }));
    cells.push({ cell, canvas, layer, head });
    return el("span", { role: "gridcell" }, cell);
  }

  function byLayer() {
    return data.layers.map((layer, l) =>
      el(
        "div",
        { role: "row", class: "vs-line" },
        el("span", { role: "rowheader", text: String(l) }),
        ...Array.from({ length: layer.heads }, (_, h) => cellOf(l, h)),
      ),
    );
  }

  function byKind(groups) {
    const all = groups.reduce((sum, [, heads]) => sum + heads.length, 0);
    return groups.map(([kind, heads]) => {
      const canvas = el("canvas", { width: String(data.columns), height: String(data.rows) });
      const group = { kind, heads, canvas, scene: null };
      const label = t("kind_mean", { count: heads.length, kind: t(`kind_${kind}`) });
      const show = () => group.scene && ctx.peek(null, group.scene);
      const mean = el(
        "span",
        { role: "gridcell", class: "vs-kind-mean", tabindex: "0", "aria-label": label, title: label },
        canvas,
      );
      mean.addEventListener("focus", show);
      mean.addEventListener("blur", () => ctx.peek(null));
      means.push(group);
      return el(
        "div",
        { role: "row", class: "vs-kind" },
        el(
          "div",
          { role: "rowheader" },
          el("strong", { text: t(`kind_${kind}`) }),
          el("span", { text: t("kind_count", { count: heads.length, all }) }),
          el("small", { class: "vs-note", text: t(`kind_${kind}_note`) }),
        ),
        shown(mean, show),
        el("div", { role: "presentation" }, ...heads.map(({ layer, head }) => cellOf(layer, head, kind))),
      );
    });
  }

  function lay() {
    const groups = kindsOf(data.header.statistics?.layers ?? []),
      way = groups.length ? store.get().heads : "layers";
    choice.hidden = !groups.length;
    order.show(way);
    if (way === laid) return;
    laid = way;
    cells = [];
    means = [];
    drawn = null;
    ctx.unpeek();
    table.replaceChildren(...(way === "kinds" ? byKind(groups) : byLayer()));
  }

  // The one above or below, or the next.
  function beside(at, key) {
    if (key === "ArrowLeft" || key === "ArrowRight") return cells[at + (key === "ArrowLeft" ? -1 : 1)];
    const place = ({ cell }) => cell.getBoundingClientRect(),
      own = place(cells[at]),
      down = key === "ArrowDown" ? 1 : -1;
    const off = (one) => {
      const { top: y, left: x } = place(one);
      return [down * (y - own.top), Math.abs(x - own.left)];
    };
    const [found] = cells
      .map((one) => ({ one, off: off(one) }))
      .filter(({ off: [far] }) => far > own.height / 2)
      .sort((a, b) => Math.round(a.off[0] - b.off[0]) || a.off[1] - b.off[1]);
    return found?.one;
  }
  table.addEventListener("keydown", (event) => {
    const at = cells.findIndex(({ cell }) => cell === event.target);
    if (at < 0 || !event.key.startsWith("Arrow")) return;
    event.preventDefault();
    const next = beside(at, event.key)?.cell;
    next?.focus();
    next?.click();
  });

  const asked = (state) => {
    const { source, query } = askedOf({ of: state });
    return { source, query };
  };
  let drawn = null,
    run = 0;
  async function draw(state) {
    const { source, query } = asked(state),
      key = [source, query, state.shared, state.cmap].join();
    if (key === drawn) return;
    drawn = key;
    const mine = ++run,
      colours = state.cmap === "auto" ? "inferno" : state.cmap,
      count = data.prefix.length;
    const { unavailable } = data.header.statistics ?? {};
    note.textContent = [
      t(source === "received" ? "heads_seen_by" : "heads_of", { token: data.nameOf(query, t) }),
      laid === "kinds" && unavailable?.object_ratio
        ? t("kinds_without", { why: t.message(unavailable.object_ratio) })
        : "",
    ]
      .filter(Boolean)
      .join(" ");
    for (const { cell } of cells) cell.classList.add("vs-gone"); // until it is drawn for this token
    const all = [],
      place = (cell, canvas, values, scale) => {
        ctx.stage.paint(canvas, values, scale, colours);
        cell?.classList.remove("vs-gone");
      };
    const sums = means.map(() => new Float32Array(data.tokens));
    for (let l = 0; l < data.layers.length; l++) {
      const plain = query < 0 && source === "query",
        readouts = plain ? await data.readouts(l) : null,
        layer = plain ? null : await data.layer(l);
      if (mine !== run || signal.aborted) return;
      if (!readouts && !layer) continue;
      for (const { canvas, cell, head } of cells.filter((one) => one.layer === l)) {
        const tokens = readouts
          ? readouts.subarray(head * data.tokens, (head + 1) * data.tokens)
          : (source === "received" ? column : row)(layer, head, Math.max(query, 0));
        const group = means.findIndex(({ heads }) => heads.some((one) => one.layer === l && one.head === head));
        if (group >= 0) tokens.forEach((value, i) => (sums[group][i] += value / means[group].heads.length));
        const values = tokens.subarray(count);
        if (state.shared) all.push({ canvas, cell, values });
        else place(cell, canvas, values, limits(values, "robust"));
      }
    }
    means.forEach((group, i) => {
      const of = { ...state, source, query, rolled: false, head: "mean" },
        label = t("kind_mean", { count: group.heads.length, kind: t(`kind_${group.kind}`) }),
        scene = sceneOf(sums[i], of, data, t);
      group.scene = {
        ...scene,
        caption: t(`caption_${source}`, { token: data.nameOf(query, t), where: label }),
        passing: true,
      };
      place(null, group.canvas, scene.values, limits(scene.values, "robust"));
    });
    if (!state.shared) return;
    const together = new Float32Array(all.length * data.rows * data.columns);
    all.forEach(({ values }, i) => together.set(values, i * values.length));
    const scale = limits(together, "robust");
    for (const { canvas, cell, values } of all) place(cell, canvas, values, scale);
  }
  const show = (state) => {
    lay();
    draw(state);
    const on = ({ layer, head }) =>
      ofLayer(state) && state.layer === layer && (state.head === head || typeof state.head !== "number");
    const reached =
      cells.find(({ layer, head }) => state.layer === layer && state.head === head) ??
      cells.find(({ layer }) => state.layer === layer);
    for (const one of cells) {
      one.cell.classList.toggle("vs-on", on(one));
      one.cell.tabIndex = one === reached ? 0 : -1;
    }
  };
  show(store.get());
  store.subscribe(show, signal);
  ctx.grown.subscribe(() => show(store.get()), signal);
}
