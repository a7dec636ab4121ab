// Marks over a photo: outlines of patches.

import { boxOf } from "./heat.js";

export const BEST = "#8dff8a"; // the outline of the best match

// Where a token's patch lies on a canvas over the photo: `[x, y, width, height]`; null for a token that is no patch.
export function cellOf(data, token, asSeen, { width, height }) {
  const patch = token - data.prefix.length;
  if (patch < 0) return null;
  const [l, top, r, b] = boxOf(data, asSeen),
    wide = ((r - l) * width) / data.columns,
    high = ((b - top) * height) / data.rows;
  return [
    l * width + (patch % data.columns) * wide,
    top * height + Math.floor(patch / data.columns) * high,
    wide,
    high,
  ];
}

export function outline(context, cell, colour, width, dash = []) {
  if (!cell) return;
  context.setLineDash(dash);
  context.lineWidth = width + 2.5;
  context.strokeStyle = "rgba(0,0,0,.75)";
  context.strokeRect(...cell);
  context.lineWidth = width;
  context.strokeStyle = colour;
  context.strokeRect(...cell);
}
