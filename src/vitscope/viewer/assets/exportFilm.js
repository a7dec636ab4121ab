// The layers as a film, WebM or GIF, each with its legend: what the page plays, frame by frame.

/*! gifenc, Copyright (c) 2017 Matt DesLauriers, MIT License (see NOTICE of vitscope) */
import { GIFEncoder } from "gifenc/src/index.js"; // of its sources esbuild takes what is used, of its bundle all
import { stemOf } from "./command.js";
import { stillOf } from "./exportImage.js";
import { withComment } from "./gif.js";
import { fewColours } from "./palette.js";
import { PACE, playLayers } from "./player.js";
import { DRAWN, stateOf, STYLE } from "./scene.js";
import { i420, webm } from "./webm.js";

export const canPlay = ({ data }) => data.readable && data.layers.length > 1;

// Encoders are given to pages of a secure origin alone, as files and the local server are.
export const canEncode = (ctx) => canPlay(ctx) && typeof VideoEncoder === "function";

// Films are recorded in turn, since they play on one page. Where the reader went elsewhere during one, those that waited
// are of something else than was asked for, too.
function inTurn(ctx, record) {
  const before = ctx.recording;
  const mine = (async () => {
    const earlier = await before?.catch(() => undefined);
    return earlier === null ? null : record();
  })();
  ctx.recording = mine;
  const done = () => ctx.recording === mine && (ctx.recording = null);
  mine.then(done, done);
  return mine;
}

// The layers as pictures on white, all as large as the largest, both sides multiples of `even`: their size, each one's
// pixels in turn, the name of a file of them, and what they say of themselves. Nothing where the reader chooses anything
// else meanwhile; the pointer chooses nothing. Until the largest is known they wait as PNG.
async function framesOf(ctx, signal, even) {
  const { data, store } = ctx,
    { layer, source, query, rolled } = store.get(),
    size = [0, 0],
    blobs = [],
    told = [];
  let first = null;
  ctx.hold(true);
  await playLayers(ctx, signal, async () => {
    const { picture, about } = await stillOf(ctx),
      choice = JSON.stringify(
        [...DRAWN, ...STYLE].map((key) => key !== "layer" && stateOf(ctx.scene, store.get())[key]),
      );
    first ??= { name: stemOf(ctx, "layers"), choice, about };
    if (choice !== first.choice) return false;
    [picture.width, picture.height].forEach((side, i) => {
      size[i] = Math.max(size[i], Math.ceil(side / even) * even);
    });
    told.push(`${about.Title}: ${about.Comment}`);
    blobs.push(await new Promise((resolve) => picture.toBlob(resolve)));
  }).finally(() => ctx.hold(false));
  if (signal.aborted || blobs.length < data.layers.length) return null;
  store.set({ layer, source, query, rolled });
  const { Source, Software } = first.about,
    comment = [`${data.model} · ${Source} · ${Software}`, ...told].join("\n");
  const canvas = new OffscreenCanvas(size[0], size[1]),
    context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  async function* pixels() {
    for (const blob of blobs) {
      const picture = await createImageBitmap(blob);
      context.fillRect(0, 0, size[0], size[1]);
      context.drawImage(picture, 0, 0);
      picture.close();
      yield context.getImageData(0, 0, size[0], size[1]).data;
    }
  }
  return { size, pixels, comment, software: Software, name: first.name };
}

export async function filmOf(ctx, signal) {
  const made = await inTurn(ctx, () => framesOf(ctx, signal, 2)); // chroma is of two by two pixels
  if (!made) return null;
  const [codedWidth, codedHeight] = made.size,
    frames = [];
  let failed = null;
  const encoder = new VideoEncoder({
    output: (chunk) => {
      const bytes = new Uint8Array(chunk.byteLength);
      chunk.copyTo(bytes);
      frames.push(bytes);
    },
    error: (error) => {
      failed = error;
    },
  });
  encoder.configure({ codec: "vp8", width: codedWidth, height: codedHeight, bitrate: 2e7, latencyMode: "quality" });
  for await (const rgba of made.pixels()) {
    // Browsers convert colours in ways of their own, so that the planes are made here.
    const planes = i420(rgba, codedWidth, codedHeight),
      timestamp = 1000 * PACE * frames.length,
      frame = new VideoFrame(planes, { format: "I420", codedWidth, codedHeight, timestamp });
    encoder.encode(frame, { keyFrame: true });
    frame.close();
    await encoder.flush();
  }
  encoder.close();
  if (failed) throw failed;
  const bytes = webm(frames, codedWidth, codedHeight, PACE, made.software, made.comment);
  return new File([bytes], `${made.name}.webm`, { type: "video/webm" });
}

// Each frame has 256 colours of its own; the film begins again when it ends.
export async function gifOf(ctx, signal) {
  const made = await inTurn(ctx, () => framesOf(ctx, signal, 1));
  if (!made) return null;
  const encoder = GIFEncoder();
  for await (const rgba of made.pixels()) {
    const { palette, index } = fewColours(rgba);
    encoder.writeFrame(index, made.size[0], made.size[1], { palette, delay: PACE });
  }
  encoder.finish();
  const bytes = withComment(encoder.bytesView(), made.comment);
  return new File([bytes], `${made.name}.gif`, { type: "image/gif" });
}
