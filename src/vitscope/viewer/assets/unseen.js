// What the model did not see of the photo (a centre crop): hatched, dimmed and labelled, so that light is not read as hot.

// The strips of the photo outside the crop, in shares of its width and height.
export function unseenStrips({ size, box }) {
  const inside = (value) => Math.max(0, Math.min(1, value));
  const [left, right] = [box[0], box[2]].map((x) => inside(x / size[0])),
    [top, bottom] = [box[1], box[3]].map((y) => inside(y / size[1]));
  const strips = [
    [0, 0, 1, top],
    [0, bottom, 1, 1],
    [0, top, left, bottom],
    [right, top, 1, bottom],
  ];
  return strips.filter(([l, t, r, b]) => r - l > 0.002 && b - t > 0.002);
}

// Its share of the photo's area.
export const unseenShare = (region) => unseenStrips(region).reduce((sum, [l, t, r, b]) => sum + (r - l) * (b - t), 0);

// `dense`: pixels of the canvas to one of the screen.
export function drawUnseen(context, region, { width, height }, words, dense) {
  for (const [l, t, r, b] of unseenStrips(region)) {
    const x = l * width,
      y = t * height,
      w = (r - l) * width,
      h = (b - t) * height;
    context.save();
    context.beginPath();
    context.rect(x, y, w, h);
    context.clip();
    context.fillStyle = "rgba(24,25,28,.62)";
    context.fillRect(x, y, w, h);
    context.strokeStyle = "rgba(255,255,255,.3)";
    context.lineWidth = dense;
    context.setLineDash([]); // marks may have left theirs
    context.beginPath();
    for (let at = -h; at < w; at += 9 * dense) {
      context.moveTo(x + at, y + h);
      context.lineTo(x + at + h, y);
    }
    context.stroke();
    label(context, [x + w / 2, y + h / 2], w, h, words, dense);
    context.restore();
  }
}

// In the middle of its strip, along it, where there is room.
function label(context, [x, y], w, h, words, dense) {
  context.font = `600 ${12 * dense}px system-ui, sans-serif`;
  const along = context.measureText(words).width + 12 * dense,
    upright = h > w;
  if (Math.max(w, h) < along || Math.min(w, h) < 17 * dense) return;
  context.translate(x, y);
  if (upright && w < along) context.rotate(-Math.PI / 2);
  context.fillStyle = "rgba(24,25,28,.85)";
  context.fillRect(-along / 2, -8.5 * dense, along, 17 * dense);
  context.fillStyle = "#fff";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(words, 0, 0);
}
