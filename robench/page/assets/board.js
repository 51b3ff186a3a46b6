// A board: its answer in a sentence, its table, and two of its models compared.

// what else was measured of the same model within the same eps or a smaller one, on other images or by other attacks, and
// is clearly less
function lessElsewhere(contents, board, row) {
  const here = row.cells[1];
  const others = contents.boards.filter((other) => other !== board && other.radius <= board.radius && ["dataset", "norm"].every((name) => other[name] === board[name]))
    .flatMap((other) => other.rows).filter((other) => row.digest && other.digest === row.digest && !other.damaged).map((other) => other.cells[1])
    .filter((cell) => cell.value !== null && here.value !== null && cell.interval[1] < here.interval[0]);
  const [least] = others.sort((a, b) => a.value - b.value);
  return least ? [`${percent(least.value)} % of ${whole(least.n)} images in another board of this eps or a smaller one`] : [];
}

// why a row's figure is not to be trusted as it stands: its flags, the gates that fired about its model, and other boards
function doubts(contents, board, row) {
  const fired = findingsOf(contents, board, row).filter((finding) => finding.fired).map((finding) => finding.gate);
  return [...new Set([...row.cells[1].flags, ...fired, ...lessElsewhere(contents, board, row)])];
}

// models whose figure counts, from the top; what only single steps tried counts for none
function ranked(board) {
  return board.rows.filter((row) => row.cells[1].value !== null && !row.damaged && row.searched);
}

// the models that are trained as this one is, but for the seed, met the same attacks and have nothing against them,
// itself among them; none if it is alone, or if one seed is there twice
function seedsOf(contents, board, row) {
  const kin = (of) => contents.models[of.digest]?.kin;
  const alike = (other) => kin(other) === kin(row) && !other.damaged && row.cells.every((cell, i) => (cell.value === null) === (other.cells[i].value === null));
  const found = kin(row) && row.cells[1].value !== null ? board.rows.filter(alike) : [];
  const several = new Set(found.map((other) => contents.models[other.digest].facts.seed)).size === found.length;
  return found.length > 1 && several && !found.some((other) => doubts(contents, board, other).length) ? found : [];
}

// the worst cases of several seeds: mean and standard deviation
function overSeeds(rows) {
  const values = rows.map((row) => row.cells[1].value);
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const spread = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1));
  return `${percent(mean)} \u00b1 ${percent(spread)} %`;
}

// the most robust model that nothing speaks against, the next such one that is no other seed of it, and those above it
// that something does
function lead(contents, board) {
  const rows = ranked(board);
  const trusted = rows.filter((row) => !doubts(contents, board, row).length);
  const [first] = trusted;
  const seeds = first ? seedsOf(contents, board, first) : [];
  const second = trusted.slice(1).find((row) => !seeds.includes(row));
  const pair = first && second ? pairOf(board, board.rows.indexOf(first), board.rows.indexOf(second)) : null;
  const above = first ? rows.slice(0, rows.indexOf(first)) : rows;
  return { first, second, seeds, above, paired: pair && pair.shared.length ? pair.paired[1] : null };
}

function rightOn(cell) {
  return [`right on ${percent(cell.value)} % [${percent(cell.interval[0])}, ${percent(cell.interval[1])}] of ${whole(cell.n)} images in the worst case`, cell.note];
}

function doubted(contents, board, row) {
  return [" Above it stands ", el("b", null, row.model), ", ", rightOn(row.cells[1]), ", but that is not to be trusted before its flags are explained: ",
    el("b", null, doubts(contents, board, row).join(", ")), ". Open its line for what to do."];
}

function answer(contents, board) {
  const said = (...text) => el("p", { class: "answer" }, text);
  const { first, second, seeds, above, paired } = lead(contents, board);
  if (!first && above.length) {
    const [top] = above;
    return said("No model here is without a flag. On top stands ", el("b", null, top.model), ", ", rightOn(top.cells[1]),
      ", which is not to be trusted before its flags are explained: ", el("b", null, doubts(contents, board, top).join(", ")), ". Open its line for what to do.");
  }
  if (!first) {
    return said(board.rows.some((row) => !row.searched)
      ? "No model was searched here: every attack took a single step, or was handed images from elsewhere, which can show that a model is weak, never that it is robust."
      : "No model has a worst case here.");
  }
  const cell = first.cells[1];
  const more = above.map((row) => doubted(contents, board, row));
  if (cell.value === 0) return said(`No model${more.length ? " without a flag" : ""} is right on any of ${whole(cell.n)} images in the worst case, which leaves [0.0, ${percent(cell.interval[1])}] %.`, more);
  const { defense } = contents.models[first.digest] || {};
  const told = ["Most robust: ", el("b", null, first.model), defense && !first.model.startsWith(defense) ? ` (${defense})` : "", ", ", rightOn(cell), ". "];
  if (seeds.length) told.push(`It is one of ${seeds.length} seeds, which are right on ${overSeeds(seeds)} (mean and standard deviation). `);
  if (paired) told.push(verdict(paired, first.model, second.model));
  else if (second) told.push(`Next is ${second.model}, which shares no attack with it.`);
  return said(told, more);
}

