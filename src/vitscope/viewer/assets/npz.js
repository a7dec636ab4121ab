// Arrays as NumPy reads them: a zip of `.npy`, stored as they are.

const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

export function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) crc = (crc >>> 8) ^ CRC[(crc ^ byte) & 255];
  return ~crc >>> 0;
}

// Version 1.0: magic, length of the header, the header, little-endian float32.
export function npy(values, shape) {
  const header = `{'descr': '<f4', 'fortran_order': False, 'shape': (${shape.join(", ")}${shape.length === 1 ? "," : ""}), }`;
  const head = header.padEnd(Math.ceil((header.length + 11) / 64) * 64 - 11) + "\n";
  const out = new Uint8Array(10 + head.length + 4 * values.length),
    view = new DataView(out.buffer);
  out.set([0x93, 78, 85, 77, 80, 89, 1, 0]);
  view.setUint16(8, head.length, true);
  out.set(new TextEncoder().encode(head), 10);
  values.forEach((value, i) => view.setFloat32(10 + head.length + 4 * i, value, true));
  return out;
}

// `files`: `[name, bytes]`. Without compression, names in UTF-8, dated 1980.
export function zip(files) {
  const parts = [],
    listed = [];
  let at = 0;
  for (const [name, bytes] of files) {
    const written = new TextEncoder().encode(name),
      crc = crc32(bytes),
      size = bytes.length;
    const shared = [20, 0x800, 0, 0, 33]; // version, flags, stored, time, date
    const local = new DataView(new ArrayBuffer(30)),
      central = new DataView(new ArrayBuffer(46));
    local.setUint32(0, 0x04034b50, true);
    shared.forEach((value, i) => local.setUint16(4 + 2 * i, value, true));
    central.setUint32(0, 0x02014b50, true);
    central.setUint16(4, 20, true);
    shared.forEach((value, i) => central.setUint16(6 + 2 * i, value, true));
    [crc, size, size].forEach((value, i) => {
      local.setUint32(14 + 4 * i, value, true);
      central.setUint32(16 + 4 * i, value, true);
    });
    local.setUint16(26, written.length, true);
    central.setUint16(28, written.length, true);
    central.setUint32(42, at, true);
    parts.push(local, written, bytes);
    listed.push(central, written);
    at += 30 + written.length + size;
  }
  const end = new DataView(new ArrayBuffer(22)),
    length = listed.reduce((sum, one) => sum + one.byteLength, 0);
  end.setUint32(0, 0x06054b50, true);
  end.setUint16(8, files.length, true);
  end.setUint16(10, files.length, true);
  end.setUint32(12, length, true);
  end.setUint32(16, at, true);
  return new Blob([...parts, ...listed, end], { type: "application/zip" });
}
