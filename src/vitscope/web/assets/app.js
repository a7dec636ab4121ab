// The web app's page: a photo goes to the server, its progress comes back, and then the viewer stands in its place.

import { choices, el } from "../../viewer/assets/dom.js";
import { mount } from "../../viewer/assets/main.js";
import { toFragment } from "../../viewer/assets/store.js";
import { LANGUAGES, translator } from "../../viewer/assets/strings.js";
import { chooser, working } from "./chooser.js";
import { RequestError, requests } from "./requests.js";

/** @type {HTMLElement} */
const root = document.querySelector(".vw");
const main = document.querySelector("main");
const kept = (name) => sessionStorage.getItem(`vitscope ${name}`);
const keep = (name, value) => sessionStorage.setItem(`vitscope ${name}`, value);
const state = {
  lang: kept("lang") ?? (navigator.language.startsWith("zh") ? "zh" : "en"),
  theme: kept("theme") ?? "auto",
  models: [],
  samples: [],
  model: null,
  work: null,
  error: null,
};
let viewer = null,
  host = null;

const t = translator(() => state.lang);

// The token has done its part once the cookie is there: it need not stand in the address, the history, or a screenshot.
if (location.search) history.replaceState(null, "", location.pathname + location.hash);

const { request, post, followed } = requests(t);

// What an address says besides the viewer's state: which view, and the maps that were asked for besides.
const fragmentOf = (view, state) => {
  const asked = viewer.ctx.data.maps.filter((one) => one.asked).map((one) => one.asked);
  return `#view=${view}${asked.length ? `&more=${encodeURIComponent(JSON.stringify(asked))}` : ""}${state && `&${state}`}`;
};
const partOf = (fragment, name) => new URLSearchParams(fragment.replace(/^#/, "")).get(name);

// What the viewer's host is: the view that it shows, and once that is finished, the model.
function hostOf(view, { header }, asked) {
  const names = [asked?.model, header.model.reference];
  const model = state.models.length === 1 ? state.models[0] : state.models.find((one) => names.includes(one.reference));
  return {
    kind: "web",
    view,
    fragment: (now) => fragmentOf(host.view, now),
    methods: model?.methods.filter((one) => !one.reason),
    labels: model?.labels,
  };
}

const enliven = () =>
  Object.assign(host, {
    mask: (patches, mode, signal) => post(`/api/views/${host.view}/mask`, { patches, mode }, signal),
    explain: ({ method, target = null, method_options = {} }, signal) =>
      post(`/api/views/${host.view}/maps`, { method, target, method_options }, signal),
  });

// Of a link: maps that were made besides, made again; what cannot be is left out.
async function addAsked(document, fragment) {
  let listed = [];
  try {
    listed = JSON.parse(partOf(fragment, "more") ?? "[]");
  } catch {
    /* a link that was cut off */
  }
  for (const asked of listed) {
    const made = await host.explain(asked, null).catch(() => null);
    if (!made) continue;
    document.header.maps.push({ ...made.entry, asked });
    Object.assign(document.arrays, made.arrays);
    document.messages = { ...document.messages, ...made.messages };
  }
}

// The viewer on a view, by a link to it; what is still being made of it comes as it did.
async function show(id, fragment) {
  const document = await request(`/api/views/${id}`);
  if (!document.header) return seen(workOf({ id, fragment }), null);
  host = hostOf(id, document, null);
  enliven();
  await addAsked(document, fragment);
  open(document, null, fragment);
}

// `asked` is what was asked for, where that is known: it can be asked for again, measured.
function open(document, asked, fragment = "") {
  viewer?.destroy();
  main.hidden = false;
  viewer = main.viewer = mount(main, document, host, { lang: state.lang, fragment, state: { theme: state.theme } });
  address();
  viewer.watch(({ lang, theme }, before) => {
    address();
    Object.assign(state, { lang, theme });
    root.dataset.theme = theme;
    keep("lang", lang);
    keep("theme", theme);
    if (lang !== before.lang) above(asked);
  });
  above(asked);
}

// The view that is shown is kept at once, for a reload; its address follows, as browsers limit how often that may change.
let waiting = 0;
let leaving = false; // once a step through the history has begun, nothing is written where it leads
function address() {
  keep("view", host.view);
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    if (!viewer || leaving) return;
    history.replaceState(null, "", host.fragment(toFragment(viewer.state, viewer.ctx.initial)));
  }, 250);
}

