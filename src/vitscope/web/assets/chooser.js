// The start page: where a photo is chosen, and what is seen until there is a map of it.

import { el } from "../../viewer/assets/dom.js";

export function working(preview, t, stop) {
  return el(
    "section",
    { class: "vw-work" },
    preview ? el("img", { src: preview, alt: "" }) : el("span"),
    el(
      "div",
      {},
      el("p", { class: "vw-said", role: "status" }),
      el("progress", { "aria-label": t("app_running") }),
      el("button", { type: "button", class: "vw-plain", text: t("app_cancel"), onclick: stop }),
    ),
  );
}

// `take(file, sample)`: begins with one of both.
export function chooser(state, t, take) {
  const file = el("input", { type: "file", accept: "image/*", onchange: () => file.files[0] && take(file.files[0]) });
  const drop = el(
    "label",
    { class: "vw-drop" },
    el("strong", { text: t("app_drop") }),
    el("span", { class: "vw-soft", text: t("app_paste") }),
    file,
  );
  const names = state.models.map((one) => one.reference);
  // What a model answers, in a few words: its reference alone says that to nobody.
  const told = ({ reference, labels, grid: [rows, columns] }) =>
    `${reference} · ${t(labels.length ? "app_classes" : "app_features", { count: labels.length, rows, columns })}`;
  const model = el(
    "select",
    {
      onchange: () => {
        state.model = model.value;
      },
    },
    ...names.map((name, i) =>
      el("option", { value: name, text: told(state.models[i]), selected: name === state.model }),
    ),
  );
  const which =
    names.length > 1
      ? el("label", {}, el("span", { text: t("app_model") }), model)
      : el("p", { class: "vw-soft", text: names.length ? `${t("app_model")}: ${told(state.models[0])}` : "" });
  const samples = state.samples.map(({ name, about, credit }) =>
    el(
      "li",
      {},
      el(
        "button",
        {
          type: "button",
          "data-sample": name,
          title: `${t.message(about)} (${t.message(credit)})`,
          onclick: () => take(null, name),
        },
        el("img", { src: `/api/samples/${name}`, alt: "" }),
        el("span", { text: t.message(about) }),
      ),
    ),
  );
  const title = el("h2", { class: "vw-soft", text: t("app_samples") });
  return [
    drop,
    el("div", { class: "vw-row" }, which),
    el("section", { class: "vw-samples" }, title, el("ul", {}, ...samples)),
  ];
}
