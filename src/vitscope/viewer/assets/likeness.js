// What is like a patch: cosines of features that lie in the page in 8 bits. Pure.

// Features as vectors of length one, token by token.
export function unitRows(bytes, tokens) {
  const width = bytes.length / tokens,
    rows = new Float32Array(bytes.length);
  for (let i = 0, at = 0; i < tokens; i++, at += width) {
    let sum = 0;
    for (let d = 0; d < width; d++) sum += (bytes[at + d] - 128) ** 2;
    const scale = 1 / Math.sqrt(sum);
    for (let d = 0; d < width; d++) rows[at + d] = (bytes[at + d] - 128) * scale;
  }
  return { width, rows };
}

// The cosine of each token of `features` with one of `asked`.
export function cosines(features, asked, token) {
  const { width, rows } = features,
    out = new Float32Array(rows.length / width),
    one = asked.rows.subarray(token * width, (token + 1) * width);
  for (let i = 0, at = 0; i < out.length; i++) {
    let sum = 0;
    for (let d = 0; d < width; d++) sum += one[d] * rows[at++];
    out[i] = sum;
  }
  return out;
}

// The patch with the largest value; with `apart`, of those that do not touch that patch. -1 where there is none.
export function bestMatch(values, columns, apart = null) {
  const row = Math.floor(apart / columns),
    column = apart % columns;
  let best = -1;
  for (let i = 0; i < values.length; i++) {
    const near = Math.max(Math.abs(Math.floor(i / columns) - row), Math.abs((i % columns) - column));
    if ((apart === null || near > 1) && (best < 0 || values[i] > values[best])) best = i;
  }
  return best;
}
