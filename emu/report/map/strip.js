// A pane: one view on a canvas, in lines, with addresses before them and names above.

const MARGIN = 128; // The addresses before the lines.
const LABEL = 13; // The names above a line.
const CELL = 16; // What is mapped.
const BAND = 3; // The regions below it.
const LINE = LABEL + CELL + BAND + 3;
const FONT = '11px ui-monospace, "DejaVu Sans Mono", "Liberation Mono", monospace';
const SMALL = '10px system-ui, "Liberation Sans", sans-serif';

class Strip {
  constructor(page, view, height) {
    this.page = page;
    this.view = view;
    this.height = height;
    this.top = 0; // The first pixel shown of all lines, vertically.
    this.cursor = view.count ? view.begin[0] : 0;
    this.marks = []; // [begin, end) in frames that are highlighted.
    this.build();
    this.canvas.addEventListener("pointermove", (event) => this.pointed(event));
    this.canvas.addEventListener("pointerleave", () => page.hideTip());
    this.canvas.addEventListener("pointerdown", (event) => this.pressed(event));
    this.canvas.addEventListener("wheel", (event) => this.wheeled(event), { passive: false });
    this.canvas.addEventListener("keydown", (event) => this.keyed(event));
    this.canvas.addEventListener("focus", () => page.focused(this));
    this.canvas.addEventListener("blur", () => this.draw());
  }

  build() {
    this.element = document.createElement("section");
    this.element.className = "pane";
    const title = document.createElement("h2");
    title.append(this.view.title);
    this.status = document.createElement("small");
    title.append(this.status);
    const frame = document.createElement("div");
    frame.className = "frame";
    this.canvas = document.createElement("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-roledescription", "map");
    frame.append(this.canvas);
    this.element.append(title, frame);
  }

  // Take the width that there is, and lay out anew where that changed.
  fit() {
    const width = Math.max(Math.floor(this.canvas.getBoundingClientRect().width), 320);
    const lines = Math.max(Math.floor(this.height / LINE), 2);
    const straight = this.page.straight;
    const known = this.layout;
    if (!known || known.width !== width - MARGIN - 8 || known.straight !== straight) {
      const before = known && { zoom: known.zoom, frame: this.centre() };
      this.layout = new Layout(this.view, width - MARGIN - 8, lines, straight);
      if (before && known.straight === straight && before.zoom) {
        this.layout.set(before.zoom);
        this.show(before.frame);
      } else if (before && before.zoom) {
        this.zoomTo(before.frame, before.frame + 512);
      } else this.top = 0;
    }
    const ratio = devicePixelRatio || 1;
    this.lines = lines;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(lines * LINE * ratio);
    this.canvas.style.height = `${lines * LINE}px`;
    this.shown = width;
    this.ratio = ratio;
    this.clamp();
  }

  get total() {
    return Math.ceil(this.layout.total / this.layout.width - 1e-9) * LINE;
  }

  clamp() {
    this.top = Math.max(0, Math.min(this.top, this.total - this.lines * LINE));
  }

  centre() {
    return this.layout.find((this.top / LINE + this.lines / 2) * this.layout.width).frame;
  }

  // Scroll so that a frame is in the middle.
  show(frame) {
    const line = Math.floor(this.layout.position(frame) / this.layout.width);
    this.top = (line - Math.floor(this.lines / 2)) * LINE;
    this.clamp();
  }

  // Scroll no further than needed to have a frame in sight.
  reveal(frame) {
    const line = Math.floor(this.layout.position(frame) / this.layout.width) * LINE;
    if (line < this.top) this.top = line;
    else if (line + LINE > this.top + this.lines * LINE) this.top = line + LINE - this.lines * LINE;
    this.clamp();
  }

  // Change the zoom, and keep a frame at its height.
  zoomBy(step, frame, y) {
    this.layout.set(this.layout.zoom + step);
    const line = Math.floor(this.layout.position(frame) / this.layout.width);
    this.top = line * LINE + LINE / 2 - (y ?? (this.lines * LINE) / 2);
    this.clamp();
    this.page.moved(this);
    this.draw();
  }

  // Show [begin, end) as large as it fits.
  zoomTo(begin, end) {
    const { layout } = this;
    layout.set(layout.zoomFor(begin, end, (this.lines ?? 8) * layout.width * 0.9));
    const first = Math.floor(layout.position(begin) / layout.width);
    const last = Math.floor(layout.position(end - 1) / layout.width);
    this.top = (first - Math.max(0, Math.floor(((this.lines ?? 8) - (last - first + 1)) / 2))) * LINE;
    if (this.lines) this.clamp();
  }

