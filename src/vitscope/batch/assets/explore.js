// The page of a batch's maps: what is brushed of breadth, verdict, class and method decides which pictures are shown.

import { svg } from "../../viewer/assets/chart.js";
import { choices, el, figure } from "../../viewer/assets/dom.js";
import { LANGUAGES, translator } from "../../viewer/assets/strings.js";
import { choiceOf, FACETS, counted, fragmentOf, passing } from "./filters.js";

const BARS = 40,
  WIDE = 400,
  HIGH = 90,
  CLASSES = 30, // listed at once; a word finds the others
  PAUSE = 250; // milliseconds without a change before the address is written

const VERDICTS = {
  "better than random": "better",
  "worse than random": "worse",
  "no better than random": "same",
  undecided: "open",
};

const { rows, metrics, marks, about } = JSON.parse(
  document.querySelector('script[type="application/json"]').textContent,
);
const root = document.documentElement,
  main = document.querySelector("main"),
  START = { low: 0, high: 1, chosen: new Map(), word: "", sort: "narrow" },
  own = root.dataset.lang ?? (navigator.language.startsWith("zh") ? "zh" : "en"),
  state = { ...START, lang: own };
const t = translator(() => state.lang);
const marked = (verdict) =>
  [marks[verdict], VERDICTS[verdict] ? t(`verdict_${VERDICTS[verdict]}`) : verdict].filter(Boolean).join(" ");
const number = (value) => value.toLocaleString(state.lang);
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
  const ends = [slider("low", t("from")), slider("high", t("to"))],
    said = el("p", { class: "soft" });
  const brush = (key, value) => {
    state[key] = key === "low" ? Math.min(value, state.high) : Math.max(value, state.low);
    show();
  };
  let from = null;
  const at = (event) => {
    const { left, width } = root.getBoundingClientRect();
    return Math.round(1000 * Math.max(0, Math.min(1, (event.clientX - left) / width))) / 1000; // as the address has it
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
    said.textContent = t("range", { low: figure(range()[0]), high: figure(range()[1]), peak });
    root.setAttribute("aria-label", `${t("breadth")}: ${said.textContent}`);
  };
  return [el("section", {}, el("h2", { text: t("breadth") }), root, el("div", { class: "ends" }, ...ends), said), fill];
}

// The values of one facet, each with the number of maps that the other choices leave of it.
function facet([name, of]) {
  const title =
    name === "method" || name === "class" ? t(name) : t("by", { metric: t.named(name).replaceAll("_", " ") });
  const list = el("div", { class: "list" }),
    search =
      name === "class" &&
      el("input", {
        type: "search",
        placeholder: t("find_class"),
        "aria-label": t("find_class"),
        value: state.word,
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
        return el(
          "button",
          {
            type: "button",
            "aria-pressed": String(chosen.has(value)),
            "data-value": value,
            onclick: () => flip(name, value),
          },
          el("span", { text: marked(value) || t("none") }),
          el("b", { text: String(count) }),
        );
      }),
    );
    if (listed.length > CLASSES)
      list.append(el("p", { class: "soft", text: t("and_more", { count: listed.length - CLASSES }) }));
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
  state.chosen = new Map(state.chosen).set(name, chosen);
  show();
}

// What says what the page shows, in the reader's language.
function header() {
  const { title, model, version, total } = about,
    shown = number(rows.length),
    rest = total > rows.length;
  const lang = choices(t("language"), LANGUAGES, state.lang, (value) => {
    state.lang = value;
    build();
    /** @type {HTMLElement} */ (document.querySelector('header [aria-checked="true"]')).focus();
  });
  lang.className = "lang";
  return [
    el("div", { class: "top" }, el("h1", { text: title }), lang),
    el("p", { text: t(rest ? "maps_some" : "maps", { shown, total: number(total), model, version }) }),
    ...(rest
      ? [
          el(
            "p",
            { text: `${t("rest")} ` },
            el("code", { text: 'vitscope.export.fiftyone.add(dataset, explanations("FOLDER"), "heatmaps")' }),
          ),
        ]
      : []),
  ];
}

function card(one) {
  const image = el("img", { src: one.image, alt: t("over", { method: one.method, name: one.name }), loading: "lazy" }),
    said = [
      one.method,
      one.class,
      t("breadth_of", { value: figure(one.breadth) }),
      ...Object.values(one.verdicts).filter(Boolean).map(marked),
    ],
    sentence = one.said[state.lang]
      ? el("details", {}, el("summary", { text: t("in_words") }), el("p", { text: one.said[state.lang] }))
      : "";
  return el(
    "figure",
    {},
    one.link ? el("a", { href: one.link }, image) : image,
    el("figcaption", {}, el("b", { text: one.name }), el("span", { text: said.filter(Boolean).join(" · ") }), sentence),
  );
}

const ORDERS = {
  narrow: (a, b) => a.breadth - b.breadth,
  broad: (a, b) => b.breadth - a.breadth,
  name: (a, b) => a.name.localeCompare(b.name),
};
const facets = FACETS(rows, metrics);
let show = () => {},
  waiting = 0;

// The address keeps what is chosen, for a reload, a bookmark or a link; it adds nothing to the history.
function keep() {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    const text = fragmentOf(state, { ...START, lang: own });
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  }, PAUSE);
}

function choose() {
  Object.assign(state, START, { lang: own }, choiceOf(location.hash, facets, rows, Object.keys(ORDERS), LANGUAGES));
}

function build() {
  root.lang = state.lang === "zh" ? "zh-Hans" : "en";
  const [brushed, fillBrush] = histogram(),
    made = facets.map(facet),
    status = el("p", { role: "status" }),
    cards = rows.map(card),
    grid = el("div", { class: "grid" });
  const order = () => {
    const sorted = rows.map((one, i) => ({ one, i })).sort((a, b) => ORDERS[state.sort](a.one, b.one) || a.i - b.i);
    grid.append(...sorted.map(({ i }) => cards[i]));
  };
  const sort = el(
    "select",
    {
      onchange: () => {
        state.sort = sort.value;
        order();
        keep();
      },
    },
    ...Object.keys(ORDERS).map((value) => el("option", { value, text: t(`order_${value}`) })),
  );
  sort.value = state.sort;
  const clear = el("button", {
    type: "button",
    text: t("show_all"),
    onclick: () => {
      Object.assign(state, START, { sort: state.sort });
      for (const field of main.querySelectorAll("input[type=search]"))
        /** @type {HTMLInputElement} */ (field).value = "";
      show();
    },
  });
  show = () => {
    const begun = performance.now(),
      kept = new Set(passing(rows, { ...state, range: range() }));
    rows.forEach((one, i) => {
      cards[i].hidden = !kept.has(one);
    });
    fillBrush();
    for (const [, fill] of made) fill();
    status.textContent = t("of_maps", { shown: number(kept.size), total: number(rows.length) });
    main.dataset.ms = (performance.now() - begun).toFixed(1);
    keep();
  };
  document.querySelector("header").replaceChildren(...header());
  main.replaceChildren(
    el("aside", {}, brushed, ...made.map(([section]) => section)),
    el(
      "div",
      {},
      el("div", { class: "bar" }, status, el("label", {}, el("span", { text: t("order") }), sort), clear),
      grid,
    ),
  );
  order();
  show();
}
choose();
build();
addEventListener("hashchange", () => {
  choose();
  build();
});
