// Texts inside a PNG, as its standard has them (iTXt): what the picture shows, and the command that makes it again.

import { crc32 } from "./npz.js";

const HEAD = 33; // bytes of the signature and the first chunk, after which texts may stand

// `bytes` of a PNG, and texts by keyword; returns the bytes of the PNG with them.
export function withTexts(bytes, texts) {
  const chunks = Object.entries(texts).map(([keyword, text]) => chunk(`iTXt${keyword}\0\0\0\0\0${text}`));
  const parts = [bytes.subarray(0, HEAD), ...chunks, bytes.subarray(HEAD)];
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

// Length, name and content, CRC-32 of the two.
function chunk(content) {
  const body = new TextEncoder().encode(content),
    out = new Uint8Array(body.length + 8),
    view = new DataView(out.buffer);
  view.setUint32(0, body.length - 4);
  out.set(body, 4);
  view.setUint32(body.length + 4, crc32(body));
  return out;
}
