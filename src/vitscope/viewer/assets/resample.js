// A map of patches laid on pixels: bicubic between patch centres (Keys 1981, a = -1/2), as `ImageRegion.upsample` has it.

function inside(length, low, high) {
  const start = Math.min(Math.max(Math.ceil(low - 0.5), 0), length - 1);
  return [start, Math.max(Math.min(Math.ceil(high - 0.5), length), start + 1)];
}

function weights(length, low, high, cells, smooth) {
  const [start, stop] = inside(length, low, high),
    per = cells / (high - low),
    wide = Math.max(per, 1);
  const rows = [];
  for (let pixel = start; pixel < stop; pixel++) {
    const centre = Math.min(Math.max((pixel + 0.5 - low) * per, 0), cells);
    if (!smooth) {
      rows.push([Math.min(Math.floor(centre), cells - 1), [1]]);
      continue;
    }
    const first = Math.max(Math.ceil(centre - 0.5 - 2 * wide), 0),
      last = Math.min(Math.floor(centre - 0.5 + 2 * wide), cells - 1);
    const taps = [];
    let total = 0;
    for (let cell = first; cell <= last; cell++) {
      const x = Math.abs(centre - cell - 0.5) / wide;
      const tap = x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
      taps.push(tap);
      total += tap;
    }
    rows.push([first, taps.map((tap) => tap / total)]);
  }
  return { start, rows };
}

const kept = new Map();

function weightsOf(...of) {
  const key = of.join();
  if (!kept.has(key)) {
    if (kept.size > 32) kept.clear();
    kept.set(key, weights(...of));
  }
  return kept.get(key);
}

// Values `(rows, columns)` on `width` x `height` pixels, inside `box`; `{left, top, width, height, values}`.
export function place(values, rows, columns, width, height, box, smooth) {
  const [left, top, right, bottom] = box;
  const across = weightsOf(width, left, right, columns, smooth),
    down = weightsOf(height, top, bottom, rows, smooth);
  const w = across.rows.length,
    h = down.rows.length,
    wide = new Float32Array(rows * w),
    out = new Float32Array(h * w);
  let low = Infinity,
    high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  for (let x = 0; x < w; x++) {
    const [first, taps] = across.rows[x];
    for (let row = 0; row < rows; row++) {
      let sum = 0;
      for (let tap = 0, at = row * columns + first; tap < taps.length; tap++) sum += taps[tap] * values[at + tap];
      wide[row * w + x] = sum;
    }
  }
  for (let y = 0; y < h; y++) {
    const [first, taps] = down.rows[y],
      to = y * w;
    for (let tap = 0; tap < taps.length; tap++) {
      const weight = taps[tap],
        from = (first + tap) * w;
      for (let x = 0; x < w; x++) out[to + x] += weight * wide[from + x];
    }
  }
  for (let i = 0; i < out.length; i++) out[i] = out[i] < low ? low : out[i] > high ? high : out[i];
  return { left: across.start, top: down.start, width: w, height: h, values: out };
}
