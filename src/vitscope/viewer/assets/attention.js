// Rows, columns and rollout, from queries and keys. Pure; `kernel` stands alone so that a worker can be made of its text.

export function kernel() {
  // What query i attends to: a softmax of its scores, by the log of its sum of exponentiated ones.
  function headRow(layer, head, i, out = new Float32Array(layer.tokens)) {
    const { width, q, k, lse, tokens } = layer,
      first = head * tokens,
      from = (first + i) * width,
      shift = lse[first + i];
    for (let j = 0, b = first * width; j < tokens; j++) {
      let sum = 0;
      for (let d = 0; d < width; d++) sum += q[from + d] * k[b++];
      out[j] = Math.exp(sum - shift);
    }
    return out;
  }

  // who attends to token j: one column of the same matrix
  function headColumn(layer, head, j, out = new Float32Array(layer.tokens)) {
    const { width, q, k, lse, tokens } = layer,
      first = head * tokens,
      from = (first + j) * width;
    for (let i = 0, a = first * width; i < tokens; i++) {
      let sum = 0;
      for (let d = 0; d < width; d++) sum += q[a++] * k[from + d];
      out[i] = Math.exp(sum - lse[first + i]);
    }
    return out;
  }

  // `heads` rows into one: their mean, their largest entry made a distribution again, or one of them
  function fuse(count, fusion, rowOf, size, normalise = true) {
    if (typeof fusion === "number") return rowOf(fusion, new Float32Array(size));
    const out = new Float32Array(size),
      one = new Float32Array(size);
    for (let h = 0; h < count; h++) {
      rowOf(h, one);
      for (let j = 0; j < size; j++) out[j] = fusion === "max" ? Math.max(out[j], one[j]) : out[j] + one[j] / count;
    }
    if (fusion === "max" && normalise) {
      let total = 0;
      for (let j = 0; j < size; j++) total += out[j];
      for (let j = 0; j < size; j++) out[j] /= total;
    }
    return out;
  }

  const row = (layer, fusion, i) => fuse(layer.heads, fusion, (h, out) => headRow(layer, h, i, out), layer.tokens);
  const column = (layer, fusion, j) =>
    fuse(layer.heads, fusion, (h, out) => headColumn(layer, h, j, out), layer.tokens, false);

  // all rows of a layer, 16 bits each with a scale for every row
  function matrix(layer, fusion) {
    const n = layer.tokens,
      weights = new Uint16Array(n * n),
      scale = new Float32Array(n);
    for (let i = 0; i < n; i++) {
      const one = row(layer, fusion, i);
      let peak = 0;
      for (let j = 0; j < n; j++) if (one[j] > peak) peak = one[j];
      scale[i] = peak / 65535;
      for (let j = 0, at = i * n; j < n; j++) weights[at + j] = one[j] / scale[i] + 0.5;
    }
    return { weights, scale };
  }

  // r <- alpha r + (1 - alpha) r A, with A from `matrix`
  function step(r, { weights, scale }, alpha) {
    const n = r.length,
      out = r.map((value) => alpha * value);
    for (let i = 0; i < n; i++) {
      const weight = (1 - alpha) * r[i] * scale[i];
      if (weight === 0) continue;
      for (let j = 0, at = i * n; j < n; j++) out[j] += weight * weights[at + j];
    }
    return out;
  }

  return { headRow, headColumn, row, column, matrix, step };
}

export function rolloutWorker(made, scope) {
  const layers = new Map(),
    matrices = new Map();
  const newest = new Map();
  let fusion = null;
  scope.onmessage = ({ data }) => {
    if (data.layer) return void layers.set(data.number, data.layer);
    if (data.fusion !== fusion) matrices.clear();
    fusion = data.fusion;
    newest.set(data.slot, data.ticket);
    const { start, last, alpha } = data;
    let r = data.r,
      number = last;
    const next = () => {
      if (newest.get(data.slot) !== data.ticket) return;
      if (number < start) return void scope.postMessage({ ticket: data.ticket, r });
      if (!matrices.has(number)) {
        matrices.set(number, made.matrix(layers.get(number), fusion));
        scope.postMessage({ ticket: data.ticket, progress: [last - number + 1, last - start + 1] });
      }
      r = made.step(r, matrices.get(number--), alpha);
      setTimeout(next, 0);
    };
    next();
  };
}

const MOST_TOKENS = 2600; // twelve matrices of 16 bits are then 160 MB

// Rolled-out queries, in a worker: the fused matrices are made when first needed and stay there.
export function createRollout(data, signal) {
  const ready = new Set(),
    waiting = new Map(),
    latest = new Map();
  let worker = null,
    ticket = 0;
  const start = () => {
    const text = `(${rolloutWorker})((${kernel})(), self)`;
    const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
    worker = new Worker(url);
    URL.revokeObjectURL(url);
    signal.addEventListener("abort", () => worker.terminate(), { once: true });
    worker.onmessage = ({ data: { ticket: of, r, progress } }) => {
      const one = waiting.get(of);
      if (r) waiting.delete(of);
      if (r) one?.resolve(r);
      else one?.onProgress?.(...progress);
    };
  };
  return {
    possible: data.tokens <= MOST_TOKENS && data.queries.length > 0,
    // A later request of one slot takes the place of an earlier, which then gives null.
    async from(r, first, fusion, onProgress, slot = "shown") {
      const mine = ++ticket,
        last = data.layers.length - 1;
      latest.set(slot, mine);
      if (!worker) start();
      for (let number = last; number >= first; number--) {
        if (ready.has(number)) continue;
        const layer = await data.layer(number);
        if (ready.has(number)) continue;
        ready.add(number);
        worker.postMessage({ number, layer });
      }
      if (mine !== latest.get(slot)) return null;
      for (const [of, one] of waiting) {
        if (one.slot !== slot) continue;
        one.resolve(null);
        waiting.delete(of);
      }
      return new Promise((resolve) => {
        waiting.set(mine, { resolve, onProgress, slot });
        worker.postMessage({ ticket: mine, slot, r, start: first, last, fusion, alpha: 0.5 });
      });
    },
  };
}
