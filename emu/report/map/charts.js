// A page of charts: walks entry by entry, cells covered, counts. Everything is text in the page's
// own elements, so that it is read aloud, copied and printed like any other.

const LISTED = 100; // The most cells that are named at once.
const FITS = 12; // Columns that fit beside each other.

function get(id) {
  return document.getElementById(id);
}

function facts(pairs, properties = {}) {
  const list = make("dl", properties);
  for (const [title, text] of pairs) list.append(make("dt", { textContent: title }), make("dd", { textContent: text }));
  return list;
}

function note(text) {
  return make("p", { className: "note", textContent: text });
}

// Show what is known of what has the focus.
function choose(...children) {
  get("chosen").replaceChildren(...children);
}

// Arrow keys lead from one element of `rows`, arrays of elements, to the next; one of them is in the
// order of Tab. `focused` is called with the one that has the focus.
function rove(rows, focused) {
  const places = new Map();
  rows.forEach((row, y) => row.forEach((element, x) => places.set(element, [y, x])));
  let current = rows[0]?.[0];
  for (const element of places.keys()) {
    element.tabIndex = element === current ? 0 : -1;
    element.addEventListener("focus", () => {
      current.tabIndex = -1;
      element.tabIndex = 0;
      current = element;
      focused(element);
    });
    element.addEventListener("click", () => element.focus());
    element.addEventListener("keydown", (event) => {
      const [y, x] = places.get(element);
      const row = rows[y];
      const next = {
        ArrowLeft: row[x - 1] ?? rows[y - 1]?.at(-1),
        ArrowRight: row[x + 1] ?? rows[y + 1]?.[0],
        ArrowUp: rows[y - 1]?.[x] ?? rows[y - 1]?.at(-1),
        ArrowDown: rows[y + 1]?.[x] ?? rows[y + 1]?.at(-1),
        Home: row[0],
        End: row.at(-1),
      }[event.key];
      if (!next) return;
      event.preventDefault();
      next.focus();
    });
  }
}

// A table as a column of slots, with the slot of an entry marked.
function slotDrawing(index, of) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const box = (name, y, height) => {
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [key, value] of Object.entries({ class: name, x: 1, y, width: 12, height })) rect.setAttribute(key, value);
    svg.append(rect);
  };
  svg.setAttribute("viewBox", "0 0 14 130");
  svg.setAttribute("aria-hidden", "true");
  box("table", 1, 128);
  if (index !== null) box("slot", 1 + (index * 124) / of, 4);
  return svg;
}

function stepBox(step) {
  const body = make("div", {}, make("b", { textContent: step.name }), make("code", { textContent: step.entry }));
  body.append(make("span", { className: "note", textContent: `at ${step.pa}${step.kind ? `: ${step.kind}` : ""}` }), make("br"));
  for (const flag of step.flags) body.append(make("span", { className: "flag", textContent: flag }));
  if (step.va) body.append(make("div", { className: "note", textContent: `for ${step.va} and up` }));
  if (step.blame) body.append(make("div", { className: "blame", textContent: step.blame }));
  const box = make("li", { className: step.blame ? "step blamed" : "step" }, slotDrawing(step.index, step.of), body);
  box.step = step;
  return box;
}

function stepFacts(step) {
  const pairs = [["entry", step.name], ["value", step.entry], ["address", step.pa]];
  if (step.index !== null) pairs.push(["place", `${step.index} of ${step.of.toLocaleString("en")} in its table`]);
  if (step.kind) pairs.push(["kind", step.kind]);
  pairs.push(["flags", step.flags.join(" ") || "none"]);
  if (step.blame) pairs.push(["wrong", step.blame]);
  return facts(pairs);
}

// A finding: both answers, and the walk from the root down with the entry that it is about.
function drawWalk(chart) {
  const parts = [make("h2", { textContent: chart.title }), facts(chart.facts, { className: "facts" })];
  const rows = [];
  const list = (steps, label) => {
    const boxes = steps.map(stepBox);
    rows.push(boxes);
    const element = make("ol", { className: "steps" }, ...boxes);
    element.setAttribute("aria-label", label);
    return element;
  };
  if (chart.remark) parts.push(make("p", { className: "serious", textContent: chart.remark }));
  if (chart.steps.length) parts.push(list(chart.steps, "the walk, from the root down"));
  if (chart.beside.length || chart.more) {
    const more = chart.more ? `, and ${chart.more.toLocaleString("en")} more` : "";
    parts.push(note(`Not on this walk${chart.needed ? ", and needed to show it" : ""}${more}:`));
    if (chart.beside.length) parts.push(list(chart.beside, "entries that aren't on this walk"));
  }
  if (chart.command) parts.push(note("To see it again:"), make("pre", { textContent: chart.command }));
  rove(rows, (box) => choose(stepFacts(box.step)));
  const blamed = chart.steps.some((step) => step.blame);
  const legend = [["", "the walk goes from the root down; the bar is the table, the mark the entry's place"]];
  if (blamed) legend.push(["serious", "what is wrong is about this entry"]);
  return { parts, legend, first: "Nothing yet: choose an entry of the walk." };
}

