// The row of tabs: one panel at a time, made when it is opened and ended when another is.

import { el } from "./dom.js";

// `all`: `[name, panel, whether there is something to show]`.
export function createTabs(root, ctx, all) {
  const { store, t, signal } = ctx,
    listed = all.filter(([, , has]) => has(ctx)),
    names = listed.map(([name]) => name);
  const body = el("div", { class: "vs-tab", role: "tabpanel" });
  let open = null,
    shown = null;
  const row = el(
    "div",
    { class: "vs-tabs", role: "tablist" },
    ...names.map((name) =>
      el("button", {
        type: "button",
        role: "tab",
        text: t(`panel_${name}`),
        onclick: () => store.set({ panel: name }),
      }),
    ),
  );
  row.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const next = names[(names.indexOf(shown) + by + names.length) % names.length];
    store.set({ panel: next });
    row.children[names.indexOf(next)].focus();
  });
  root.append(row, body);
  const show = ({ panel }) => {
    const name = names.includes(panel) ? panel : names[0];
    if (name === shown) return;
    shown = name;
    [...row.children].forEach((tab, i) => {
      tab.setAttribute("aria-selected", names[i] === name);
      tab.tabIndex = names[i] === name ? 0 : -1;
    });
    body.setAttribute("aria-label", t(`panel_${name}`));
    open?.abort();
    open = new AbortController();
    body.replaceChildren();
    listed[names.indexOf(name)][1](
      body,
      Object.create(ctx, { signal: { value: AbortSignal.any([signal, open.signal]) } }),
    );
  };
  show(store.get());
  store.subscribe(show, signal);
}
