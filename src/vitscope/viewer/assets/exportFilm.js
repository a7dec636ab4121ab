// The layers as a film (WebM), each with its legend: what the page plays, encoded frame by frame.

import { canvasOf } from "./exportImage.js";
import { PACE, playLayers } from "./player.js";
import { i420, webm } from "./webm.js";

// Encoders are given to pages of a secure origin alone, as files and the local server are.
export const canRecord = ({ data }) => data.readable && data.layers.length > 1 && typeof VideoEncoder === "function";

// Where the reader goes to another layer, there is no film.
export async function filmOf(ctx, signal) {
  const { data, store } = ctx,
    { layer, source, query, rolled } = store.get(),
    frames = [];
  let encoder = null,
    failed = null,
    size = null;
  await playLayers(ctx, signal, async () => {
    const picture = await canvasOf(ctx);
    if (!encoder) {
      size = [picture.width, picture.height].map((side) => side + (side % 2));
      encoder = new VideoEncoder({
        output: (chunk) => {
          const bytes = new Uint8Array(chunk.byteLength);
          chunk.copyTo(bytes);
          frames.push(bytes);
        },
        error: (error) => {
          failed = error;
        },
      });
      encoder.configure({ codec: "vp8", width: size[0], height: size[1], bitrate: 2e7, latencyMode: "quality" });
    }
    const canvas = document.createElement("canvas"),
      context = canvas.getContext("2d");
    [canvas.width, canvas.height] = size;
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(picture, 0, 0);
    // Browsers convert colours in ways of their own, so that the planes are made here.
    const [codedWidth, codedHeight] = size,
      planes = i420(context.getImageData(0, 0, codedWidth, codedHeight).data, codedWidth, codedHeight),
      timestamp = 1000 * PACE * frames.length,
      frame = new VideoFrame(planes, { format: "I420", codedWidth, codedHeight, timestamp });
    encoder.encode(frame, { keyFrame: true });
    frame.close();
    await encoder.flush();
  });
  encoder?.close();
  if (failed) throw failed;
  if (!signal.aborted && frames.length === data.layers.length) store.set({ layer, source, query, rolled });
  else return null;
  return new Blob([webm(frames, size[0], size[1], PACE, `vitscope ${data.header.vitscope}`)], { type: "video/webm" });
}