  // Return the frame and row at a place on the canvas; null beside the lines.
  at(x, y) {
    const line = Math.floor((y + this.top) / LINE);
    const along = x - MARGIN;
    if (along < 0 || along > this.layout.width) return null;
    const place = line * this.layout.width + along;
    if (place >= this.layout.total) return null;
    const found = this.layout.find(place);
    // In the rest of a line that a gap ended.
    if (found.row >= 0 && this.layout.at[found.item + 1] < place) return null;
    return found;
  }

  draw() {
    if (!this.layout) return;
    const context = this.canvas.getContext("2d");
    const { palette } = this.page;
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.fillStyle = palette.get("paper");
    context.fillRect(0, 0, this.shown, this.lines * LINE);
    const first = Math.floor(this.top / LINE);
    for (let line = first; line <= first + this.lines; line += 1) {
      if (line * this.layout.width >= this.layout.total) break;
      this.drawLine(context, line, line * LINE - this.top);
    }
    this.drawScroll(context);
    this.describe();
  }

  drawScroll(context) {
    const height = this.lines * LINE;
    if (this.total <= height) return;
    const size = Math.max((height * height) / this.total, 12);
    const at = ((height - size) * this.top) / (this.total - height);
    context.fillStyle = this.page.palette.get("line");
    context.fillRect(this.shown - 6, at, 5, size);
  }

  drawLine(context, line, y) {
    const { layout, view } = this;
    const { palette } = this.page;
    const from = line * layout.width;
    const to = Math.min(from + layout.width, layout.total);
    const first = layout.find(from + 1e-6);
    const top = y + LABEL;
    // A line that a gap ended before begins with the row after it.
    let item = Math.max(upTo(layout.at, from + 1e-6) - 1, 0);
    while (item < layout.length.length && layout.at[item + 1] <= from + 1e-6) item += 1;
    if (item >= layout.length.length) return;
    const start = layout.at[item] >= from - 1e-6 && layout.at[item + 1] > layout.at[item] ? layout.beginOf(item) : first.frame;
    context.font = FONT;
    context.textBaseline = "middle";
    context.textAlign = "right";
    context.fillStyle = palette.get("text");
    context.fillText(addressText(view.space, start, 0, ""), MARGIN - 8, top + CELL / 2);
    context.textAlign = "left";
    this.drawItems(context, item, from, to, top);
    this.drawNames(context, start, from, to, y);
    this.drawMarks(context, from, to, top);
  }

  drawItems(context, first, from, to, y) {
    const { layout, view } = this;
    const colour = this.page.colourOf(this);
    const { palette } = this.page;
    let pixel = -1;
    const weights = new Map();
    const flush = () => {
      if (pixel >= 0 && weights.size) {
        let best = -1, most = -1;
        for (const [code, weight] of weights) {
          const rank = colour.classes[code].serious ? 1e9 + weight : weight;
          if (rank > most) [best, most] = [code, rank];
        }
        this.cell(context, colour.classes[best], MARGIN + pixel, y, 1);
      }
      weights.clear();
    };
    for (let item = first; item < layout.length.length; item += 1) {
      const left = layout.at[item];
      if (left >= to) break;
      const right = layout.at[item + 1];
      if (right <= left) continue;
      const x0 = Math.max(left, from) - from, x1 = Math.min(right, to) - from;
      if (item % 2 === 0) {
        if (x1 - x0 >= 1) {
          flush();
          pixel = -1;
          context.fillStyle = palette.get("gap");
          context.fillRect(MARGIN + x0, y + CELL / 2 - 1, x1 - x0, 2);
          if (left >= from) this.gapText(context, layout.length[item], MARGIN + x0, y, x1 - x0);
        }
        continue;
      }
      const code = colour.of[(item - 1) / 2];
      const begin = Math.floor(x0 + 1e-6), end = Math.floor(x1 + 1e-6);
      if (end - begin >= 1) {
        if (begin !== pixel) flush();
        const covered = begin === pixel && weights.size ? 1 : 0;
        if (covered) {
          weights.set(code, (weights.get(code) ?? 0) + begin + 1 - x0);
          flush();
        }
        if (end > begin + covered) this.drawRow(context, item, colour.classes[code], MARGIN + begin + covered, y, end - begin - covered, left - from);
        pixel = end;
        if (x1 - end > 1e-3) weights.set(code, x1 - end);
      } else {
        if (begin !== pixel) {
          flush();
          pixel = begin;
        }
        weights.set(code, (weights.get(code) ?? 0) + x1 - x0);
      }
    }
    flush();
  }

