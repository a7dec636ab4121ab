// A comment inside a GIF, as its standard has it (GIF89a, section 24). Pure.

const HEAD = 13, // bytes of the signature and of the screen's description, after which its table of colours stands
  FLAGS = 10; // the byte that says how long that table is
const MOST = 255; // bytes of a block

// `bytes` of a GIF and a text; returns the bytes of the GIF with it, before the first frame.
export function withComment(bytes, text) {
  const flags = bytes[FLAGS],
    at = HEAD + (flags & 0x80 ? 3 * 2 ** ((flags & 7) + 1) : 0),
    said = new TextEncoder().encode(text),
    comment = [0x21, 0xfe];
  for (let from = 0; from < said.length; from += MOST) {
    const block = said.subarray(from, from + MOST);
    comment.push(block.length, ...block);
  }
  comment.push(0);
  const out = new Uint8Array(bytes.length + comment.length);
  out.set(bytes.subarray(0, at));
  out.set(comment, at);
  out.set(bytes.subarray(at), at + comment.length);
  return out;
}
