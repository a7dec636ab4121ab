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

const share = (text) => {
  const value = Number(text);
  return text && value >= 0 && value <= 1 ? value : null;
};

// What is chosen as a fragment of the address: what differs from `start` alone.
export function fragmentOf(state, start) {
  const parts = new URLSearchParams();
  for (const key of ["low", "high", "word", "sort", "lang"])
    if (state[key] !== start[key]) parts.set(key, String(state[key]));
  for (const [name, values] of state.chosen) for (const value of values) parts.append(`in.${name}`, value);
  return String(parts);
}

// What a fragment chooses of these maps; what is not one of their values, orders or languages is passed over.
export function choiceOf(fragment, facets, rows, orders, languages) {
  const parts = new URLSearchParams(fragment.replace(/^#/, "")),
    found = {};
  const [low, high] = [share(parts.get("low")), share(parts.get("high"))];
  if ((low ?? 0) <= (high ?? 1)) Object.assign(found, low !== null && { low }, high !== null && { high });
  if (parts.has("word")) found.word = parts.get("word");
  if (orders.includes(parts.get("sort"))) found.sort = parts.get("sort");
  if (languages.some(([name]) => name === parts.get("lang"))) found.lang = parts.get("lang");
  const chosen = facets.map(([name, of]) => {
    const values = new Set(rows.map(of));
    return [name, new Set(parts.getAll(`in.${name}`).filter((value) => values.has(value)))];
  });
  return { ...found, chosen: new Map(chosen.filter(([, values]) => values.size)) };
}
