// The line below the photo: what is drawn, its colour scale with values and unit, and the value under the pointer.

import { el, figure, percent } from "./dom.js";
import { drawRamp } from "./heat.js";
import { colourOf, scaleOf } from "./scene.js";
import { unseenShare } from "./unseen.js";

export function createBar(root, ctx) {
  const { data, store, t } = ctx;
  const caption = el("h2", { class: "vs-caption" }),
    note = el("p", { class: "vs-note" });
  const ramp = el("canvas", { class: "vs-ramp", width: "256", height: "1", role: "img" });
  const low = el("span"),
    middle = el("span"),
    high = el("span"),
    unit = el("span", { class: "vs-unit" });
  const value = el("output", { class: "vs-value" });
  const legend = el(
    "div",
    { class: "vs-scale" },
    el("div", {}, ramp, el("div", { class: "vs-ends" }, low, middle, high)),
    unit,
  );
  root.append(el("div", { class: "vs-said" }, caption, value), legend, note);
  return {
    legend,
    texts: () => ({
      caption: caption.textContent,
      low: low.textContent,
      middle: middle.textContent,
      high: high.textContent,
      unit: unit.textContent,
      note: note.textContent,
    }),
    value: () => [caption.textContent, value.textContent].filter(Boolean).join(". "),
    draw(scene, token) {
      caption.textContent = scene.caption;
      legend.hidden = !scene.values;
      for (const one of [value, note, low, middle, high]) one.textContent = "";
      unit.textContent = scene.unit ?? "";
      if (scene.rgb) note.textContent = t("pca_note");
      if (!scene.values) return;
      const state = store.get(),
        scale = scaleOf(scene, state);
      drawRamp(ramp, colourOf(scale, state));
      low.textContent = figure(scale.low);
      middle.textContent = figure((scale.low + scale.high) / 2);
      high.textContent = figure(scale.high);
      unit.textContent = `${scene.unit} · ${t(`norm_${scale.kind}`)}`;
      ramp.setAttribute("aria-label", t("scale_label", { low: figure(scale.low), high: figure(scale.high) }));
      value.textContent =
        token === null || token < data.prefix.length || scene.best
          ? ""
          : t("value_at", { token: data.nameOf(token, t), value: figure(scene.values[token - data.prefix.length]) });
      const total = [...scene.prefix, ...scene.values].reduce((sum, one) => sum + Math.max(one, 0), 0);
      const prefix = scene.prefix.reduce((sum, one) => sum + Math.max(one, 0), 0);
      const share =
        prefix > 0.0005 * total && !scene.signed && scene.kind !== "like"
          ? t("prefix_share", { share: percent(prefix / total), names: t.list(data.prefix.map(t.token)) })
          : "";
      const below =
        scale.kind === "positive" ? scene.values.reduce((sum, one) => sum + (one < 0), 0) / scene.values.length : 0;
      const cold = below ? t("below_zero", { share: percent(below) }) : "";
      const beyond = state.as_seen ? 0 : unseenShare(data.region),
        unseen = beyond > 0.002 ? t("unseen_share", { share: percent(beyond) }) : "";
      const match = (best, key, of) =>
        best && t(key, { token: of.nameOf(best.token, t), value: figure(best.value), photo: of.photo });
      note.textContent = [
        match(scene.best, "best_match", data),
        match(scene.other?.best, "best_match_in", ctx.other),
        share,
        cold,
        unseen,
        t.message(scene.entry?.caveat),
        ...(scene.entry?.remarks ?? []).map(t.message),
      ]
        .filter(Boolean)
        .join(t("stop"));
    },
  };
}
