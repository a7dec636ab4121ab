// A small chart: two axes with a few round ticks, and the shapes that stand in it.

const SPACE = "http://www.w3.org/2000/svg";
const WIDE = 340,
  HIGH = 210,
  LEFT = 44,
  RIGHT = 10,
  TOP = 12,
  BOTTOM = 36;

export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// About `count` round numbers from low to high.
export function ticksOf(low, high, count) {
  const rough = (high - low || 1) / count,
    power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9),
    last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

// `{root, x, y, wide, high}`: an empty chart, and where a value lies in it.
export function chart({ label, across, up, xs, ys, whole = false }) {
  const x = (value) => LEFT + ((value - xs[0]) / (xs[1] - xs[0] || 1)) * (WIDE - LEFT - RIGHT);
  const y = (value) => HIGH - BOTTOM - ((value - ys[0]) / (ys[1] - ys[0] || 1)) * (HIGH - TOP - BOTTOM);
  const root = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, class: "vs-chart", role: "group", "aria-label": label });
  const back = svg("g", { "aria-hidden": "true" });
  const write = (text, at, kind) => {
    const made = svg("text", { ...at, class: `vs-tick ${kind}` });
    made.textContent = text;
    back.append(made);
  };
  for (const value of ticksOf(ys[0], ys[1], 5)) {
    back.append(svg("line", { x1: LEFT, x2: WIDE - RIGHT, y1: y(value), y2: y(value), class: "vs-rule" }));
    write(String(value), { x: LEFT - 6, y: y(value) + 4 }, "vs-end");
  }
  for (const value of ticksOf(xs[0], xs[1], 5)) {
    if (!whole || Number.isInteger(value)) write(String(value), { x: x(value), y: HIGH - BOTTOM + 16 }, "vs-mid");
  }
  write(across, { x: (LEFT + WIDE - RIGHT) / 2, y: HIGH - 4 }, "vs-mid");
  write(up, { x: -(TOP + (HIGH - BOTTOM - TOP) / 2), y: 11, transform: "rotate(-90)" }, "vs-mid");
  root.append(back);
  return { root, x, y, wide: WIDE, high: HIGH };
}

export function lineOf(xs, ys) {
  return xs.map((x, i) => `${i ? "L" : "M"}${x.toFixed(1)} ${ys[i].toFixed(1)}`).join("");
}
