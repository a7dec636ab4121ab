
// The web app's page. This text is appended to the viewer's bundle, whose `mount` and helpers it uses.

const { el, choices } = $dom;
const WORDS = {
  lead: ["See where a Vision Transformer looks, and how far to believe the picture.", "看看视觉 Transformer 在看哪里，以及这幅图有多可信。"],
  drop: ["Drop a photo here, or choose one", "把照片拖到这里，或点此选择"],
  paste: ["Pasting works too. It stays on this server, in memory.", "也可以直接粘贴。照片只留在本服务器的内存里。"],
  samples: ["Or take one of these", "或用这些示例"],
  model: ["Model", "模型"],
  measure: ["Measure how far these maps can be believed", "测量这些热图的可信度"],
  measuring: ["Measuring: {stage}, {done} of {total}", "正在测量：{stage}，{done}/{total}"],
  measured_some: ["Measured as far as time allowed: {why}.", "已在限时内测量：{why}。"],
  sending: ["Sending the photo …", "正在上传照片……"],
  waiting: ["Waiting: {ahead} before this one", "排队中：前面还有 {ahead} 个"],
  running: ["Looking …", "正在计算……"],
  stage: ["Looking: {stage}, {done} of {total}", "正在计算：{stage}，{done}/{total}"],
  fetching: ["Fetching the maps …", "正在取回热图……"],
  cancel: ["Cancel", "取消"],
  again: ["Another photo", "换一张照片"],
  lost: ["The server does not answer.", "服务器没有响应。"],
  lost_hint: ["Is vitscope serve still running?", "vitscope serve 还在运行吗？"],
  language: ["Language", "语言"],
  theme: ["Theme", "主题"],
  auto: ["Auto", "自动"], light: ["Light", "浅色"], dark: ["Dark", "深色"],
};
const root = document.querySelector(".vw"), main = document.querySelector("main");
const kept = (name) => sessionStorage.getItem(`vitscope ${name}`);
const keep = (name, value) => sessionStorage.setItem(`vitscope ${name}`, value);
const state = {
  lang: kept("lang") ?? (navigator.language.startsWith("zh") ? "zh" : "en"), theme: kept("theme") ?? "auto",
  models: [], samples: [], model: null, work: null, error: null,
};
let viewer = null;

const say = (key, values = {}) =>
  WORDS[key][state.lang === "zh" ? 1 : 0].replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));

// The token has done its part once the cookie is there: it need not stand in the address, the history, or a screenshot.
if (location.search) history.replaceState(null, "", location.pathname);

class Refused extends Error {
  constructor(detail, hint) {
    super(hint ? `${detail} (${hint})` : detail);
    Object.assign(this, { detail, hint });
  }
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Refused(say("lost"), say("lost_hint"));
  }
  if (answer.status === 204) return null;
  const told = await answer.json();
  if (!answer.ok) throw new Refused(told.detail, told.hint);
  return told;
}

