// Requests of the server: an answer that is JSON, or an error that says what was wrong and what to do.

export class RequestError extends Error {
  /** @param {{detail: string, hint?: string, messages?: object}} answer */
  constructor({ detail, hint, messages }) {
    super(hint ? `${detail} (${hint})` : detail);
    Object.assign(this, { detail, hint, messages });
  }
}

// `t`: the translator, which learns the sentences of each answer.
export function requests(t) {
  const lost = () => new RequestError({ detail: t("app_lost"), hint: t("app_lost_hint") });

  async function request(path, options = {}) {
    let answer;
    try {
      answer = await fetch(path, options);
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw lost();
    }
    if (answer.status === 204) return null;
    const found = await answer.json();
    for (const one of [found].flat()) t.learn(one?.messages);
    if (!answer.ok) throw new RequestError(found);
    return found;
  }

  const post = (path, body, signal) =>
    request(path, {
      method: "POST",
      body: JSON.stringify(body),
      headers: { "content-type": "application/json" },
      signal,
    });

  // The last status of a view that is being made; `told` hears each.
  const followed = (id, signal, told) =>
    new Promise((resolve, reject) => {
      const events = new EventSource(`/api/views/${id}/events`);
      const end = (settle, value) => {
        events.close();
        settle(value);
      };
      events.addEventListener("state", ({ data }) => {
        const status = JSON.parse(data);
        told(status);
        if (!["waiting", "running"].includes(status.state)) end(resolve, status);
      });
      events.onerror = () => end(reject, lost());
      signal.addEventListener("abort", () => end(reject, signal.reason));
    });

  return { request, post, followed };
}
