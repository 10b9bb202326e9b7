// Markdown as models write it, as elements. Texts become text nodes, never HTML.

import { button, element } from "./element.js";

/** Spans: code, links, strong and emphasized text. */
const SPAN = /(`+)(.+?)\1(?!`)|\[([^[\]\n]+)\]\((https?:\/\/[^\s)]{1,2000})\)|\*\*(?=\S)(.+?)\*\*|\*(?=[^\s*])([^*\n]+?)\*(?!\w)/s;
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])\s+(.*)$/;

/** Quotes and lists in one another that are shown as such; a text with more must not exhaust the stack. */
const DEEPEST = 30;

/** The elements of a text, which may be the beginning of a longer one. */
export function markdown(text) {
  return blocks(text.split("\n"), 0);
}

function blocks(lines, depth) {
  if (depth > DEEPEST) return [element("p", { text: lines.join("\n") })];
  const made = [];
  let paragraph = [];
  const end = () => {
    if (paragraph.length > 0) made.push(element("p", {}, spans(paragraph.join("\n"))));
    paragraph = [];
  };
  for (let i = 0; i < lines.length; i += 1) {
    const line = lines[i];
    const fence = line.match(FENCE);
    const heading = line.match(/^(#{1,6})\s+(.*?)\s*#*$/);
    if (fence) {
      end();
      const closing = new RegExp(`^ {0,3}${fence[1][0]}{${fence[1].length},}\\s*$`);
      const code = [];
      for (i += 1; i < lines.length && !closing.test(lines[i]); i += 1) code.push(lines[i]);
      made.push(program(code.join("\n"), fence[2]));
    } else if (heading) {
      end();
      // The page has headings of its own.
      made.push(element(`h${Math.min(heading[1].length + 2, 6)}`, {}, spans(heading[2])));
    } else if (/^ {0,3}([-*_])(\s*\1){2,}\s*$/.test(line)) {
      end();
      made.push(element("hr"));
    } else if (/^ {0,3}>/.test(line)) {
      end();
      const quoted = [];
      for (; i < lines.length && /^ {0,3}>/.test(lines[i]); i += 1) {
        quoted.push(lines[i].replace(/^ {0,3}> ?/, ""));
      }
      i -= 1;
      made.push(element("blockquote", {}, blocks(quoted, depth + 1)));
    } else if (ITEM.test(line)) {
      end();
      const items = [];
      for (; i < lines.length && (ITEM.test(lines[i]) || /^\s+\S/.test(lines[i])); i += 1) items.push(lines[i]);
      i -= 1;
      made.push(list(items, depth));
    } else if (line.trim() === "") {
      end();
    } else {
      paragraph.push(line);
    }
  }
  end();
  return made;
}

/** A list; lines that are indented further than its first item belong to the item before them. */
function list(lines, depth) {
  const [, { length: indent }, mark] = lines[0].match(ITEM);
  const items = [];
  for (const line of lines) {
    const item = line.match(ITEM);
    if (item && item[1].length <= indent) items.push([item[3]]);
    else items.at(-1).push(line.slice(Math.min(indent + 2, line.search(/\S/))));
  }
  const children = items.map(([first, ...rest]) =>
    element("li", {}, [...spans(first), ...blocks(rest, depth + 1)]),
  );
  const numbered = /\d/.test(mark);
  const made = element(numbered ? "ol" : "ul", {}, children);
  if (numbered) made.start = Number.parseInt(mark, 10);
  return made;
}

/** A program, which can be copied. */
function program(text, language) {
  const copy = button("Copy", { class: "copy", title: "Copy this code" });
  copy.onclick = async () => {
    await navigator.clipboard.writeText(text);
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy"), 2000);
  };
  const code = element("code", { text });
  if (language) code.dataset.language = language;
  return element("div", { class: "program" }, [copy, element("pre", {}, [code])]);
}

function spans(text) {
  const made = [];
  for (let rest = text; rest !== ""; ) {
    const found = rest.match(SPAN);
    if (!found) return [...made, rest];
    if (found.index > 0) made.push(rest.slice(0, found.index));
    const [all, , code, label, address, strong, emphasis] = found;
    if (code !== undefined) made.push(element("code", { text: code }));
    else if (strong !== undefined) made.push(element("strong", {}, spans(strong)));
    else if (emphasis !== undefined) made.push(element("em", {}, spans(emphasis)));
    else made.push(element("a", { text: label, href: address, target: "_blank", rel: "noopener noreferrer" }));
    rest = rest.slice(found.index + all.length);
  }
  return made;
}
