// The web app's page: a photo goes to the server, its progress comes back, and then the viewer stands in its place.

import { choices, el } from "../../viewer/assets/dom.js";
import { mount } from "../../viewer/assets/main.js";
import { toFragment } from "../../viewer/assets/store.js";
import { LANGUAGES, translator } from "../../viewer/assets/strings.js";
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
let viewer = null;

const t = translator(() => state.lang);

// The token has done its part once the cookie is there: it need not stand in the address, the history, or a screenshot.
if (location.search) history.replaceState(null, "", location.pathname + location.hash);

const { request, post, lost } = requests(t);

// What an address says besides the viewer's state: which view, and the maps that were asked for besides.
const fragmentOf = (view, state) => {
  const asked = viewer.ctx.data.maps.filter((one) => one.asked).map((one) => one.asked);
  return `#view=${view}${asked.length ? `&more=${encodeURIComponent(JSON.stringify(asked))}` : ""}${state && `&${state}`}`;
};
const partOf = (fragment, name) => new URLSearchParams(fragment.replace(/^#/, "")).get(name);

const hostOf = (view, model) => ({
  kind: "web",
  fragment: (state) => fragmentOf(view, state),
  methods: model?.methods.filter((one) => !one.reason),
  labels: model?.labels,
  mask: (patches, mode, signal) => post(`/api/views/${view}/mask`, { patches, mode }, signal),
  explain: ({ method, target = null, method_options = {} }, signal) =>
    post(`/api/views/${view}/maps`, { method, target, method_options }, signal),
});

// Of a link: maps that were made besides, made again; what cannot be is left out.
async function addAsked(document, host, fragment) {
  let listed = [];
  try {
    listed = JSON.parse(partOf(fragment, "more") ?? "[]");
  } catch {
    /* a link that was cut off */
  }
  for (const asked of listed) {
    const made = await host.explain(asked).catch(() => null);
    if (!made) continue;
    document.header.maps.push({ ...made.entry, asked });
    Object.assign(document.arrays, made.arrays);
    document.messages = { ...document.messages, ...made.messages };
  }
}

// The viewer on a finished view; `asked` is what was asked for, where that is known: it can be asked for again, measured.
// `fragment` is that of a link to it.
async function show(id, asked = null, fragment = "") {
  const document = await request(`/api/views/${id}`);
  if (!document.header) return false;
  const names = [asked?.model, document.header.model.reference];
  const model = state.models.length === 1 ? state.models[0] : state.models.find((one) => names.includes(one.reference));
  const more = viewer && asked === null ? viewer.ctx.data : { maps: [] };
  for (const entry of more.maps.filter((one) => one.more)) {
    document.header.maps.push(entry);
    for (const name of [`map.${entry.id}`, `order.${entry.id}`]) document.arrays[name] = more.arrays[name];
  }
  const host = hostOf(id, model);
  await addAsked(document, host, fragment);
  keep("view", id);
  state.work = state.error = null;
  viewer?.destroy();
  main.hidden = false;
  viewer = main.viewer = mount(main, document, host, { lang: state.lang, fragment, state: { theme: state.theme } });
  const top = () =>
    above(asked && !asked.measure && !document.header.maps.some((one) => one.measurement) ? asked : null);
  let waiting = 0;
  const address = () => {
    clearTimeout(waiting);
    waiting = setTimeout(
      () => viewer && history.replaceState(null, "", fragmentOf(id, toFragment(viewer.state, viewer.ctx.initial))),
      250,
    );
  };
  address();
  viewer.watch(({ lang, theme }, before) => {
    address();
    Object.assign(state, { lang, theme });
    root.dataset.theme = theme;
    keep("lang", lang);
    keep("theme", theme);
    if (lang !== before.lang && !state.work) top();
  });
  top();
  return true;
}

// What stands above the viewer: another photo; and the maps measured, which takes long, while one looks at them.
function above(asked) {
  const again = el("button", {
    type: "button",
    class: "vw-plain",
    text: t("app_again"),
    onclick: () => (stop(), start()),
  });
  const measure =
    asked &&
    el("button", { type: "button", class: "vw-plain", text: t("app_measure"), onclick: () => measured(asked) });
  root.replaceChildren(el("div", { class: "vw-above", lang: state.lang === "zh" ? "zh-Hans" : "en" }, again, measure));
}

async function measured(asked) {
  const work = (state.work = { ending: new AbortController(), id: null, status: null, measuring: true });
  const bar = el("progress", { "aria-label": t("app_measure") }),
    row = root.querySelector(".vw-above");
  row.lastChild.replaceWith(
    bar,
    el("p", { class: "vw-said vw-soft", role: "status" }),
    el("button", { type: "button", class: "vw-plain", text: t("app_cancel"), onclick: stop }),
  );
  progress(null);
  const before = viewer;
  try {
    await begin(work, { ...asked, measure: true });
    const last = await followed(work);
    if (last.state !== "done") throw new RequestError(last);
    if (viewer !== before) return;
    await show(work.id, null, toFragment(before.state, before.ctx.initial));
    const left = viewer.ctx.data.header.missing.find(({ what }) => what === "measurement");
    if (left)
      root
        .querySelector(".vw-above")
        .append(
          el("p", {
            class: "vw-said vw-soft",
            role: "status",
            text: t("app_measured_some", { why: t.message(left.why) }),
          }),
        );
  } catch (error) {
    if (state.work === work) state.work = null;
    if (viewer !== before) return;
    above(asked);
    if (!work.ending.signal.aborted)
      root.querySelector(".vw-above").append(el("p", { class: "vw-error", role: "alert", text: t.error(error) }));
  }
}

function start() {
  viewer?.destroy();
  viewer = main.viewer = null;
  main.hidden = true;
  sessionStorage.removeItem("vitscope view");
  history.replaceState(null, "", location.pathname);
  draw();
  /** @type {HTMLElement} */ (root.querySelector(".vw-drop input"))?.focus({ preventScroll: true });
}

// From a photo or a sample to the viewer; `work` is what can be cancelled.
async function look(file, sample) {
  if (state.work?.measuring) stop();
  else if (state.work) return;
  const ending = new AbortController(),
    preview = file ? URL.createObjectURL(file) : `/api/samples/${sample}`;
  const work = (state.work = { preview, ending, id: null, status: null });
  state.error = null;
  if (viewer) start();
  draw();
  try {
    const asked = { model: state.model };
    if (file) {
      asked.photo = (
        await request(`/api/photos?name=${encodeURIComponent(file.name || "photo").slice(0, 900)}`, {
          method: "POST",
          body: file,
          signal: ending.signal,
          headers: { "content-type": "application/octet-stream" },
        })
      ).id;
    } else asked.sample = sample;
    await begin(work, asked);
    const last = await followed(work);
    if (last.state !== "done") throw new RequestError(last);
    progress({ ...last, state: "fetching" });
    await show(work.id, asked);
    scrollTo(0, 0);
    root.querySelector("button").focus({ preventScroll: true });
  } catch (error) {
    state.work = null;
    state.error = ending.signal.aborted ? null : error;
    draw();
  } finally {
    if (file) URL.revokeObjectURL(preview);
  }
}

// Not broken off: of an answer that nobody hears the name is lost, and the model would go on for nobody.
async function begin(work, asked) {
  work.ending.signal.throwIfAborted();
  work.id = (await post("/api/views", asked)).id;
  if (work.ending.signal.aborted) cancelled(work);
  work.ending.signal.throwIfAborted();
}

function followed(work) {
  return new Promise((resolve, reject) => {
    const events = new EventSource(`/api/views/${work.id}/events`);
    events.addEventListener("state", ({ data }) => {
      const status = JSON.parse(data);
      t.learn(status.messages);
      progress(status);
      if (!["waiting", "running"].includes(status.state)) {
        events.close();
        resolve(status);
      }
    });
    events.onerror = () => {
      events.close();
      reject(lost());
    };
    work.ending.signal.addEventListener("abort", () => {
      events.close();
      reject(work.ending.signal.reason);
    });
  });
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
  root.replaceChildren(el("div", { class: "vw-start" }, top, error, ...(state.work ? [working()] : chooser())));
  if (state.work) progress(state.work.status);
}

function working() {
  const bar = el("progress", { "aria-label": t("app_running") });
  return el(
    "section",
    { class: "vw-work" },
    el("img", { src: state.work.preview, alt: "" }),
    el(
      "div",
      {},
      el("p", { class: "vw-said", role: "status" }),
      bar,
      el("button", { type: "button", class: "vw-plain", text: t("app_cancel"), onclick: stop }),
    ),
  );
}

function chooser() {
  const file = el("input", { type: "file", accept: "image/*", onchange: () => file.files[0] && look(file.files[0]) });
  const drop = el(
    "label",
    { class: "vw-drop" },
    el("strong", { text: t("app_drop") }),
    el("span", { class: "vw-soft", text: t("app_paste") }),
    file,
  );
  const names = state.models.map((one) => one.reference);
  const model = el(
    "select",
    {
      onchange: () => {
        state.model = model.value;
      },
    },
    ...names.map((name) => el("option", { value: name, text: name, selected: name === state.model })),
  );
  const which =
    names.length > 1
      ? el("label", {}, el("span", { text: t("app_model") }), model)
      : el("p", { class: "vw-soft", text: names.length ? `${t("app_model")}: ${names[0]}` : "" });
  const row = el("div", { class: "vw-row" }, which);
  const list = el(
    "ul",
    {},
    ...state.samples.map(({ name, about, credit }) =>
      el(
        "li",
        {},
        el(
          "button",
          {
            type: "button",
            "data-sample": name,
            title: `${t.message(about)} (${t.message(credit)})`,
            onclick: () => look(null, name),
          },
          el("img", { src: `/api/samples/${name}`, alt: t.message(about) }),
        ),
      ),
    ),
  );
  return [
    drop,
    row,
    el("section", { class: "vw-samples" }, el("h2", { class: "vw-soft", text: t("app_samples") }), list),
  ];
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
addEventListener("keydown", (event) => event.key === "Escape" && state.work && stop());
addEventListener("pagehide", stop);
addEventListener("hashchange", () => location.reload()); // a link to another view or state

draw();
try {
  [state.models, state.samples] = await Promise.all([request("/api/models"), request("/api/samples")]);
  state.model = state.models[0].reference;
  const linked = partOf(location.hash, "view"),
    id = linked ?? kept("view");
  const found = id && (await show(id, null, location.hash).catch(() => false));
  if (!found && linked) state.error = new RequestError({ detail: t("app_gone"), hint: t("app_gone_hint") });
  if (!found) draw();
} catch (error) {
  state.error = error;
  draw();
}
