// The page of a batch's maps: what is brushed of breadth, verdict, class and method decides which pictures are shown.

import { svg } from "../../viewer/assets/chart.js";
import { el, figure } from "../../viewer/assets/dom.js";
import { FACETS, counted, passing } from "./filters.js";

const BARS = 40,
  WIDE = 400,
  HIGH = 90,
  CLASSES = 30; // listed at once; a word finds the others

const { rows, metrics, marks } = JSON.parse(document.querySelector('script[type="application/json"]').textContent);
const main = document.querySelector("main"),
  state = { low: 0, high: 1, chosen: new Map(), word: "", sort: "narrow" };
const [least, most] = [Math.min(...rows.map((one) => one.breadth)), Math.max(...rows.map((one) => one.breadth))];
const span = most - least || 1;
const range = () => [least + state.low * span, least + state.high * span];

// A histogram: all that the other choices leave, and over it what the brush leaves; dragged over, or by two sliders.
function histogram() {
  const root = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", class: "hist" }),
    bars = svg("g"),
    veil = svg("g", { class: "veil" });
  root.append(bars, veil);
  const slider = (key, label) =>
    el(
      "label",
      {},
      el("span", { text: label }),
      el("input", {
        type: "range",
        min: "0",
        max: "1",
        step: "0.005",
        "data-end": key,
        oninput: (event) => brush(key, Number(event.target.value)),
      }),
    );
  const ends = [slider("low", "from"), slider("high", "to")],
    said = el("p", { class: "soft" });
  const brush = (key, value) => {
    state[key] = key === "low" ? Math.min(value, state.high) : Math.max(value, state.low);
    show();
  };
  let from = null;
  const at = (event) => {
    const { left, width } = root.getBoundingClientRect();
    return Math.max(0, Math.min(1, (event.clientX - left) / width));
  };
  root.addEventListener("pointerdown", (event) => {
    from = at(event);
    root.setPointerCapture(event.pointerId);
  });
  root.addEventListener("pointermove", (event) => {
    if (from === null) return;
    const to = at(event);
    Object.assign(state, { low: Math.min(from, to), high: Math.max(from, to) });
    show();
  });
  root.addEventListener("pointerup", (event) => {
    if (at(event) === from) Object.assign(state, { low: 0, high: 1 }); // a click clears it
    from = null;
    show();
  });
  const fill = () => {
    const counts = Array(BARS).fill(0);
    for (const one of passing(rows, { ...state, range: null }))
      counts[Math.min(BARS - 1, Math.floor(((one.breadth - least) / span) * BARS))]++;
    const peak = Math.max(1, ...counts);
    bars.replaceChildren(
      ...counts.map((count, i) =>
        svg("rect", {
          x: (i * WIDE) / BARS,
          width: WIDE / BARS - 1,
          y: HIGH - (HIGH * count) / peak,
          height: (HIGH * count) / peak,
        }),
      ),
    );
    const [low, high] = [state.low * WIDE, state.high * WIDE];
    veil.replaceChildren(
      svg("rect", { x: 0, y: 0, width: low, height: HIGH }),
      svg("rect", { x: high, y: 0, width: WIDE - high, height: HIGH }),
    );
    ends.forEach((one, i) => {
      const input = one.querySelector("input"),
        value = [state.low, state.high][i];
      input.value = String(value);
      input.setAttribute("aria-valuetext", figure(range()[i]));
    });
    said.textContent = `${figure(range()[0])} to ${figure(range()[1])} of all patches; the highest bar is ${peak}`;
    root.setAttribute("aria-label", `breadth, ${said.textContent}`);
  };
  return [el("section", {}, el("h2", { text: "breadth" }), root, el("div", { class: "ends" }, ...ends), said), fill];
}

