// What is drawn: numbers of the patches, with the state that they were made of.
//
// Title, colours, command and saved data all come from this one object: no map stands under the words of another.

import { kernel } from "./attention.js";
import { limits } from "./colours.js";
import { bestMatch, cosines } from "./likeness.js";
import { figure } from "./dom.js";

const made = kernel();
// Whether a layer and head are shown, not a method's map or features.
export const ofLayer = ({ source }) => source === "query" || source === "received";

// The part of the state that says which numbers are drawn; the rest says how.
export const DRAWN = ["map", "layer", "head", "source", "query", "rolled"];
export const STYLE = ["cmap", "opacity", "norm", "smooth", "contours", "as_seen", "pinned", "sinks"];
export const POOLING = -2; // the query that a model with attention pooling reads out with
export const row = made.row;
export const column = made.column;

const where = (state, t) => {
  if (state.query === POOLING && state.source === "query") return t("where_pooling");
  if (state.head === "mean" || state.head === "max") return t(`where_${state.head}`, { layer: state.layer });
  return t("where_head", { layer: state.layer, head: state.head });
};

export function entryOf(state, data) {
  return data.maps.find((one) => one.id === state.map) ?? data.maps[0];
}

// A target in the reader's language; of another image's path only the file's name.
function targetName(target, t) {
  const path = /^similar to (.*[\\/])/s.exec(target)?.[1];
  return path ? t.message(target).replace(path, "") : t.message(target);
}

export function nameOfMap(entry, t) {
  const given = Object.entries(entry.options).filter(
    ([name, value]) => value !== null && ["layers", "start_layer"].includes(name),
  );
  const options = given.map(([, value]) => value).join(", ");
  const of = entry.label ?? (entry.alike || entry.more ? targetName(entry.target, t) : null);
  return [entry.method, options && `(${options})`, of && `· ${of}`].filter(Boolean).join(" ");
}

const VERDICTS = { "better than random": "better", "worse than random": "worse", "no better than random": "same" };

const MARKS = { better: "▲", worse: "▼", same: "=", open: "?" };

export const verdictOf = (number) => VERDICTS[number.verdict] ?? "open";

// A verdict in a shape and words, so that it needs no colour.
export const verdictText = (number, t) => `${MARKS[verdictOf(number)]} ${t(`verdict_${verdictOf(number)}`)}`;

// What a number says, with what it is: its verdict, value, and which direction is better.
export const numberText = (number, t) =>
  t("verdict", {
    verdict: verdictText(number, t),
    name: t.named(number.name),
    value: figure(number.value),
    random: figure(number.random),
    best: t(number.better === "lower" ? "low_best" : "high_best"),
  });

// What the measurement of a map means, in sentences.
export const meaningOf = (entry, t) =>
  (entry?.measurement?.numbers ?? [])
    .map((one) => t.message(one.sentence))
    .filter(Boolean)
    .join(" ");

function fusedReadout(values, head, tokens) {
  const count = values.length / tokens;
  if (typeof head === "number") return values.subarray(head * tokens, (head + 1) * tokens);
  const out = new Float32Array(tokens);
  for (let h = 0; h < count; h++) {
    for (let i = 0; i < tokens; i++) {
      const value = values[h * tokens + i];
      out[i] = head === "max" ? Math.max(out[i], value) : out[i] + value / count;
    }
  }
  return out;
}

// All of one query's attention, `(N)`: at once where its layer is decoded, else a promise; null where it is not here.
export function queried(state, data, query, layers) {
  const { layer, head, source } = state;
  if (query === POOLING && source !== "received") return data.array("readout");
  if (query < 0 && source !== "received") {
    return data.readable ? data.readouts(layer).then((values) => fusedReadout(values, head, data.tokens)) : null;
  }
  if (!data.queries[layer]) return null;
  const ready = layers.get(layer);
  const of = (decoded) => (source === "received" ? column : row)(decoded, head, Math.max(query, 0));
  return ready ? of(ready) : data.layer(layer).then((decoded) => (layers.set(layer, decoded), of(decoded)));
}

