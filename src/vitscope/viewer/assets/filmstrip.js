// One token's map in every layer: a row of small maps below the photo that follows the pointer. A click shows that layer.

import { limits } from "./colours.js";
import { el } from "./dom.js";
import { ofLayer, queried } from "./scene.js";

// What the strip tells of while a scene is on the photo: of a map, or of features, the attention of the same token.
export const askedOf = ({ of }) => {
  const source = of.source === "received" ? "received" : "query",
    query = of.source === "map" || of.source === "pca" ? -1 : of.query;
  return { ...of, source, query, rolled: false };
};

export function createFilmstrip(root, ctx) {
  const { data, store, t, signal } = ctx;
  if (!data.readable || data.layers.length < 2) return;
  const note = el("p", { class: "vs-film-note" }),
    row = el("div", { class: "vs-film", role: "radiogroup", "aria-label": t("film") });
  const cells = data.layers.map((_, layer) => {
    const canvas = el("canvas", { width: String(data.columns), height: String(data.rows) }),
      button = el(
        "button",
        {
          type: "button",
          role: "radio",
          tabindex: layer ? "-1" : "0",
          "aria-label": t("film_layer", { layer }),
          onclick: () => ctx.layer(layer),
        },
        canvas,
        el("span", { text: String(layer) }),
      );
    row.append(button);
    return { button, canvas };
  });
  const [left, top, right, bottom] = data.region.cells ?? data.region.box;
  row.style.setProperty("--cells", String((right - left) / (bottom - top)));
  root.append(note, row);
  row.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key],
      next = cells[cells.findIndex(({ button }) => button === event.target) + by]?.button;
    if (!by) return;
    event.preventDefault();
    next?.focus();
    next?.click();
  });
  let drawn = null,
    run = 0;
  // Layer by layer, after the photo itself, so that pointing stays as quick as it is without.
  async function draw({ scene }) {
    if (!scene) return;
    const asked = askedOf(scene),
      cmap = store.get().cmap,
      key = [asked.source, asked.query, asked.head, cmap].join();
    if (key === drawn) return;
    drawn = key;
    const mine = ++run;
    note.textContent = t(asked.source === "received" ? "film_received" : "film_query", {
      token: data.nameOf(asked.query, t),
    });
    for (const [layer, { button, canvas }] of cells.entries()) {
      await new Promise((resolve) => setTimeout(resolve));
      if (mine !== run || signal.aborted) return;
      const tokens = await queried({ ...asked, layer }, data, asked.query, ctx.layers);
      if (mine !== run || signal.aborted) return;
      button.classList.toggle("vs-gone", !tokens);
      if (!tokens) continue;
      const values = tokens.subarray(data.prefix.length);
      ctx.stage.paint(canvas, values, limits(values, "robust"), cmap === "auto" ? "inferno" : cmap);
    }
  }
  const show = (state) => {
    cells.forEach(({ button }, layer) => {
      const on = ofLayer(state) && layer === state.layer;
      button.setAttribute("aria-checked", String(on));
      button.tabIndex = layer === state.layer ? 0 : -1;
    });
    draw({ scene: ctx.scene });
  };
  show(store.get());
  store.subscribe(show, signal);
  ctx.shown.subscribe(draw, signal);
}
