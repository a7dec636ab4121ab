// The viewer's pure modules, without a browser: `node --test tests/viewer/modules`.

import assert from "node:assert/strict";
import { test } from "node:test";

const at = (name) => import(new URL(`../../../src/vitscope/viewer/assets/${name}.js`, import.meta.url));
const { drawUnseen, unseenShare, unseenStrips } = await at("unseen");
const { beforeAndAfter } = await at("predictions");
const { checked, createStore, fromFragment, START, toFragment } = await at("store");
const { absentScene, DRAWN, sceneOf, stateOf } = await at("scene");
const { commandOf } = await at("command");
const { toldApart } = await at("data");
const { bestMatch, cosines, unitRows } = await at("likeness");
const { i420, webm } = await at("webm");
const { fewColours } = await at("palette");
const { withComment } = await at("gif");

const near = (found, wanted) =>
  found.flat().forEach((one, i) => assert.ok(Math.abs(one - wanted.flat()[i]) < 1e-12, `${found} is not ${wanted}`));

test("what the model did not see is what lies outside its crop", () => {
  near(unseenStrips({ size: [400, 200], box: [100, 0, 300, 200] }), [
    [0, 0, 0.25, 1],
    [0.75, 0, 1, 1],
  ]);
  near(unseenStrips({ size: [100, 400], box: [0, 150, 100, 250] }), [
    [0, 0, 1, 0.375],
    [0, 0.625, 1, 1],
  ]);
  assert.equal(unseenShare({ size: [400, 200], box: [100, 0, 300, 200] }), 0.5);
  assert.deepEqual(unseenStrips({ size: [400, 200], box: [-20, 0.1, 430, 199.8] }), [], "padding, and rounding");
});

test("classes before and after stand in the order of before, newcomers last", () => {
  assert.deepEqual(
    beforeAndAfter(
      [
        ["cat", 0.8],
        ["dog", 0.1],
      ],
      [
        ["fox", 0.5],
        ["cat", 0.2],
      ],
    ),
    [
      ["cat", 0.8, 0.2],
      ["dog", 0.1, null],
      ["fox", null, 0.5],
    ],
  );
});

test("a state comes through its fragment; what does not fit falls back", () => {
  const state = { ...START, layer: 2, head: 1, hidden: [3, 4], norm: "share" };
  const given = fromFragment(`#${toFragment(state, START)}&unknown=1&opacity=%7B`);
  const data = { layers: [1, 2, 3], maps: [], tokens: 17, prefix: ["cls"], heads: 2 };
  assert.deepEqual(checked(given, START, data), state);
  assert.equal(checked({ layer: 3, head: 9, hidden: [0] }, START, data).head, "mean");
  assert.deepEqual(checked({ hidden: [0] }, START, data).hidden, []);
});

test("a store tells each listener once, and only of changes", () => {
  const store = createStore({ a: 1 }),
    seen = [];
  store.subscribe(({ a }, before) => seen.push([before.a, a]));
  store.set({ a: 1 });
  store.set(({ a }) => ({ a: a + 1 }));
  assert.deepEqual(seen, [[1, 2]]);
});

test("title and command are of the scene, whatever the state asks for by now", () => {
  const t = (key, values = {}) => `${key} ${Object.values(values).join(" ")}`;
  t.token = (name) => name;
  const data = {
    prefix: ["cls"],
    rows: 2,
    columns: 2,
    layers: [0, 1, 2],
    maps: [],
    nameOf: (token) => `token ${token}`,
    header: { model: { reference: "m" }, photo: { source: "cat.png" } },
  };
  const state = { ...START, source: "query", query: 3, layer: 1 },
    later = { ...state, layer: 0, cmap: "viridis" };
  for (const scene of [sceneOf(new Float32Array(5), state, data, t), absentScene(state, data, t, "why")]) {
    assert.equal(scene.caption, "caption_query token 3 where_mean 1");
    const told = stateOf(scene, later);
    assert.deepEqual(
      DRAWN.map((key) => told[key]),
      DRAWN.map((key) => state[key]),
    );
    assert.match(commandOf(told, data), /--layer 1 -O query=1,0 --cmap viridis/);
  }
});