// What stands above the viewer: another photo; what is still being made; and the maps measured, which takes long, while
// one looks at them.
function above(asked, ...more) {
  const button = (text, onclick) => el("button", { type: "button", class: "vw-plain", text: t(text), onclick });
  const bare = asked && !viewer.ctx.data.maps.some((one) => one.measurement);
  const working = () => [
    el("progress", { "aria-label": t(state.work.measuring ? "app_measure" : "app_running") }),
    el("p", { class: "vw-said vw-soft", role: "status" }),
    button("app_cancel", stop),
  ];
  const row = el(
    "div",
    { class: "vw-above", lang: state.lang === "zh" ? "zh-Hans" : "en" },
    button("app_again", () => (stop(), start())),
    ...(state.work ? working() : [bare && button("app_measure", () => measured(asked))]),
    ...more,
  );
  root.replaceChildren(row);
  if (state.work) progress(state.work.status);
}

// What was made since the last time comes into the viewer.
async function arrive(work, asked, status) {
  const done = status.state === "done",
    { signal } = work.ending,
    fetched = async (part) => request(`/api/views/${work.id}?part=${part}`, { signal }); // gone, once it is cancelled
  if (signal.aborted || (status.parts === work.parts && !done)) return;
  if (!work.shown) {
    const first = await fetched("first");
    if (signal.aborted) return;
    host = hostOf(work.id, first, asked);
    work.shown = true;
    if (asked) history.pushState(null, "", `#view=${work.id}`); // so that one can go back to where it was asked for
    open(first, asked, work.fragment);
    scrollTo(0, 0);
    /** @type {HTMLElement} */ (root.querySelector("button")).focus({ preventScroll: true });
  }
  work.parts = status.parts;
  if (status.parts < 2) return;
  const before = viewer,
    rest = await fetched("rest");
  if (viewer !== before || signal.aborted) return;
  if (done) {
    host.view = work.id;
    enliven();
  }
  if (done || !work.measuring || rest.header.maps.some((one) => one.measurement)) viewer.grow(rest);
}

// From a request to all that comes of it.
async function made(work, asked) {
  if (!work.id) await begin(work, asked);
  const last = await followed(work.id, work.ending.signal, (status) => {
    t.learn(status.messages);
    progress(status);
    if (status.parts) work.arrived = work.arrived.then(() => arrive(work, asked, status));
    work.arrived.catch(() => {}); // waited for below
  });
  if (last.state !== "done") throw new RequestError(last);
  progress({ ...last, state: "fetching" });
  await work.arrived;
  state.work = null;
}

const workOf = (more) => ({
  ending: new AbortController(),
  id: null,
  status: null,
  parts: 0,
  arrived: Promise.resolve(),
  ...more,
});

async function measured(asked) {
  const before = viewer,
    work = (state.work = workOf({ measuring: true, shown: true }));
  above(asked);
  try {
    await made(work, { ...asked, measure: true });
    if (viewer !== before) return;
    const left = viewer.ctx.data.header.missing.find(({ what }) => what === "measurement"),
      text = left && t("app_measured_some", { why: t.message(left.why) });
    above(null, left && el("p", { class: "vw-said vw-soft", role: "status", text }));
  } catch (error) {
    failed(work, asked, before, error);
  }
}

// What is shown stays, with a line that says why there is no more.
function failed(work, asked, before, error) {
  if (state.work === work) state.work = null;
  if (viewer !== before) return;
  if (host.view === work.id) {
    forget();
    history.replaceState(null, "", location.pathname);
  }
  const said = !work.ending.signal.aborted && el("p", { class: "vw-error", role: "alert", text: t.error(error) });
  above(asked, said || null);
}

function forget() {
  clearTimeout(waiting);
  sessionStorage.removeItem("vitscope view");
}

function start() {
  viewer?.destroy();
  viewer = main.viewer = state.work = null;
  main.hidden = true;
  forget();
  if (location.hash) history.pushState(null, "", location.pathname);
  draw();
  /** @type {HTMLElement} */ (root.querySelector(".vw-drop input"))?.focus({ preventScroll: true });
}

// From a photo or a sample to the viewer; `work` is what can be cancelled.
async function look(file, sample) {
  if (state.work?.shown) stop();
  else if (state.work) return;
  if (viewer) start();
  const preview = file ? URL.createObjectURL(file) : `/api/samples/${sample}`,
    work = (state.work = workOf({ preview })),
    { signal } = work.ending,
    asked = { model: state.model };
  state.error = null;
  draw();
  try {
    if (file) {
      asked.photo = (
        await request(`/api/photos?name=${encodeURIComponent(file.name || "photo").slice(0, 900)}`, {
          method: "POST",
          body: file,
          signal,
          headers: { "content-type": "application/octet-stream" },
        })
      ).id;
    } else asked.sample = sample;
    await seen(work, asked);
  } catch (error) {
    if (state.work !== work) return;
    state.work = null;
    state.error = signal.aborted ? null : error;
    draw();
  } finally {
    if (file) URL.revokeObjectURL(preview);
  }
}