const allOf = (data, other) => (other?.likeness ? [data, other] : [data]);

// What is like a patch, in both photos where there are two: at once where the features are unpacked, else a promise.
export function likeScene(state, data, other, t) {
  const all = allOf(data, other),
    count = data.prefix.length,
    matched = (one, values, apart) => {
      const best = bestMatch(values, one.columns, apart);
      return best < 0 ? null : { token: count + best, value: values[best] };
    };
  const make = () => {
    const scene = sceneOf(cosines(data.unit, data.unit, state.query), state, data, t),
      beside = other?.likeness && cosines(other.unit, data.unit, state.query).subarray(count);
    return {
      ...scene,
      unit: t("unit_cosine"),
      best: matched(data, scene.values, state.query - count),
      other: beside ? { values: beside, best: matched(other, beside, null) } : null,
    };
  };
  return all.every(({ unit }) => unit) ? make() : Promise.all(all.map((one) => one.features())).then(make);
}

// A colour for each patch, `rgb` (P, 3) from 0 to 255; there are no values.
export async function colourScene(state, data, other, t) {
  const [rgb, beside] = await Promise.all(allOf(data, other).map((one) => one.array("pca")));
  return {
    of: drawnOf(state),
    values: null,
    rgb,
    prefix: new Float32Array(0),
    kind: "pca",
    caption: t("caption_pca"),
    unit: t("unit_pca"),
    other: beside ? { rgb: beside } : null,
  };
}

const drawnOf = (state) => Object.fromEntries(DRAWN.map((key) => [key, state[key]]));

// Whether a scene is what a state asks for.
export const sameScene = ({ of }, state) => DRAWN.every((key) => of[key] === state[key]);

// The state that a scene was made of, drawn as the viewer draws now.
export const stateOf = (scene, state) => ({ ...state, ...scene.of });

function captionOf(state, data, t) {
  if (state.source === "map") return nameOfMap(entryOf(state, data), t);
  if (state.source === "pca") return t("caption_pca");
  if (state.source === "like") return t("caption_like", { token: data.nameOf(state.query, t) });
  const rolled = state.rolled && state.source === "query";
  const place = rolled ? t("rolled_from", { first: state.layer, last: data.layers.length - 1 }) : where(state, t);
  return t(state.source === "received" ? "caption_received" : "caption_query", {
    token: data.nameOf(state.query, t),
    where: place,
  });
}

// A scene: `{of, values, prefix, kind, caption, unit, signed, norm}` of all tokens' numbers.
export function sceneOf(tokens, state, data, t) {
  const count = data.prefix.length;
  return {
    of: drawnOf(state),
    values: tokens.subarray(count),
    prefix: tokens.subarray(0, count),
    kind: state.source,
    caption: captionOf(state, data, t),
    unit: t("unit_share"),
    signed: false,
    norm: null,
  };
}

// What is asked for and not there: not in this page, or not yet. Nothing is drawn, and nothing can be saved.
export const absentScene = (state, data, t, why) => ({
  of: drawnOf(state),
  values: null,
  kind: state.source,
  caption: captionOf(state, data, t),
  why,
});

export async function mapScene(state, data, t) {
  const entry = entryOf(state, data),
    { values, prefix } = await data.map(entry.id);
  return {
    of: drawnOf({ ...state, map: entry.id, source: "map" }),
    values,
    prefix,
    kind: "map",
    caption: nameOfMap(entry, t),
    signed: entry.signed,
    norm: entry.norm,
    entry,
    unit: t(entry.sums_to_one ? "unit_share" : "unit_map", { method: entry.method }),
  };
}

// The two ends of the colour scale, as the state asks for.
export function scaleOf(scene, state) {
  const norm = state.norm === "auto" ? (scene.norm ?? (scene.kind === "map" ? "auto" : "robust")) : state.norm;
  return limits(scene.values, norm, scene.signed);
}

export function colourOf(scale, state) {
  if (state.cmap !== "auto") return state.cmap;
  return scale.kind === "balance" ? "balance" : "inferno";
}
