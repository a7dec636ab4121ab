// The script of a page that is a file: the document stands in it as JSON, its arrays perhaps as raw characters.

import { unwrap } from "./data.js";
import { el } from "./dom.js";
import { fileHost, mount } from "./main.js";
import { crc32 } from "./npz.js";
import { toFragment } from "./store.js";
import { translator } from "./strings.js";

export { fileHost, mount };

const root = document.querySelector("main");
const island = document.querySelector('script[type="application/json"]');
const raw = document.querySelector('script[type="application/octet-stream"]');
// The document with its arrays, or null where the file was damaged after it was written.
function read() {
  const intact = ({ dataset }, bytes) => dataset.crc === crc32(bytes).toString(16).padStart(8, "0");
  if (!intact(island, new TextEncoder().encode(island.textContent))) return null;
  const found = JSON.parse(island.textContent);
  return !raw || intact(raw, unwrap(found, raw.textContent)) ? found : null;
}
const given = read();
raw?.remove();
if (given) {
  const viewer = mount(root, given, fileHost, { lang: root.dataset.lang, fragment: location.hash });
  root.viewer = viewer;
  let waiting = 0;
  viewer.watch((state) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => history.replaceState(null, "", `#${toFragment(state, viewer.ctx.initial)}`), 250);
  });
  addEventListener("hashchange", () => location.reload()); // a link to another state of this page
} else {
  const lang = root.dataset.lang ?? (navigator.language.startsWith("zh") ? "zh" : "en");
  root.replaceChildren(el("p", { role: "alert", text: translator(() => lang)("damaged_page") }));
}
