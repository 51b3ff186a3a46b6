// Curves, drawn by uPlot; every curve has a dash of its own, so that they are told apart without colour.

const DASHES = [[], [7, 3], [2, 3], [9, 3, 2, 3], [14, 4], [4, 2, 1, 2]];
const live = new Set();

function ink(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function stroke(place) {
  return () => ink(`--line-${place % 4}`);
}

function axis(label, more) {
  return { stroke: () => ink("--ink"), grid: { stroke: () => ink("--rule"), width: 1 }, ticks: { stroke: () => ink("--rule"), width: 1 },
    font: "11px system-ui, sans-serif", labelFont: "11px system-ui, sans-serif", label, labelSize: 16, ...more };
}

function ends(u, place, low, high) {
  const { ctx } = u;
  ctx.save();
  ctx.strokeStyle = ink(`--line-${place % 4}`);
  ctx.lineWidth = window.devicePixelRatio || 1;
  ctx.beginPath();
  u.data[0].forEach((x, i) => {
    if (low[i] === null || low[i] === undefined) return;
    const [at, from, to] = [u.valToPos(x, "x", true), u.valToPos(low[i], "y", true), u.valToPos(high[i], "y", true)];
    const half = 3 * ctx.lineWidth;
    for (const [x0, y0, x1, y1] of [[at, from, at, to], [at - half, from, at + half, from], [at - half, to, at + half, to]]) {
      ctx.moveTo(x0, y0);
      ctx.lineTo(x1, y1);
    }
  });
  ctx.stroke();
  ctx.restore();
}

function sample(place, faint) {
  const dash = DASHES[place % DASHES.length].join(" ");
  return svg("svg", { class: `sample ${faint ? "faint" : `line-${place % 4}`}`, viewBox: "0 0 30 8", width: 30, height: 8, "aria-hidden": "true" },
    svg("line", { x1: 0, x2: 30, y1: 4, y2: 4, "stroke-dasharray": dash || null }));
}

// series: {label, values, low, high}; range: [from, to] of y, or null for what the values need
function plot(title, xs, series, words) {
  const host = el("div", { class: "plot", role: "img", "aria-label": `${title}. ${words.spoken}` });
  const legend = el("ul", { class: "legend" }, series.map((each, i) => el("li", null, sample(i), each.label)));
  const points = { show: xs.length <= 40, size: 5 };
  let drawn = null;
  const watch = new ResizeObserver(() => {
    const width = Math.floor(host.clientWidth);
    if (!host.isConnected || width < 50) return;
    if (drawn) { drawn.setSize({ width, height: 190 }); return; }
    drawn = new window.uPlot({
      width, height: 190, legend: { show: false }, cursor: { show: false }, padding: [8, 12, 0, 0],
      scales: { x: { time: false, range: words.xrange || undefined }, y: { range: words.range || undefined } },
      axes: [axis(words.x, { size: 30 }), axis(words.y, { size: 44 })],
      series: [{}, ...series.map((each, i) => ({
        label: each.label, stroke: stroke(i), width: i ? 1.25 : 1.75, dash: DASHES[i % DASHES.length], points, spanGaps: true,
      }))],
      hooks: { draw: [(u) => series.forEach((each, i) => each.low && ends(u, i, each.low, each.high))] },
    }, [xs, ...series.map((each) => each.values)], host);
    live.add(drawn);
  });
  watch.observe(host);
  return el("figure", { class: "chart" }, el("figcaption", null, title), host, series.length > 1 ? legend : null);
}

function redrawn() {
  for (const each of live) each.redraw();
}
