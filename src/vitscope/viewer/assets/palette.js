// The few colours that come nearest to those of a picture, and which of them each pixel takes. Pure.

const BINS = 1 << 16; // colours are told apart by 5, 6 and 5 bits

// A box of bins: its mean colour, the channel along which it is widest, and the sum of squares along it.
function boxOf(bins, weights, colours) {
  const mean = [0, 0, 0],
    spread = [0, 0, 0];
  let weight = 0;
  for (const bin of bins) {
    weight += weights[bin];
    for (let c = 0; c < 3; c++) mean[c] += weights[bin] * colours[3 * bin + c];
  }
  for (let c = 0; c < 3; c++) mean[c] /= weight;
  for (const bin of bins) for (let c = 0; c < 3; c++) spread[c] += weights[bin] * (colours[3 * bin + c] - mean[c]) ** 2;
  const widest = Math.max(...spread);
  return { bins, mean, widest, channel: spread.indexOf(widest) };
}

// `rgba`: bytes of a picture. Boxes of like colours are cut at their mean, the widest first, until there are `count`.
// Returns `palette`, a list of `[red, green, blue]`, and `index`, each pixel's place in it.
export function fewColours(rgba, count = 256) {
  const keys = new Uint16Array(rgba.length / 4),
    weights = new Float64Array(BINS),
    colours = new Float64Array(3 * BINS);
  for (let i = 0, at = 0; i < keys.length; i++, at += 4) {
    const key = ((rgba[at] >> 3) << 11) | ((rgba[at + 1] >> 2) << 5) | (rgba[at + 2] >> 3);
    keys[i] = key;
    weights[key]++;
    for (let c = 0; c < 3; c++) colours[3 * key + c] += rgba[at + c];
  }
  const bins = [...new Set(keys)];
  for (const bin of bins) for (let c = 0; c < 3; c++) colours[3 * bin + c] /= weights[bin];
  const boxes = [boxOf(bins, weights, colours)];
  while (boxes.length < count) {
    const at = boxes.reduce((best, one, i) => (one.widest > boxes[best].widest ? i : best), 0),
      { bins: mine, mean, widest, channel } = boxes[at];
    if (widest < 1e-6) break;
    const sides = [[], []];
    for (const bin of mine) sides[colours[3 * bin + channel] > mean[channel] ? 1 : 0].push(bin);
    boxes.splice(at, 1, ...sides.map((one) => boxOf(one, weights, colours)));
  }
  const places = new Uint8Array(BINS);
  boxes.forEach(({ bins: mine }, i) => mine.forEach((bin) => (places[bin] = i)));
  return { palette: boxes.map(({ mean }) => mean.map(Math.round)), index: Uint8Array.from(keys, (key) => places[key]) };
}
