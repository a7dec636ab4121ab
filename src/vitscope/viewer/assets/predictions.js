// What the model predicts: a bar for each class, before and after patches are hidden; a click shows the map of that class.

import { el, figure, predicted } from "./dom.js";

// Rows `[label, before, after]` of both answers, in the order of the first; null where a class is not among the likeliest.
export function beforeAndAfter(before, after) {
  const later = new Map(after),
    rows = before.map(([label, p]) => [label, p, later.get(label) ?? null]);
  const known = new Set(before.map(([label]) => label));
  return [...rows, ...after.filter(([label]) => !known.has(label)).map(([label, p]) => [label, null, p])];
}

export function panel(root, ctx) {
  const { data, store, t, signal } = ctx,
    { predictions, activation } = data.header;
  const list = el("ul", { class: "vs-predictions" }),
    note = el("p", { class: "vs-note" });
  const why = el("button", { type: "button", class: "vs-quiet", hidden: true });
  root.append(note, list, why);
  // The class that is shown, else the first, beside the first of the others.
  const offer = (state) => {
    const classes = data.maps.filter(
        ({ label, method }) => label && method === data.maps.find((one) => one.label)?.method,
      ),
      shown = classes.find(({ id }) => state.source === "map" && id === state.map) ?? classes[0],
      rest = classes.find((one) => one !== shown);
    why.hidden = !rest;
    if (!rest) return;
    why.textContent = t("why_not", { a: shown.label, b: rest.label });
    why.onclick = () => {
      store.set({
        panel: "compare",
        compare: { left: `own:${shown.id}`, right: `own:${rest.id}`, at: 50, beside: true },
      });
      requestAnimationFrame(() => ctx.root.querySelector(".vs-pair")?.scrollIntoView({ block: "nearest" }));
    };
  };
  const said = (value) => (value === null ? "–" : predicted(value, activation));
  const bar = (value, kind) => {
    const made = el("span", { class: `vs-bar ${kind}` });
    made.style.inlineSize = activation === "value" || value === null ? "0" : `${100 * value}%`;
    return made;
  };
  function fill({ answer }) {
    const focused = list.contains(document.activeElement) && document.activeElement.getAttribute("data-map");
    const classes = data.maps.some((one) => predictions.some(([label]) => one.label === label));
    note.textContent = predictions.length
      ? answer
        ? t("before_after")
        : classes
          ? t("classes_hint")
          : ""
      : t("no_predictions");
    const rows = answer ? beforeAndAfter(predictions, answer.predictions) : predictions.map(([label, p]) => [label, p]);
    list.replaceChildren(
      ...rows.map(([label, before, after]) => {
        const entry = data.maps.find((one) => one.label === label),
          numbers = answer ? `${said(before)} → ${said(after)}` : said(before);
        const inside = [
          el("span", { text: label }),
          el("span", { class: "vs-number", text: numbers }),
          bar(before, answer ? "vs-bar-before" : ""),
          answer && bar(after, "vs-bar-after"),
        ];
        return el(
          "li",
          { class: answer ? "vs-both" : activation === "value" ? null : "vs-share" },
          entry
            ? el(
                "button",
                {
                  type: "button",
                  "data-map": entry.id,
                  title: t("class_map", { label }),
                  onclick: () => store.set({ map: entry.id, source: "map", deletion_step: null }),
                },
                ...inside,
              )
            : el("div", {}, ...inside),
        );
      }),
    );
    if (answer && !predictions.length)
      list.replaceChildren(
        el(
          "li",
          {},
          el(
            "div",
            {},
            el("span", { text: t("score") }),
            el("span", { class: "vs-number", text: `${figure(answer.whole)} → ${figure(answer.score)}` }),
          ),
        ),
      );
    show(store.get());
    if (focused) list.querySelector(`[data-map="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  }
  const show = (state) => {
    offer(state);
    for (const button of list.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", state.source === "map" && button.dataset.map === state.map);
    }
  };
  fill(ctx.masked.get());
  ctx.masked.subscribe(fill, signal);
  ctx.grown.subscribe(() => fill(ctx.masked.get()), signal);
  store.subscribe(show, signal);
}
