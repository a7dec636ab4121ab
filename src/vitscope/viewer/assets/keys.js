// Keys that serve the whole viewer, wherever the focus is.
//
// P pins, Escape goes back to the map, [ and ] (or - and +) step layers, Space held shows the bare photo. Where the page is not the viewer's alone, only for the one that the pointer
// or the focus is on. Arrow keys are the page's own, but on the photo.

const STEPS = { "]": 1, "+": 1, "[": -1, "-": -1 };
const TYPED = "textarea, select, input:not([type=range], [type=checkbox])"; // elements that want letters themselves

export function listenToKeys(ctx) {
  const { root, data, host, store, signal, t } = ctx,
    page = root.ownerDocument;
  const inside = ({ target }) => root.contains(target);
  // Space presses a button that was reached by keys; one that was clicked only happens to have the focus.
  let walked = false;
  page.addEventListener("pointerdown", () => (walked = false), { signal, capture: true });
  const free = ({ target }) =>
    target === page.body || ctx.stage.element.contains(target) || (!walked && ctx.stage.element.matches(":hover"));
  const ours = (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.target.matches(TYPED))
      return false;
    if (!store.get().keys && event.key !== "Escape" && !ctx.stage.element.contains(event.target)) return false;
    const alone = host.kind !== "notebook" && page.querySelectorAll(".vs").length === 1;
    return inside(event) || (event.target === page.body && (alone || root.matches(":hover")));
  };
  // What a key has done is said to those who do not see it.
  const pin = (token) => {
    ctx.pin(token);
    const { pinned } = store.get();
    ctx.stage.say(`${t("pinned")}: ${t.list(pinned.map((one) => data.nameOf(one, t))) || "–"}`);
  };
  const leave = async () => {
    ctx.stage.release();
    if (store.get().tour !== null) return store.set({ tour: null });
    store.set({ source: "map" });
    await ctx.preview(null); // of what was only pointed at no state tells
    ctx.stage.say(ctx.valueText());
  };
  const actions = {
    p: () => ctx.stage.pointed() !== null && (pin(ctx.stage.pointed()), true),
    escape: () => (leave(), true),
  };
  page.addEventListener(
    "keydown",
    (event) => {
      if (event.key === "Tab" || event.key.startsWith("Arrow")) walked = true;
      if (!ours(event)) return;
      const { key } = event;
      if (key in STEPS && data.readable) ctx.step(STEPS[key]);
      else if (key === " " && free(event) && ctx.stage.inView()) ctx.stage.bare(true);
      else if (!actions[key.toLowerCase()]?.()) return;
      event.preventDefault();
    },
    { signal },
  );
  page.addEventListener(
    "keyup",
    (event) => {
      if (event.key !== " ") return;
      if (ctx.stage.bare(false)) event.preventDefault(); // else it would press the button that has the focus
    },
    { signal },
  );
  page.defaultView.addEventListener("blur", () => ctx.stage.bare(false), { signal });
}