// The values of one facet, each with the number of maps that the other choices leave of it.
function facet([name, of, title]) {
  const list = el("div", { class: "list" }),
    search =
      name === "class" &&
      el("input", {
        type: "search",
        placeholder: "find a class",
        "aria-label": "find a class",
        oninput: (event) => {
          state.word = event.target.value;
          show();
        },
      });
  const fill = () => {
    const counts = counted(rows, { ...state, range: range() }, name, of),
      chosen = state.chosen.get(name) ?? new Set(),
      focused = document.activeElement?.getAttribute("data-value");
    const listed = [...counts].filter(
      ([value]) => chosen.has(value) || name !== "class" || value.toLowerCase().includes(state.word.toLowerCase()),
    );
    listed.sort(([a, n], [b, m]) => Number(chosen.has(b)) - Number(chosen.has(a)) || m - n || a.localeCompare(b));
    list.replaceChildren(
      ...listed.slice(0, CLASSES).map(([value, count]) => {
        const words = `${marks[value] ? `${marks[value]} ` : ""}${value || "none"}`;
        const made = el(
          "button",
          {
            type: "button",
            "aria-pressed": String(chosen.has(value)),
            "data-value": value,
            onclick: () => flip(name, value),
          },
          el("span", { text: words }),
          el("b", { text: String(count) }),
        );
        return made;
      }),
    );
    if (listed.length > CLASSES) list.append(el("p", { class: "soft", text: `and ${listed.length - CLASSES} more` }));
    if (focused !== null)
      /** @type {HTMLElement} */ ([...list.children].find((one) => one.getAttribute("data-value") === focused))?.focus({
        preventScroll: true,
      });
  };
  return [el("section", { "data-facet": name }, el("h2", { text: title }), search || null, list), fill];
}

function flip(name, value) {
  const chosen = new Set(state.chosen.get(name));
  if (!chosen.delete(value)) chosen.add(value);
  state.chosen.set(name, chosen);
  show();
}

const facets = FACETS(rows, metrics);
const [brushed, fillBrush] = histogram(),
  made = facets.map(facet);
const status = el("p", { role: "status" }),
  sort = el(
    "select",
    {
      onchange: () => {
        state.sort = sort.value;
        order();
      },
    },
    el("option", { value: "narrow", text: "narrowest first" }),
    el("option", { value: "broad", text: "broadest first" }),
    el("option", { value: "name", text: "by name" }),
  );
const clear = el("button", {
  type: "button",
  text: "Show all",
  onclick: () => {
    Object.assign(state, { low: 0, high: 1, chosen: new Map(), word: "" });
    for (const field of main.querySelectorAll("input[type=search]")) /** @type {HTMLInputElement} */ (field).value = "";
    show();
  },
});
const cards = rows.map((one) => {
  const image = el("img", { src: one.image, alt: `${one.method} over ${one.name}`, loading: "lazy" }),
    said = [
      one.method,
      one.class,
      `breadth ${figure(one.breadth)}`,
      ...Object.values(one.verdicts)
        .filter(Boolean)
        .map((verdict) => `${marks[verdict] ?? ""} ${verdict}`),
    ];
  return el(
    "figure",
    {},
    one.link ? el("a", { href: one.link }, image) : image,
    el("figcaption", {}, el("b", { text: one.name }), el("span", { text: said.filter(Boolean).join(" · ") })),
  );
});
const grid = el("div", { class: "grid" });

function order() {
  const keys = {
    narrow: (a, b) => a.breadth - b.breadth,
    broad: (a, b) => b.breadth - a.breadth,
    name: (a, b) => a.name.localeCompare(b.name),
  };
  const sorted = rows.map((one, i) => ({ one, i })).sort((a, b) => keys[state.sort](a.one, b.one) || a.i - b.i);
  grid.append(...sorted.map(({ i }) => cards[i]));
}

function show() {
  const begun = performance.now(),
    kept = new Set(passing(rows, { ...state, range: range() }));
  rows.forEach((one, i) => {
    cards[i].hidden = !kept.has(one);
  });
  fillBrush();
  for (const [, fill] of made) fill();
  status.textContent = `${kept.size.toLocaleString("en")} of ${rows.length.toLocaleString("en")} maps`;
  main.dataset.ms = (performance.now() - begun).toFixed(1);
}

main.append(
  el("aside", {}, brushed, ...made.map(([section]) => section)),
  el("div", {}, el("div", { class: "bar" }, status, el("label", {}, el("span", { text: "order" }), sort), clear), grid),
);
order();
show();
