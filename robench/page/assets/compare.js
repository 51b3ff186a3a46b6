// Two models of a board, image by image.

const KINDS = [
  ["both", "Both stand", true, true], ["only_a", "Only A stands", true, false],
  ["only_b", "Only B stands", false, true], ["neither", "Neither stands", false, false],
];
const LISTED = 60;
// of McNemar's p
const SURE = 0.05;

function pairOf(board, a, b) {
  const found = board.pairs.find((pair) => (pair.a === a && pair.b === b) || (pair.a === b && pair.b === a));
  if (!found) return null;
  return found.a === a ? found : { ...found, a, b, paired: found.paired.map(turned) };
}

function turned(paired) {
  const [low, high] = paired.interval;
  return { ...paired, only_a: paired.only_b, only_b: paired.only_a, accuracy_a: paired.accuracy_b, accuracy_b: paired.accuracy_a,
    difference: -paired.difference, interval: [-high, -low] };
}

// the probability of McNemar, and of one among several what Holm's correction makes of it
function chance(paired) {
  const told = probability(paired.p);
  return paired.adjusted > paired.p && paired.adjusted >= 0.0001 ? `${told}, ${decimal(paired.adjusted)} with Holm\u2019s correction` : told;
}

function verdict(paired, a, b) {
  const [better, worse] = paired.difference >= 0 ? [a, b] : [b, a];
  const by = Math.abs(100 * paired.difference).toFixed(1);
  const [low, high] = paired.difference >= 0 ? paired.interval : [-paired.interval[1], -paired.interval[0]];
  if (paired.only_a === paired.only_b) return `${a} and ${b} stand for equally many images.`;
  return `${better} is ahead of ${worse} by ${by} points [${points(low)}, ${points(high)}], ${chance(paired)}: `
    + ((paired.adjusted ?? paired.p) < SURE ? "more than chance explains." : "not to be told apart on these images.");
}

function counts(pair, a, b) {
  const far = reach(pair.paired);
  return plainTable(`${a.model} (A) and ${b.model} (B), image by image`,
    ["", ...KINDS.map(([, title]) => title), "A %", "B %", "A \u2212 B", "McNemar"],
    pair.paired.map((paired) => [paired.question, ...KINDS.map(([name]) => whole(paired[name])), percent(paired.accuracy_a),
      percent(paired.accuracy_b), difference(paired, far), probability(paired.p)]));
}

function kindOf(board, pair, a, b, at) {
  const [ours, theirs] = [a, b].map((row) => pair.shared.every((column) => marked(row.standing[column], at)));
  return KINDS.findIndex(([, , first, second]) => first === ours && second === theirs);
}

function pictures(board, a, b, places) {
  const { sheet } = board;
  const [ours, theirs] = [a, b].map((row) => sheet.examples[board.rows.indexOf(row)]);
  const answer = (example) => (example ? className(sheet, example.after) : "no image");
  return el("div", { class: "sheet" }, places.map((place) => el("figure", { class: "example" },
    el("div", { class: "triple" }, image(sheet.clean[place], `test image ${sheet.ids[place]}`),
      image(ours[place]?.adversarial, `under the attack on ${a.model}`), image(theirs[place]?.adversarial, `under the attack on ${b.model}`)),
    el("figcaption", null, `image ${sheet.ids[place]} (${className(sheet, sheet.labels[place])})`, el("br"),
      `A: ${answer(ours[place])}, B: ${answer(theirs[place])}`))));
}

function kinds(board, pair, a, b) {
  if (!pair.shared.length) return null;
  const found = KINDS.map(() => []);
  for (let at = 0; at < board.count; at += 1) found[kindOf(board, pair, a, b, at)].push(board.start + at);
  return KINDS.map(([, title], kind) => {
    const ids = found[kind];
    const places = board.sheet ? board.sheet.ids.map((id, place) => [id, place]).filter(([id]) => ids.includes(id)).map(([, place]) => place) : [];
    const listed = ids.slice(0, LISTED).join(", ") + (ids.length > LISTED ? ", \u2026" : "");
    return section(`${title}: ${plural(ids.length, "image")}`, places.length ? pictures(board, a, b, places.slice(0, 6)) : null,
      ids.length ? el("details", null, el("summary", null, "their ids"), el("p", { class: "ids" }, listed)) : null);
  });
}

// what a comparison comes to, in a sentence
function decided(board, a, b) {
  const pair = pairOf(board, board.rows.indexOf(a), board.rows.indexOf(b));
  if (!pair) return `${a.model} and ${b.model} have no complete attack in common here.`;
  const alone = pair.shared.length ? "" : "On clean images alone, as they share no attack that searches for a worst case: ";
  return alone + verdict(pair.paired[pair.shared.length ? 1 : 0], a.model, b.model);
}

function comparison(board, a, b) {
  const pair = pairOf(board, board.rows.indexOf(a), board.rows.indexOf(b));
  if (!pair) return el("p", null, decided(board, a, b));
  return [
    el("h3", null, `A: ${a.model}, B: ${b.model}`),
    el("p", { class: "answer" }, decided(board, a, b)),
    counts(pair, a, b),
    el("p", { class: "hint" }, "Percent of the same images. A \u2212 B with a 95% interval for paired shares (Bonett and Price, 2012); McNemar's ",
      "exact test, two-sided, decides whether two models are told apart, also where the interval, which is approximate, says otherwise. It is about images: other trainings of the ",
      "same defenses may differ by more. Worst case over what both were attacked with: ", pair.shared.map((column) => board.columns[column].name).join(", ") || "nothing",
      ". Pictures: clean, under the attack on A, on B."),
    kinds(board, pair, a, b),
  ];
}
