// A map in its colours, laid over a photo: the hotter, the less of the photo is seen through it.

import { coloursOf } from "./colours.js";
import { place } from "./resample.js";

const BANDS = 6; // of the scale, with a contour between each two

// Where the patches' cells lie on the picture, in shares of its width and height.
export function boxOf(data, asSeen) {
  const { size, box, cells } = data.region,
    [x, y, right, bottom] = asSeen ? box : [0, 0, ...size];
  return (cells ?? box).map((end, i) => (i % 2 ? (end - y) / (bottom - y) : (end - x) / (right - x)));
}

// The picture on which a map lies, and how it looks below the map: nearly grey, as in the images of `vitscope explain`.
export function setPhoto(data, asSeen, image, below) {
  const name = asSeen ? "input" : "photo";
  for (const [shown, url] of [
    [image, data.header.images[name]],
    [below, data.header.images[`${name}_below`]],
  ])
    if (shown.getAttribute("src") !== url) shown.src = url;
}

// The picture's width and height in pixels.
export function shapeOf(data, asSeen) {
  return asSeen ? [data.region.input[1], data.region.input[0]] : data.region.size;
}

export function drawHeat(canvas, values, data, scale, colours, { smooth, opacity, as_seen, contours }) {
  const context = canvas.getContext("2d"),
    { width, height } = canvas,
    [l, top, r, b] = boxOf(data, as_seen);
  context.clearRect(0, 0, width, height);
  const laid = place(
    values,
    data.rows,
    data.columns,
    width,
    height,
    [l * width, top * height, r * width, b * height],
    smooth,
  );
  const table = coloursOf(colours),
    pixels = context.createImageData(laid.width, laid.height),
    out = pixels.data;
  const signed = scale.kind === "balance",
    factor = 255 / (scale.high - scale.low || 1);
  for (let i = 0, at = 0; i < laid.values.length; i++, at += 4) {
    let level = ((laid.values[i] - scale.low) * factor + 0.5) | 0;
    level = level < 0 || scale.high <= scale.low ? 0 : level > 255 ? 255 : level;
    out[at] = table[3 * level];
    out[at + 1] = table[3 * level + 1];
    out[at + 2] = table[3 * level + 2];
    const strength = signed ? Math.abs(level - 127.5) / 127.5 : level / 255;
    out[at + 3] = contours ? 0 : 255 * opacity * (0.5 + 0.5 * strength);
  }
  if (contours) drawContours(out, laid, scale);
  context.putImageData(pixels, laid.left, laid.top);
  if (data.region.cells && !as_seen) clearBeyond(context, data.region, width, height);
}

// A colour for each patch, `(P, 3)`, laid over a photo.
export function drawColours(canvas, rgb, data, { smooth, opacity, as_seen }) {
  const context = canvas.getContext("2d"),
    { width, height } = canvas,
    [l, top, r, b] = boxOf(data, as_seen);
  context.clearRect(0, 0, width, height);
  const laid = [0, 1, 2].map((channel) =>
    place(
      Float32Array.from({ length: rgb.length / 3 }, (_, i) => rgb[3 * i + channel]),
      data.rows,
      data.columns,
      width,
      height,
      [l * width, top * height, r * width, b * height],
      smooth,
    ),
  );
  const pixels = context.createImageData(laid[0].width, laid[0].height);
  for (let i = 0; i < laid[0].values.length; i++) {
    for (let channel = 0; channel < 3; channel++) pixels.data[4 * i + channel] = laid[channel].values[i];
    pixels.data[4 * i + 3] = 255 * opacity;
  }
  context.putImageData(pixels, laid[0].left, laid[0].top);
  if (data.region.cells && !as_seen) clearBeyond(context, data.region, width, height);
}

// Lines between equal steps of the scale, in the colour of their value.
function drawContours(out, { values, width, height }, { low, high }) {
  const band = (i) => Math.max(0, Math.min(BANDS - 1, Math.floor(((values[i] - low) / (high - low || 1)) * BANDS)));
  const thick = Math.max(1, Math.round(Math.max(width, height) / 360));
  for (let y = thick; y < height - thick; y++) {
    for (let x = thick; x < width - thick; x++) {
      const i = y * width + x,
        here = band(i);
      if (
        here !== band(i + thick) ||
        here !== band(i + thick * width) ||
        here !== band(i - thick) ||
        here !== band(i - thick * width)
      )
        out[4 * i + 3] = 255;
    }
  }
}

// Cells may reach beyond what the model saw, where it pads.
function clearBeyond(context, { size, box }, width, height) {
  const [left, right] = [box[0], box[2]].map((x) => Math.round((x / size[0]) * width));
  const [top, bottom] = [box[1], box[3]].map((y) => Math.round((y / size[1]) * height));
  context.clearRect(0, 0, width, top);
  context.clearRect(0, bottom, width, height);
  context.clearRect(0, 0, left, height);
  context.clearRect(right, 0, width, height);
}

// A colour table as a strip of 256 pixels.
export function drawRamp(canvas, colours) {
  const table = coloursOf(colours),
    context = canvas.getContext("2d"),
    pixels = context.createImageData(256, 1);
  for (let i = 0; i < 256; i++) pixels.data.set([table[3 * i], table[3 * i + 1], table[3 * i + 2], 255], 4 * i);
  context.putImageData(pixels, 0, 0);
}
