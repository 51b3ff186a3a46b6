// The page: what was measured at a glance, the boards, the claims.

function overview(contents) {
  const { boards } = contents;
  const leading = new Map(boards.map((board) => [board, lead(contents, board)]));
  const worst = (board) => leading.get(board).first?.cells[1];
  const top = (board) => {
    const { first, above } = leading.get(board);
    if (first) return worst(board).value === 0 ? "none" : first.model;
    if (above.length) return "none without a flag";
    const notes = board.rows.filter((row) => !row.searched).map((row) => row.cells[1].note);
    return notes.some((note) => note.includes("elsewhere")) ? "images from elsewhere alone" : notes.length ? "single steps alone" : "no worst case measured";
  };
  const among = (board) => {
    const { first, seeds, beyond: larger } = leading.get(board);
    if (!first) return null;
    const { trained, kin } = contents.models[first.digest] || {};
    const trainings = seeds.length ? `one of ${seeds.length} seeds: ${overSeeds(seeds)}` : kin ? "one training" : "";
    return [
      first.cells[1].value ? el("span", { class: "note" }, [trained, trainings].filter(Boolean).join(", ")) : null,
      larger ? el("span", { class: "note" }, "of those here; ", el("b", null, larger.row.model), `, not in this table, keeps ${percent(larger.row.cells[1].value)} % within ${larger.eps}`) : null,
    ];
  };
  const text = (id, title, value, more) => ({ id, title, value, show: value, class: id, ...more });
  const far = reach([...leading.values()].map((each) => each.paired).filter(Boolean));
  const sure = (board) => {
    const { first, second, paired, close, rivals } = leading.get(board);
    if (!first) return "";
    if (!paired) return second ? "shares no attack with the next" : "alone";
    const open = close.length + !ahead(paired);
    return el("span", null, difference(paired, far), el("span", { class: "note" }, `over ${second.model}, ${chance(paired)}`),
      el("span", { class: "note" }, open ? `not told apart from ${open} of ${plural(rivals, "rival")}` : `told apart from all ${rivals} rivals`));
  };
  const of = grid({
    caption: "Boards", rows: boards, name: (board) => board.title, text: (board) => [board.title, ...board.rows.map((row) => row.model)].join(" "),
    columns: [
      text("dataset", "data", (board) => board.dataset, { show: (board) => el("a", { href: `#board-${board.name}` }, board.dataset) }),
      text("norm", "norm", (board) => board.norm),
      text("eps", "eps", (board) => board.radius, { show: (board) => el("a", { href: `#board-${board.name}` }, board.eps), figure: true }),
      text("top", "most robust", top, { show: (board) => el("span", null, top(board), among(board), board.attacks ? el("span", { class: "note" }, `under ${board.attacks}`) : null) }),
      { id: "worst", title: "worst case %", class: "worst", figure: true, descending: true, value: (board) => worst(board)?.value, show: (board) => (worst(board) ? figure(worst(board)) : "") },
      { id: "lead", title: "ahead of the next by, points", class: "lead", figure: true, descending: true, value: (board) => leading.get(board).paired?.difference, show: sure },
      text("count", "images", (board) => board.count, { show: (board) => whole(board.count), figure: true, descending: true }),
      text("models", "models", (board) => board.rows.length, { figure: true, descending: true }),
    ],
  });
  const some = (name) => [...new Set(boards.map((board) => board[name]))];
  return el("section", { class: "board", id: "boards", tabindex: -1 }, el("h2", null, "Which model is most robust, and how sure is that"),
    el("div", { class: "controls" }, search(of, "Find"), some("dataset").length > 1 ? choice(of, "dataset", "data", some("dataset")) : null,
      some("norm").length > 1 ? choice(of, "norm", "norm", some("norm")) : null),
    of.told, of.node,
    el("p", { class: "hint" }, "A line per board: the same images, norm and eps for all its models. Worst case: image by image over the white-box attacks, ",
      "with a 95% Wilson interval. Ahead: on the same images over the next model, with a 95% interval and McNemar's exact p, below 0.05 with Holm\u2019s correction for all rivals where the two are told apart; other trainings of the same ",
      "defenses may differ by more. A model is passed over where a flag, a gate, or another table of the same eps or a smaller one speaks against it: open a table for what stands above."));
}

function themeButton() {
  const root = document.documentElement;
  const stored = (value) => { try { if (value) window.localStorage.setItem("robench-theme", value); return window.localStorage.getItem("robench-theme"); } catch { return null; } };
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : window.matchMedia("(prefers-color-scheme: dark)").matches);
  const button = el("button", { type: "button", id: "theme", click: () => set(dark() ? "light" : "dark") });
  function set(theme) {
    root.dataset.theme = theme;
    stored(theme);
    tell();
  }
  function tell() {
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${dark() ? "light" : "dark"} colours`);
    redrawn();
  }
  const kept = stored();
  if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", tell);
  let before = null;
  window.addEventListener("beforeprint", () => { before = root.dataset.theme; root.dataset.theme = "light"; redrawn(); });
  window.addEventListener("afterprint", () => { if (before) root.dataset.theme = before; else delete root.dataset.theme; redrawn(); });
  tell();
  return button;
}

function start() {
  const contents = JSON.parse(document.getElementById("contents").textContent);
  const link = (id, title) => el("a", { href: `#${id}` }, title);
  document.getElementById("top").append(el("h1", null, "robench"),
    el("nav", { "aria-label": "Parts of the page" }, link("boards", plural(contents.boards.length, "board")), link("claims", "claims")), themeButton());
  document.getElementById("main").append(overview(contents), ...contents.boards.map((board) => boardSection(contents, board)), claimsSection(contents));
  document.getElementById("end").append(el("p", null, `Written by robench ${contents.version}. This page reaches no network. Tables by @tanstack/table-core, curves by uPlot, `
    + "both under the MIT licence, which stands in the page's source."));
  if (window.location.hash.length > 1) document.getElementById(decodeURIComponent(window.location.hash.slice(1)))?.scrollIntoView();
}

start();
