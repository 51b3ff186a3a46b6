// Elements of the page. Text enters as text alone: nothing here, or anywhere in these scripts, reads markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

let made = 0;

function fresh(what) {
  made += 1;
  return `${what}-${made}`;
}

function plural(count, one, many) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many || `${one}s`}`;
}

function whole(value) {
  return value.toLocaleString("en");
}

// a command or an id that is to be copied
function copied(text) {
  const code = el("code", { tabindex: 0 }, text);
  const button = el("button", { type: "button", class: "small copy", click: copy }, "Copy");
  function copy() {
    const range = document.createRange();
    range.selectNodeContents(code);
    const selection = window.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    button.textContent = document.execCommand("copy") ? "Copied" : "Marked";
    window.setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }
  return el("div", { class: "command" }, code, button);
}

// a table without anything to sort: headings, then lines of cells
function plainTable(caption, headings, lines) {
  return el("div", { class: "wide" }, el("table", { class: "plain" },
    el("caption", { class: "unseen" }, caption),
    el("thead", null, el("tr", null, headings.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", null, lines.map((line) => el("tr", null, line.map((cell, i) =>
      (i ? el("td", null, cell) : el("th", { scope: "row" }, cell))))))));
}
