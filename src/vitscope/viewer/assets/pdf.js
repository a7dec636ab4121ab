// A PDF of one page that is one JPEG, as ISO 32000 has it, with what it shows and how it was made in its information.

const POINTS = 0.5; // to a pixel: 144 pixels to an inch

// A text string: UTF-16 with its mark, in hexadecimal digits.
const hexadecimal = (text) =>
  `<FEFF${text
    .split("")
    .map((unit) => unit.charCodeAt(0).toString(16).padStart(4, "0"))
    .join("")}>`;

// `jpeg`: its bytes, in RGB; `about`: `{Title, Description, Source, Software, Comment}`. Returns the parts of a file.
export function pdf(jpeg, width, height, about) {
  const encode = (text) => new TextEncoder().encode(text),
    [w, h] = [width * POINTS, height * POINTS],
    drawn = `q ${w} 0 0 ${h} 0 0 cm /Picture Do Q`,
    image = `/Type /XObject /Subtype /Image /Width ${width} /Height ${height} /ColorSpace /DeviceRGB /BitsPerComponent 8`;
  const info = { Title: about.Title, Subject: about.Description, Creator: about.Software, Keywords: about.Comment };
  const objects = [
    ["<< /Type /Catalog /Pages 2 0 R >>"],
    ["<< /Type /Pages /Kids [3 0 R] /Count 1 >>"],
    [
      `<< /Type /Page /Parent 2 0 R /MediaBox [0 0 ${w} ${h}] /Contents 5 0 R`,
      "/Resources << /XObject << /Picture 4 0 R >> >> >>",
    ],
    [`<< ${image} /Filter /DCTDecode /Length ${jpeg.length} >>\nstream\n`, jpeg, "\nendstream"],
    [`<< /Length ${drawn.length} >>\nstream\n${drawn}\nendstream`],
    [
      `<< ${Object.entries(info)
        .map(([key, text]) => `/${key} ${hexadecimal(text)}`)
        .join(" ")} >>`,
    ],
  ];
  const parts = [encode("%PDF-1.4\n%\u00e9\u00e9\n")],
    offsets = [];
  const size = () => parts.reduce((sum, part) => sum + part.length, 0);
  objects.forEach((content, i) => {
    offsets.push(size());
    const body = content.flatMap((one) => (typeof one === "string" ? [encode(one)] : [one]));
    parts.push(encode(`${i + 1} 0 obj\n`), ...body, encode("\nendobj\n"));
  });
  const at = size(),
    table = offsets.map((offset) => `${String(offset).padStart(10, "0")} 00000 n \n`).join("");
  parts.push(encode(`xref\n0 ${objects.length + 1}\n0000000000 65535 f \n${table}`));
  parts.push(encode(`trailer\n<< /Size ${objects.length + 1} /Root 1 0 R /Info 6 0 R >>\nstartxref\n${at}\n%%EOF\n`));
  const out = new Uint8Array(size());
  let from = 0;
  for (const part of parts) {
    out.set(part, from);
    from += part.length;
  }
  return out;
}
