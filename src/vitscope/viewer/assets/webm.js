// Pixels as a video has them, and encoded frames as a WebM file of one track. Pure.
//
// https://www.matroska.org/technical/elements.html

// RGBA as planes of luma and, for each two by two pixels, chroma: BT.601, limited range. Both sides are even.
export function i420(rgba, width, height) {
  const luma = width * height,
    out = new Uint8Array(luma * 1.5);
  for (let i = 0, at = 0; i < luma; i++, at += 4)
    out[i] = 16.5 + (65.481 * rgba[at] + 128.553 * rgba[at + 1] + 24.966 * rgba[at + 2]) / 255;
  for (let y = 0, to = luma; y < height; y += 2) {
    for (let x = 0; x < width; x += 2, to++) {
      let [r, g, b] = [0, 0, 0];
      for (const i of [y * width + x, y * width + x + 1, (y + 1) * width + x, (y + 1) * width + x + 1]) {
        r += rgba[4 * i];
        g += rgba[4 * i + 1];
        b += rgba[4 * i + 2];
      }
      out[to] = 128.5 + (-37.797 * r - 74.203 * g + 112 * b) / 1020;
      out[to + luma / 4] = 128.5 + (112 * r - 93.786 * g - 18.214 * b) / 1020;
    }
  }
  return out;
}

const bytesOf = (value) => {
  if (typeof value === "string") return new TextEncoder().encode(value);
  if (typeof value !== "number") return value;
  const out = [];
  for (let rest = value; rest > 0 || !out.length; rest = Math.floor(rest / 256)) out.unshift(rest % 256);
  return Uint8Array.from(out);
};

function joined(parts) {
  const out = new Uint8Array(parts.reduce((sum, one) => sum + one.length, 0));
  parts.reduce((at, one) => (out.set(one, at), at + one.length), 0);
  return out;
}

// An element: its id, the size of its content in eight bytes, its content: elements, bytes, a text or a whole number.
function element(id, content) {
  const body = Array.isArray(content) ? joined(content) : bytesOf(content),
    size = new Uint8Array(8);
  new DataView(size.buffer).setBigUint64(0, BigInt(body.length));
  size[0] = 1;
  return joined([bytesOf(id), size, body]);
}

const float = (value) => {
  const out = new Uint8Array(8);
  new DataView(out.buffer).setFloat64(0, value);
  return out;
};

// `frames`: bytes of key frames (VP8) of `duration` milliseconds each; `comment`: what the film says of itself.
export function webm(frames, width, height, duration, program, comment) {
  const video = element(0xe0, [element(0xb0, width), element(0xba, height)]),
    track = [element(0xd7, 1), element(0x73c5, 1), element(0x83, 1), element(0x86, "V_VP8"), video],
    info = [
      element(0x2ad7b1, 1_000_000), // nanoseconds of a unit of time
      element(0x4489, float(frames.length * duration)),
      element(0x4d80, program),
      element(0x5741, program),
    ];
  // A cluster for each frame: its time, and one block (track 1, no time of its own, a key frame).
  const clusters = frames.map((frame, i) =>
    element(0x1f43b675, [element(0xe7, i * duration), element(0xa3, joined([Uint8Array.of(0x81, 0, 0, 0x80), frame]))]),
  );
  const tags = element(0x7373, [
    element(0x63c0, []), // of the whole file
    element(0x67c8, [element(0x45a3, "COMMENT"), element(0x4487, comment)]),
  ]);
  const head = [
    [0x4286, 1],
    [0x42f7, 1],
    [0x42f2, 4],
    [0x42f3, 8],
    [0x4282, "webm"],
    [0x4287, 2],
    [0x4285, 2],
  ];
  return joined([
    element(
      0x1a45dfa3,
      head.map(([id, value]) => element(id, value)),
    ),
    element(0x18538067, [
      element(0x1549a966, info),
      element(0x1654ae6b, [element(0xae, track)]),
      element(0x1254c367, [tags]),
      ...clusters,
    ]),
  ]);
}
