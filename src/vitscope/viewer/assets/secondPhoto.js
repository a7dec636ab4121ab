// The other of two photos, beside the first: what in it is like the pointed patch, or its colours.

import { el } from "./dom.js";
import { drawColours, drawHeat, setPhoto, shapeOf } from "./heat.js";
import { BEST, cellOf, outline } from "./marks.js";
import { colourOf, scaleOf } from "./scene.js";

const FINEST = 560; // pixels of the map's longer side

export const besideOf = ({ source }) => source === "like" || source === "pca";

export function createSecond(root, ctx) {
  const { other, store, signal } = ctx;
  if (!other?.likeness || !ctx.data.likeness) return;
  const image = el("img", { class: "vs-photo", alt: other.photo, draggable: "false" }),
    below = el("img", { class: "vs-photo-below", alt: "", draggable: "false" }),
    heat = el("canvas", { class: "vs-heat" }),
    over = el("canvas", { class: "vs-marks" });
  const picture = el("div", { class: "vs-stage vs-second" }, image, below, heat, over);
  root.append(picture);
  const place = (state) => {
    const [w, h] = shapeOf(other, state.as_seen),
      small = Math.min(1, FINEST / Math.max(w, h));
    ctx.body.classList.toggle("vs-two", besideOf(state));
    picture.hidden = !besideOf(state);
    if (picture.hidden) return;
    picture.style.setProperty("--shape", String(w / h));
    setPhoto(other, state.as_seen, image, below);
    heat.width = Math.round(w * small);
    heat.height = Math.round(h * small);
    const dense = globalThis.devicePixelRatio || 1;
    over.width = Math.round(picture.clientWidth * dense);
    over.height = Math.round(picture.clientHeight * dense);
  };
  const draw = () => {
    const state = store.get();
    if (!besideOf(state)) return;
    const { scene } = ctx,
      found = scene?.other,
      context = over.getContext("2d");
    picture.classList.toggle("vs-over", Boolean(found) && state.opacity > 0);
    context.clearRect(0, 0, over.width, over.height);
    if (!found) return heat.getContext("2d").clearRect(0, 0, heat.width, heat.height);
    if (found.rgb) return drawColours(heat, found.rgb, other, state);
    const scale = scaleOf(scene, state);
    drawHeat(heat, found.values, other, scale, colourOf(scale, state), state);
    const dense = Math.max(globalThis.devicePixelRatio || 1, over.width / 1200);
    outline(context, cellOf(other, found.best.token, state.as_seen, over), BEST, 2.5 * dense);
  };
  const redraw = () => {
    place(store.get());
    draw();
  };
  const watching = new ResizeObserver(redraw);
  watching.observe(picture);
  signal.addEventListener("abort", () => watching.disconnect(), { once: true });
  store.subscribe((state, before) => {
    if (
      ["source", "cmap", "opacity", "norm", "smooth", "contours", "as_seen"].some((key) => state[key] !== before[key])
    )
      redraw();
  }, signal);
  ctx.shown.subscribe(draw, signal);
  ctx.second = { image, below, heat, over, shape: () => shapeOf(other, store.get().as_seen) };
  redraw();
}
