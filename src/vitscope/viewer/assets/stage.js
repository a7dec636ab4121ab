// The stage: the photo, the map over it, marks over both; pointer and keys.

import { coloursOf, levelOf } from "./colours.js";
import { el, figure } from "./dom.js";
import { drawArc } from "./flow.js";
import { boxOf, drawColours, drawHeat, setPhoto, shapeOf } from "./heat.js";
import { BEST, cellOf, outline } from "./marks.js";
import { colourOf, scaleOf } from "./scene.js";
import { drawUnseen } from "./unseen.js";

const FINEST = 720; // pixels of the map's longer side: finer is invisible

export function createStage(root, ctx) {
  const { data, store, t, signal } = ctx;
  const image = el("img", { class: "vs-photo", alt: "", draggable: "false" }),
    below = el("img", { class: "vs-photo-below", alt: "", draggable: "false" });
  const heat = el("canvas", { class: "vs-heat" }),
    marks = el("canvas", { class: "vs-marks" });
  const stage = el("div", { class: "vs-stage", tabindex: "0", role: "application" }, image, below, heat, marks);
  const read = el("p", { class: "vs-sr", "aria-live": "polite" });
  root.append(stage, read);
  const timings = [];
  let scene = null,
    hovered = null,
    cursor = null,
    painting = false;

  const box = () => boxOf(data, store.get().as_seen);

  function fit() {
    const state = store.get(),
      [w, h] = shapeOf(data, state.as_seen);
    ctx.body.style.setProperty("--shape", w / h);
    setPhoto(data, state.as_seen, image, below);
    const scale = Math.min(1, FINEST / Math.max(w, h));
    heat.width = Math.round(w * scale);
    heat.height = Math.round(h * scale);
    const dense = globalThis.devicePixelRatio || 1;
    marks.width = Math.round(stage.clientWidth * dense);
    marks.height = Math.round(stage.clientHeight * dense);
  }

  function drawMap() {
    const state = store.get();
    stage.classList.toggle("vs-over", Boolean(scene?.values ?? scene?.rgb) && state.opacity > 0);
    if (scene?.rgb) return drawColours(heat, scene.rgb, data, state);
    if (!scene?.values) return heat.getContext("2d").clearRect(0, 0, heat.width, heat.height);
    const scale = scaleOf(scene, state);
    drawHeat(heat, scene.values, data, scale, colourOf(scale, state), state);
  }

  function drawMarks() {
    const state = store.get(),
      context = marks.getContext("2d"),
      dense = Math.max(globalThis.devicePixelRatio || 1, marks.width / 1200);
    const { source, query } = scene?.of ?? state;
    const mark = (token, colour, width, dash) =>
      outline(context, cellOf(data, token, state.as_seen, marks), colour, width * dense, dash);
    context.clearRect(0, 0, marks.width, marks.height);
    if (!state.as_seen && state.opacity > 0) drawUnseen(context, data.region, marks, t("unseen"), dense);
    const fill = (tokens, colour) => {
      context.fillStyle = colour;
      for (const token of tokens) {
        const at = cellOf(data, token, state.as_seen, marks);
        if (at) context.fillRect(at[0], at[1], at[2] + 0.5, at[3] + 0.5);
      }
    };
    if (source === "map") fill(ctx.deleted?.() ?? [], "rgb(118,118,118)");
    fill(state.hidden, "rgba(118,118,118,.92)");
    if (state.sinks)
      for (const sink of data.header.statistics.sinks) mark(sink.token, "#ffd84d", 1.5, [3 * dense, 2 * dense]);
    const { asked, sources } = ctx.flow?.get() ?? { sources: [] };
    for (const { token, share } of sources) {
      const [from, to] = [token, asked].map((one) => cellOf(data, one, state.as_seen, marks));
      drawArc(context, from, to, share / sources[0].share, dense);
    }
    if (scene?.best) mark(scene.best.token, BEST, 2.5);
    if (!["map", "pca"].includes(source) && hovered === null && cursor === null) mark(query, "#fff", 2);
    if (hovered !== null) mark(hovered, "#fff", 2);
    if (cursor !== null) mark(cursor, "#fff", 3);
    state.pinned.forEach((token, i) => mark(token, i ? "#ff9de2" : "#7df0ff", 2));
  }

  function tokenAt(event) {
    const bounds = stage.getBoundingClientRect(),
      [l, top, r, b] = box();
    const x = ((event.clientX - bounds.left) / bounds.width - l) / (r - l),
      y = ((event.clientY - bounds.top) / bounds.height - top) / (b - top);
    if (x < 0 || y < 0 || x >= 1 || y >= 1) return null;
    return data.prefix.length + Math.floor(y * data.rows) * data.columns + Math.floor(x * data.columns);
  }

  let frame = 0,
    newest = null;
  function hover(token, since) {
    if (ctx.held()) return;
    newest = { token, since };
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      if (newest.token === hovered) return;
      hovered = newest.token;
      const began = performance.now();
      Promise.resolve(ctx.preview(hovered)).then((drawn) => {
        if (!drawn) drawMarks();
        timings.push({ work: performance.now() - began, total: performance.now() - newest.since });
        if (timings.length > 500) timings.shift();
      });
    });
  }

  function paint(token, remove) {
    const { hidden } = store.get();
    if (token === null || hidden.includes(token) !== remove) return;
    store.set({ hidden: remove ? hidden.filter((one) => one !== token) : [...hidden, token] });
  }

  stage.addEventListener("pointermove", (event) => {
    const token = tokenAt(event);
    if (painting) paint(token, event.shiftKey);
    else hover(ctx.paints?.() ? null : token, performance.now());
  });
  stage.addEventListener("pointerleave", () => hover(null, performance.now()));
  stage.addEventListener("pointerdown", (event) => {
    const token = tokenAt(event);
    cursor = null;
    if (ctx.paints?.()) {
      painting = true;
      stage.setPointerCapture(event.pointerId);
      paint(token, event.shiftKey);
    } else if (token !== null && event.pointerType !== "touch") {
      ctx.query(token);
    }
  });
  const stop = () => {
    painting = false;
  };
  // A finger may be scrolling: only where it is lifted again from the photo does it choose.
  stage.addEventListener("pointerup", (event) => {
    const token = tokenAt(event);
    if (!painting && event.pointerType === "touch" && token !== null) ctx.query(token);
    stop();
  });
  stage.addEventListener("pointercancel", stop);

  function move(key) {
    if (ctx.held()) return;
    const patches = data.rows * data.columns,
      first = data.prefix.length;
    const now =
      cursor === null ? Math.floor(data.rows / 2) * data.columns + Math.floor(data.columns / 2) : cursor - first;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -data.columns, ArrowDown: data.columns }[key];
    const next = cursor === null ? now : now + by;
    if (next < 0 || next >= patches) return;
    cursor = first + next;
    hovered = null;
    Promise.resolve(ctx.preview(cursor)).then((drawn) => {
      if (!drawn) drawMarks();
      read.textContent = ctx.valueText(cursor);
    });
  }

  stage.addEventListener("keydown", (event) => {
    const { key } = event;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (key.startsWith("Arrow")) move(key);
    else if (key === "PageUp" || key === "PageDown") ctx.step(key === "PageUp" ? 1 : -1);
    else if (key === "Enter" && cursor !== null) ctx.query(cursor);
    else if (key === " " && cursor !== null && ctx.paints?.()) paint(cursor, store.get().hidden.includes(cursor));
    else return;
    event.preventDefault();
  });
  stage.addEventListener("blur", () => {
    cursor = null;
    ctx.preview(null);
  });

  const redraw = () => {
    fit();
    drawMap();
    drawMarks();
  };
  const watching = new ResizeObserver(() => redraw());
  watching.observe(stage);
  signal.addEventListener("abort", () => watching.disconnect(), { once: true });

  return {
    element: stage,
    image,
    below,
    heat,
    over: marks,
    timings,
    redraw,
    // The token under the pointer or the cursor.
    pointed: () => hovered ?? cursor,
    release() {
      cursor = hovered = null;
      drawMarks();
    },
    inView() {
      const { top, bottom } = stage.getBoundingClientRect();
      return bottom > 0 && top < innerHeight;
    },
    // The photo alone, for as long as one wants to see it; returns whether it was.
    bare(on) {
      const before = stage.classList.contains("vs-bare");
      stage.classList.toggle("vs-bare", on);
      return before;
    },
    draw(next) {
      scene = next;
      if (!heat.dataset.fitted) {
        heat.dataset.fitted = "1";
        fit();
      }
      drawMap();
      drawMarks();
    },
    marks: drawMarks,
    label() {
      stage.setAttribute("aria-label", t("stage"));
    },
    say(words) {
      read.textContent = words;
    },
    // The map as it is drawn, without the photo: for a thumbnail or a picture of one's own.
    paint(canvas, values, scale, colours) {
      const context = canvas.getContext("2d"),
        pixels = context.createImageData(data.columns, data.rows),
        table = coloursOf(colours);
      canvas.width = data.columns;
      canvas.height = data.rows;
      for (let i = 0; i < values.length; i++) {
        const level = levelOf(values[i], scale.low, scale.high);
        pixels.data.set([table[3 * level], table[3 * level + 1], table[3 * level + 2], 255], 4 * i);
      }
      context.putImageData(pixels, 0, 0);
    },
    figure,
  };
}
