// Figures: percent with an interval, as text and as a bar.

function percent(share) {
  return (100 * share).toFixed(1);
}

function points(share) {
  const size = Math.abs(100 * share).toFixed(1);
  return size === "0.0" ? size : `${share < 0 ? "\u2212" : "+"}${size}`;
}

function decimal(p) {
  return p < 0.001 ? p.toFixed(4) : p < 0.1 ? p.toFixed(3) : p.toFixed(2);
}

function probability(p) {
  return p < 0.0001 ? "p\u00a0<\u00a00.0001" : `p\u00a0=\u00a0${decimal(p)}`;
}

// a value as a bar from `base`, on an axis from `from` to `to`, with its interval across the end, and a thick line at
// what others print, if anything
function bar(value, low, high, [from, base, to], words, { printed, kind = "value" } = {}) {
  const at = (share) => 100 * Math.min(1, Math.max(0, (share - from) / (to - from)));
  const [left, right] = [Math.min(at(base), at(value)), Math.max(at(base), at(value))];
  const upright = (x, y1, y2, name) => svg("line", { class: name, x1: x, x2: x, y1, y2 });
  return svg("svg", { class: "bar", viewBox: "0 0 100 12", preserveAspectRatio: "none", role: "img", "aria-label": words },
    svg("rect", { class: "axis", x: 0, width: 100, y: 2, height: 8 }),
    svg("rect", { class: kind, x: left, width: right - left, y: 2, height: 8 }), upright(at(base), 0, 12, "base"),
    svg("line", { class: "ends", x1: at(low), x2: at(high), y1: 6, y2: 6 }), upright(at(low), 2.5, 9.5, "ends"), upright(at(high), 2.5, 9.5, "ends"),
    printed === undefined ? null : upright(at(printed), 0, 12, "printed"));
}

// a board's cell: the figure, its interval and what is to be known of it; lower: whether a lower one is better, whose bar
// is an outline
function figure(cell, lower) {
  if (cell.value === null) return el("span", { class: "none" }, cell.text);
  const [low, high] = cell.interval;
  const flagged = cell.flags.length > 0;
  return el("span", { class: "figure" },
    el("span", { class: "value" }, percent(cell.value),
      flagged ? el("abbr", { class: "flag", title: cell.flags.join(", ") }, "*") : null),
    el("span", { class: "ends" }, `${percent(low)}\u2013${percent(high)}`),
    bar(cell.value, low, high, [0, 0, 1], `95% interval from ${percent(low)} to ${percent(high)}`, { kind: lower ? "against" : "value" }),
    cell.note ? el("span", { class: "note" }, cell.note.trim()) : null);
}

// how far differences reach, for an axis that they share
function reach(pairings) {
  const most = Math.max(0.01, ...pairings.flatMap((paired) => paired.interval.map(Math.abs)));
  return Math.min(1, Math.ceil(20 * most) / 20);
}

// how two models differ in one question of a pairing, on an axis that goes `far` both ways
function difference(paired, far) {
  const [low, high] = paired.interval;
  const words = `${points(paired.difference)} points, 95% interval from ${points(low)} to ${points(high)}`;
  return el("span", { class: "figure apart" },
    el("span", { class: "value" }, points(paired.difference)),
    el("span", { class: "ends" }, `${points(low)} to ${points(high)}`), bar(paired.difference, low, high, [-far, 0, far], words));
}
