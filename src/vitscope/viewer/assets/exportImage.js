// What is shown as a picture with its legend: what it is, its colour scale and unit, and what it was made by.

import { commandOf, stemOf } from "./command.js";
import { svg } from "./chart.js";
import { drawRamp, shapeOf } from "./heat.js";
import { pdf } from "./pdf.js";
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
function markedOn({ data, scene, flow: arcs, t }, state) {
  const pins = state.pinned.map((token, i) => t(i ? "legend_pin_2" : "legend_pin_1", { token: data.nameOf(token, t) }));
  const sinks = state.sinks && data.header.statistics?.sinks.length ? [t("legend_sinks")] : [];
  const query =
    !["map", "pca"].includes(state.source) && state.query >= data.prefix.length && !state.pinned.includes(state.query)
      ? [t("legend_query", { token: data.nameOf(state.query, t) })]
      : [];
  const flow = arcs?.get().sources.length ? [t("legend_flow")] : [];
  const best = scene.best ? [t("legend_best")] : [];
  return [[...query, ...flow, ...best, ...pins, ...sinks].join(" · ")].filter(Boolean);
}

// The drawing: its size, images `[source, x, y, width, height]` and lines of text, and what it says of itself.
async function drawingOf(ctx) {
  const { data, store, stage } = ctx;
  for (const { image, below } of ctx.second && ctx.scene.other ? [stage, ctx.second] : [stage])
    await Promise.all([image, below].map((one) => one.decode().catch(() => null)));
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
  const context = document.createElement("canvas").getContext("2d"),
    family = getComputedStyle(ctx.root).fontFamily,
    { header } = data;
  const styles = { title: [1.15 * unit, 600, "#1b1c1e"], small: [0.8 * unit, 400, "#43464b"] };
  const broken = (text, style, width) => {
    const [size, weight] = styles[style];
    context.font = `${weight} ${size}px ${family}`;
    return wrapped(context, text, width);
  };
  const images = [],
    texts = [];
  const write = (text, style, x, top, align = "left") => {
    const [size, weight, colour] = styles[style];
    texts.push({ text, x, y: top + 0.9 * size, size, weight, colour, align });
  };
  let x = 0;
  for (const { image, below, heat, over, shape } of photos) {
    const part = (high * shape[0]) / shape[1];
    images.push(
      [state.opacity > 0 ? below : image, x, 0, part, high],
      [heat, x, 0, part, high],
      [over, x, 0, part, high],
    );
    x += part;
  }
  let y = high + pad;
  for (const line of broken(words.caption, "title", wide - 2 * pad)) {
    write(line, "title", pad, y);
    y += 1.5 * unit;
  }
  const bar = scene.values ? Math.min(22 * unit, wide - 2 * pad) : 0;
  y += 0.3 * unit;
  if (scene.values) {
    const ramp = document.createElement("canvas");
    ramp.width = 256;
    ramp.height = 1;
    drawRamp(ramp, colourOf(scaleOf(scene, state), state));
    images.push([ramp, pad, y, bar, unit * 0.8]);
    write(words.low, "small", pad, y + unit * 1.1);
    write(words.middle, "small", pad + bar / 2, y + unit * 1.1, "center");
    write(words.high, "small", pad + bar, y + unit * 1.1, "right");
  }
  const beside = pad + bar + (bar ? unit : 0);
  broken(words.unit, "small", wide - beside - pad).forEach((line, i) =>
    write(line, "small", beside, y + unit * 1.05 * i),
  );
  y += 3.1 * unit;
  const told = [
    meaningOf(scene.entry, ctx.t),
    words.note,
    verdictsOn(ctx),
    ...markedOn(ctx, state),
    `${data.model} · ${data.photo}${scene.other ? ` · ${ctx.other.photo}` : ""} · vitscope ${header.vitscope}`,
  ].filter(Boolean);
  const small = told.flatMap((text) => broken(text, "small", wide - 2 * pad));
  small.forEach((line, i) => write(line, "small", pad, y + 1.15 * unit * i));
  const about = {
    Title: words.caption,
    Description: [words.unit, ...told].join("\n"),
    Source: data.photo,
    Software: `vitscope ${header.vitscope}`,
    Comment: commandOf(state, data, ctx.other),
  };
  const height = Math.round(y + unit * (1.15 * small.length + 0.6));
  return { width: wide, height, family, images, texts, about, stem: stemOf({ data, scene }) };
}

function painted({ width, height, family, images, texts }) {
  const canvas = document.createElement("canvas"),
    context = canvas.getContext("2d");
  Object.assign(canvas, { width, height });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  for (const [source, x, y, w, h] of images) context.drawImage(source, x, y, w, h);
  for (const { text, x, y, size, weight, colour, align } of texts) {
    context.font = `${weight} ${size}px ${family}`;
    context.fillStyle = colour;
    context.textAlign = align;
    context.fillText(text, x, y);
  }
  return canvas;
}

const bytesOf = async (canvas, ...format) => {
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, ...format));
  return new Uint8Array(await blob.arrayBuffer());
};

// A frame of a film: the picture as a canvas, and what it says of itself.
export async function stillOf(ctx) {
  const drawing = await drawingOf(ctx);
  return { picture: painted(drawing), about: drawing.about };
}

export async function pictureOf(ctx) {
  const drawing = await drawingOf(ctx);
  const bytes = withTexts(await bytesOf(painted(drawing), "image/png"), drawing.about);
  return new File([bytes], `${drawing.stem}.png`, { type: "image/png" });
}

// One page that holds the picture as JPEG.
export async function pdfOf(ctx) {
  const drawing = await drawingOf(ctx),
    { width, height, about, stem } = drawing,
    jpeg = await bytesOf(painted(drawing), "image/jpeg", 0.95);
  return new File([pdf(jpeg, width, height, about)], `${stem}.pdf`, { type: "application/pdf" });
}

const ANCHORS = { left: "start", center: "middle", right: "end" };

// Letters stay letters; photo, map and marks are images within.
export async function svgOf(ctx) {
  const { width, height, family, images, texts, about, stem } = await drawingOf(ctx);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "font-family": family });
  for (const [tag, text] of [
    ["title", about.Title],
    ["desc", about.Description],
    ["metadata", [about.Software, about.Source, about.Comment].join("\n")],
  ])
    root.append(svg(tag, {}, text));
  root.append(svg("rect", { width, height, fill: "#fff" }));
  for (const [source, x, y, w, h] of images) {
    const canvas = document.createElement("canvas");
    canvas.width = source.naturalWidth ?? source.width;
    canvas.height = source.naturalHeight ?? source.height;
    canvas.getContext("2d").drawImage(source, 0, 0);
    const href = source.naturalWidth ? canvas.toDataURL("image/jpeg", 0.92) : canvas.toDataURL();
    root.append(svg("image", { href, x, y, width: w, height: h, preserveAspectRatio: "none" }));
  }
  for (const { text, x, y, size, weight, colour, align } of texts) {
    const place = { x, y, fill: colour, "text-anchor": ANCHORS[align] };
    root.append(svg("text", { ...place, "font-size": size, "font-weight": weight }, text));
  }
  return new File([new XMLSerializer().serializeToString(root)], `${stem}.svg`, { type: "image/svg+xml" });
}
