// The document decoded: arrays by name, unpacked on first use, and what is often needed of the header.

const TYPES = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, float16: Uint16Array, float32: Float32Array };

async function bytesOf(data) {
  const packed = typeof data === "string" ? Uint8Array.from(atob(data), (c) => c.charCodeAt(0)) : data;
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function halves(raw) {
  const out = new Float32Array(raw.length);
  for (let i = 0; i < raw.length; i++) {
    const bits = raw[i], exponent = (bits >> 10) & 31, fraction = bits & 1023, sign = bits & 32768 ? -1 : 1;
    out[i] = sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
  }
  return out;
}

export async function unpack(packed) {
  const planes = await bytesOf(packed.data);
  const Type = TYPES[packed.dtype], width = Type.BYTES_PER_ELEMENT, count = planes.length / width;
  const bytes = new Uint8Array(planes.length);
  for (let plane = 0; plane < width; plane++) {
    for (let i = 0, from = plane * count; i < count; i++) bytes[i * width + plane] = planes[from + i];
  }
  const values = new Type(bytes.buffer);
  return packed.dtype === "float16" ? halves(values) : values;
}

// Arrays that stand in a page as its own characters (`page_bytes`): each gets its bytes back; all bytes are returned.
export function unwrap(document, text) {
  const places = new Uint8Array(65536);
  const characters = new TextDecoder("windows-1252").decode(Uint8Array.from({ length: 256 }, (_, i) => i));
  for (let byte = 0; byte < 256; byte++) places[characters.charCodeAt(byte)] = byte;
  const bytes = new Uint8Array(text.length);
  let count = 0;
  for (let i = 0; i < text.length; i++) {
    const byte = places[text.charCodeAt(i)];
    bytes[count++] = byte === 61 ? places[text.charCodeAt(++i)] ^ 64 : byte;
  }
  let at = 0;
  for (let one = document; one; one = one.other) {
    for (const array of Object.values(one.arrays)) array.data = bytes.subarray(at, (at += array.data));
  }
  return bytes.subarray(0, count);
}

const signed = (value) => (value >>> 1) ^ -(value & 1);

export function openDocument(document) {
  const { header, arrays } = document;
  const [rows, columns] = header.layout.grid, prefix = header.layout.prefix, tokens = prefix.length + rows * columns;
  const cache = new Map();
  const once = (key, make) => {
    if (!cache.has(key)) cache.set(key, make());
    return cache.get(key);
  };
  const array = (name) => once(`array ${name}`, () => unpack(arrays[name]));

  // A map as it was made: patches in rows, the prefix apart.
  async function map(id) {
    const entry = data.maps.find((one) => one.id === id);
    const values = Float32Array.from(await array(`map.${id}`), (value) => value * entry.scale);
    return { entry, values, prefix: Float32Array.from(entry.prefix) };
  }

  // What the readout attends to in one layer: `(H, N)`, flat.
  async function readouts(layer) {
    const scale = header.attention.heads_scale[layer];
    return (await array(`heads.${layer}`)).map((value) => value * scale);
  }

  // Queries and keys of one layer, token by token, the queries already weighed: a score is their plain product.
  async function layer(number) {
    const entry = header.layers[number];
    if (!entry.rank) return null;
    const [q, k, weight, lse] = await Promise.all(["q", "k", "weight", "lse"].map((name) => array(`${name}.${number}`)));
    const heads = [];
    let at = 0, column = 0;
    for (const rank of entry.rank) {
      const left = new Float32Array(tokens * rank), right = new Float32Array(tokens * rank);
      for (let d = 0; d < rank; d++) {
        for (let i = 0; i < tokens; i++) {
          left[i * rank + d] = signed(q[at + d * tokens + i]) * weight[column + d];
          right[i * rank + d] = signed(k[at + d * tokens + i]);
        }
      }
      at += rank * tokens;
      column += rank;
      heads.push({ rank, q: left, k: right });
    }
    const [low, step] = entry.lse;
    return { tokens, heads, lse: Float32Array.from(lse, (value) => low + value * step), corrections: await corrections(number) };
  }

  // Single scores that the factors get wrong: where each row's changes start, their keys, and by how much.
  async function corrections(number) {
    if (!(`correction.row.${number}` in arrays)) return null;
    const [gaps, key, by] = await Promise.all(["row", "key", "by"].map((name) => array(`correction.${name}.${number}`)));
    const start = new Uint32Array(header.layers[number].heads * tokens + 1);
    for (let i = 0, row = 0; i < gaps.length; i++) start[(row += gaps[i]) + 1]++;
    for (let row = 1; row < start.length; row++) start[row] += start[row - 1];
    return { start, key, by };
  }

  const data = {
    header, arrays, tokens, prefix, rows, columns,
    region: header.region, layers: header.layers, maps: [...header.maps],
    heads: Math.max(0, ...header.layers.map((one) => one.heads)),
    queries: header.layers.map((one) => Boolean(one.rank)),
    pooled: header.layout.pooling === "map" && "readout" in arrays,
    readable: Boolean(header.attention.heads_scale.length),
    array, map: (id) => once(`map ${id}`, () => map(id)),
    readouts: (number) => once(`readouts ${number}`, () => readouts(number)),
    layer: (number) => once(`layer ${number}`, () => layer(number)),
    // One more map, in the form that it has in a document.
    add(entry, more) {
      Object.assign(arrays, more);
      data.maps.push(entry);
    },
    nameOf(token, t) {
      if (token < 0) return t(token === -1 ? "the_readout" : "the_pooling");
      if (token < prefix.length) return t.token(prefix[token]);
      const patch = token - prefix.length;
      return t("patch", { row: Math.floor(patch / columns), column: patch % columns });
    },
  };
  return data;
}
