// The script of a page that is a file: the document stands in it as JSON.

import { el } from "./dom.js";
import { fileHost, mount } from "./main.js";
import { crc32 } from "./npz.js";
import { toFragment } from "./store.js";
import { translator } from "./strings.js";

export { fileHost, mount };

const root = document.querySelector("main");
/** @type {HTMLElement} */
const island = document.querySelector('script[type="application/json"]');
// The document, or null where the file was damaged after it was written.
function read() {
  const { textContent, dataset } = island;
  const intact = dataset.crc === crc32(new TextEncoder().encode(textContent)).toString(16).padStart(8, "0");
  return intact ? JSON.parse(textContent) : null;
}
const given = read(),
  embed = new URLSearchParams(location.search).has("embed"); // in a slide: the photo and its legend alone
if (given) {
  const viewer = mount(root, given, fileHost, { lang: root.dataset.lang, fragment: location.hash, embed });
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
