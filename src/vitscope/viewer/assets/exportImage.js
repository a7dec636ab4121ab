// What is shown as a picture with its legend: what it is, its colour scale and unit, and what it was made by.

import { commandOf } from "./command.js";
import { drawRamp, shapeOf } from "./heat.js";
import { withTexts } from "./png.js";
import { colourOf, meaningOf, numberText, scaleOf, stateOf } from "./scene.js";

const SMALLEST = 960,
  LARGEST = 1600; // pixels: a legend needs some, a talk no more

function wrapped(context, text, width) {
  const lines = [];
  for (const word of text.split(/(?<=\s)|(?<=[\uff0c\u3002\uff1b])/)) {
    const last = lines.at(-1);
    if (last !== undefined && context.measureText(last + word).width <= width) lines[lines.length - 1] = last + word;
    else lines.push(word);
  }
  return lines;
}

// How far the map can be believed, where that was measured.
function verdictsOn({ scene, t }) {
  return (scene.entry?.measurement?.numbers ?? []).map((one) => numberText(one, t)).join(" · ");
}

// What the marks on the photo mean.
function markedOn({ data, scene, t }, state) {
  const pins = state.pinned.map((token, i) => t(i ? "legend_pin_2" : "legend_pin_1", { token: data.nameOf(token, t) }));
  const sinks = state.sinks && data.header.statistics?.sinks.length ? [t("legend_sinks")] : [];
  const query =
    !["map", "pca"].includes(state.source) && state.query >= data.prefix.length
      ? [t("legend_query", { token: data.nameOf(state.query, t) })]
      : [];
  const best = scene.best ? [t("legend_best")] : [];
  return [[...query, ...best, ...pins, ...sinks].join(" · ")].filter(Boolean);
}

export async function pictureOf(ctx) {
  const { data, store, stage } = ctx;
  await stage.image.decode().catch(() => null);
  if (ctx.second && ctx.scene.other) await ctx.second.image.decode().catch(() => null);
  const { scene } = ctx,
    state = stateOf(scene, store.get()),
    words = ctx.bar.texts(); // from here on nothing waits
  // A second photo stands to the right of the first, as high as it is.
  const photos = [
      { ...stage, shape: shapeOf(data, state.as_seen) },
      ...(scene.other ? [{ ...ctx.second, shape: ctx.second.shape() }] : []),
    ],
    [w, h] = [photos.reduce((sum, { shape }) => sum + shape[0] / shape[1], 0), 1],
    wide = Math.round(
      Math.min(LARGEST * photos.length, Math.max(SMALLEST, photos[0].shape[0] * photos.length, (w / h) * 480)),
    );
  const high = Math.round((wide * h) / w),
    unit = wide / 50,
    pad = unit * 1.2;
  const canvas = document.createElement("canvas"),
    context = canvas.getContext("2d");
  const family = getComputedStyle(ctx.root).fontFamily,
    { header } = data;
  const font = (size, weight = 400) => {
    context.font = `${weight} ${size * unit}px ${family}`;
  };
  canvas.width = wide;
  font(0.8);
  const small = [
    meaningOf(scene.entry, ctx.t),
    words.note,
    verdictsOn(ctx),
    ...markedOn(ctx, state),
    `${header.model.reference} · ${header.photo.name}${scene.other ? ` · ${ctx.other.header.photo.name}` : ""} · vitscope ${header.vitscope}`,
  ]
    .filter(Boolean)
    .flatMap((text) => wrapped(context, text, wide - 2 * pad));
  font(1.15, 600);
  const title = wrapped(context, words.caption, wide - 2 * pad);
  canvas.height = Math.round(high + pad * 1.6 + unit * (1.5 * title.length + 4.4 + 1.15 * small.length));
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  let x = 0;
  for (const { image, heat, over, shape } of photos) {
    const part = (high * shape[0]) / shape[1];
    context.filter = state.opacity > 0 ? "grayscale(.7)" : "none";
    context.drawImage(image, x, 0, part, high);
    context.filter = "none";
    context.drawImage(heat, x, 0, part, high);
    context.drawImage(over, x, 0, part, high);
    x += part;
  }

  let y = high + pad;
  context.textBaseline = "top";
  context.fillStyle = "#1b1c1e";
  font(1.15, 600);
  for (const line of title) {
    context.fillText(line, pad, y);
    y += 1.5 * unit;
  }
  const ramp = document.createElement("canvas"),
    bar = scene.values ? Math.min(22 * unit, wide - 2 * pad) : 0;
  ramp.width = 256;
  ramp.height = 1;
  y += 0.3 * unit;
  if (scene.values) {
    drawRamp(ramp, colourOf(scaleOf(scene, state), state));
    context.drawImage(ramp, pad, y, bar, unit * 0.8);
  }
  font(0.8);
  context.fillStyle = "#43464b";
  const ends = !scene.values
    ? []
    : [
        [words.low, "left", pad],
        [words.middle, "center", pad + bar / 2],
        [words.high, "right", pad + bar],
      ];
  for (const [text, align, at] of ends) {
    context.textAlign = align;
    context.fillText(text, at, y + unit * 1.1);
  }
  context.textAlign = "left";
  const beside = pad + bar + (bar ? unit : 0);
  wrapped(context, words.unit, wide - beside - pad).forEach((line, i) =>
    context.fillText(line, beside, y + unit * 1.05 * i),
  );
  y += 3.1 * unit;
  small.forEach((line, i) => context.fillText(line, pad, y + 1.15 * unit * i));
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  const texts = {
    Title: words.caption,
    Description: [words.unit, ...small].join("\n"),
    Source: header.photo.name,
    Software: `vitscope ${header.vitscope}`,
    Comment: commandOf(state, data, ctx.other),
  };
  return new Blob([withTexts(new Uint8Array(await blob.arrayBuffer()), texts)], { type: "image/png" });
}
