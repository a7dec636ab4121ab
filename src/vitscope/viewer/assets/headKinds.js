// Heads by what they do on this photo, as `HeadKinds` in Python has them. Pure.

// In the order in which they are shown; within a kind the clearest case comes first.
const CLEAREST = {
  object: ({ object_ratio }, head) => object_ratio[head],
  background: ({ object_ratio }, head) => -object_ratio[head],
  alike: ({ own_ratio }, head) => own_ratio[head],
  local: ({ near_share }, head) => near_share[head],
  position: ({ position_share }, head) => position_share[head],
  sink: ({ sink_share }, head) => sink_share[head],
  mixed: (_layer, head) => -head,
};

// `[kind, [{layer, head}]]` of the statistics' layers, for the kinds that there are; none where heads were not sorted.
export function kindsOf(layers) {
  if (!layers.some(({ kinds }) => kinds)) return [];
  return Object.entries(CLEAREST)
    .map(([kind, clear]) => [
      kind,
      layers
        .flatMap((one, layer) =>
          (one.kinds ?? []).flatMap((found, head) =>
            found === kind ? [{ layer, head, clear: clear(one, head) }] : [],
          ),
        )
        .sort((a, b) => b.clear - a.clear),
    ])
    .filter(([, heads]) => heads.length);
}
