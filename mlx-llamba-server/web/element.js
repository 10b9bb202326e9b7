// Elements of the page, made without HTML.

/** An element; `text` becomes a text node. */
export function element(name, { text, class: classes, ...properties } = {}, children = []) {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  Object.assign(made, properties);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

/** A button that does something in the page. */
export function button(text, properties = {}) {
  return element("button", { type: "button", text, ...properties });
}
