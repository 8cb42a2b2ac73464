// Where everything lies: the view's rows and the gaps between them, one after the other on a line
// that wraps like text.
//
// Lengths up to a limit are true to scale; of a longer one only the logarithm counts, so that a
// page, a kernel's text and a gap of terabytes are seen together. The limit grows with the zoom:
// where pages can be told apart, all of a GiB is true to scale. Long gaps end a line.

const PAGE = 22; // The widest that a page is drawn, in pixels: its rights fit in as letters.
const LONGEST = 2 ** 26; // The limit at the deepest zoom, in frames.
const SHORTEST = 24; // The limit where the whole is shown.
const BREAKS = 512; // Gaps of less frames never end a line.

class Layout {
  // `width` is that of a line in pixels; `lines` are those that the whole is to fit in.
  constructor(view, width, lines, straight) {
    this.view = view;
    this.width = width;
    this.lines = lines;
    this.straight = straight;
    const count = view.count;
    // Items alternate: the gap before row 0, row 0, the gap before row 1…, and the last gap.
    const length = new Float64Array(2 * count + 1);
    for (let row = 0, at = 0; row < count; row += 1) {
      length[2 * row] = view.begin[row] - at;
      length[2 * row + 1] = view.end[row] - view.begin[row];
      at = view.end[row];
      length[2 * row + 2] = view.space.frames - at;
    }
    if (!count) length[0] = view.space.frames;
    this.length = length;
    this.logs = length.map((each) => (each ? Math.log(each) : 0));
    this.at = new Float64Array(length.length + 1);
    this.longGaps = length.filter((each, item) => item % 2 === 0 && each >= BREAKS).sort().reverse();
    this.first = this.fitting();
    this.zoom = -1;
    this.set(0);
  }

  // Return how many pixels a frame has where the whole fits.
  fitting() {
    const room = this.lines * this.width;
    if (this.straight) return room / this.view.space.frames;
    let [least, most] = [1e-9, PAGE];
    for (let turn = 0; turn < 40; turn += 1) {
      const middle = Math.sqrt(least * most);
      this.place(middle, SHORTEST);
      if (this.total > room) most = middle;
      else least = middle;
    }
    return least;
  }

  // Lay everything out for a zoom from 0, the whole, to 1, pages.
  set(zoom) {
    const next = Math.min(Math.max(zoom, 0), 1);
    if (next === this.zoom) return;
    this.zoom = next;
    const scale = this.first ** (1 - next) * Math.max(PAGE, this.first) ** next;
    this.place(scale, this.straight ? Infinity : SHORTEST ** (1 - next) * LONGEST ** next);
  }

  place(scale, limit) {
    const { at, length, logs, width } = this;
    const log = Math.log(limit);
    const gapLimit = Math.max(limit / 256, 2);
    const gapLog = Math.log(gapLimit);
    const breaking = this.breaking(limit);
    let total = 0;
    for (let item = 0; item < length.length; item += 1) {
      at[item] = total;
      const each = length[item];
      const gap = item % 2 === 0;
      if (gap && each >= breaking) {
        // The rest of the line, and none at the very beginning.
        if (total) total = Math.ceil(total / width - 1e-9) * width;
        continue;
      }
      const [most, cut] = gap ? [gapLimit, gapLog] : [limit, log];
      total += scale * (each <= most ? each : most * (1 + (logs[item] - cut) * (gap ? 0.25 : 1)));
    }
    at[length.length] = total;
    this.total = Math.max(total, 1);
    this.scale = scale;
    this.limit = limit;
    this.gapLimit = gapLimit;
  }

  // Return from how many frames on a gap ends a line: only so many do as there are lines for.
  breaking(limit) {
    if (this.straight) return Infinity;
    const most = Math.floor(this.lines * 0.7);
    const least = this.longGaps[most] ?? 0;
    // At deeper zooms there are more lines, and more of them may end early.
    return Math.max(BREAKS, limit > SHORTEST * 64 ? 2048 : least + 1);
  }

  // Return where on the line a frame is, in pixels.
  position(frame) {
    const { view } = this;
    const row = upTo(view.begin, frame) - 1;
    let item, from;
    if (row >= 0 && frame < view.end[row]) [item, from] = [2 * row + 1, view.begin[row]];
    else [item, from] = [2 * row + 2, row >= 0 ? view.end[row] : 0];
    const wide = this.at[item + 1] - this.at[item];
    return this.at[item] + (wide * (frame - from)) / (this.length[item] || 1);
  }

  // Return the item at a place on the line, and the frame there.
  find(place) {
    const item = Math.min(Math.max(upTo(this.at, place) - 1, 0), this.length.length - 1);
    const wide = this.at[item + 1] - this.at[item];
    const part = wide ? Math.min(Math.max((place - this.at[item]) / wide, 0), 1) : 0;
    const from = this.beginOf(item);
    const frame = from + Math.min(Math.floor(part * this.length[item] + 1e-6), Math.max(this.length[item] - 1, 0));
    return { item, row: item % 2 ? (item - 1) / 2 : -1, frame };
  }

  beginOf(item) {
    if (item % 2) return this.view.begin[(item - 1) / 2];
    return item ? this.view.end[item / 2 - 1] : 0;
  }

  // Return how many pixels a frame of an item is wide.
  perFrame(item) {
    return (this.at[item + 1] - this.at[item]) / (this.length[item] || 1);
  }

  // Return the deepest zoom at which [begin, end) takes no more than so many pixels.
  zoomFor(begin, end, room) {
    let [least, most] = [0, 1];
    for (let turn = 0; turn < 14; turn += 1) {
      const middle = (least + most) / 2;
      this.set(middle);
      if (this.position(end - 1) + this.perFrame(0) - this.position(begin) > room) most = middle;
      else least = middle;
    }
    return least;
  }
}
