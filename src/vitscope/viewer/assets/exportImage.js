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
function markedOn({ data, t }, state) {
  const pins = state.pinned.map((token, i) => t(i ? "legend_pin_2" : "legend_pin_1", { token: data.nameOf(token, t) }));
  const sinks = state.sinks && data.header.statistics?.sinks.length ? [t("legend_sinks")] : [];
  const query =
    state.source !== "map" && state.query >= data.prefix.length
      ? [t("legend_query", { token: data.nameOf(state.query, t) })]
      : [];
  return [[...query, ...pins, ...sinks].join(" · ")].filter(Boolean);
}

export async function pictureOf(ctx) {
  const { data, store, stage } = ctx;
  await stage.image.decode().catch(() => null);
  const { scene } = ctx,
    state = stateOf(scene, store.get()),
    words = ctx.bar.texts(); // from here on nothing waits
  const [w, h] = shapeOf(data, state.as_seen),
    wide = Math.round(Math.min(LARGEST, Math.max(SMALLEST, w, (w / h) * 480)));
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
    `${header.model.reference} · ${header.photo.name} · vitscope ${header.vitscope}`,
  ]
    .filter(Boolean)
    .flatMap((text) => wrapped(context, text, wide - 2 * pad));
  font(1.15, 600);
  const title = wrapped(context, words.caption, wide - 2 * pad);
  canvas.height = Math.round(high + pad * 1.6 + unit * (1.5 * title.length + 4.4 + 1.15 * small.length));
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.filter = state.opacity > 0 ? "grayscale(.7)" : "none";
  context.drawImage(stage.image, 0, 0, wide, high);
  context.filter = "none";
  context.drawImage(stage.heat, 0, 0, wide, high);
  context.drawImage(stage.over, 0, 0, wide, high);

  let y = high + pad;
  context.textBaseline = "top";
  context.fillStyle = "#1b1c1e";
  font(1.15, 600);
  for (const line of title) {
    context.fillText(line, pad, y);
    y += 1.5 * unit;
  }
  const ramp = document.createElement("canvas"),
    bar = Math.min(22 * unit, wide - 2 * pad);
  ramp.width = 256;
  ramp.height = 1;
  drawRamp(ramp, colourOf(scaleOf(scene, state), state));
  y += 0.3 * unit;
  context.drawImage(ramp, pad, y, bar, unit * 0.8);
  font(0.8);
  context.fillStyle = "#43464b";
  const ends = [
    [words.low, "left", pad],
    [words.middle, "center", pad + bar / 2],
    [words.high, "right", pad + bar],
  ];
  for (const [text, align, x] of ends) {
    context.textAlign = align;
    context.fillText(text, x, y + unit * 1.1);
  }
  context.textAlign = "left";
  const beside = pad + bar + unit;
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
    Comment: commandOf(state, data),
  };
  return new Blob([withTexts(new Uint8Array(await blob.arrayBuffer()), texts)], { type: "image/png" });
}