const post = (path, body, signal) =>
  ask(path, { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" }, signal });

const hostOf = (view, model) => ({
  kind: "web",
  methods: model?.methods.filter((one) => !one.reason), labels: model?.labels,
  mask: (patches, how, signal) => post(`/api/views/${view}/mask`, { patches, how }, signal),
  explain: ({ method, target = null, params = {} }, signal) => post(`/api/views/${view}/maps`, { method, target, params }, signal),
});

// The viewer on a finished view; `asked` is what was asked for, where that is known: it can be asked for again, measured.
async function show(id, asked = null, was = {}) {
  const document = await ask(`/api/views/${id}`);
  if (!document.header) return false;
  const model = state.models.find((one) => one.reference === document.header.model.reference);
  const more = viewer && asked === null ? viewer.ctx.data : { maps: [] };
  for (const entry of more.maps.filter((one) => one.more)) {
    document.header.maps.push(entry);
    for (const name of [`map.${entry.id}`, `order.${entry.id}`]) document.arrays[name] = more.arrays[name];
  }
  if (!document.header.maps.some((one) => one.id === was.map)) delete was.map;
  keep("view", id);
  state.work = state.error = null;
  viewer?.destroy();
  main.hidden = false;
  viewer = main.viewer = mount(main, document, hostOf(id, model), { lang: state.lang, state: { theme: state.theme, ...was } });
  const top = () => above(asked && !asked.measure && !document.header.maps.some((one) => one.measurement) ? asked : null);
  viewer.store.subscribe(({ lang, theme }, before) => {
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
  const again = el("button", { type: "button", class: "vw-plain", text: say("again"), onclick: () => (stop(), start()) });
  const measure = asked && el("button", { type: "button", class: "vw-plain", text: say("measure"), onclick: () => measured(asked) });
  root.replaceChildren(el("div", { class: "vw-above", lang: state.lang === "zh" ? "zh-Hans" : "en" }, again, measure));
}

async function measured(asked) {
  const work = state.work = { ending: new AbortController(), id: null, told: null, measuring: true };
  const bar = el("progress", { "aria-label": say("measure") }), row = root.querySelector(".vw-above");
  row.lastChild.replaceWith(bar, el("p", { class: "vw-said vw-soft", role: "status" }), el("button", { type: "button", class: "vw-plain", text: say("cancel"), onclick: stop }));
  progress(null);
  const before = viewer;
  try {
    await begin(work, { ...asked, measure: true });
    const last = await followed(work);
    if (last.state !== "done") throw new Refused(last.detail, last.hint);
    if (viewer !== before) return;
    await show(work.id, null, { ...before.state });
    const left = viewer.ctx.data.header.missing.find(({ what }) => what === "measurement");
    if (left) root.querySelector(".vw-above").append(el("p", { class: "vw-said vw-soft", role: "status", text: say("measured_some", left) }));
  } catch (error) {
    if (state.work === work) state.work = null;
    if (viewer !== before) return;
    above(asked);
    if (!work.ending.signal.aborted) root.querySelector(".vw-above").append(el("p", { class: "vw-error", role: "alert", text: error.message }));
  }
}

function start() {
  viewer?.destroy();
  viewer = main.viewer = null;
  main.hidden = true;
  sessionStorage.removeItem("vitscope view");
  draw();
  root.querySelector(".vw-drop input")?.focus({ preventScroll: true });
}

// From a photo or a sample to the viewer; `work` is what can be cancelled.
async function look(file, sample) {
  if (state.work?.measuring) stop();
  else if (state.work) return;
  const ending = new AbortController(), preview = file ? URL.createObjectURL(file) : `/api/samples/${sample}`;
  const work = state.work = { preview, ending, id: null, told: null };
  state.error = null;
  if (viewer) start();
  draw();
  try {
    const asked = { model: state.model };
    if (file) {
      asked.photo = (await ask(`/api/photos?name=${encodeURIComponent(file.name || "photo").slice(0, 900)}`, { method: "POST", body: file, signal: ending.signal, headers: { "content-type": "application/octet-stream" } })).id;
    } else asked.sample = sample;
    await begin(work, asked);
    const last = await followed(work);
    if (last.state !== "done") throw new Refused(last.detail, last.hint);
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
      const told = JSON.parse(data);
      progress(told);
      if (!["waiting", "running"].includes(told.state)) {
        events.close();
        resolve(told);
      }
    });
    events.onerror = () => {
      events.close();
      reject(new Refused(say("lost"), say("lost_hint")));
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

function progress(told) {
  if (!state.work) return;
  state.work.told = told;
  const bar = root.querySelector("progress"), line = root.querySelector(".vw-said");
  if (!bar) return;
  line.textContent = wordsOf(told);
  if (told?.state === "running" && told.total) Object.assign(bar, { max: told.total, value: told.done });
  else bar.removeAttribute("value");
}

function wordsOf(told) {
  if (!told) return say(state.work.measuring ? "running" : "sending");
  if (told.state === "running" && told.total) return say(state.work.measuring ? "measuring" : "stage", told);
  return told.state === "waiting" ? say("waiting", told) : say(told.state === "fetching" ? "fetching" : "running");
}

function draw() {
  root.dataset.theme = state.theme;
  document.documentElement.lang = root.lang = state.lang === "zh" ? "zh-Hans" : "en";
  const set = (name) => (value) => {
    state[name] = value;
    keep(name, value);
    draw();
    root.querySelector(`[aria-label="${say(name === "lang" ? "language" : "theme")}"] [aria-checked="true"]`).focus();
  };
  const lang = choices(say("language"), $strings.LANGUAGES, state.lang, set("lang"));
  const theme = choices(say("theme"), ["auto", "light", "dark"].map((name) => [name, say(name)]), state.theme, set("theme"));
  lang.className = theme.className = "vw-group";
  const top = el("header", { class: "vw-top" }, el("div", {}, el("h1", { text: "vitscope" }), el("p", { text: say("lead") })), el("div", { class: "vw-switches" }, lang, theme));
  const error = el("div", { role: "alert" });
  if (state.error) {
    const { detail = state.error.message, hint } = state.error;
    error.append(el("p", { class: "vw-error" }, detail, hint ? el("small", { text: hint }) : null));
  }
  root.replaceChildren(el("div", { class: "vw-start" }, top, error, ...(state.work ? [working()] : chooser())));
  if (state.work) progress(state.work.told);
}

function working() {
  const bar = el("progress", { "aria-label": say("running") });
  return el("section", { class: "vw-work" }, el("img", { src: state.work.preview, alt: "" }), el("div", {},
    el("p", { class: "vw-said", role: "status" }), bar, el("button", { type: "button", class: "vw-plain", text: say("cancel"), onclick: stop })));
}

function chooser() {
  const file = el("input", { type: "file", accept: "image/*", onchange: () => file.files[0] && look(file.files[0]) });
  const drop = el("label", { class: "vw-drop" }, el("strong", { text: say("drop") }), el("span", { class: "vw-soft", text: say("paste") }), file);
  const names = state.models.map((one) => one.reference);
  const model = el("select", { onchange: () => { state.model = model.value; } }, ...names.map((name) => el("option", { value: name, text: name, selected: name === state.model })));
  const which = names.length > 1 ? el("label", {}, el("span", { text: say("model") }), model)
    : el("p", { class: "vw-soft", text: names.length ? `${say("model")}: ${names[0]}` : "" });
  const row = el("div", { class: "vw-row" }, which);
  const list = el("ul", {}, ...state.samples.map(({ name, about, credit }) => el("li", {}, el("button", {
    type: "button", "data-sample": name, title: `${about} (${credit})`, onclick: () => look(null, name),
  }, el("img", { src: `/api/samples/${name}`, alt: about })))));
  return [drop, row, el("section", { class: "vw-samples" }, el("h2", { class: "vw-soft", text: say("samples") }), list)];
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

draw();
try {
  [state.models, state.samples] = await Promise.all([ask("/api/models"), ask("/api/samples")]);
  state.model = state.models[0].reference;
  if (!kept("view") || !(await show(kept("view")).catch(() => false))) draw();
} catch (error) {
  state.error = error;
  draw();
}
