// Sheets of examples: clean, adversarial, and what was added.

function className(sheet, label) {
  if (label < 0) return "not finite";
  return sheet.names[label] === undefined ? String(label) : sheet.names[label];
}

function image(source, words) {
  return source ? el("img", { src: source, alt: words, width: 64, height: 64 })
    : el("span", { class: "blank", role: "img", "aria-label": `${words}: not here` }, "\u2014");
}

function lastsUnder(board, example) {
  return board.columns[example.column].name;
}

// whether a model gets the image right and nothing that enters its worst case breaks it
function stands(board, row, place, columns) {
  const at = board.sheet.ids[place] - board.start;
  return columns.length > 0 && columns.every((column) => marked(row.standing[column], at));
}

function entering(board, row) {
  const found = board.columns.map((_, i) => i).filter((i) => row.standing[i] && board.columns[i].access === "white-box");
  return found.length ? found : board.columns.map((_, i) => i).filter((i) => row.standing[i]);
}

// eight truth values in a byte of base64, the first one highest
const unpacked = new Map();

function marked(text, at) {
  if (!text) return false;
  if (!unpacked.has(text)) unpacked.set(text, Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)));
  return Boolean(unpacked.get(text)[at >> 3] & (128 >> (at & 7)));
}

function changed(board, example) {
  return `${board.norm} ${example.distance}${example.scale ? `, drawn to \u00b1${example.scale}` : ""}`;
}

function exampleOf(board, row, place, example) {
  const { sheet } = board;
  const [id, label] = [sheet.ids[place], className(sheet, sheet.labels[place])];
  const [before, after] = [className(sheet, example.before), className(sheet, example.after)];
  const standing = stands(board, row, place, entering(board, row));
  return el("figure", { class: `example ${standing ? "stands" : "falls"}` },
    el("div", { class: "triple" },
      image(sheet.clean[place], `test image ${id}, ${label}`), image(example.adversarial, `the same under attack, answered ${after}`),
      image(example.change, `what was added, ${changed(board, example)}`)),
    el("figcaption", null, el("b", null, standing ? "stands" : "falls"), `, image ${id} of class ${label}: `, before === label ? `${before} \u2192 ${after}` : `wrong before any attack (${before})`,
      el("br"), `${changed(board, example)}; ${lastsUnder(board, example)}`));
}

function sheetOf(board, row) {
  const { sheet } = board;
  const mine = sheet ? sheet.examples[board.rows.indexOf(row)] : [];
  const known = mine.map((example, place) => [place, example]).filter(([, example]) => example);
  if (!known.length) return el("p", { class: "none" }, "No images of this model are stored.");
  const columns = entering(board, row);
  const fallen = known.filter(([place]) => !stands(board, row, place, columns));
  const standing = known.filter(([place]) => stands(board, row, place, columns));
  const first = [...fallen.slice(0, standing.length ? 6 : 8), ...standing.slice(0, fallen.length ? 2 : 8)];
  const rest = known.filter((each) => !first.includes(each));
  const shown = (list) => el("div", { class: "sheet" }, list.map(([place, example]) => exampleOf(board, row, place, example)));
  return [
    el("p", { class: "hint" }, "Clean, adversarial, and what was added (medium grey: nothing). The same images for every model, ",
      "chosen where models differ; 8-bit pictures of the stored float32 images.", sheet.note ? ` No clean images: ${sheet.note}` : ""),
    shown(first),
    rest.length ? el("details", null, el("summary", null, `${plural(rest.length, "more image")}`), shown(rest)) : null,
  ];
}