// A view from its first map on; what is shown by then stays, whatever happens.
async function seen(work, asked) {
  state.work = work;
  draw();
  try {
    await made(work, asked);
    if (viewer) above(asked);
  } catch (error) {
    if (!work.shown || !viewer) throw error;
    failed(work, asked, viewer, error);
  }
}

// Not broken off: of an answer that nobody hears the name is lost, and the model would go on for nobody.
async function begin(work, asked) {
  work.ending.signal.throwIfAborted();
  work.id = (await post("/api/views", asked)).id;
  if (work.ending.signal.aborted) cancelled(work);
  work.ending.signal.throwIfAborted();
}

function stop() {
  const { work } = state;
  if (!work) return;
  work.ending.abort();
  if (work.id) cancelled(work);
}

function cancelled(work) {
  fetch(`/api/views/${work.id}`, { method: "DELETE", keepalive: true }).catch(() => {});
}

function progress(status) {
  if (!state.work) return;
  state.work.status = status;
  const bar = root.querySelector("progress"),
    line = root.querySelector(".vw-said");
  if (!bar) return;
  line.textContent = statusText(status);
  if (status?.state === "running" && status.total) Object.assign(bar, { max: status.total, value: status.done });
  else bar.removeAttribute("value");
}

function statusText(status) {
  if (!status) return t(state.work.measuring ? "app_running" : "app_sending");
  if (status.state === "running" && status.total)
    return t(state.work.measuring ? "app_measuring" : "app_stage", { ...status, stage: t.message(status.stage) });
  return status.state === "waiting"
    ? t("app_waiting", status)
    : t(status.state === "fetching" ? "app_fetching" : "app_running");
}

function draw() {
  root.dataset.theme = state.theme;
  document.documentElement.lang = root.lang = state.lang === "zh" ? "zh-Hans" : "en";
  const set = (name) => (value) => {
    state[name] = value;
    keep(name, value);
    draw();
    const group = root.querySelector(`[aria-label="${t(name === "lang" ? "language" : "theme")}"]`);
    /** @type {HTMLElement} */ (group.querySelector('[aria-checked="true"]')).focus();
  };
  const lang = choices(t("language"), LANGUAGES, state.lang, set("lang"));
  const theme = choices(
    t("theme"),
    ["auto", "light", "dark"].map((name) => [name, t(`theme_${name}`)]),
    state.theme,
    set("theme"),
  );
  lang.className = theme.className = "vw-group";
  const top = el(
    "header",
    { class: "vw-top" },
    el("div", {}, el("h1", { text: "vitscope" }), el("p", { text: t("app_lead") })),
    el("div", { class: "vw-switches" }, lang, theme),
  );
  const error = el("div", { role: "alert" });
  if (state.error) {
    const { detail = state.error.message, hint } = state.error;
    error.append(
      el("p", { class: "vw-error" }, t.message(detail), hint ? el("small", { text: t.message(hint) }) : null),
    );
  }
  root.replaceChildren(
    el(
      "div",
      { class: "vw-start" },
      top,
      error,
      ...(state.work ? [working(state.work.preview, t, stop)] : chooser(state, t, look)),
    ),
  );
  if (state.work) progress(state.work.status);
}

addEventListener("dragover", (event) => {
  event.preventDefault();
  root.classList.add("vw-over");
});
addEventListener("dragleave", (event) => event.relatedTarget || root.classList.remove("vw-over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  root.classList.remove("vw-over");
  const file = event.dataTransfer.files[0];
  if (file) look(file);
});
addEventListener("paste", (event) => {
  const file = event.clipboardData?.files[0];
  if (file) look(file);
});
addEventListener("keydown", (event) => event.key === "Escape" && !state.work?.shown && stop());
addEventListener("pagehide", () => state.work?.id !== host?.view && stop()); // a reload goes on with what is shown
// A link to another view or state, or a step through the history, which may lead to the start page.
addEventListener("popstate", () => (leaving = true)); // before hashchange, which may come later than a timer
addEventListener("hashchange", () => {
  if (!partOf(location.hash, "view")) forget();
  location.reload();
});

draw();
try {
  [state.models, state.samples] = await Promise.all([request("/api/models"), request("/api/samples")]);
  state.model = state.models[0].reference;
  const linked = partOf(location.hash, "view"),
    id = linked ?? kept("view");
  try {
    if (id) await show(id, location.hash);
  } catch {
    state.work = null;
    if (linked) state.error = new RequestError({ detail: t("app_gone"), hint: t("app_gone_hint") });
  }
  if (!viewer) draw();
} catch (error) {
  state.error = error;
  draw();
}