function bits(text) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return (at) => (packed[at >> 3] >> (at & 7)) & 1;
}

// Cells of a product of axes, by two of them: how many of the possible ones were reached.
function drawGrid(chart) {
  const { axes } = chart;
  const [possible, seen] = [bits(chart.possible), bits(chart.seen)];
  const sizes = axes.map((axis) => axis.values.length);
  const count = sizes.reduce((product, size) => product * size, 1);
  const strides = sizes.map((_, at) => sizes.slice(at + 1).reduce((product, size) => product * size, 1));
  const valueOf = (cell, axis) => Math.floor(cell / strides[axis]) % sizes[axis];
  const words = (cell) => axes.map((axis, at) => `${axis.name} ${axis.values[valueOf(cell, at)]}`).join(", ");
  let [of, reached] = [0, 0];
  for (let cell = 0; cell < count; cell += 1) {
    of += possible(cell);
    reached += seen(cell);
  }
  const title = make("h2", { textContent: chart.title });
  title.append(make("small", { textContent: `${reached.toLocaleString("en")} of ${counted(of, "cell")} reached, ${of ? ((100 * reached) / of).toFixed(1) : 0} %` }));
  const pickers = make("div", { className: "pickers" });
  const holder = make("div");
  // The longest axis goes down the page, the longest of the others that fits to the right.
  const order = axes.map((_, at) => at).sort((one, other) => sizes[other] - sizes[one]);
  const chosen = [order[0], order.slice(1).find((at) => sizes[at] <= FITS) ?? order.at(-1)];
  const fill = () => {
    const [down, across] = chosen;
    const cells = new Map();
    for (let cell = 0; cell < count; cell += 1) {
      if (!possible(cell)) continue;
      const key = valueOf(cell, down) * sizes[across] + valueOf(cell, across);
      const here = cells.get(key) ?? { of: 0, seen: 0, missing: [] };
      here.of += 1;
      here.seen += seen(cell);
      if (!seen(cell) && here.missing.length < LISTED) here.missing.push(cell);
      cells.set(key, here);
    }
    const single = down === across;
    const columns = single ? [null] : axes[across].values;
    const head = make("tr", {}, make("td", { className: "impossible" }), ...columns.map((name) => {
      const cell = make("th", { textContent: name ?? "reached" });
      cell.scope = "col";
      return cell;
    }));
    const rows = [];
    const body = axes[down].values.map((name, y) => {
      const row = make("tr", {}, make("th", { textContent: name, scope: "row" }));
      const inRow = columns.map((other, x) => {
        const here = cells.get(single ? y * sizes[across] + y : y * sizes[across] + x);
        const kind = !here ? "impossible" : here.seen === here.of ? "all" : here.seen ? "some" : "none";
        const cell = make("td", { className: kind, textContent: here ? `${here.seen}/${here.of}` : "–" });
        cell.here = here;
        cell.label = single ? `${axes[down].name} ${name}` : `${axes[down].name} ${name}, ${axes[across].name} ${other}`;
        return cell;
      });
      row.append(...inRow);
      rows.push(inRow);
      return row;
    });
    holder.replaceChildren(make("table", { className: "cells" }, make("thead", {}, head), make("tbody", {}, ...body)));
    rove(rows, (cell) => {
      const { here } = cell;
      if (!here) return choose(make("p", { textContent: cell.label }), note("impossible"));
      const list = make("ol", { className: "scroll" }, ...here.missing.map((at) => make("li", { textContent: words(at) })));
      choose(
        make("p", { textContent: cell.label }),
        note(`${here.seen.toLocaleString("en")} of ${counted(here.of, "cell")} reached${here.of - here.seen > here.missing.length ? `; of those that aren't, the first ${LISTED}` : here.missing.length ? "; not yet" : ""}`),
        list,
      );
    });
  };
  ["rows", "columns"].forEach((name, place) => {
    const select = make("select", {}, ...axes.map((axis, at) => make("option", { value: at, textContent: axis.name })));
    select.value = chosen[place];
    select.addEventListener("change", () => {
      chosen[place] = Number(select.value);
      fill();
    });
    pickers.append(make("label", {}, `${name} `, select));
  });
  fill();
  const legend = [["all", "all cells reached"], ["some", "some of them"], ["none", "none of them"], ["impossible", "no such cell can be"]];
  return { parts: [title, pickers, holder], legend, first: "Nothing yet: choose a cell; it lists what wasn't reached." };
}

// Counts by row and column.
function drawCounts(chart) {
  const totals = chart.columns.map((_, at) => chart.rows.reduce((sum, row) => sum + row.counts[at], 0));
  const head = make("tr", {}, make("th", { textContent: chart.noun }), ...chart.columns.map((name) => make("th", { textContent: name, scope: "col" })));
  const rows = [];
  const every = chart.rows.length > 1 ? [...chart.rows, { name: "all", counts: totals }] : chart.rows;
  const body = every.map((row) => {
    const cells = row.counts.map((count, at) => {
      const serious = count && chart.serious.includes(chart.columns[at]);
      const cell = make("td", { className: serious ? "serious" : count ? "" : "impossible", textContent: count.toLocaleString("en") });
      cell.facts = [[chart.noun, row.name], [chart.columns[at], count.toLocaleString("en")]];
      return cell;
    });
    rows.push(cells);
    return make("tr", {}, make("th", { textContent: row.name, scope: "row" }), ...cells);
  });
  rove(rows, (cell) => choose(facts(cell.facts)));
  const legend = chart.serious.length ? [["serious", `${chart.serious.join(", ")}: should be 0`]] : [];
  return {
    parts: [make("h2", { textContent: chart.title }), make("table", { className: "cells" }, make("thead", {}, head), make("tbody", {}, ...body))],
    legend,
    first: "Nothing yet: choose a cell.",
  };
}

const DRAW = { walk: drawWalk, grid: drawGrid, counts: drawCounts };

function show(at) {
  const { parts, legend, first } = DRAW[content.charts[at].kind](content.charts[at]);
  get("view").value = at;
  get("chart").replaceChildren(...parts);
  get("legend").replaceChildren(
    ...legend.map(([kind, text]) => {
      const item = make("li", {}, ...(kind ? [make("span", { className: `swatch ${kind}` })] : []), make("span", { textContent: text }));
      return item;
    }),
  );
  choose(note(first));
}

function nextTheme() {
  turnTheme(get("theme"));
}

// The chart that the address of the page names by its number, from 1.
function linked() {
  const at = Number(location.hash.slice(1)) - 1;
  return content.charts[at] ? at : 0;
}

// Show a chart, and name it in the address: so it can be linked to, and gone back to.
function go(at) {
  show(at);
  location.hash = at + 1;
}

function step(by) {
  const count = content.charts.length;
  if (!count) return;
  go((Number(get("view").value) + by + count) % count);
  focusChart();
}

// Give the focus to the cell or entry of the chart that had it last.
function focusChart() {
  (get("chart").querySelector("[tabindex='0']") ?? get("chart")).focus();
}

const content = JSON.parse(get("document").textContent);
get("about").textContent = content.about;
for (const text of content.notes) get("notes").append(make("li", { textContent: text }));
const groups = new Map();
content.charts.forEach((chart, at) => {
  const option = make("option", { value: at, textContent: chart.title });
  if (!chart.group) return get("view").append(option);
  if (!groups.has(chart.group)) {
    groups.set(chart.group, make("optgroup", { label: chart.group }));
    get("view").append(groups.get(chart.group));
  }
  groups.get(chart.group).append(option);
});
get("view").addEventListener("change", (event) => go(Number(event.target.value)));
addEventListener("hashchange", () => {
  // Not where it is shown already: the focus would be lost.
  if (linked() !== Number(get("view").value)) show(linked());
});
// Not by its address, which names a chart here.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  focusChart();
});
get("theme").addEventListener("click", nextTheme);
get("keys").addEventListener("click", () => get("help").showModal());
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || get("help").open || event.target.matches("select")) return;
  const act = { n: () => step(1), p: () => step(-1), t: nextTheme, "?": () => get("help").showModal() }[event.key];
  // The first arrow leads into the chart.
  if (!act && event.target === document.body && /^(Arrow|Home$|End$)/.test(event.key)) return focusChart();
  if (!act) return;
  event.preventDefault();
  act();
});
if (content.charts.length) show(linked());
else get("chart").replaceChildren(note("Nothing was found, and nothing is drawn."));
document.documentElement.dataset.ready = "true";