test("cosines of features in 8 bits, and the best match that does not touch", () => {
  const bytes = Uint8Array.from(
    [
      [131, 132],
      [124, 131],
      [134, 136],
      [128, 255],
    ].flat(),
  ); // (3,4), (-4,3), (6,8), (0,127)
  const unit = unitRows(bytes, 4);
  near(
    [...cosines(unit, unit, 0)].map((one) => Math.round(one * 1e6) / 1e6),
    [1, 0, 1, 0.8],
  );
  const values = [9, 8, 1, 7, 6, 2, 3, 4, 5]; // 3 x 3
  assert.equal(bestMatch(values, 3), 0);
  assert.equal(bestMatch(values, 3, 0), 8, "what touches the upper left corner is 0, 1, 3, 4");
  assert.equal(bestMatch(values, 3, 4), -1, "all touch the middle");
});

test("a WebM file is nested elements, each with its size", () => {
  const file = webm([Uint8Array.of(7, 8, 9), Uint8Array.of(5)], 640, 480, 600, "vitscope", "how it was made");
  const sizes = [];
  for (let at = 0; at < file.length;) {
    const size = Number(new DataView(file.buffer, at + 4, 8).getBigUint64(0) & 0xffffffffffffffn);
    sizes.push(size);
    at += 12 + size;
  }
  assert.equal(
    sizes.reduce((sum, one) => sum + one + 12, 0),
    file.length,
    "header and segment, and nothing after them",
  );
  assert.equal(sizes.length, 2);
});

test("the comment of a GIF stands before its first frame, in blocks of at most 255 bytes", () => {
  const text = "ü".repeat(200), // 400 bytes
    [table, none] = [
      [0x80, 6],
      [0, 0],
    ].map(([flags, colours]) =>
      Uint8Array.from([
        ...[..."GIF89a"].map((one) => one.charCodeAt(0)),
        1,
        0,
        1,
        0,
        flags,
        0,
        0,
        ...Array(colours).fill(9),
        59,
      ]),
    );
  for (const [file, at] of [
    [table, 19],
    [none, 13],
  ]) {
    const said = [...withComment(file, text)];
    assert.deepEqual(said.splice(at, 3), [0x21, 0xfe, 255]);
    const [first] = [said.splice(at, 255)];
    assert.deepEqual(said.splice(at, 1), [145]);
    assert.equal(new TextDecoder().decode(Uint8Array.from([...first, ...said.splice(at, 145)])), text);
    assert.deepEqual(said.splice(at, 1), [0]);
    assert.deepEqual(said, [...file]);
  }
});

test("the hatching has whole lines whatever was drawn before it", () => {
  const dashes = [],
    methods = { setLineDash: (dash) => dashes.push(dash), measureText: () => ({ width: 10 }) },
    context = new Proxy({}, { get: (_, name) => methods[name] ?? (() => null), set: () => true });
  drawUnseen(context, { size: [400, 200], box: [100, 0, 400, 200] }, { width: 400, height: 200 }, "not seen", 1);
  assert.deepEqual(dashes, [[]]);
});

test("luma and chroma of BT.601", () => {
  const pixels = (r, g, b) => Uint8Array.from([r, g, b, 255, r, g, b, 255, r, g, b, 255, r, g, b, 255]);
  const planes = (...rgb) => [...i420(pixels(...rgb), 2, 2)];
  assert.deepEqual(planes(255, 255, 255), [235, 235, 235, 235, 128, 128]);
  assert.deepEqual(planes(0, 0, 0), [16, 16, 16, 16, 128, 128]);
  assert.deepEqual(planes(255, 0, 0), [81, 81, 81, 81, 90, 240]);
  assert.deepEqual(planes(0, 0, 255), [41, 41, 41, 41, 240, 110]);
});

