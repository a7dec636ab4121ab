// The document decoded: arrays by name, unpacked on first use, and what is often needed of the header.

import { unitRows } from "./likeness.js";

const TYPES = {
  uint8: Uint8Array,
  uint16: Uint16Array,
  uint32: Uint32Array,
  float16: Uint16Array,
  float32: Float32Array,
};

async function bytesOf(data) {
  const packed = typeof data === "string" ? Uint8Array.from(atob(data), (c) => c.charCodeAt(0)) : data;
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function halves(raw) {
  const out = new Float32Array(raw.length);
  for (let i = 0; i < raw.length; i++) {
    const bits = raw[i],
      exponent = (bits >> 10) & 31,
      fraction = bits & 1023,
      sign = bits & 32768 ? -1 : 1;
    out[i] = sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
  }
  return out;
}

export async function unpack(packed) {
  const planes = await bytesOf(packed.data);
  const Type = TYPES[packed.dtype],
    width = Type.BYTES_PER_ELEMENT,
    count = planes.length / width;
  const bytes = new Uint8Array(planes.length);
  for (let plane = 0; plane < width; plane++) {
    for (let i = 0, from = plane * count; i < count; i++) bytes[i * width + plane] = planes[from + i];
  }
  const values = new Type(bytes.buffer);
  return packed.dtype === "float16" ? halves(values) : values;
}

const signed = (value) => (value >>> 1) ^ -(value & 1);

// Names of two of one kind as a page tells them apart: equal ones are numbered.
export const toldApart = (names) =>
  names.map((name, i) => (names.filter((one) => one === name).length > 1 ? `${name} (${i + 1})` : name));

// `names`: what the page calls its model and its photo, where their own names do not tell them apart.
export function openDocument(document, names = {}) {
  const { header, arrays } = document;
  const [rows, columns] = header.layout.grid,
    prefix = header.layout.prefix,
    tokens = prefix.length + rows * columns;
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
    const { rows, heads } = header.layers[number];
    if (!rows) return null;
    const [q, k, weight, lse] = await Promise.all(
      ["q", "k", "weight", "lse"].map((name) => array(`${name}.${number}`)),
    );
    const width = weight.length / heads,
      left = new Float32Array(q.length),
      right = new Float32Array(k.length);
    for (let column = 0, at = 0; column < weight.length; column++) {
      for (
        let i = 0, to = (column - (column % width)) * tokens + (column % width);
        i < tokens;
        i++, at++, to += width
      ) {
        left[to] = signed(q[at]) * weight[column];
        right[to] = signed(k[at]);
      }
    }
    return { tokens, heads, width, q: left, k: right, lse };
  }

  const data = {
    header,
    model: names.model ?? header.model.reference,
    photo: names.photo ?? header.photo.name,
    arrays,
    tokens,
    prefix,
    rows,
    columns,
    region: header.region,
    layers: header.layers,
    maps: [...header.maps],
    heads: Math.max(0, ...header.layers.map((one) => one.heads)),
    queries: header.layers.map((one) => one.rows),
    pooled: header.layout.pooling === "map" && "readout" in arrays,
    likeness: "features" in arrays,
    unit: null, // the features, once they are unpacked
    features: () => once("features", async () => (data.unit = unitRows(await array("features"), tokens))),
    readable: Boolean(header.attention.heads_scale.length),
    array,
    map: (id) => once(`map ${id}`, () => map(id)),
    readouts: (number) => once(`readouts ${number}`, () => readouts(number)),
    layer: (number) => once(`layer ${number}`, () => layer(number)),
    // What was made since: a header for the former one, and more arrays. False where it is not an addition.
    grow({ header: next, arrays: more }) {
      const attention = Object.keys(more).filter((name) => /^(heads|q|k|weight|lse)\./.test(name));
      if (attention.length || JSON.stringify(next.layers) !== JSON.stringify(header.layers)) return false;
      for (const name of Object.keys(more)) cache.delete(`array ${name}`);
      for (const { id } of next.maps) cache.delete(`map ${id}`);
      Object.assign(arrays, more);
      const ids = new Set(next.maps.map(({ id }) => id)),
        maps = [...next.maps, ...data.maps.filter(({ id }) => !ids.has(id))];
      Object.assign(header, next, { maps });
      data.maps = [...maps];
      return true;
    },
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
