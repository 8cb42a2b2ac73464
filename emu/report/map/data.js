// The page's data: one JSON document, and columns of numbers packed into one compressed text.

async function unpacked(text) {
  const packed = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  const inflated = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(inflated).arrayBuffer());
}

// A column lies in planes: the lowest byte of all values, then the next one of all, and so on.
function column(bytes, { at, width, count, signed }) {
  const values = width > 1 ? new Float64Array(count) : new Uint8Array(count);
  for (let plane = width - 1; plane >= 0; plane -= 1) {
    const from = at + plane * count;
    for (let row = 0; row < count; row += 1) values[row] = values[row] * 256 + bytes[from + row];
  }
  if (!signed) return values;
  // Zigzag: an even number is half of itself, an odd one negative.
  const found = new Float64Array(count);
  for (let row = 0; row < count; row += 1) {
    const value = values[row];
    found[row] = value % 2 ? -(value + 1) / 2 : value / 2;
  }
  return found;
}

// Form: what a row is, as crosswalk.walker.condensed says.
const RANGE = 0, REPEAT = 1, STRIDE = 2, FOLDED = 3, MIXED = 4;

// A view's rows as columns: all begin, size and pa in frames.
function readView(view, bytes) {
  const raw = Object.fromEntries(
    Object.entries(view.columns).map(([name, place]) => [name, column(bytes, place)]),
  );
  const count = view.rows;
  const begin = new Float64Array(count);
  const end = new Float64Array(count);
  const pa = raw.step && new Float64Array(count);
  const paEnd = raw.step && new Float64Array(count);
  for (let row = 0, at = 0, frame = 0; row < count; row += 1) {
    begin[row] = at + raw.gap[row];
    at = end[row] = begin[row] + raw.size[row];
    if (pa) {
      pa[row] = frame + raw.step[row];
      frame = paEnd[row] = pa[row] + raw.extent[row];
    }
  }
  const half = 2 ** (view.bits - 13);
  const space = {
    frames: 2 ** (view.bits - 12),
    half: view.hole ? half : Infinity,
    hole: view.hole ? 2 ** 52 - 2 ** (view.bits - 12) : 0,
    digits: Math.ceil(view.hole ? 16 : view.bits / 4),
  };
  const colours = view.colours.map((each) => ({ ...each, of: raw[each.column] }));
  return { ...view, ...raw, begin, end, pa, paEnd, space, colours, count };
}

// Names in address order: where each begins and ends, in frames and bytes, and what it is called.
function readNames(names, bytes) {
  return names.map(({ kind, columns, texts }) => {
    const raw = Object.fromEntries(
      Object.entries(columns).map(([name, place]) => [name, column(bytes, place)]),
    );
    const count = raw.gap.length;
    const begin = new Float64Array(count);
    const last = new Float64Array(count);
    for (let row = 0, at = 0; row < count; row += 1) {
      at = begin[row] = at + raw.gap[row];
      last[row] = at + raw.extent[row];
    }
    const { at, count: size } = texts;
    const lines = new TextDecoder().decode(bytes.subarray(at, at + size)).split("\n");
    return { kind, begin, low: raw.low, last, lastLow: raw.lastLow, texts: lines };
  });
}

// Return the names with addresses as a space counts them, without the hole between its halves.
function namesIn(names, { hole }) {
  const moved = (frames) => (hole ? frames.map((frame) => (frame >= 2 ** 51 ? frame - hole : frame)) : frames);
  return names.map((each) => ({ ...each, begin: moved(each.begin), last: moved(each.last) }));
}

// Return the regions and sections as far as a view maps something in them: what is drawn of them.
function bandsOf(names, view) {
  return names.filter(({ kind }) => kind !== "symbol").map(({ kind, begin, last, texts }) => {
    const bands = [];
    for (let row = 0; row < begin.length; row += 1) {
      const next = upTo(view.end, begin[row]); // The first row that ends behind its beginning.
      const before = upTo(view.begin, last[row]) - 1; // The last row that begins in it.
      if (next >= view.count || view.begin[next] > last[row]) continue;
      const from = Math.max(view.begin[next], begin[row]);
      bands.push({ text: texts[row], begin: from, end: Math.min(view.end[before], last[row] + 1) });
    }
    return { kind, bands, begin: Float64Array.from(bands, (band) => band.begin) };
  });
}

// The number of values in a sorted array that are at most `value`.
function upTo(sorted, value) {
  let low = 0, high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (sorted[middle] <= value) low = middle + 1;
    else high = middle;
  }
  return low;
}

// The row that a frame of a view lies in, or -1.
function rowAt(view, frame) {
  const row = upTo(view.begin, frame) - 1;
  return row >= 0 && frame < view.end[row] ? row : -1;
}

// Whether a row maps a page at this frame: not between the pages of a stride.
function pageAt(view, row, frame) {
  if (row < 0 || !view.form || view.form[row] !== STRIDE) return row >= 0;
  const page = pageFrames(view, row);
  return (frame - view.begin[row]) % strideOf(view, row) < page;
}

function pageFrames(view, row) {
  return view.shift && view.shift[row] ? 2 ** (view.shift[row] - 12) : 1;
}

function strideOf(view, row) {
  const size = view.end[row] - view.begin[row];
  return (size - pageFrames(view, row)) / (view.number[row] - 1);
}

// Where in a row a frame of physical memory is mapped: the first frame, and how often.
function mappedAt(view, row, pa) {
  const offset = pa - view.pa[row];
  return view.form[row] === RANGE ? view.begin[row] + offset : view.begin[row] + offset % pageFrames(view, row);
}

// The frame of physical memory that a frame of a row maps; null where that isn't known.
function frameAt(view, row, at) {
  if (!view.pa) return at;
  if (view.form[row] >= FOLDED) return null;
  const offset = at - view.begin[row];
  if (view.form[row] === RANGE) return view.pa[row] + offset;
  const period = view.form[row] === STRIDE ? strideOf(view, row) : pageFrames(view, row);
  return view.pa[row] + offset % period;
}

// The name of an address: its region or section, and its symbol.
function nameOf(names, frame, low = 0) {
  const found = namesAt(names, frame, low);
  return [found.region ?? found.section, found.symbol].filter(Boolean).join(": ");
}

// The names of an address by their kinds.
function namesAt(names, frame, low) {
  const found = {};
  for (const each of names) {
    let row = upTo(each.begin, frame) - 1;
    while (row >= 0 && each.begin[row] === frame && each.low[row] > low) row -= 1;
    // The first of several at one address gives the name.
    while (row > 0 && each.begin[row - 1] === each.begin[row] && each.low[row - 1] === each.low[row]) row -= 1;
    if (row < 0) continue;
    if (frame > each.last[row] || (frame === each.last[row] && low > each.lastLow[row])) continue;
    const offset = (frame - each.begin[row]) * FRAME + low - each.low[row];
    found[each.kind] = offset && each.kind === "symbol" ? `${each.texts[row]}+0x${offset.toString(16)}` : each.texts[row];
  }
  return found;
}
