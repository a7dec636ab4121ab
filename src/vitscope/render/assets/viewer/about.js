// What this page is of, how exact it is, and what it does not hold.

import { el, percent } from "./dom.js";

export function panel(root, ctx) {
  const { data, t } = ctx, { header } = data;
  const [rows, columns] = header.layout.grid;
  const facts = [
    header.model.reference, `${header.photo.name} · ${header.frame.size.join(" × ")}`,
    `${data.prefix.length} + ${rows} × ${columns} · ${data.layers.length} × ${data.heads}`, `vitscope ${header.vitscope}`, ...header.photo.notes,
  ];
  root.append(el("ul", { class: "vs-facts" }, ...facts.map((text) => el("li", { text }))));
  const { error } = header.attention;
  if (error.mean_rms !== undefined) root.append(el("p", { class: "vs-note", text: t("precision", { mean: percent(error.mean_rms), head: percent(error.head_rms), beyond: percent(error.head_beyond) }) }));
  if (header.missing.length) {
    root.append(el("h3", { text: t("missing") }), el("ul", { class: "vs-facts" }, ...header.missing.map(({ what, why }) => el("li", { text: `${what}: ${why}` }))));
  }
}
