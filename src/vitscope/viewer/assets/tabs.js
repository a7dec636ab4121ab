// The row of tabs: one panel at a time, made when it is opened and ended when another is.

import { el } from "./dom.js";

// `all`: `[name, panel, whether there is something to show, whether it changes as the document grows]`.
export function createTabs(root, ctx, all) {
  const { store, t, signal } = ctx;
  const body = el("div", { class: "vs-tab", role: "tabpanel" }),
    row = el("div", { class: "vs-tabs", role: "tablist" });
  let open = null,
    shown = null,
    names = [];
  row.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const next = names[(names.indexOf(shown) + by + names.length) % names.length];
    store.set({ panel: next });
    /** @type {HTMLElement} */ (row.children[names.indexOf(next)]).focus();
  });
  root.append(row, body);
  const list = () => {
    names = all.filter(([, , has]) => has(ctx)).map(([name]) => name);
    row.replaceChildren(
      ...names.map((name) =>
        el("button", {
          type: "button",
          role: "tab",
          text: t(`panel_${name}`),
          onclick: () => store.set({ panel: name }),
        }),
      ),
    );
  };
  const mark = () =>
    [...row.children].forEach((/** @type {HTMLElement} */ tab, i) => {
      tab.setAttribute("aria-selected", String(names[i] === shown));
      tab.tabIndex = names[i] === shown ? 0 : -1;
    });
  const fill = () => {
    open?.abort();
    open = new AbortController();
    body.replaceChildren();
    ctx.unpeek();
    const [, panel] = all.find(([name]) => name === shown);
    panel(body, Object.create(ctx, { signal: { value: AbortSignal.any([signal, open.signal]) } }));
  };
  const show = ({ panel }) => {
    const name = names.includes(panel) ? panel : (shown ?? names[0]);
    if (name === shown) return;
    shown = name;
    mark();
    body.setAttribute("aria-label", t(`panel_${name}`));
    fill();
  };
  const grow = () => {
    const focused = row.contains(document.activeElement);
    list();
    mark();
    if (focused) /** @type {HTMLElement} */ (row.children[names.indexOf(shown)]).focus();
    // A panel that is in use is made anew when it is left.
    if (body.contains(document.activeElement)) body.addEventListener("focusout", grow, { once: true, signal });
    else if (all.some(([name, , , grows]) => name === shown && grows)) fill();
    show(store.get());
  };
  list();
  show(store.get());
  store.subscribe(show, signal);
  ctx.grown.subscribe(grow, signal);
}
