// What a model's line opens to.

function section(title, ...children) {
  return el("section", null, el("h4", null, title), ...children);
}

function facts(model) {
  return el("dl", { class: "facts" }, Object.entries(model.facts).map(([name, value]) =>
    el("div", { class: value.length > 60 ? "long" : null }, el("dt", null, name), el("dd", null, value))));
}

function options(values) {
  return Object.entries(values).map(([name, value]) => `${name}=${value === null ? "none" : value}`).join(", ");
}

function settings(board, row) {
  const place = (made) => board.columns.findIndex((column) => column.name === made.setting.column);
  const headings = ["column", "figure %", "attack", "against", "options", "seed", "images", "gradients", "seconds", "on", "commit", "evaluation"];
  return plainTable(`How ${row.model} was attacked`, headings, row.made.map((made) => {
    const its = made.setting;
    const cell = row.cells[place(made)];
    return [its.column, cell ? cell.text : "", its.attack, made.access, options(its.options), its.seed, whole(its.n),
      whole(its.gradients), its.seconds.toFixed(1), made.hardware, el("code", null, its.commit), el("code", null, its.evaluation)];
  }));
}

function flagsOf(contents, board, row) {
  const found = new Map();
  for (const { setting } of row.made) {
    for (const flag of setting.flags) found.set(flag, [...(found.get(flag) || []), setting.column]);
  }
  for (const flag of row.cells[1].flags) if (!found.has(flag) && contents.advice[flag]) found.set(flag, [board.columns[1].name]);
  return [...found].map(([flag, columns]) => el("li", null, el("b", null, flag), ` (${columns.join(", ")}): ${contents.advice[flag]}.`));
}

function findingsOf(contents, board, row) {
  return row.made.length ? contents.findings[findingsKey(board, row)] || [] : [];
}

function findingsKey(board, row) {
  return [row.digest, row.made[0].setting.data_digest, board.norm, board.count].join(" ");
}

function warnings(contents, board, row) {
  const flags = flagsOf(contents, board, row);
  const findings = findingsOf(contents, board, row);
  const told = row.made.flatMap((made) => made.setting.flags).map((flag) => contents.advice[flag]);
  const fired = findings.filter((finding) => finding.fired && !told.includes(`${finding.gate}: ${finding.advice}`));
  const quiet = findings.filter((finding) => !finding.fired);
  const sentence = (finding) => el("li", null, el("b", null, finding.gate), `: ${finding.evidence}. Fires above: ${finding.threshold}. `,
    el("em", null, `What to do: ${finding.advice}.`));
  return section("Flags and gates",
    flags.length || fired.length ? el("ul", { class: "warnings" }, flags, fired.map(sentence))
      : el("p", null, "No flag, and no gate for gradient masking fired."),
    quiet.length ? el("details", null, el("summary", null, `${plural(quiet.length, "gate")} asked and found nothing`),
      el("ul", null, quiet.map((finding) => el("li", null, el("b", null, finding.gate), `: ${finding.evidence}.`)))) : null,
    findings.length ? null : el("p", { class: "hint" }, "No gate had runs to compare; 'robench diagnose' makes them."));
}

const SHARES = /accuracy/;

function training(model) {
  if (!model || !model.curves) return null;
  const { epochs, terms } = model.curves;
  const chart = (title, y, names, range, times = 1) => {
    const series = names.map((name) => ({ label: name, values: terms[name].map((value) => (value === null ? null : times * value)) }));
    const spoken = series.map(({ label, values }) => `${label}: ${values.at(-1)} in the last epoch`).join("; ");
    return names.length ? plot(title, epochs, series, { x: "epoch", y, range, spoken }) : null;
  };
  const shares = Object.keys(terms).filter((name) => SHARES.test(name));
  return [chart("Training: terms of the loss", "loss", Object.keys(terms).filter((name) => !SHARES.test(name))),
    chart("Training: accuracy", "accuracy (%)", shares, [0, 100], 100)];
}

// the worst cases of every model of the board at each eps that the page has for the same images
function againstEps(contents, board, row) {
  const like = contents.boards.filter((other) => ["dataset", "norm", "start", "count"].every((name) => other[name] === board[name]));
  const figures = (digest) => like.flatMap((other) => other.rows.filter((line) => line.digest === digest && line.cells[1].value !== null)
    .flatMap((line) => [[0, line.cells[0]], [other.radius, line.cells[1]]]));
  const mine = figures(row.digest);
  const radii = [...new Set(mine.map(([radius]) => radius))].sort((a, b) => a - b);
  if (radii.length < 3) return null;
  const series = (label, found) => {
    const at = radii.map((radius) => (found.find(([other, cell]) => other === radius && cell.value !== null) || [])[1]);
    return { label, values: at.map((cell) => (cell ? 100 * cell.value : null)), low: at.map((cell) => (cell ? 100 * cell.interval[0] : null)),
      high: at.map((cell) => (cell ? 100 * cell.interval[1] : null)) };
  };
  const others = board.rows.filter((line) => line.digest !== row.digest).slice(0, 3);
  const spoken = mine.map(([radius, cell]) => `eps ${radius}: ${cell.text}`).join("; ");
  return plot("Worst case against eps, 95% intervals", radii, [series(row.model, mine), ...others.map((line) => series(line.model, figures(line.digest)))],
    { x: `eps (${board.norm}; pixels lie in [0, 1])`, y: "accuracy (%)", range: [0, 100], spoken });
}

// the same training by other seeds
function seeds(contents, board, row) {
  const found = seedsOf(contents, board, row);
  if (!found.length) return null;
  const each = found.map((other) => `${percent(other.cells[1].value)} (${other.model})`);
  return el("p", null, `${found.length} trainings that differ in the seed alone are right on ${overSeeds(found)} in the worst case (mean and standard deviation): ${each.join(", ")}.`);
}

function details(contents, board, row) {
  const model = contents.models[row.digest];
  const commands = [...new Set([model ? model.command : "", ...row.made.map((made) => made.setting.command)])].filter(Boolean);
  const charts = [againstEps(contents, board, row), training(model)].flat().filter(Boolean);
  return [
    section("Model", model ? facts(model) : null, seeds(contents, board, row)),
    warnings(contents, board, row),
    charts.length ? section("Curves", el("div", { class: "charts" }, charts)) : null,
    section("Examples", sheetOf(board, row)),
    section("How it was attacked", settings(board, row)),
    section(commands.length > 1 ? "The commands that make it again" : "The command that makes it again", commands.map(copied)),
  ];
}
