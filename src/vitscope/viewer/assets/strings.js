// The viewer's texts, and the sentences of Python, in the reader's language. `{name}` is replaced by a value.

/* global TEXTS */ // the catalogues, `{language: {key: text}}`, which stand before the bundle

export const LANGUAGES = [
  ["en", "English"],
  ["zh", "中文"],
];

/** @param {(value: any) => string} written */
const filled = (text, values, written = String) =>
  text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? written(values[name]) : whole));

export function translator(languageOf) {
  const messages = new Map();
  const t = (key, values = {}) => filled(TEXTS[languageOf()]?.[key] ?? TEXTS.en[key] ?? key, values);
  t.has = (key) => key in TEXTS.en;
  // The table that Python gives with a document or an answer: English text -> parameters, and templates by language.
  t.learn = (table = {}) => {
    for (const [text, entry] of Object.entries(table)) messages.set(text, entry);
  };
  // A sentence of Python; its parameters may be sentences. What is in no table stays as it is.
  t.message = (text) => {
    const entry = messages.get(text),
      template = entry?.[languageOf()];
    return template ? filled(template, entry.params, (value) => t.message(String(value))) : text;
  };
  // An error of a host: what was wrong and, where it says so, what to do about it.
  t.error = ({ message, detail = message, hint, messages: table }) => {
    t.learn(table);
    return hint ? t("with_hint", { detail: t.message(detail), hint: t.message(hint) }) : t.message(detail);
  };
  // A prefix token by its name: `cls`, `register 1`.
  t.token = (name) => {
    const [kind, number] = name.split(" ");
    return kind in TEXTS.en ? t(kind, { number }) : name;
  };
  // A metric's name in the reader's language, where there is one.
  t.named = (name) => (`name_${name}` in TEXTS.en ? t(`name_${name}`) : name);
  t.list = (parts) => parts.join(t("comma"));
  return t;
}
