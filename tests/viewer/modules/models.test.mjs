// What two models' maps, a patch's sources and kinds of heads come to, by hand.

import assert from "node:assert/strict";
import { test } from "node:test";

const at = (name) => import(new URL(`../../../src/vitscope/viewer/assets/${name}.js`, import.meta.url));
const { differenceOf, samePatches } = await at("models");
const { strongest } = await at("flow");
const { kindsOf } = await at("headKinds");

test("a difference is the second's share minus the first's", () => {
  assert.deepEqual([...differenceOf(Float64Array.of(1, 3), Float64Array.of(8, -8))], [0.5 - 0.25, -0.5 - 0.75]);
});

test("patches are the same to half a patch", () => {
  const grid = (rows, box) => ({ rows, columns: 4, region: { box, cells: null } });
  assert.ok(samePatches(grid(4, [0, 0, 80, 80]), grid(4, [10, 10, 90, 90])));
  assert.ok(!samePatches(grid(4, [0, 0, 80, 80]), grid(4, [0, 11, 80, 91])));
  assert.ok(!samePatches(grid(4, [0, 0, 80, 80]), grid(5, [0, 0, 80, 80])));
});

test("sources are patches, largest first, without the one that asks and what gives nothing", () => {
  const found = strongest(Float32Array.of(9, 0.5, 0.25, 0.125, 0, 1), 5, 1, 3);
  assert.deepEqual(found, [
    { token: 1, share: 0.5 },
    { token: 2, share: 0.25 },
    { token: 3, share: 0.125 },
  ]);
  assert.equal(strongest(Float32Array.of(9, 1, 0, 0), 1, 1).length, 0);
});

test("heads that were not sorted have no kinds", () => {
  assert.deepEqual(kindsOf([{ kinds: null }]), []);
  const [[kind, heads]] = kindsOf([{ kinds: ["background", "background"], object_ratio: [0.4, 0.1] }]);
  assert.deepEqual([kind, ...heads.map(({ head }) => head)], ["background", 1, 0]);
});
