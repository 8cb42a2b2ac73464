// The page: its panes, what is chosen in them, and everything around them.

const LISTED = 200; // The most places that are listed of one frame or range.
const HITS = 100; // The most names that a search lists.

class Page {
  constructor(content, bytes) {
    this.content = content;
    this.views = content.views.map((view) => readView(view, bytes));
    this.everyName = readNames(content.names, bytes);
    this.palette = new Palette();
    this.straight = false;
    this.coloured = "";
    this.finding = -1;
    this.shown = [];
    document.getElementById("about").textContent = content.about;
    this.fillTools();
    this.fillFindings();
    this.fillNotes();
    this.showView(0);
    addEventListener("resize", () => this.refresh());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.recolour());
    matchMedia("print").addEventListener("change", () => this.recolour());
    addEventListener("keydown", (event) => this.keyed(event));
  }

  get(id) {
    return document.getElementById(id);
  }

  // The views that can be chosen: those that are beside another one can't.
  get choices() {
    const beside = new Set(this.views.map((view) => view.beside));
    return this.views.map((_, at) => at).filter((at) => !beside.has(at));
  }

  fillTools() {
    const chooser = this.get("view");
    for (const at of this.choices) chooser.append(make("option", { value: at, textContent: this.views[at].title }));
    this.get("chooser").hidden = this.choices.length < 2;
    chooser.addEventListener("change", () => this.showView(Number(chooser.value)));
    this.get("colour").addEventListener("change", (event) => this.setColour(event.target.value));
    this.get("scale").addEventListener("change", (event) => this.setScale(event.target.value === "true"));
    this.get("in").addEventListener("click", () => this.zoom(0.08));
    this.get("out").addEventListener("click", () => this.zoom(-0.08));
    this.get("whole").addEventListener("click", () => this.level(null));
    this.get("theme").addEventListener("click", () => this.nextTheme());
    this.get("keys").addEventListener("click", () => this.get("help").showModal());
    this.get("search").addEventListener("submit", (event) => {
      event.preventDefault();
      this.search(this.get("query").value, true);
    });
    this.get("query").addEventListener("input", (event) => this.search(event.target.value, false));
    document.querySelector(".skip").addEventListener("click", (event) => {
      event.preventDefault();
      this.active.canvas.focus();
    });
  }

  // Show a view, and the one that is beside it.
  showView(at) {
    this.current = at;
    this.names = namesIn(this.everyName, this.views[at].space);
    this.get("view").value = at;
    const views = [this.views[at], this.views[this.views[at].beside]].filter(Boolean);
    const panes = this.get("panes");
    panes.replaceChildren();
    const room = Math.max(innerHeight - 190, 360);
    this.shown = views.map((view, number) => {
      const share = views.length === 1 ? 0.92 : number ? 0.28 : 0.66;
      const strip = new Strip(this, view, room * share);
      panes.append(strip.element);
      return strip;
    });
    this.active = this.shown[0];
    const colour = this.get("colour");
    colour.replaceChildren(
      ...views[0].colours.map((each) => make("option", { value: each.key, textContent: each.title })),
    );
    if (!views[0].colours.some((each) => each.key === this.coloured)) this.coloured = views[0].colours[0].key;
    colour.value = this.coloured;
    this.choose(this.active, null);
    this.refresh();
  }

  refresh() {
    for (const strip of this.shown) strip.fit();
    this.redraw();
    this.moved(this.active);
    this.fillLegend();
  }

  redraw() {
    for (const strip of this.shown) strip.draw();
  }

  recolour() {
    this.palette.read();
    this.redraw();
    this.fillLegend();
  }

  setColour(key) {
    this.coloured = key;
    this.get("colour").value = key;
    this.redraw();
    this.fillLegend();
  }

  setScale(straight) {
    this.straight = straight;
    this.get("scale").value = String(straight ? "true" : "short");
    this.refresh();
  }

  nextTheme() {
    turnTheme(this.get("theme"));
    this.recolour();
  }

  // The colouring of a pane: the chosen one where its view has that, else its first.
  colourOf(strip) {
    const { colours } = strip.view;
    return colours.find((each) => each.key === this.coloured) ?? colours[0];
  }

  // Explain all that is drawn: the colours of each pane, and the marks.
  fillLegend() {
    const list = this.get("legend");
    list.replaceChildren();
    const told = new Set();
    for (const strip of this.shown) {
      const { view } = strip;
      const colour = this.colourOf(strip);
      const frames = new Float64Array(colour.classes.length);
      for (let row = 0; row < view.count; row += 1) frames[colour.of[row]] += view.end[row] - view.begin[row] - (view.holes?.[row] ?? 0);
      // Of a second pane what the first one doesn't have.
      const fresh = colour.classes.flatMap((kind, code) => (frames[code] && !told.has(JSON.stringify(kind)) ? [[kind, code]] : []));
      if (told.size && fresh.length) list.append(make("li", { className: "note", textContent: `${view.title}, ${colour.title}` }));
      for (const [kind, code] of fresh) {
        told.add(JSON.stringify(kind));
        const draw = (context) => {
          strip.cell(context, kind, 0, 1, 34);
          strip.letters(context, kind, 0, 1, 34);
        };
        const name = make("span", { textContent: kind.name });
        if (kind.serious) name.className = "serious";
        list.append(this.legendLine(draw, 18, name, make("span", { className: "count", textContent: roundedSize(frames[code]) })));
      }
      if (colour.note && fresh.length && !told.has(colour.note)) list.append(make("li", { className: "note", textContent: colour.note }));
      told.add(colour.note); // Two panes may have the same.
    }
    for (const [draw, text] of this.marksExplained()) list.append(this.legendLine(draw, 26, make("span", { textContent: text })));
  }

  legendLine(draw, height, ...texts) {
    const canvas = make("canvas", { width: 68, height: 2 * height });
    canvas.style.height = `${height}px`;
    canvas.setAttribute("aria-hidden", "true");
    const context = canvas.getContext("2d");
    context.scale(2, 2);
    draw(context);
    return make("li", {}, canvas, ...texts);
  }

  // The marks that may be seen, each with what it means.
  marksExplained() {
    const [strip] = this.shown;
    const forms = this.shown.flatMap(({ view }) => (view.form ? [...new Set(view.form)] : []));
    const marks = [];
    const fill = { lanes: ["h"], letters: "" };
    if (strip.bands?.[0]?.bands.length) {
      marks.push([(context) => [0, 1].forEach((odd) => strip.band(context, 17 * odd, 3, 17, odd)), "regions or sections, one after the other"]);
    }
    if (forms.includes(STRIDE)) marks.push([(context) => strip.cell(context, fill, 0, 6, 34, true), "dots: pages of one frame at equal distances"]);
    if (forms.some((form) => form >= FOLDED)) marks.push([(context) => strip.cell(context, fill, 0, 6, 34, true), "dots: several ranges folded to one"]);
    if (this.content.findings.length) marks.push([(context) => strip.triangle(context, 16, 3, true), "a finding (n: the next)"]);
    marks.push([(context) => strip.mark(context, 1, 33, 6, "chosen", 0), "what is chosen"]);
    const alias = (context) => {
      strip.mark(context, 1, 20, 6, "alias", 1);
      strip.mark(context, 26, 28, 6, "alias", 1);
    };
    if (this.shown.some(({ view }) => view.pa)) marks.push([alias, "the chosen frame, and all that maps it"]);
    return marks;
  }

  fillNotes() {
    const list = this.get("notes");
    for (const text of [...this.content.notes, this.content.made_by]) list.append(make("li", { textContent: text }));
  }

  fillFindings() {
    const box = this.get("findings");
    const { findings } = this.content;
    for (const text of this.content.verdicts) box.append(make("p", { className: "note", textContent: text }));
    const list = make("ol", { className: "scroll" });
    findings.forEach((finding, at) => {
      const button = make("button", { className: "go", textContent: finding.text, title: "go there (n: the next)" });
      if (finding.serious) button.classList.add("serious");
      button.addEventListener("click", () => this.goFinding(at));
      list.append(make("li", {}, button));
    });
    this.findingButtons = [...list.querySelectorAll("button")];
    box.append(list);
  }

  findingsOf(strip) {
    const at = this.views.indexOf(strip.view);
    strip.findings ??= this.content.findings.flatMap((finding) =>
      finding.places.filter((place) => place.view === at).map((place) => [place.frame, finding.serious]),
    );
    return strip.findings;
  }

  goFinding(at) {
    const count = this.content.findings.length;
    if (!count) return;
    this.finding = (at + count) % count;
    const finding = this.content.findings[this.finding];
    this.findingButtons.forEach((button, number) => {
      if (number === this.finding) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    });
    const button = this.findingButtons[this.finding];
    const list = button.closest("ol");
    // Not scrollIntoView: the page itself is to stay where it is.
    list.scrollTop += button.getBoundingClientRect().top - list.getBoundingClientRect().top - list.clientHeight / 2;
    const place = finding.places.find((each) => each.view === this.current) ?? finding.places[0];
    if (place) this.go(place.view, place.frame);
  }

  // Show a frame of a view, with what is around it, and choose it, or an address `low` bytes into it.
  go(at, frame, low = 0) {
    let strip = this.shown.find((each) => each.view === this.views[at]);
    if (!strip) {
      const holder = this.views.findIndex((view) => view.beside === at);
      this.showView(this.choices.includes(at) ? at : holder);
      strip = this.shown.find((each) => each.view === this.views[at]);
    }
    this.active = strip;
    strip.cursor = frame;
    // The 2 MiB around it, of larger pages some of them.
    const row = rowAt(strip.view, frame);
    const page = row < 0 ? 1 : pageFrames(strip.view, row);
    const block = page === 1 ? 512 : page * 16;
    const begin = Math.floor(frame / block) * block;
    const wide = strip.layout.perFrame(row < 0 ? 0 : 2 * row + 1) * block;
    const room = strip.layout.width * strip.lines;
    if (wide < room / 2 || wide > room * 2) {
      strip.zoomTo(begin, Math.min(begin + block, strip.view.space.frames));
    }
    strip.show(frame);
    this.choose(strip, frame, low);
    this.moved(strip);
  }

  focused(strip) {
    this.active = strip;
    this.moved(strip);
    this.redraw();
  }

  zoom(step) {
    this.active.zoomBy(step, this.sight(this.active));
  }

  // The frame that a zoom is around: the cursor where that is in sight, else the middle.
  sight(strip) {
    const line = Math.floor(strip.layout.position(strip.cursor) / strip.layout.width) * LINE;
    return line >= strip.top && line < strip.top + strip.lines * LINE ? strip.cursor : strip.centre();
  }

  // Show the aligned block of a level around the cursor; null is the whole.
  level(shift) {
    const strip = this.active;
    if (shift === null) {
      strip.layout.set(0);
      strip.top = 0;
    } else {
      const size = 2 ** (shift - 12);
      const frame = this.sight(strip);
      const begin = Math.floor(frame / size) * size;
      strip.zoomTo(begin, Math.min(begin + size, strip.view.space.frames));
    }
    strip.clamp();
    this.moved(strip);
    strip.draw();
  }

  // Say at which level the view is, from the whole down to a page.
  moved(strip) {
    if (!strip?.layout) return;
    const trail = this.get("trail");
    trail.replaceChildren();
    const { layout, view } = strip;
    const frame = this.sight(strip);
    const levels = [[null, view.whole], ...view.levels.map(([name, shift]) => [shift, name])];
    const sizes = levels.map(([shift]) => (shift === null ? Infinity : 2 ** (shift - 12)));
    // The deepest one that fills half of the pane.
    const fills = (size) => {
      const begin = Math.floor(frame / size) * size;
      const end = Math.min(begin + size, view.space.frames);
      return layout.position(end - 1) - layout.position(begin) >= (strip.lines * layout.width) / 2;
    };
    const here = layout.zoom ? Math.max(sizes.findLastIndex((size) => size < Infinity && fills(size)), 0) : 0;
    levels.forEach(([shift, name], at) => {
      const size = sizes[at];
      const text = shift === null ? name : `${name} ${addressText(view.space, Math.floor(frame / size) * size)}`;
      const button = make("button", { textContent: text });
      if (at === here) button.setAttribute("aria-current", "true");
      button.addEventListener("click", () => this.level(shift));
      trail.append(at ? " › " : "", button);
    });
  }

  // What is known of a frame of a view, as [title, text] pairs.
  facts(view, row, frame, low = 0) {
    const { space } = view;
    if (row < 0) {
      const after = upTo(view.begin, frame);
      const begin = after ? view.end[after - 1] : 0;
      const end = after < view.count ? view.begin[after] : space.frames;
      return [[view.empty, `${addressText(space, begin)}–${addressText(space, end - 1, 4095)}, ${roundedSize(end - begin)}`]];
    }
    const [begin, end] = [view.begin[row], view.end[row]];
    const form = view.form ? view.form[row] : RANGE;
    const facts = [[view.axis, `${addressText(space, begin)}–${addressText(space, end - 1, 4095)}, ${sizeText(end - begin)}`]];
    const name = view.named ? nameOf(this.names, frame, low) : "";
    if (name) facts.unshift(["name", name]);
    if (low) facts.unshift(["address", addressText(space, frame, low)]);
    if (view.pa) {
      const [first, after] = [view.pa[row], view.paEnd[row]];
      const frames = `${addressText(PLAIN, first)}–${addressText(PLAIN, after - 1, 4095)}`;
      const among = form >= FOLDED ? `among ${frames}` : frames;
      const every = { [REPEAT]: ", the same for all", [STRIDE]: `, the same every ${form === STRIDE ? sizeText(strideOf(view, row)) : ""}` }[form] ?? "";
      facts.push(["frames", among + every]);
      const page = pageFrames(view, row);
      if (form < FOLDED && view.number[row] > 1 && pageAt(view, row, frame)) {
        const at = frame - ((frame - begin) % page);
        facts.push(["page", `${addressText(space, at)} → ${addressText(PLAIN, frameAt(view, row, at))}`]);
      }
    }
    for (const colour of view.colours) facts.push([colour.title, colour.classes[colour.of[row]].name]);
    if (view.flags && form < FOLDED) facts.push(["flags", view.flags[view.flag[row]] || "none"]);
    if (view.number) facts.push(["holds", counted(view.number[row], view.noun) + (form >= FOLDED ? ", folded" : "")]);
    return facts;
  }

  showTip(strip, found, x, y) {
    const tip = this.get("tip");
    const key = `${strip.view.title} ${found.row} ${found.frame}`;
    if (this.tipped !== key) {
      this.tipped = key;
      tip.replaceChildren(
        ...this.facts(strip.view, found.row, found.frame).map(([title, text]) => make("div", { textContent: `${title}: ${text}` })),
      );
    }
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(Math.min(x + 14, innerWidth - width - 6), 4)}px`;
    tip.style.top = `${y + 18 + height > innerHeight ? Math.max(y - height - 10, 4) : y + 18}px`;
  }

  hideTip() {
    this.get("tip").hidden = true;
    this.tipped = "";
  }

  describe(strip) {
    const { view } = strip;
    const row = rowAt(view, strip.cursor);
    const facts = view.count ? this.facts(view, row, strip.cursor).map(([title, text]) => `${title} ${text}`) : ["nothing is mapped"];
    return `${view.title}: ${view.summary}. Cursor: ${facts.join("; ")}`;
  }

  // Choose what is at a frame of a pane: mark its frames and all that maps them; null for nothing.
  choose(strip, frame, low = 0) {
    for (const each of this.shown) {
      each.marks = [];
      each.chosen = null;
    }
    const box = this.get("chosen");
    box.replaceChildren();
    if (frame === null) {
      box.append(make("p", { className: "note", textContent: "Nothing yet: click a range, or use the arrow keys and Enter." }));
      return this.redraw();
    }
    const { view } = strip;
    const row = rowAt(view, frame);
    const list = make("dl");
    for (const [title, text] of this.facts(view, row, frame, low)) list.append(make("dt", { textContent: title }), make("dd", { textContent: text }));
    box.append(list);
    strip.chosen = row < 0 ? [frame, frame + 1] : [view.begin[row], view.end[row]];
    if (row >= 0 && view.pa) this.chooseFrame(strip, row, frame, box);
    else if (row >= 0 && view.memory) this.listMapping(view.begin[row], view.end[row], box);
    this.redraw();
  }

  chooseFrame(strip, row, frame, box) {
    const { view } = strip;
    if (view.form[row] >= FOLDED) {
      box.append(make("p", { className: "note", textContent: `Folded: ${this.command(view, row)} lists it.` }));
      const memory = this.shown.find((each) => each.view.memory);
      if (memory) memory.marks = [[view.pa[row], view.paEnd[row]]];
      return;
    }
    if (view.form[row] === STRIDE && !pageAt(view, row, frame)) return;
    const page = pageFrames(view, row);
    const begin = frame - ((frame - view.begin[row]) % page);
    strip.chosen = [begin, Math.min(begin + page, view.end[row])];
    const pa = frameAt(view, row, frame);
    const memory = this.shown.find((each) => each.view.memory);
    if (memory) {
      // All frames of the range, and the one that was chosen.
      if (view.form[row] === RANGE) memory.chosen = [view.pa[row], view.paEnd[row]];
      memory.marks = [[pa, pa + 1]];
      memory.reveal(pa);
    }
    this.listMapping(pa, pa + 1, box);
  }

  // The command that lists what a row holds.
  command(view, row) {
    const end = view.end[row];
    const after = end === view.space.frames ? "0x10000000000000000" : addressText(view.space, end);
    // At its end: the name of a file may hold these words, too.
    return view.command.replace(/START --end END$/, `${addressText(view.space, view.begin[row])} --end ${after}`);
  }

  // List and mark all mappings of frames [begin, end), those of other address spaces, too.
  listMapping(begin, end, box) {
    if (!this.views.some((view) => view.pa)) return; // A page of physical memory alone.
    const places = [];
    let [known, folded] = [0, 0];
    this.views.forEach((view, at) => {
      if (!view.pa) return;
      const strip = this.shown.find((each) => each.view === view);
      for (let row = 0; row < view.count; row += 1) {
        if (view.pa[row] >= end || view.paEnd[row] <= begin) continue;
        if (view.form[row] >= FOLDED) {
          folded += view.number[row];
          continue;
        }
        const first = mappedAt(view, row, Math.max(view.pa[row], begin));
        const times = view.form[row] === RANGE ? 1 : view.number[row];
        known += times;
        if (places.length < LISTED) places.push([at, row, first, times]);
        if (!strip) continue;
        const size = view.form[row] === RANGE ? Math.min(view.paEnd[row], end) - Math.max(view.pa[row], begin) : view.end[row] - first;
        strip.marks.push([first, first + size]);
      }
    });
    const what = end - begin === 1 ? `frame ${addressText(PLAIN, begin)}` : `frames ${addressText(PLAIN, begin)}–${addressText(PLAIN, end - 1, 4095)}`;
    const title = make("h2", { id: "aliases-title", textContent: `${known.toLocaleString("en")} × ${what}` });
    const list = make("ol", { className: "scroll", id: "aliases" });
    list.setAttribute("aria-labelledby", "aliases-title");
    for (const [at, row, first, times] of places) {
      const view = this.views[at];
      const name = nameOf(this.names, first);
      const rights = view.colours[0].classes[view.colours[0].of[row]].name;
      const button = make("button", { className: "go", textContent: addressText(view.space, first) });
      const root = this.choices.length > 1 ? `, ${view.title.split(",")[0]}` : "";
      const often = times > 1 ? `, ${times.toLocaleString("en")} times` : "";
      button.append(make("small", { textContent: ` ${rights}${name ? `, ${name}` : ""}${often}${root}` }));
      button.addEventListener("click", () => this.go(at, first));
      list.append(make("li", {}, button));
    }
    box.append(title, list);
    const more = [];
    if (places.length === LISTED) more.push(`The first ${LISTED}.`);
    if (folded) more.push(`${counted(folded, "mapping")} in folded parts may be among them: ${this.content.of_command.replace(/PA$/, addressText(PLAIN, begin))} lists all.`);
    if (more.length) box.append(make("p", { className: "note", textContent: more.join(" ") }));
  }

  // Find an address, a frame or names; with `go` show the first of them.
  search(text, go) {
    const wanted = text.trim();
    const hits = [];
    const [, prefix, digits] = /^(pa:|frame\s+|va:)?\s*(.*)$/i.exec(wanted);
    const kind = (prefix ?? "").trim().toLowerCase();
    const memory = this.views.findIndex((view) => view.memory);
    if (/^(0x)?[0-9a-f_`]+$/i.test(digits) && (/[0-9]/.test(digits) || kind)) {
      const view = this.views[this.current];
      const linear = kind === "pa:" || kind === "frame" ? null : parseAddress(view.space, digits);
      if (linear) {
        const row = rowAt(view, linear[0]);
        const mapped = pageAt(view, row, linear[0]) ? nameOf(this.names, ...linear) || "mapped" : view.empty;
        hits.push([`${view.axis} ${addressText(view.space, ...linear)}`, mapped, () => this.go(this.current, ...linear)]);
      }
      const physical = memory < 0 || kind === "va:" ? null : parseAddress(this.views[memory].space, digits);
      if (physical) {
        const row = rowAt(this.views[memory], physical[0]);
        hits.push([`frame ${addressText(PLAIN, physical[0])}`, row < 0 ? "mapped by nothing" : "mapped", () => this.goFrame(physical[0])]);
      }
    }
    if (wanted.length > 1) this.searchNames(wanted, hits);
    const box = this.get("hitlist");
    box.hidden = !wanted;
    const list = this.get("hits");
    list.className = "scroll";
    list.replaceChildren();
    for (const [title, about, act] of hits.slice(0, HITS)) {
      const button = make("button", { className: "go", textContent: title });
      button.append(make("small", { textContent: about ? ` ${about}` : "" }));
      button.addEventListener("click", act);
      list.append(make("li", {}, button));
    }
    if (wanted && !hits.length) list.append(make("li", { className: "note", textContent: "nothing: neither an address here, nor a name" }));
    if (hits.length > HITS) list.append(make("li", { className: "note", textContent: `the first ${HITS}` }));
    if (!go || !hits.length) return;
    hits[0][2]();
    // So that keys are those of the map again.
    this.active.canvas.focus();
  }

  searchNames(wanted, hits) {
    const escaped = wanted.toLowerCase().replaceAll(/[.+^${}()|[\]\\]/g, "\\$&");
    const pattern = /[*?]/.test(wanted)
      ? new RegExp(`^${escaped.replaceAll("*", ".*").replaceAll("?", ".")}$`, "i")
      : new RegExp(escaped, "i");
    const view = this.views[this.current];
    if (!view.named) return;
    const found = [];
    for (const each of this.names) {
      for (let row = 0; row < each.texts.length && found.length < 4 * HITS; row += 1) {
        if (!pattern.test(each.texts[row])) continue;
        found.push([each.texts[row], each, row]);
      }
    }
    // Those whose name is what was typed come first, then those that begin with it.
    const rank = ([name]) => (name.toLowerCase() === wanted.toLowerCase() ? 0 : name.toLowerCase().startsWith(wanted.toLowerCase()) ? 1 : 2);
    found.sort((one, other) => rank(one) - rank(other));
    for (const [name, each, row] of found) {
      const begin = each.begin[row];
      const about = `${each.kind}, ${addressText(view.space, begin, each.low[row])}`;
      hits.push([name, about, () => this.goName(begin, each.low[row], each.last[row])]);
    }
  }

  goName(begin, low, last) {
    const { view } = this.shown[0];
    const row = rowAt(view, begin);
    // Of a region that begins with a gap, what is mapped first.
    const next = upTo(view.begin, begin);
    const frame = row < 0 && next < view.count && view.begin[next] <= last ? view.begin[next] : begin;
    this.go(this.current, frame, frame === begin ? low : 0);
    if (last - begin > 512) {
      const strip = this.shown[0];
      strip.zoomTo(begin, last + 1);
      strip.clamp();
      this.moved(strip);
      this.redraw();
    }
  }

  goFrame(frame) {
    const memory = this.views.findIndex((view) => view.memory);
    this.go(memory, frame);
    if (!this.views.some((view) => view.pa)) return;
    const strip = this.shown.find((each) => each.view.memory);
    for (const each of this.shown) each.marks = [];
    strip.chosen = [frame, frame + 1];
    const box = this.get("chosen");
    box.replaceChildren();
    this.listMapping(frame, frame + 1, box);
    this.redraw();
  }

  next(select, by = 1) {
    select.selectedIndex = (select.selectedIndex + by + select.options.length) % select.options.length;
    select.dispatchEvent(new Event("change"));
  }

  keyed(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || this.get("help").open) return;
    if (event.target.matches("input, select")) {
      if (event.key === "Escape") this.active.canvas.focus();
      return;
    }
    // Keys of a map are those of the last one where nothing has the focus, or a tool that has no use for them.
    const idle = event.target === document.body || event.target === document.documentElement;
    if ((idle || event.target.matches("#tools button, #trail button, .skip")) && this.active.keyed(event, idle)) {
      this.active.canvas.focus();
      return;
    }
    const levels = this.active.view.levels;
    const acts = {
      "+": () => this.zoom(0.08), "=": () => this.zoom(0.08), "-": () => this.zoom(-0.08),
      0: () => this.level(null),
      "/": () => this.get("query").focus(),
      "?": () => this.get("help").showModal(),
      n: () => this.goFinding(this.finding + 1), p: () => this.goFinding(this.finding < 0 ? -1 : this.finding - 1),
      c: () => this.next(this.get("colour")), s: () => this.setScale(!this.straight),
      r: () => this.choices.length > 1 && this.next(this.get("view")),
      t: () => this.nextTheme(),
      Escape: () => this.choose(this.active, null),
    };
    levels.slice(-4).forEach(([, shift], at) => {
      acts[at + 1] = () => this.level(shift);
    });
    if (!acts[event.key]) return;
    event.preventDefault();
    acts[event.key]();
  }
}

const PLAIN = { half: Infinity, hole: 0, digits: 13, frames: 2 ** 40 };
const content = JSON.parse(document.getElementById("document").textContent);
const page = new Page(content, await unpacked(document.getElementById("columns").textContent));
// For the browser's console.
globalThis.crosswalk = { page, LINE, LABEL, MARGIN, FILLS };
document.documentElement.dataset.ready = "true";
