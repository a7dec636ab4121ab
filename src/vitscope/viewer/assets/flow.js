// Where what the pointed patch holds comes from: its strongest sources over the last layers, as arcs on the photo.

import { el, percent } from "./dom.js";
import { createStore } from "./store.js";

const LAYERS = 3,
  SOURCES = 5;

// The patches with the largest shares, but for the asked one: `{token, share}`, largest first. Pure.
export function strongest(shares, asked, prefix, most = SOURCES) {
  return Array.from(shares, (share, token) => ({ token, share }))
    .filter(({ token, share }) => token >= prefix && token !== asked && share > 0)
    .sort((a, b) => b.share - a.share)
    .slice(0, most);
}

export function createFlow(root, ctx) {
  const { data, store, t, signal } = ctx,
    first = Math.max(0, data.layers.length - LAYERS),
    note = el("p", { class: "vs-note", hidden: true });
  ctx.flow = createStore({ asked: null, sources: [] });
  if (!data.queries.slice(first).every(Boolean) || !data.queries.length || !ctx.rollout.possible) return;
  root.append(note);
  let run = 0;
  const show = (asked, sources) => {
    ctx.flow.set({ asked, sources });
    note.hidden = asked === null;
    note.textContent =
      asked === null
        ? ""
        : sources.length
          ? t("flow_told", {
              token: data.nameOf(asked, t),
              count: data.layers.length - first,
              sources: sources.map((one) => `${data.nameOf(one.token, t)} ${percent(one.share)}`).join(" · "),
            })
          : t("busy");
    ctx.stage.marks();
  };
  async function follow() {
    const of = ctx.scene?.of,
      on = store.get().flow && of?.source === "query" && of.query >= data.prefix.length,
      mine = ++run;
    if (!on) return ctx.flow.get().asked === null ? undefined : show(null, []);
    show(of.query, []); // no arcs of another patch
    const r = new Float32Array(data.tokens);
    r[of.query] = 1;
    const shares = await ctx.rollout.from(r, first, of.head, () => null, "flow");
    if (shares && mine === run && !signal.aborted) show(of.query, strongest(shares, of.query, data.prefix.length));
  }
  follow();
  ctx.shown.subscribe(follow, signal);
  store.subscribe((state, before) => state.flow !== before.flow && follow(), signal);
}

// An arc from the middle of a cell to that of another, the wider the larger its share of the widest.
export function drawArc(context, from, to, share, dense) {
  if (!from || !to) return;
  const middle = ([x, y, w, h]) => [x + w / 2, y + h / 2],
    [[ax, ay], [bx, by]] = [middle(from), middle(to)],
    bend = 0.22;
  const [cx, cy] = [(ax + bx) / 2 + (by - ay) * bend, (ay + by) / 2 - (bx - ax) * bend];
  context.setLineDash([]);
  context.lineCap = "round";
  const lay = (colour, more) => {
    context.strokeStyle = context.fillStyle = colour;
    context.lineWidth = (1.5 + 4.5 * share + more) * dense;
    context.beginPath();
    context.moveTo(ax, ay);
    context.quadraticCurveTo(cx, cy, bx, by);
    context.stroke();
    context.beginPath();
    context.arc(ax, ay, (3 + 2 * share + more / 2) * dense, 0, 2 * Math.PI);
    context.fill();
  };
  lay("rgba(0,0,0,.7)", 2.5);
  lay("#ffe08a", 0);
  context.lineCap = "butt";
}