test("each facet counts what the choices of the others leave, and every value is named", async () => {
  const { counted, passing } = await import(new URL("../../../src/vitscope/batch/assets/filters.js", import.meta.url));
  const rows = [
    { method: "a", class: "x", breadth: 0.1, verdicts: { deletion_verdict: "better than random" } },
    { method: "a", class: "y", breadth: 0.5, verdicts: { deletion_verdict: null } },
    { method: "b", class: "x", breadth: 0.9, verdicts: { deletion_verdict: "better than random" } },
  ];
  const choice = {
    range: [0, 0.6],
    chosen: new Map([
      ["class", new Set(["x"])],
      ["method", new Set()],
    ]),
  };
  assert.deepEqual(passing(rows, choice), [rows[0]]);
  const counts = (name, of) => [...counted(rows, choice, name, of)];
  assert.deepEqual(
    counts("class", (one) => one.class),
    [
      ["x", 1],
      ["y", 1],
    ],
  );
  assert.deepEqual(
    counts("method", (one) => one.method),
    [
      ["a", 1],
      ["b", 0],
    ],
  );
  assert.equal(passing(rows, { range: null, chosen: new Map([["deletion", new Set([""])]]) })[0], rows[1]);
});

test("what is brushed is in the address, and what the maps do not have is passed over", async () => {
  const { choiceOf, fragmentOf } = await import(
    new URL("../../../src/vitscope/batch/assets/filters.js", import.meta.url)
  );
  const rows = [
      { method: "a", class: "x & y=1" },
      { method: "b", class: "" },
    ],
    facets = [
      ["method", (one) => one.method],
      ["class", (one) => one.class],
    ],
    start = { low: 0, high: 1, chosen: new Map(), word: "", sort: "narrow", lang: "en" },
    read = (text) => choiceOf(text, facets, rows, ["narrow", "broad"], [["en"], ["zh"]]);
  assert.equal(fragmentOf(start, start), "");
  const chosen = new Map([["class", new Set(["x & y=1", ""])]]);
  const state = { low: 0.25, high: 0.8, chosen, word: "ä#", sort: "broad", lang: "zh" };
  assert.deepEqual(read(`#${fragmentOf(state, start)}`), state);
  const nothing = { chosen: new Map() };
  assert.deepEqual(read("#low=0.9&high=0.1"), nothing, "ends that cross");
  assert.deepEqual(read("#low=&high=2&sort=odd&lang=xx&in.method=c&in.other=a&%%%=1"), nothing);
});

test("few colours are exact where they suffice, and cut where they lie far apart where they do not", () => {
  const told = [
      [255, 255, 255],
      [0, 0, 0],
      [3, 200, 7],
      [255, 255, 255],
    ],
    rgba = Uint8ClampedArray.from(told.flatMap((one) => [...one, 255]));
  const exact = fewColours(rgba);
  assert.equal(exact.palette.length, 3);
  assert.deepEqual(
    Array.from(exact.index, (place) => exact.palette[place]),
    told,
  );
  const two = fewColours(rgba, 2);
  assert.deepEqual(
    Array.from(two.index, (place) => two.palette[place]),
    [
      [255, 255, 255],
      [2, 100, 4],
      [2, 100, 4],
      [255, 255, 255],
    ],
  );
  const grey = Uint8ClampedArray.from({ length: 4 * 256 }, (_, i) => (i % 4 < 3 ? i >> 2 : 255)),
    { palette, index } = fewColours(grey, 16);
  assert.equal(palette.length, 16);
  index.forEach((place, i) => assert.ok(Math.abs(palette[place][0] - i) <= 12));
});

test("equal names are told apart, others stay", () => {
  assert.deepEqual(toldApart(["cat", "cat"]), ["cat (1)", "cat (2)"]);
  assert.deepEqual(toldApart(["cat", "dog"]), ["cat", "dog"]);
  assert.deepEqual(toldApart(["cat"]), ["cat"]);
});
