// The notebook's host: requests of the viewer go to the kernel as messages; answers come back with binary arrays.

import { mount } from "./main.js";

function kernelHost(model, signal) {
  const waiting = new Map();
  const own = Math.random().toString(36).slice(2); // one model may be shown twice: answers reach both views
  let count = 0;

  const answered = (message, buffers) => {
    const request = waiting.get(message.id);
    if (!request) return;
    waiting.delete(message.id);
    if (message.error)
      request.reject(Object.assign(new Error(message.error), { hint: message.hint, messages: message.messages }));
    else request.resolve(withArrays(message.result, buffers));
  };
  model.on("msg:custom", answered);
  signal.addEventListener("abort", () => model.off("msg:custom", answered));

  const send = (kind, request) =>
    new Promise((resolve, reject) => {
      const id = `${own}-${count++}`;
      waiting.set(id, { resolve, reject });
      model.send({ id, kind, ...request });
    });

  const answers = model.get("_answers");
  const host = { kind: "notebook" };
  if (answers.includes("mask")) host.mask = latest((patches, mode) => send("mask", { patches, mode }));
  if (answers.includes("explain")) host.explain = (request, signal) => given(send("explain", request), signal);
  return host;
}

// A kernel answers in order and cannot be interrupted: while it works on one mask, only the newest other one waits.
function latest(send) {
  let running = null;
  let next = null;
  const start = (job) => {
    running = send(...job.request)
      .then(job.resolve, job.reject)
      .finally(() => {
        running = null;
        const job = next;
        next = null;
        if (job) start(job);
      });
  };
  return (patches, mode, signal) =>
    given(
      new Promise((resolve, reject) => {
        const job = { request: [patches, mode], resolve, reject };
        if (!running) return start(job);
        next?.reject(new DOMException("a newer mask was requested", "AbortError"));
        next = job;
      }),
      signal,
    );
}

// The promise, or an AbortError as soon as the signal is aborted.
function given(promise, signal) {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const stop = () => reject(signal.reason);
    if (signal.aborted) return stop();
    signal.addEventListener("abort", stop, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", stop));
  });
}

const bytesOf = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

function withArrays(result, buffers) {
  if (!result.arrays) return result;
  const arrays = {};
  for (const [name, { at, ...about }] of Object.entries(result.arrays)) {
    arrays[name] = { ...about, data: bytesOf(buffers[at]) };
  }
  return { ...result, arrays };
}

function withBytes({ header, arrays, messages, other }) {
  const named = Object.entries(arrays).map(([name, array]) => [name, { ...array, data: bytesOf(array.data) }]);
  return {
    header: { ...header },
    messages,
    arrays: Object.fromEntries(named),
    ...(other ? { other: withBytes(other) } : {}),
  };
}

export default {
  render({ model, el }) {
    const ended = new AbortController();
    const made = mount(el, withBytes(model.get("_document")), kernelHost(model, ended.signal));
    const grow = () => model.get("_grown")?.header && made.grow(withBytes(model.get("_grown")));
    grow();
    model.on("change:_grown", grow);
    return () => {
      ended.abort();
      model.off("change:_grown", grow);
      made.destroy();
    };
  },
};