function columnsOf(contents, board) {
  const defense = (row) => (contents.models[row.digest] || {}).defense || "";
  const shown = (i) => ({
    id: `c${i}`, title: `${board.columns[i].name}${i ? "" : " accuracy"} %`, figure: true, descending: !board.columns[i].lower,
    value: (row) => row.cells[i].value, show: (row) => figure(row.cells[i]), hidden: i > 5,
    name: board.columns[i].access ? `${board.columns[i].access}${board.columns[i].lower ? ", lower is better" : ""}` : null,
  });
  const attacks = board.columns.map((_, i) => i).slice(2).map(shown);
  return [
    { id: "pick", title: "compare", unseen: true, sorts: false, class: "pick", value: () => "" },
    { id: "model", title: "model", opens: true, value: (row) => row.model },
    { ...shown(1), class: "worst", filter: (row, id, least) => row.getValue(id) >= least / 100 },
    shown(0), ...attacks,
    { id: "defense", title: "defense", value: defense, show: defense },
    { id: "strongest", title: "strongest attack", value: (row) => row.strongest, show: (row) => row.strongest, hidden: attacks.length < 2 },
    { id: "flagged", title: "flags", value: (row) => (isFlagged(row) ? "flagged" : "none"), show: (row) => (isFlagged(row) ? "flagged" : "none"), hidden: true },
  ];
}

function isFlagged(row) {
  return row.cells.some((cell) => cell.flags.length > 0);
}

function columnChoice(of, columns) {
  const named = columns.filter((column) => column.id !== "pick" && !column.opens);
  const boxes = named.map((column) => {
    const mark = el("input", { type: "checkbox", change: () => of.table.getColumn(column.id).toggleVisibility(mark.checked) });
    mark.checked = !column.hidden;
    return el("label", null, mark, column.title);
  });
  return el("details", { class: "control columns" }, el("summary", null, "columns"), el("div", { class: "boxes" }, boxes));
}

function leastControl(of) {
  const id = fresh("least");
  const field = el("input", { type: "number", id, min: 0, max: 100, step: 1,
    input: () => of.table.getColumn("c1").setFilterValue(field.value === "" ? undefined : Number(field.value)) });
  return el("span", { class: "control" }, el("label", { for: id }, "worst case at least %"), field);
}

function boardSection(contents, board) {
  const columns = columnsOf(contents, board);
  const beside = el("div", { class: "comparison", "aria-live": "polite" },
    board.rows.length > 1 ? el("p", { class: "hint" }, "Tick two models to compare them image by image.") : null);
  const words = (row) => [row.model, ...Object.values((contents.models[row.digest] || { facts: {} }).facts)].join(" ");
  const of = grid({
    caption: board.title, columns, rows: board.rows, text: words, name: (row) => row.model,
    open: (row) => details(contents, board, row),
    pick: { most: 2, changed: (rows) => beside.replaceChildren(...[rows.length === 2 ? comparison(board, ...rows)
      : el("p", { class: "hint" }, rows.length ? `${rows[0].model}: tick another model to compare.` : "Tick two models to compare them image by image.")].flat(Infinity).filter(Boolean)) },
  });
  const defenses = [...new Set(board.rows.map((row) => (contents.models[row.digest] || {}).defense).filter(Boolean))].sort();
  return el("section", { class: "board", id: `board-${board.name}`, tabindex: -1 },
    el("h2", null, board.title), answer(contents, board),
    el("div", { class: "controls" }, search(of, "Find"), defenses.length > 1 ? choice(of, "defense", "defense", defenses) : null,
      leastControl(of), choice(of, "flagged", "flags", ["none", "flagged"]), columnChoice(of, columns)),
    of.told, of.node, el("p", { class: "hint" }, board.note), beside);
}
