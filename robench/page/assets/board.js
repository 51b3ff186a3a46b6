// A board: its answer in a sentence, its table, and two of its models compared.

const NAMED = 4;

function rightOn(cell) {
  return [`right on ${percent(cell.value)} % [${percent(cell.interval[0])}, ${percent(cell.interval[1])}] of ${whole(cell.n)} images in the worst case`, cell.note];
}

function doubted(contents, board, row) {
  return [" Above it stands ", el("b", null, row.model), ", ", rightOn(row.cells[1]), ", but that is not to be trusted before its flags are explained: ",
    el("b", null, doubts(contents, board, row).join(", ")), ". Open its line for what to do."];
}

// models that another one is not surely ahead of, the least sure first
function undecided(close) {
  const found = [...close].sort((a, b) => b.paired.p - a.paired.p).map(({ row, paired }) => `${row.model} (${chance(paired)})`);
  return found.slice(0, NAMED).join(", ") + (found.length > NAMED ? ` and ${found.length - NAMED} more` : "");
}

function answer(contents, board) {
  const said = (...text) => el("p", { class: "answer" }, text);
  const { first, second, seeds, above, paired, close, beyond: larger } = lead(contents, board);
  if (!first && above.length) {
    const [top] = above;
    return said("No model here is without a flag. On top stands ", el("b", null, top.model), ", ", rightOn(top.cells[1]),
      ", which is not to be trusted before its flags are explained: ", el("b", null, doubts(contents, board, top).join(", ")), ". Open its line for what to do.");
  }
  if (!first) {
    if (board.rows.some((row) => !row.searched)) {
      return said("No model was searched here: every attack took a single step, or was handed images from elsewhere, which can show that a model is weak, never that it is robust.");
    }
    return said("No model has a worst case here", board.columns.slice(2).every((column) => column.lower)
      ? ": its attacks look for one class that was drawn for each image, so that their success is no worst case." : ".");
  }
  const cell = first.cells[1];
  const more = above.map((row) => doubted(contents, board, row));
  const absent = larger ? [" But ", el("b", null, larger.row.model), `, which is not in this table, keeps ${percent(larger.row.cells[1].value)} % within eps ${larger.eps}, and so within this smaller one, too.`] : null;
  if (cell.value === 0) return said(`No model${more.length ? " without a flag" : ""} here is right on any of ${whole(cell.n)} images in the worst case, which leaves [0.0, ${percent(cell.interval[1])}] %.`, absent, more);
  const { defense, trained, kin } = contents.models[first.digest] || {};
  const its = [defense && !first.model.startsWith(defense) ? defense : "", trained].filter(Boolean).join(", ");
  const told = [larger ? `Most robust of the ${plural(board.rows.length, "model")} here: ` : "Most robust: ", el("b", null, first.model), its ? ` (${its})` : "", ", ", rightOn(cell), "."];
  if (paired) told.push(" ", verdict(paired, first.model, second.model));
  else if (second) told.push(` Next is ${second.model}, which shares no attack with it.`);
  if (close.length) told.push(` ${paired && ahead(paired) ? "But it is not to be told apart" : "Nor is it to be told apart"} from ${undecided(close)}.`);
  told.push(absent);
  if (seeds.length) told.push(` It is one of ${seeds.length} seeds, which are right on ${overSeeds(seeds)} (mean and standard deviation).`);
  else if (kin) told.push(" It is one training: what another one would give is not known.");
  return said(told, more);
}

function columnsOf(contents, board) {
  const defense = (row) => (contents.models[row.digest] || {}).defense || "";
  const shown = (i) => ({
    id: `c${i}`, title: `${board.columns[i].name}${i ? "" : " accuracy"} %`, figure: true, descending: !board.columns[i].lower,
    value: (row) => row.cells[i].value, show: (row) => figure(row.cells[i], board.columns[i].lower), hidden: i > 5,
    name: board.columns[i].access ? `${board.columns[i].access}${board.columns[i].lower ? ", lower is better" : ""}` : null,
  });
  const attacks = board.columns.map((_, i) => i).slice(2).map(shown);
  return [
    { id: "pick", title: "compare", unseen: true, sorts: false, class: "pick", value: () => "" },
    { id: "model", title: "model", opens: true, value: (row) => row.model },
    { ...shown(1), class: "worst", filter: (row, id, least) => row.getValue(id) >= least / 100 },
    shown(0), ...attacks,
    { id: "defense", title: "defense", value: defense, show: (row) => defense(row) || "not trained here" },
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
  const compared = fresh("compared");
  const hint = (words) => el("p", { class: "hint" }, words);
  const invitation = "Tick two models to compare them image by image.";
  const beside = el("div", { class: "comparison", id: compared, tabindex: -1, "aria-live": "polite" }, board.rows.length > 1 ? hint(invitation) : null);
  const bar = el("p", { class: "chosen", hidden: true });
  const show = (...rows) => {
    const whom = rows.length === 2 ? comparison(board, ...rows) : hint(rows.length ? `${rows[0].model}: tick another model to compare.` : invitation);
    beside.replaceChildren(...[whom].flat(Infinity).filter(Boolean));
    bar.hidden = !rows.length;
    bar.replaceChildren(...(rows.length === 2 ? [decided(board, ...rows), " ", el("a", { href: `#${compared}`, click: () => beside.focus() }, "image by image")]
      : rows.map((row) => `${row.model}: tick another model to compare.`)));
  };
  const words = (row) => [row.model, ...Object.values((contents.models[row.digest] || { facts: {} }).facts)].join(" ");
  const of = grid({
    caption: board.title, columns, rows: board.rows, text: words, name: (row) => row.model,
    open: (row) => details(contents, board, row),
    pick: { most: 2, changed: (rows) => show(...rows) },
  });
  const defenses = [...new Set(board.rows.map((row) => (contents.models[row.digest] || {}).defense).filter(Boolean))].sort();
  return el("section", { class: "board", id: `board-${board.name}`, tabindex: -1 },
    el("h2", null, board.title), answer(contents, board),
    el("div", { class: "controls" }, search(of, "Find"), defenses.length > 1 ? choice(of, "defense", "defense", defenses) : null,
      leastControl(of), choice(of, "flagged", "flags", ["none", "flagged"]), columnChoice(of, columns)),
    of.told, of.node, hint([board.note, ...(board.columns.some(({ name }) => name.startsWith("standard")) ? [" The attack 'standard' is the set of attacks that robench recommends, and no model of that name."] : [])]), bar, beside);
}
