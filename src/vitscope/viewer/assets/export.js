// What one takes away: the picture with its legend, the arrays, the state as a link, and the command that makes it.

import { commandOf, lostBy, stemOf } from "./command.js";
import { el } from "./dom.js";
import { canEncode, canPlay, filmOf, gifOf } from "./exportFilm.js";
import { npy, zip } from "./npz.js";
import { pdfOf, pictureOf, svgOf } from "./exportImage.js";
import { scaleOf, stateOf } from "./scene.js";
import { toFragment } from "./store.js";

// `shown` and `shown_prefix`, of the other photo `other`; every map by its name; what the readout attends to, `heads` (L, H, N).
export async function arraysOf({ data, other, scene }) {
  const name = `${stemOf({ data, scene })}.npz`,
    grid = [data.rows, data.columns],
    shown = ({ values, rgb }, rows, columns) =>
      rgb
        ? npy(
            Float32Array.from(rgb, (one) => one / 255),
            [rows, columns, 3],
          )
        : npy(values, [rows, columns]),
    files = [
      ["shown.npy", shown(scene, ...grid)],
      ["shown_prefix.npy", npy(scene.prefix, [scene.prefix.length])],
    ];
  if (scene.other) files.push(["other.npy", shown(scene.other, other.rows, other.columns)]);
  for (const { id } of data.maps) {
    const { values } = await data.map(id);
    files.push([`map.${id.replace(/[^\w.-]+/g, "_")}.npy`, npy(values, grid)]);
  }
  const even = data.layers.every((one) => one.heads === data.heads);
  if (data.readable && even) {
    const all = await Promise.all(data.layers.map((_, layer) => data.readouts(layer)));
    const together = new Float32Array(all.length * data.heads * data.tokens);
    all.forEach((one, i) => together.set(one, i * one.length));
    files.push(["heads.npy", npy(together, [all.length, data.heads, data.tokens])]);
  }
  return new File([zip(files)], name, { type: "application/zip" });
}

export function recordOf({ data, other, store, scene, bar }) {
  const { header } = data,
    state = stateOf(scene, store.get()),
    scale = scene.values && scaleOf(scene, state),
    { caption, unit } = bar.texts();
  const { images, statistics, maps, layers, ...rest } = header;
  return {
    ...rest,
    kind: "shown",
    state,
    caption,
    unit,
    scale,
    command: commandOf(state, data, other),
    grid: [data.rows, data.columns],
    values: scene.values && Array.from(scene.values),
    ...(scene.rgb ? { rgb: Array.from(scene.rgb) } : {}),
    prefix: Object.fromEntries(scene.values ? data.prefix.map((name, i) => [name, scene.prefix[i]]) : []),
    ...(scene.best ? { best: scene.best, best_in_other: scene.other?.best ?? null } : {}),
    map: scene.entry ? { ...scene.entry } : null,
    page: header.command,
  };
}

// A step of the tour would put its own state in the place of this one.
export function linkOf({ scene, store, initial, host }) {
  const fragment = toFragment({ ...stateOf(scene, store.get()), tour: null }, initial);
  return location.href.split("#")[0] + (host.fragment?.(fragment) ?? (fragment ? `#${fragment}` : ""));
}

// The line that puts what is shown into another page or a slide: the file lies beside it, or where it is served from.
export function frameOf(ctx) {
  const [path, fragment = ""] = linkOf(ctx).split("#"),
    page = path.startsWith("file:") ? path.split("/").at(-1) : path;
  const frame = el("iframe", { title: `${ctx.scene.caption} · ${ctx.data.photo}` });
  const given = { src: `${page.split("?")[0]}?embed${fragment && `#${fragment}`}`, width: "960", height: "540" };
  for (const [name, value] of Object.entries({ ...given, frameborder: "0" })) frame.setAttribute(name, value);
  return frame.outerHTML;
}

function download(file) {
  const url = URL.createObjectURL(file);
  el("a", { href: url, download: file.name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

async function copy(field) {
  try {
    await navigator.clipboard.writeText(field.value);
  } catch {
    field.select();
    document.execCommand("copy");
  }
}

export function panel(root, ctx) {
  const { data, store, t, host, signal } = ctx;
  const status = el("p", { class: "vs-note", role: "status" });
  const films = new Set(); // those that are being made
  const tell = (text) => {
    status.textContent = [text, films.size && t("recording")].filter(Boolean).join(" · ");
  };
  // `make` gives a file: whoever makes it names it, since what is shown may change while it is made.
  const save = async (make) => {
    const file = await make(ctx, signal);
    if (file) download(file);
    return file ? t("saved", { name: file.name }) : t("not_recorded");
  };
  const button = (label, onclick) => el("button", { type: "button", class: "vs-quiet", text: t(label), onclick });
  const saving = (label, make) => button(label, async () => tell(await save(make)));
  const film = (label, make) =>
    button(label, async () => {
      if (films.has(label)) return; // it is being made
      films.add(label);
      tell("");
      const said = await save(make).finally(() => films.delete(label));
      tell(said);
    });
  async function copyPicture() {
    try {
      await navigator.clipboard.write([new ClipboardItem({ "image/png": pictureOf(ctx) })]);
      status.textContent = t("picture_copied");
    } catch {
      status.textContent = t("picture_not_copied");
    }
  }
  const buttons = [
    saving("save_png", pictureOf),
    saving("save_svg", svgOf),
    saving("save_pdf", pdfOf),
    button("copy_picture", copyPicture),
    canPlay(ctx) && film("save_gif", gifOf),
    canEncode(ctx) && film("save_webm", filmOf),
    saving("save_npz", arraysOf),
    saving(
      "save_json",
      () => new File([JSON.stringify(recordOf(ctx), null, 1)], `${stemOf(ctx)}.json`, { type: "application/json" }),
    ),
  ].filter(Boolean);
  root.append(el("div", { class: "vs-row" }, ...buttons), status);

  const field = (label, text, ...below) => {
    const box = el("textarea", { readonly: true, rows: "2", spellcheck: "false", "aria-label": t(label) });
    const take = el("button", {
      type: "button",
      class: "vs-quiet",
      text: t("copy"),
      "aria-label": `${t("copy")}: ${t(label)}`,
      onclick: async () => {
        await copy(box);
        status.textContent = t("copied");
      },
    });
    root.append(el("div", { class: "vs-copy" }, el("span", { class: "vs-note", text: t(label) }), box, take), ...below);
    return () => {
      box.value = text();
    };
  };
  const lost = el("p", { class: "vs-note" }),
    now = () => stateOf(ctx.scene, store.get());
  const fields = [
    host.kind !== "notebook" && field("as_link", () => linkOf(ctx)),
    host.kind === "file" && field("as_frame", () => frameOf(ctx)),
    field("as_command", () => commandOf(now(), data, ctx.other), lost),
    data.header.command && field("as_page", () => data.header.command),
  ].filter(Boolean);
  const show = () => {
    if (!ctx.scene) return;
    for (const one of buttons) one.disabled = ctx.scene.passing || !(ctx.scene.values ?? ctx.scene.rgb);
    fields.forEach((fill) => fill());
    const what = lostBy(now())
      .map((key) => t(key))
      .join(" · ");
    lost.textContent = what && t("not_in_command", { what });
  };
  show();
  store.subscribe(show, signal);
  ctx.shown.subscribe(show, signal);
}
