// Which maps pass what is chosen. Pure.

// `[name, value of a map]` of each facet that has more than one value.
export const FACETS = (rows, metrics) =>
  [
    ["method", (one) => one.method],
    ...metrics.map((metric) => [metric, (one) => one.verdicts[`${metric}_verdict`] ?? ""]),
    ["class", (one) => one.class],
  ].filter(([, of]) => new Set(rows.map(of)).size > 1);

const valueOf = (one, name) =>
  name === "method" || name === "class" ? one[name] : (one.verdicts[`${name}_verdict`] ?? "");

// `range`: ends of breadth, both included, or null; `chosen`: values by facet, of which one is enough; none lets all pass.
export function passing(rows, { range, chosen }, but = null) {
  const asked = [...chosen].filter(([name, values]) => values.size && name !== but);
  return rows.filter(
    (one) =>
      (!range || (one.breadth >= range[0] - 1e-9 && one.breadth <= range[1] + 1e-9)) &&
      asked.every(([name, values]) => values.has(valueOf(one, name))),
  );
}

// How many maps have each value of a facet, of those that pass all the other choices; every value is named.
export function counted(rows, choice, name, of) {
  const counts = new Map(rows.map((one) => [of(one), 0]));
  for (const one of passing(rows, choice, name)) counts.set(of(one), counts.get(of(one)) + 1);
  return counts;
}
