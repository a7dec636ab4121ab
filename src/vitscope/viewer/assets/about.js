// What this page shows, how exact it is, the notes on the shown map, and what is missing.

import { el, figure, percent } from "./dom.js";
import { entryOf } from "./scene.js";

export function panel(root, ctx) {
  const { data, store, t, signal } = ctx,
    { header } = data;
  const [rows, columns] = header.layout.grid;
  const list = (texts) => el("ul", { class: "vs-facts" }, ...texts.map((text) => el("li", { text })));
  root.append(
    list([
      data.model,
      `${data.photo} · ${header.region.size.join(" × ")}`,
      t("shape", {
        rows,
        columns,
        prefix: t.list(data.prefix.map(t.token)) || "–",
        layers: data.layers.length,
        heads: data.heads,
      }),
      `vitscope ${header.vitscope}`,
      ...header.photo.notes.map(t.message),
    ]),
  );
  const { error } = header.attention;
  if (error?.head_max !== undefined)
    root.append(
      el("p", {
        class: "vs-note",
        text: t("precision", { mean: percent(error.mean_max), head: percent(error.head_max) }),
      }),
    );
  if (data.likeness)
    root.append(
      el("p", {
        class: "vs-note",
        text: t("likeness_precision", {
          where: t.message(header.likeness.where),
          error: figure(header.likeness.error),
        }),
      }),
    );
  if (header.missing.length)
    root.append(
      el("h3", { text: t("missing") }),
      list(header.missing.map(({ what, why }) => t("missing_one", { what: t.message(what), why: t.message(why) }))),
    );
  const notes = el("div", {});
  root.append(notes);
  const show = (state) => {
    const found = (entryOf(state, data)?.notes ?? []).filter((one) => !header.photo.notes.includes(one));
    notes.replaceChildren(...(found.length ? [el("h3", { text: t("notes") }), list(found.map(t.message))] : []));
  };
  show(store.get());
  store.subscribe((state, before) => state.map !== before.map && show(state), signal);
}