  // How long a gap is, where that can be written into it.
  gapText(context, frames, x, y, wide) {
    const text = `${roundedSize(frames)} ${this.view.empty}`;
    context.font = SMALL;
    const room = context.measureText(text).width + 16;
    if (wide < room) return;
    const { palette } = this.page;
    context.fillStyle = palette.get("paper");
    context.fillRect(x + 10, y, room - 8, CELL);
    context.fillStyle = palette.get("quiet");
    context.textAlign = "left";
    context.fillText(text, x + 14, y + CELL / 2 + 0.5);
  }

  // A row from `x`, `wide` pixels; `left` is where all of it begins, from the line's beginning.
  drawRow(context, item, kind, x, y, wide, left) {
    const { view, layout } = this;
    const row = (item - 1) / 2;
    const perFrame = layout.perFrame(item);
    const form = view.form ? view.form[row] : RANGE;
    const page = pageFrames(view, row) * perFrame;
    if (form === STRIDE && strideOf(view, row) * perFrame >= 3) {
      const stride = strideOf(view, row) * perFrame;
      const first = Math.max(Math.floor((x - MARGIN - left) / stride), 0);
      for (let at = MARGIN + left + first * stride; at < x + wide; at += stride) {
        const begin = Math.max(at, x);
        const end = Math.min(at + Math.max(page, 1), x + wide);
        if (end > begin) this.cell(context, kind, begin, y, end - begin);
      }
      return;
    }
    this.cell(context, kind, x, y, wide, form >= STRIDE);
    if ((form === RANGE || form === REPEAT) && view.shift && page >= 6 && page < wide + 6) {
      context.fillStyle = this.page.palette.get("paper");
      context.globalAlpha = 0.6;
      const first = Math.max(Math.ceil((x - MARGIN - left) / page), 0);
      for (let at = MARGIN + left + first * page; at < x + wide; at += page) context.fillRect(Math.round(at), y, 1, CELL);
      context.globalAlpha = 1;
    }
    if (form === RANGE && page >= 20 && page < wide) {
      const first = Math.max(Math.floor((x - MARGIN - left) / page), 0);
      for (let at = MARGIN + left + first * page; at < x + wide; at += page) {
        if (at + page / 2 > x + 8 && at + page / 2 < x + wide - 8) this.letters(context, kind, at, y, page);
      }
    } else this.letters(context, kind, x, y, wide);
  }

  // The letters of a class in its wider lane, where they fit.
  letters(context, kind, x, y, wide) {
    const texts = kind.letters.split("/");
    const lane = kind.lanes.length > 1 && kind.lanes[0] === "none" ? 1 : 0;
    const text = texts[lane] ?? "";
    context.font = kind.lanes.length > 1 ? '9px system-ui, "Liberation Sans", sans-serif' : SMALL;
    if (!text || wide < 18 || context.measureText(text).width > wide - 2) return;
    const [top, tall] = this.lanes(kind)[lane];
    context.fillStyle = this.page.palette.ink(kind.lanes[lane]);
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(text, x + wide / 2, y + top + tall / 2 + 0.5);
    context.textAlign = "left";
  }

  // Where the lanes of a class lie: the supervisor's is the wider one if that has any rights.
  lanes(kind) {
    if (kind.lanes.length < 2) return [[0, CELL]];
    const high = kind.lanes[0] === "none" ? 4 : CELL - 6;
    return [[0, high], [high, CELL - high]];
  }

  // One cell: the first lane above, the second, if there is one, below.
  cell(context, kind, x, y, wide, folded = false) {
    const { palette } = this.page;
    const places = this.lanes(kind);
    kind.lanes.forEach((style, lane) => {
      const top = y + places[lane][0], tall = places[lane][1];
      context.fillStyle = palette.fill(style);
      context.fillRect(x, top, wide, tall);
      if (wide < 6) return;
      const patterns = [style, ...(folded ? ["folded"] : [])];
      for (const each of patterns) {
        const pattern = palette.pattern(context, each);
        if (!pattern) continue;
        context.fillStyle = pattern;
        context.fillRect(x, top, wide, tall);
      }
    });
    if (places.length < 2) return;
    // So that the lanes are told apart where both have one colour.
    context.fillStyle = palette.get("paper");
    context.fillRect(x, y + places[1][0] - 0.5, wide, 1);
  }

