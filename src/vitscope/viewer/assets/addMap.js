// Hosts that can run the model: one more map, by any method, of any class or text.

import { el } from "./dom.js";
import { nameOfMap } from "./scene.js";

export function panel(root, ctx) {
  const { data, store, t, host, signal } = ctx;
  if (!host.explain) return;
  const known =
    host.methods ?? [...new Set(data.maps.map((one) => one.method))].map((name) => ({ name, uses_target: true }));
  const classes = host.labels ?? data.header.predictions.map(([label]) => label);
  const status = el("p", { class: "vs-note", "aria-live": "polite" });
  const method = el(
    "select",
    {},
    ...known.map(({ name, summary }) =>
      el("option", { value: name, text: name, title: store.get().lang === "zh" ? null : summary }),
    ),
  );
  const target = el("input", { type: "text", maxlength: "200", autocomplete: "off", placeholder: t("more_predicted") });
  const choices = el(
    "select",
    {},
    el("option", { value: "", text: t("more_predicted") }),
    ...classes.map((label) => el("option", { value: label, text: label })),
  );
  const few = classes.length > 0 && classes.length <= 100,
    field = few ? choices : target;
  const of = el("label", { class: "vs-field" }, el("span", { text: t("more_target") }), field);
  const go = el("button", { type: "submit", class: "vs-quiet", text: t("more_submit") });
  const form = el(
    "form",
    { class: "vs-more" },
    el("label", { class: "vs-field" }, el("span", { text: t("method") }), method),
    of,
    go,
  );
  root.append(form, status);

  const aims = () => known.find(({ name }) => name === method.value)?.uses_target ?? true;
  const fit = () => {
    of.hidden = !aims();
  };
  method.addEventListener("change", fit);
  method.value = (known.find(({ name }) => name === "gradcam" || name === "relevance") ?? known[0]).name;
  fit();

  // A class where there are classes, else a text.
  const aim = () => {
    const words = aims() ? field.value.trim() : "";
    return words === "" ? null : classes.length ? words : { text: words };
  };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    status.textContent = t("busy");
    try {
      const asked = { method: method.value, target: aim(), method_options: {} };
      const { entry, arrays, messages } = await host.explain(asked, signal);
      if (signal.aborted) return;
      entry.asked = asked; // a reload asks again
      t.learn(messages);
      if (!data.maps.some((one) => one.id === entry.id)) data.add(entry, arrays);
      store.set({ map: entry.id, source: "map", deletion_step: null });
      status.textContent = nameOfMap(entry, t);
    } catch (error) {
      if (!signal.aborted) status.textContent = t.error(error);
    } finally {
      go.disabled = false;
    }
  });
}
