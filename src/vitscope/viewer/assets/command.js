// What one types to make again what is shown, and what a file of it is called.

import { entryOf } from "./scene.js";

const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${String(word).replaceAll("'", "'\"'\"'")}'`);
const python = (word) => JSON.stringify(String(word));

// A token by the name that options know it by.
export function tokenOf(query, data) {
  if (query < 0) return "readout";
  if (query < data.prefix.length) return data.prefix[query];
  const patch = query - data.prefix.length;
  return `${Math.floor(patch / data.columns)},${patch % data.columns}`;
}

// Options of `vitscope explain` that draw as the viewer does now; `usual` is the scale that it takes by itself.
function drawn(state, usual) {
  const words = [];
  if (state.cmap !== "auto") words.push("--cmap", { balance: "RdBu_r", grey: "gray" }[state.cmap] ?? state.cmap);
  const norm = state.norm === "auto" ? usual : { range: "minmax", robust: "robust", positive: "positive" }[state.norm];
  if (norm) words.push("--norm", norm);
  if (state.opacity !== 0.65) words.push("--opacity", String(state.opacity));
  if (!state.smooth) words.push("--blocks");
  return words;
}

// A command line; Python where no command gives it.
export function commandOf(state, data, other = null) {
  const { header } = data,
    source = header.photo.source || header.photo.name,
    model = header.model.reference;
  const size = header.size ?? null,
    entry = entryOf(state, data);
  if (state.source === "map") return [entry.command, ...drawn(state, entry.norm)].join(" ");
  const scope = `vitscope.load(${python(model)})`,
    sized = size ? `, size=${size}` : "";
  if (state.source === "pca") {
    const beside = other ? `, other=${python(other.header.photo.source || other.header.photo.name)}` : "";
    return `${scope}.view(${python(source)}${beside}${sized}).arrays["pca"].array()`;
  }
  if (state.query === -2) return `${scope}.attention(${python(source)}${sized}).readout_weights()`;
  if (state.source === "received") {
    const head = typeof state.head === "number" ? state.head : python(state.head);
    return `${scope}.queries(${python(source)}, layer=${state.layer}, head=${head}${sized})[:, ${Math.max(state.query, 0)}]`;
  }
  const words = ["vitscope", "explain", source, "--model", model];
  if (state.source === "like")
    words.push("--method", "similarity", ...(header.likeness.normed ? ["-O", "final_norm=true"] : []));
  else if (state.rolled)
    words.push(
      "--method",
      "rollout",
      "--start-layer",
      String(state.layer),
      ...(state.head === "mean" ? [] : ["--head-fusion", String(state.head)]),
    );
  else
    words.push(
      "--method",
      "attention",
      "--layer",
      String(state.layer),
      ...(state.head === "mean" ? [] : ["--head", String(state.head)]),
    );
  if (state.query >= 0) words.push("-O", `query=${tokenOf(state.query, data)}`);
  if (size) words.push("--size", String(size));
  return [...words, ...drawn(state, "robust")].map(quoted).join(" ");
}

// What of the drawing the command does not make, as keys of texts.
export function lostBy(state) {
  const numbers = ["received", "pca"].includes(state.source) || (state.source === "query" && state.query === -2);
  return [
    ["drawing", numbers],
    [`norm_${state.norm}`, !numbers && ["share", "balance"].includes(state.norm)],
    ["best", state.source === "like"],
    ["contours", state.contours],
    ["as_seen", state.as_seen],
    ["shared", state.shared],
    ["sinks", state.sinks],
    ["flow", state.flow && state.source === "query"],
    ["pinned", state.pinned.length],
    ["deletion", state.deletion_step && state.source === "map"],
    ["masking", state.hidden.length],
  ]
    .filter(([, lost]) => lost)
    .map(([key]) => key);
}

// A file's name says what is in it; `layers` where it is more than the one of the scene.
export function stemOf({ data, scene }, layers = `layer${scene.of.layer}`) {
  const { source, head, query, rolled } = scene.of;
  const of =
    source === "map"
      ? [scene.entry.method, scene.entry.label]
      : source === "like" || source === "pca"
        ? [source, source === "like" && tokenOf(query, data).replace(",", "-")]
        : [
            source === "received" ? "seen-by" : rolled ? "rollout" : "attention",
            layers,
            `head-${head}`,
            tokenOf(query, data).replace(",", "-"),
          ];
  return [data.header.photo.name, ...of.filter(Boolean)].join("-").replace(/[^\p{L}\p{N}._-]+/gu, "_");
}
