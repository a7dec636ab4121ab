// Small helpers for making elements. Texts are always set as text, never as markup.

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined) continue;
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && typeof value !== "string") made[name] = value;
    else if (value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// A few choices, one of them taken: buttons in a group; arrow keys move among them.
export function choices(label, options, taken, take) {
  const group = el("div", { class: "vs-choices", role: "radiogroup", "aria-label": label });
  const buttons = options.map(([value, text, title]) =>
    el("button", { type: "button", role: "radio", text, title, onclick: () => take(value) }),
  );
  group.append(...buttons);
  group.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const at = (buttons.indexOf(event.target) + by + buttons.length) % buttons.length;
    buttons[at].focus();
    take(options[at][0]);
  });
  group.show = (value) => {
    const some = options.some(([one]) => one === value);
    buttons.forEach((button, i) => {
      const on = options[i][0] === value;
      button.setAttribute("aria-checked", on);
      button.tabIndex = on || (!some && i === 0) ? 0 : -1;
    });
  };
  group.show(taken);
  return group;
}

export function toggle(label, on, flip) {
  const box = el("input", { type: "checkbox", onchange: () => flip(box.checked) });
  box.checked = on;
  const made = el("label", { class: "vs-toggle" }, box, el("span", { text: label }));
  made.show = (value) => {
    box.checked = value;
  };
  return made;
}

export function figure(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  return size >= 1e-3 && size < 1e5 ? String(Number(value.toPrecision(3))) : value.toExponential(1);
}

export const percent = (value) => `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} %`;
// A prediction: a probability in percent, or the value of a regression as it is.
export const predicted = (value, activation) => (activation === "value" ? figure(value) : percent(value));
