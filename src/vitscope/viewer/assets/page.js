// The script of a page that is a file: the document stands in it as JSON, its arrays perhaps as raw characters.

import { unwrap } from "./data.js";
import { fileHost, mount } from "./main.js";
import { toFragment } from "./store.js";

export { fileHost, mount };

const root = document.querySelector("main");
const given = JSON.parse(document.querySelector('script[type="application/json"]').textContent);
const raw = document.querySelector('script[type="application/octet-stream"]');
if (raw) unwrap(given, raw.textContent);
raw?.remove();
const viewer = mount(root, given, fileHost, { lang: root.dataset.lang, fragment: location.hash });
root.viewer = viewer;
let waiting = 0;
viewer.store.subscribe((state) => {
  clearTimeout(waiting);
  waiting = setTimeout(() => history.replaceState(null, "", `#${toFragment(state, viewer.ctx.initial)}`), 250);
});
