// What papers print, beside what was measured here.

const MARKS = { reproduced: "\u2713", "not reproduced": "\u2717", untested: "?" };

function verdictOf(claim) {
  return el("span", { class: `verdict ${claim.verdict.replace(" ", "-")}` }, `${MARKS[claim.verdict]} ${claim.verdict}`);
}

function numeric(text) {
  const found = Number.parseFloat(text);
  return Number.isNaN(found) ? undefined : found;
}

// what a printed value is held against, in percent, with both on one axis
function heldAgainst(claim) {
  const [low, high, ours, printed] = ["low", "high", "ours", "printed"].map((name) => numeric(claim[name]));
  if (low === undefined || high === undefined) return "";
  const words = `ours ${claim.ours}, from ${claim.low} to ${claim.high}; printed ${claim.printed}`;
  const share = (value) => (value === undefined ? undefined : value / 100);
  return el("span", { class: "figure" }, el("span"), el("span", { class: "ends" }, `${low.toFixed(1)}\u2013${high.toFixed(1)}`),
    bar(share(ours ?? low), share(low), share(high), [0, 0, 1], words, { printed: share(printed) }));
}

function claimsSection(contents) {
  const { claims, verdicts } = contents;
  const host = (...children) => el("section", { class: "board", id: "claims", tabindex: -1 }, el("h2", null, "Claims of the papers"), ...children);
  if (claims === null) return host(el("p", null, "No table of claims was found. With one (claims.csv, or --claims FILE) each printed claim stands here beside what was measured."));
  const count = (verdict) => claims.filter((claim) => claim.verdict === verdict).length;
  const summary = verdicts.map((verdict) => `${count(verdict)} ${verdict}`).join(", ");
  const titleOf = (claim) => contents.tables[claim.suite] || claim.suite;
  const short = (claim) => titleOf(claim).split(": ")[0]; // which paper and which table of it
  const texts = (id, title, more) => ({ id, title, value: (claim) => claim[id], show: (claim) => claim[id], ...more });
  const numbers = (id, title) => texts(id, title, { figure: true, descending: true, value: (claim) => numeric(claim[id]) });
  const of = grid({
    caption: "Claims", rows: [...claims].sort((a, b) => (a.verdict === "untested") - (b.verdict === "untested")), name: (claim) => claim.claim, text: (claim) => [titleOf(claim), ...Object.values(claim)].join(" "),
    columns: [
      { id: "claim", title: "claim", opens: true, class: "claim", value: (claim) => claim.claim },
      { id: "verdict", title: "verdict", value: (claim) => claim.verdict, show: verdictOf },
      numbers("printed", "printed, %"), numbers("ours", "ours, %"),
      { id: "interval", title: "ours, widened", figure: true, sorts: false, value: (claim) => claim.low, show: heldAgainst },
      texts("table", "table", { class: "table", value: titleOf, show: (claim) => [short(claim), claim.scale ? el("span", { class: "note" }, `scale ${claim.scale}`) : null] }),
      numbers("hours", "hours of computing"),
    ],
    open: (claim) => [el("dl", { class: "facts" }, el("div", { class: "long" }, el("dt", null, "table"), el("dd", null, titleOf(claim))), ["claim", "suite", "scale", "printed", "ours", "low", "high", "verdict", "why", "commit", "hours"]
      .map((name) => (claim[name] ? el("div", null, el("dt", null, name), el("dd", null, claim[name])) : null))),
    claim.command ? copied(claim.command) : null],
  });
  const suites = [...new Set(claims.map(titleOf))].filter(Boolean).sort();
  const kept = claims.some((claim) => claim.why.includes("kept, not of this store"));
  return host(el("p", { class: "answer" }, `${plural(claims.length, "claim")}: ${summary}.`),
    el("p", { class: "hint" }, "A verdict is about what was run: networks, lengths of training and numbers of images are those of the scale in its line, most of them far smaller than the paper's, ",
      "unless that is 'paper'. Open a line for the number of images, why, and the command.",
      kept ? " What is 'kept, not of this store' is from an earlier table of claims: its models and images are not those of the tables above." : ""),
    el("div", { class: "controls" }, search(of, "Find"), choice(of, "verdict", "verdict", verdicts), choice(of, "table", "table", suites)),
    of.told, of.node,
    el("p", { class: "hint" }, contents.rule, " In the bars, from 0 to 100%, the thick line is the printed value."));
}