  // The names of regions and sections where they begin in a line, and a band below the regions.
  drawNames(context, start, from, to, y) {
    const { layout } = this;
    const { palette } = this.page;
    if (!this.view.named) return;
    context.font = SMALL;
    const labels = [];
    const first = Math.floor(this.top / LINE) * layout.width === from;
    const ending = layout.find(to - 1e-6).frame;
    this.bands ??= bandsOf(this.page.names, this.view);
    this.bands.forEach(({ bands, begin }, number) => {
      for (let row = Math.max(upTo(begin, start) - 1, 0); row < bands.length && begin[row] <= ending; row += 1) {
        const band = bands[row];
        if (band.end <= start) continue;
        const left = Math.max(layout.position(Math.max(band.begin, start)), from) - from;
        const right = (band.end > ending ? to : layout.position(band.end)) - from;
        if (!number) this.band(context, MARGIN + left, y + LABEL, Math.max(right - left, 1), row % 2);
        const text = band.begin >= start ? band.text : first ? `… ${band.text}` : "";
        if (text) labels.push({ text, x: MARGIN + left, band: right - left });
      }
    });
    // Where pages are seen one by one, their symbols have names.
    const { symbol } = layout.scale < PAGE / 3 ? {} : namesAt(this.page.names, start, 0);
    if (symbol) labels.push({ text: symbol, x: MARGIN, band: 0 });
    this.drawLabels(context, labels, y);
  }

  // The names above a line, of two that would overlap that of the longer band.
  drawLabels(context, labels, y) {
    const taken = [];
    context.fillStyle = this.page.palette.get("text");
    for (const { text, x } of labels.sort((one, other) => other.band - one.band)) {
      const end = x + context.measureText(text).width + 8;
      if (end > MARGIN + this.layout.width + 16 || taken.some(([from, to]) => x < to && end > from)) continue;
      context.fillText(text, x, y + LABEL / 2 + 1);
      taken.push([x, end]);
    }
  }

  // A frame around what is from x0 to x1, an arrow to what is narrower than that.
  mark(context, x0, x1, y, colour, inner) {
    const { palette } = this.page;
    context.strokeStyle = palette.get(colour);
    context.lineWidth = 2;
    if (x1 - x0 > 6) context.strokeRect(x0 + 1, y + inner, x1 - x0 - 2, CELL - 2 * inner);
    else {
      context.fillStyle = palette.get(colour);
      context.beginPath();
      context.moveTo((x0 + x1) / 2, y + 3);
      context.lineTo((x0 + x1) / 2 - 5, y - 5);
      context.lineTo((x0 + x1) / 2 + 5, y - 5);
      context.fill();
      context.fillRect((x0 + x1) / 2 - 1, y, 2, CELL);
    }
  }

  // What marks a finding at x.
  triangle(context, x, y, serious) {
    context.fillStyle = this.page.palette.get(serious ? "finding" : "quiet");
    context.beginPath();
    context.moveTo(x + 1, y + CELL - 4);
    context.lineTo(x - 4, y + CELL + 4);
    context.lineTo(x + 6, y + CELL + 4);
    context.fill();
  }

  // The band below a region.
  band(context, x, y, wide, odd) {
    context.fillStyle = this.page.palette.get(odd ? "band-one" : "band-two");
    context.fillRect(x, y + CELL + 1, wide, BAND);
  }

  drawMarks(context, from, to, y) {
    const { palette } = this.page;
    const bar = (begin, end, colour, inner) => {
      const left = this.layout.position(begin);
      const wide = this.layout.perFrame(Math.max(2 * rowAt(this.view, end - 1) + 1, 0));
      const right = Math.max(this.layout.position(end - 1) + wide, left + 1);
      if (right <= from + 0.5 || left >= to - 0.5) return;
      this.mark(context, Math.max(left, from) - from + MARGIN, Math.min(Math.max(right, left + 2), to) - from + MARGIN, y, colour, inner);
    };
    if (this.chosen) bar(this.chosen[0], this.chosen[1], "chosen", 0);
    for (const [begin, end] of this.marks) bar(begin, end, "alias", 1);
    for (const [begin, serious] of this.page.findingsOf(this)) {
      const place = this.layout.position(begin);
      if (place < from || place >= to) continue;
      this.triangle(context, place - from + MARGIN, y, serious);
    }
    if (document.activeElement === this.canvas) {
      const place = this.layout.position(this.cursor);
      if (place >= from && place < to) {
        context.strokeStyle = palette.get("focus");
        context.lineWidth = 2;
        const row = rowAt(this.view, this.cursor);
        const wide = row < 0 ? 3 : Math.max(this.layout.perFrame(2 * row + 1), 3);
        context.strokeRect(place - from + MARGIN - 1, y - 2, wide + 2, CELL + 4);
      }
    }
  }

