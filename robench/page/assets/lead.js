// Which model of a board is most robust, what speaks against that, and whom it is told apart from.

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

// where a pair of rows is told apart by the attacks that both met: the pairing of the first without the second, or null
function searched(board, a, b) {
  const pair = pairOf(board, board.rows.indexOf(a), board.rows.indexOf(b));
  return pair && pair.shared.length ? pair.paired[1] : null;
}

// p values with Holm's correction: the leader is held against every rival, and one of them may differ by chance
function corrected(rivals) {
  const known = rivals.filter(({ paired }) => paired).sort((a, b) => a.paired.p - b.paired.p);
  let least = 0;
  known.forEach((each, i) => {
    least = Math.max(least, Math.min(1, each.paired.p * (known.length - i)));
    each.paired = { ...each.paired, adjusted: least };
  });
  return rivals;
}

function ahead(paired) {
  return paired.difference > 0 && paired.adjusted < SURE;
}

// the model that keeps most within a larger eps than the board's, and so at least as much within this one, where it is
// more than the first keeps here and nobody attacked it here
function beyond(contents, board, first) {
  const here = new Set(board.rows.map((row) => row.digest));
  const [most] = contents.boards.filter((other) => other.radius > board.radius && ["dataset", "norm"].every((name) => other[name] === board[name]))
    .flatMap((other) => ranked(other).filter((row) => !here.has(row.digest) && row.cells[1].value > first.cells[1].value && !doubts(contents, other, row).length)
      .map((row) => ({ row, eps: other.eps }))).sort((a, b) => b.row.cells[1].value - a.row.cells[1].value);
  return most || null;
}

// the most robust model that nothing speaks against; the next such one that is no other seed of it, of several that are
// as robust the one that it is least surely ahead of; `close`, the others that it is not surely ahead of; and those above
// it that something speaks against
function lead(contents, board) {
  const rows = ranked(board);
  const trusted = rows.filter((row) => !doubts(contents, board, row).length);
  const [first] = trusted;
  const seeds = first ? seedsOf(contents, board, first) : [];
  const above = first ? rows.slice(0, rows.indexOf(first)) : rows;
  const rivals = corrected(trusted.filter((row) => row !== first && !seeds.includes(row)).map((row) => ({ row, paired: searched(board, first, row) })));
  const next = rivals.filter(({ row }) => row.cells[1].value === rivals[0].row.cells[1].value);
  const [second] = next.sort((a, b) => (b.paired ? b.paired.p : -1) - (a.paired ? a.paired.p : -1));
  const close = rivals.filter((each) => each !== second && each.paired && !ahead(each.paired));
  return { first, second: second?.row, paired: second?.paired || null, close, seeds, above, rivals: rivals.length, beyond: first ? beyond(contents, board, first) : null };
}
