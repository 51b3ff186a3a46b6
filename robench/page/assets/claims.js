// What papers print, beside what was measured here.

const MARKS = { reproduced: "\u2713", "not reproduced": "\u2717", untested: "?" };

function verdictOf(claim) {
  return el("span", { class: `verdict ${claim.verdict.replace(" ", "-")}` }, `${MARKS[claim.verdict]} ${claim.verdict}`);
}

function interval(claim) {
  return claim.low !== "" && claim.high !== "" ? `${claim.low} \u2013 ${claim.high}` : "";
}

function numeric(text) {
  return text === "" || Number.isNaN(Number(text)) ? undefined : Number(text);
}

function claimsSection(contents) {
  const { claims, verdicts } = contents;
  const host = (...children) => el("section", { class: "board", id: "claims", tabindex: -1 }, el("h2", null, "Claims of the papers"), ...children);
  if (claims === null) return host(el("p", null, "No table of claims was found. With one (claims.csv, or --claims FILE) each printed claim stands here beside what was measured."));
  const count = (verdict) => claims.filter((claim) => claim.verdict === verdict).length;
  const summary = verdicts.map((verdict) => `${count(verdict)} ${verdict}`).join(", ");
  const texts = (id, title, more) => ({ id, title, value: (claim) => claim[id], show: (claim) => claim[id], ...more });
  const numbers = (id, title) => texts(id, title, { figure: true, descending: true, value: (claim) => numeric(claim[id]) });
  const of = grid({
    caption: "Claims", rows: claims, name: (claim) => claim.claim, text: (claim) => Object.values(claim).join(" "),
    columns: [
      { id: "claim", title: "claim", opens: true, class: "claim", value: (claim) => claim.claim },
      { id: "verdict", title: "verdict", value: (claim) => claim.verdict, show: verdictOf },
      numbers("printed", "printed"), numbers("ours", "ours"),
      { id: "interval", title: "interval", figure: true, sorts: false, value: interval, show: interval },
      texts("suite", "suite"), numbers("hours", "hours"),
    ],
    open: (claim) => [el("dl", { class: "facts" }, ["claim", "suite", "printed", "ours", "low", "high", "verdict", "commit", "hours"]
      .map((name) => (claim[name] ? el("div", null, el("dt", null, name), el("dd", null, claim[name])) : null))),
    claim.command ? copied(claim.command) : null],
  });
  const suites = [...new Set(claims.map((claim) => claim.suite))].filter(Boolean).sort();
  return host(el("p", { class: "answer" }, `${plural(claims.length, "claim")}: ${summary}.`),
    el("div", { class: "controls" }, search(of, "Find"), choice(of, "verdict", "verdict", verdicts), choice(of, "suite", "suite", suites)),
    of.told, of.node,
    el("p", { class: "hint" }, "Reproduced: the printed value lies in our interval, widened as the claims' rule says, or the printed order holds on the same images. Untested: nobody ran it at this scale."));
}