  // Say in words what is shown, for those who don't see it.
  describe() {
    const text = this.page.describe(this);
    this.canvas.setAttribute("aria-label", text);
    const { layout } = this;
    const zoom = layout.zoom ? `lengths up to ${roundedSize(Math.max(layout.limit, 1))} true to scale` : "";
    const scale = this.page.straight ? "true to scale" : zoom || "gaps and long ranges shortened";
    this.status.textContent = `${this.view.summary}; ${scale}`;
  }

  pointed(event) {
    const found = this.at(event.offsetX, event.offsetY);
    if (event.buttons && this.dragged) {
      const by = this.dragged.y - event.offsetY;
      if (Math.abs(by) > 3) this.dragged.moved = true;
      this.top = this.dragged.top + by;
      this.clamp();
      this.page.moved(this);
      this.draw();
      return;
    }
    if (found) this.page.showTip(this, found, event.clientX, event.clientY);
    else this.page.hideTip();
  }

  pressed(event) {
    this.dragged = { y: event.offsetY, top: this.top, moved: false };
    this.canvas.setPointerCapture(event.pointerId);
    this.canvas.addEventListener("pointerup", (up) => {
      const { moved } = this.dragged;
      this.dragged = null;
      const found = moved ? null : this.at(up.offsetX, up.offsetY);
      if (!found) return;
      this.cursor = found.frame;
      this.page.choose(this, found.frame);
    }, { once: true });
  }

  wheeled(event) {
    event.preventDefault();
    if (event.shiftKey) {
      this.top += event.deltaY || event.deltaX;
      this.clamp();
      this.page.moved(this);
      this.draw();
      return;
    }
    const found = this.at(event.offsetX, event.offsetY);
    const frame = found ? found.frame : this.centre();
    this.zoomBy(-Math.sign(event.deltaY) * 0.04, frame, event.offsetY);
  }

  // Do what a key of the map says, and return whether it is one; without `all` but for Enter and space.
  keyed(event, all = true) {
    if (event.ctrlKey || event.altKey || event.metaKey) return false;
    const { view } = this;
    const row = rowAt(view, this.cursor);
    const next = () => view.begin[Math.min(upTo(view.begin, this.cursor), view.count - 1)];
    const pages = row >= 0 && this.layout.perFrame(2 * row + 1) * pageFrames(view, row) >= 6;
    const jump = pages ? (view.form && view.form[row] === STRIDE ? strideOf(view, row) : pageFrames(view, row)) : 0;
    const moves = {
      ArrowRight: () => (pages && this.cursor + jump < view.end[row] ? this.cursor + jump : next()),
      ArrowLeft: () => {
        if (pages && this.cursor - jump >= view.begin[row]) return this.cursor - jump;
        const before = upTo(view.begin, this.cursor - 1) - 1;
        return view.begin[Math.max(before, 0)];
      },
      ArrowDown: () => this.layout.find(Math.min(this.layout.position(this.cursor) + this.layout.width, this.layout.total - 1)).frame,
      ArrowUp: () => this.layout.find(Math.max(this.layout.position(this.cursor) - this.layout.width, 0)).frame,
      Home: () => view.begin[0],
      End: () => view.begin[view.count - 1],
    };
    if (moves[event.key] && view.count) {
      this.cursor = moves[event.key]();
      this.reveal(this.cursor);
    } else if (all && (event.key === "Enter" || event.key === " ")) this.page.choose(this, this.cursor);
    else if (event.key === "PageDown" || event.key === "PageUp") {
      this.top += (event.key === "PageDown" ? 1 : -1) * this.lines * LINE * 0.9;
      this.clamp();
    } else return false;
    event.preventDefault();
    this.page.moved(this);
    this.draw();
    return true;
  }
}
