
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
// What the server says besides what the viewer knows of.
$translate.learn([
  ["this address needs its token", "此地址需要令牌"],
  ["open the address that `vitscope serve` printed, or send it as Authorization: Bearer TOKEN", "请打开 vitscope serve 给出的地址，或以 Authorization: Bearer TOKEN 发送令牌"],
  ["the request names no host", "请求未写明主机"],
  ["HTTP/1.1 wants one Host header", "HTTP/1.1 需要一个 Host 头"],
  ["this server is not called '{a}'", "此服务器不叫 {a}"],
  ["--allow-host NAME allows a name", "--allow-host 可允许一个名称"],
  ["else use its address", "否则请用其地址"],
  ["pages of other origins may not ask this server", "其他来源的页面不能访问此服务器"],
  ["pages of other sites may not ask this server", "其他站点的页面不能访问此服务器"],
  ["open its own page", "请打开它自己的页面"],
  ["the body did not arrive within {a} seconds", "内容未在 {a} 秒内到达"],
  ["send it faster, or a smaller photo", "请加快上传，或换一张较小的照片"],
  ["the body is longer than {a} MB", "内容超过 {a} MB"],
  ["send a smaller photo", "请换一张较小的照片"],
  ["the server is busy: too much is being sent to it", "服务器繁忙：正在接收的内容过多"],
  ["the server is busy: too many requests at once", "服务器繁忙：同时的请求过多"],
  ["the server is busy: its queue is full", "服务器繁忙：队列已满"],
  ["try again soon", "请稍后再试"],
  ["the length of the body is not a number", "内容长度不是数字"],
  ["/openapi.json says what there is", "有哪些接口见 /openapi.json"],
  ["/openapi.json says what is expected", "所需的格式见 /openapi.json"],
  ["this went wrong inside: {a}", "内部出错：{a}"],
  ["the server's log says more", "详见服务器日志"],
  ["the server is being stopped", "服务器正在停止"],
  ["{a} of your questions are waiting already", "您已有 {a} 个请求在等待"],
  ["wait for one of them, or cancel it", "请等待其中一个完成，或将其取消"],
  ["the model worked for {a} seconds and was stopped", "模型已计算 {a} 秒，被中止"],
  ["a smaller size, fewer methods, or without measuring", "可减小尺寸、减少方法或不作测量"],
  ["--seconds sets it", "用 --seconds 设定时限"],
  ["cancelled", "已取消"],
  ["nobody waits for it any more", "已无人等待"],
  ["the server was not started with this model", "服务器启动时没有此模型"],
  ["there is no such sample", "没有此示例"],
  ["there is no such photo", "没有此照片"],
  ["there is no such view", "没有此视图"],
  ["there is no such {a}", "没有此 {a}"],
  ["a {_} is kept for a while only, and for the browser that made it: make it again", "只保留一段时间，且只给生成它的浏览器：请重新生成"],
  ["this view is still being made", "此视图仍在生成"],
  ["wait for it", "请稍候"],
  ["size is {a} at most here, not {b}", "此处 size 至多为 {a}，不能是 {b}"],
  ["size is between 16 and 8192 pixels, not {a}", "size 应在 16 至 8192 像素之间，不能是 {a}"],
  ["{a} is empty", "{a} 是空文件"],
  ["the file has no bytes: copy or download it again", "文件没有内容：请重新复制或下载"],
  ["copy or download it again", "请重新复制或下载"],
  ["{a} is not a picture that can be read", "{a} 不是可读取的图片"],
  ["readable are {a}", "可读取的有 {a}"],
  ["{a} cannot be read: {b}", "{a} 无法读取：{b}"],
  ["check the path", "请检查路径"],
  ["{a} is truncated or broken: {b}", "{a} 不完整或已损坏：{b}"],
  ["{a} has 32-bit integers as pixels", "{a} 的像素是 32 位整数"],
  ["{a} has floating-point pixels of unknown range", "{a} 的像素是范围不明的浮点数"],
  ["scale them to 8 bits first", "请先转为 8 位"],
  ["{a} has {b} x {c} pixels: there are no regions to tell apart", "{a} 为 {b} × {c} 像素：没有可区分的区域"],
  ["use a picture of at least 2 x 2 pixels", "图片至少要 2 × 2 像素"],
  ["{a} is larger than {b} million pixels", "{a} 超过 {b} 百万像素"],
  ["shrink or crop it first", "请先缩小或裁剪"],
  ["a cat", "一只猫"],
  ["a cup of coffee", "一杯咖啡"],
  ["a Falcon 9", "一枚猎鹰 9 号火箭"],
  ["two handwritten digits", "两个手写数字"],
  ["{a}, public domain", "{a}，公有领域"],
  ["composed", "合成"],
  ["digits: {a}", "数字：{a}"],
  ["faithfulness", "忠实度"],
]);
const inWords = (words) => (words && state.lang === "zh" ? $translate.said(words) : words);
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
  mask: (patches, mode, signal) => post(`/api/views/${view}/mask`, { patches, mode }, signal),
  explain: ({ method, target = null, method_options = {} }, signal) => post(`/api/views/${view}/maps`, { method, target, method_options }, signal),
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
    if (left) root.querySelector(".vw-above").append(el("p", { class: "vw-said vw-soft", role: "status", text: say("measured_some", { why: inWords(left.why) }) }));
  } catch (error) {
    if (state.work === work) state.work = null;
    if (viewer !== before) return;
    above(asked);
    if (!work.ending.signal.aborted) root.querySelector(".vw-above").append(el("p", { class: "vw-error", role: "alert", text: inWords(error.message) }));
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
  if (told.state === "running" && told.total) return say(state.work.measuring ? "measuring" : "stage", { ...told, stage: inWords(told.stage) });
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
    error.append(el("p", { class: "vw-error" }, inWords(detail), hint ? el("small", { text: inWords(hint) }) : null));
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
    type: "button", "data-sample": name, title: inWords(`${about} (${credit})`), onclick: () => look(null, name),
  }, el("img", { src: `/api/samples/${name}`, alt: inWords(about) })))));
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
