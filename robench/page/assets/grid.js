// A table that sorts, filters, opens and picks its lines. What a state means is @tanstack/table-core's; this draws it.

// columns: {id, title, value(row), show(row), descending, figure, hidden, name}; open(row): what a line opens to;
// pick: {most, changed(rows)}; text(row): what the filter looks in
function grid(given) {
  const { caption, columns, rows, open, pick, text } = given;
  const core = window.TableCore;
  const kept = new Map();
  let picked = [];
  let state = null;

  const table = core.createTable({
    data: rows,
    columns: columns.map((column) => ({
      id: column.id, accessorFn: (row) => column.value(row) ?? undefined, sortUndefined: "last",
      sortDescFirst: Boolean(column.descending), sortingFn: column.descending ? "basic" : "alphanumeric",
      filterFn: column.filter || "equalsString", enableSorting: column.sorts !== false,
    })),
    state: {}, onStateChange: change, renderFallbackValue: null,
    getCoreRowModel: core.getCoreRowModel(), getSortedRowModel: core.getSortedRowModel(),
    getFilteredRowModel: core.getFilteredRowModel(), getExpandedRowModel: core.getExpandedRowModel(),
    getRowCanExpand: () => Boolean(open), globalFilterFn: (row, id, wanted) => matches(row.original, wanted),
    getColumnCanGlobalFilter: (column) => column.id === columns[0].id,
    initialState: { columnVisibility: Object.fromEntries(columns.map((column) => [column.id, !column.hidden])) },
  });

  function matches(row, wanted) {
    const words = String(wanted).toLowerCase().split(/\s+/).filter(Boolean);
    const within = text(row).toLowerCase();
    return words.every((word) => within.includes(word));
  }

  function change(update) {
    state = typeof update === "function" ? update(state) : update;
    table.setOptions((options) => ({ ...options, state }));
    draw();
  }

  // roles in words: a style that lays a table out otherwise would take them away
  const head = el("thead", { role: "rowgroup" });
  const body = el("tbody", { role: "rowgroup" });
  const told = el("p", { class: "told", "aria-live": "polite" });
  const node = el("div", { class: "wide grid", tabindex: 0, role: "region", "aria-label": caption },
    el("table", { role: "table" }, el("caption", { class: "unseen" }, caption), head, body));

  const byId = Object.fromEntries(columns.map((column) => [column.id, column]));
  const ARIA = { asc: "ascending", desc: "descending" };
  const SIGN = { asc: "\u25b2", desc: "\u25bc" };

  function classes(its) {
    return [its.figure ? "number" : null, its.class].filter(Boolean).join(" ") || null;
  }

  function heading(column) {
    const its = byId[column.id];
    const sorted = column.getIsSorted();
    const shown = column.getCanSort()
      ? el("button", { type: "button", class: "sort", "data-key": `sort-${column.id}`, click: column.getToggleSortingHandler() },
        its.title, el("span", { class: "sign", "aria-hidden": "true" }, SIGN[sorted] || "\u21c5"))
      : el("span", { class: its.unseen ? "unseen" : null }, its.title);
    return el("th", { scope: "col", role: "columnheader", "aria-sort": ARIA[sorted] || null, class: classes(its),
      title: its.name || null }, shown);
  }

  function toggle(row) {
    return el("button", { type: "button", class: "open", "data-key": `open-${row.id}`, "aria-expanded": String(row.getIsExpanded()),
      click: () => row.toggleExpanded() },
    el("span", { class: "sign", "aria-hidden": "true" }, row.getIsExpanded() ? "\u25be" : "\u25b8"), given.name(row.original));
  }

  function box(row) {
    const mark = el("input", { type: "checkbox", "data-key": `pick-${row.id}`, "aria-label": `Compare ${given.name(row.original)}`,
      change: () => choose(row) });
    mark.checked = picked.includes(row.id);
    return mark;
  }

  function choose(row) {
    picked = picked.includes(row.id) ? picked.filter((id) => id !== row.id) : [...picked, row.id].slice(-pick.most);
    draw();
    pick.changed(picked.map((id) => table.getRow(id).original));
  }

  function cell(row, its) {
    const shown = its.id === "pick" ? box(row) : its.opens && open ? toggle(row) : its.show(row.original);
    const attributes = { class: classes(its), role: "cell", "data-title": its.title };
    return its.opens ? el("th", { scope: "row", role: "rowheader", class: "name" }, shown) : el("td", attributes, shown);
  }

  // what a line opens to is made once, and kept while it is shut
  function opened(row, width) {
    if (!kept.has(row.id)) kept.set(row.id, el("div", { class: "detail", keydown: shut }, open(row.original)));
    function shut(event) {
      if (event.key !== "Escape") return;
      row.toggleExpanded(false);
      body.querySelector(`[data-key="open-${CSS.escape(row.id)}"]`).focus();
    }
    return el("tr", { class: "opened", role: "row" }, el("td", { colspan: width, role: "cell" }, kept.get(row.id)));
  }

  function draw() {
    const focused = document.activeElement && node.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const visible = table.getVisibleLeafColumns();
    head.replaceChildren(el("tr", { role: "row" }, visible.map(heading)));
    const lines = table.getRowModel().rows;
    body.replaceChildren(...lines.flatMap((row) => {
      const line = el("tr", { role: "row", class: picked.includes(row.id) ? "picked" : null }, visible.map((column) => cell(row, byId[column.id])));
      return row.getIsExpanded() ? [line, opened(row, visible.length)] : [line];
    }));
    if (!lines.length) body.append(el("tr", null, el("td", { colspan: visible.length, class: "none" }, "Nothing fits the filters.")));
    told.textContent = lines.length < rows.length ? `${lines.length} of ${rows.length} shown` : "";
    if (focused) node.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  state = { ...table.initialState, sorting: given.sorting || [] };
  table.setOptions((options) => ({ ...options, state }));
  draw();
  return { node, told, table, redraw: draw };
}

// what filters a grid by words
function search(of, label) {
  const id = fresh("search");
  const field = el("input", { type: "search", id, placeholder: "name, defense, option \u2026", autocomplete: "off",
    input: () => of.table.setGlobalFilter(field.value || undefined) });
  return el("span", { class: "control" }, el("label", { for: id }, label), field);
}

// what filters a grid by one column's values
function choice(of, column, label, values) {
  const id = fresh("choice");
  const field = el("select", { id, change: () => of.table.getColumn(column).setFilterValue(field.value || undefined) },
    el("option", { value: "" }, "all"), values.map((value) => el("option", { value }, value)));
  return el("span", { class: "control" }, el("label", { for: id }, label), field);
}
