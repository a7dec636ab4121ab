// Every layer and head at a glance: small maps of what one token attends to; a click enlarges one.

import { el } from "./dom.js";
import { limits } from "./colours.js";
import { row } from "./scene.js";

export function panel(root, ctx) {
  const { data, store, t, signal } = ctx;
  if (!data.readable) return;
  const note = el("p", { class: "vs-note" }),
    table = el("div", { class: "vs-grid", role: "grid", "aria-label": t("heads") });
  root.append(note, table);
  const [left, top, right, bottom] = data.region.cells ?? data.region.box;
  table.style.setProperty("--heads", data.heads);
  table.style.setProperty("--shape", (right - left) / (bottom - top));
  const cells = data.layers.map((layer, l) => {
    const line = el("div", { role: "row", class: "vs-line" }, el("span", { role: "rowheader", text: String(l) }));
    const made = Array.from({ length: layer.heads }, (_, h) => {
      const canvas = el("canvas", { width: String(data.columns), height: String(data.rows) });
      const cell = el(
        "button",
        {
          type: "button",
          tabindex: "-1",
          "aria-label": t("where_head", { layer: l, head: h }),
          onclick: () => ctx.keep(l, h),
        },
        canvas,
      );
      line.append(el("span", { role: "gridcell" }, cell));
      return { cell, canvas };
    });
    table.append(line);
    return made;
  });
  table.addEventListener("keydown", (event) => {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!by) return;
    event.preventDefault();
    const l = cells.findIndex((line) => line.some(({ cell }) => cell === event.target)),
      h = cells[l].findIndex(({ cell }) => cell === event.target);
    const next = cells[l + by[0]]?.[h + by[1]]?.cell;
    next?.focus();
    next?.click();
  });

  let drawn = null,
    run = 0;
  async function draw(state) {
    const query = state.source === "query" ? state.query : -1;
    const key = [query, state.shared, state.cmap].join();
    if (key === drawn) return;
    drawn = key;
    const mine = ++run,
      colours = state.cmap === "auto" ? "inferno" : state.cmap,
      count = data.prefix.length;
    note.textContent = t("heads_of", { token: data.nameOf(query, t) });
    for (const { cell } of cells.flat()) cell.classList.add("vs-gone"); // until it is drawn for this token
    const all = [],
      place = (cell, canvas, values, scale) => {
        ctx.stage.paint(canvas, values, scale, colours);
        cell.classList.remove("vs-gone");
      };
    for (let l = 0; l < cells.length; l++) {
      const readouts = query < 0 ? await data.readouts(l) : null,
        layer = query < 0 ? null : await data.layer(l);
      if (mine !== run || signal.aborted) return;
      cells[l].forEach(({ canvas, cell }, h) => {
        if (!readouts && !layer) return;
        const tokens = readouts ? readouts.subarray(h * data.tokens, (h + 1) * data.tokens) : row(layer, h, query);
        const values = tokens.subarray(count);
        if (state.shared) all.push({ canvas, cell, values });
        else place(cell, canvas, values, limits(values, "robust"));
      });
    }
    if (!state.shared) return;
    const together = new Float32Array(all.length * data.rows * data.columns);
    all.forEach(({ values }, i) => together.set(values, i * values.length));
    const scale = limits(together, "robust");
    for (const { canvas, cell, values } of all) place(cell, canvas, values, scale);
  }
  const show = (state) => {
    draw(state);
    cells.forEach((line, l) =>
      line.forEach(({ cell }, h) => {
        const on = state.source !== "map" && state.layer === l && (state.head === h || typeof state.head !== "number");
        cell.classList.toggle("vs-on", on);
        cell.tabIndex = state.layer === l && (state.head === h || (typeof state.head !== "number" && h === 0)) ? 0 : -1;
      }),
    );
  };
  show(store.get());
  store.subscribe(show, signal);
}
