// Addresses, sizes and rights as text. Everything is counted in frames of 4 KiB: 2^52 of them are
// exact in a JavaScript number, the addresses themselves are not.

const FRAME = 4096;
const UNITS = [["GiB", 262144], ["MiB", 256], ["KiB", 1 / 4]];
const BINARY = [["PiB", 2 ** 38], ["TiB", 2 ** 28], ["GiB", 2 ** 18], ["MiB", 2 ** 8], ["KiB", 1 / 4]];

// A size in frames, exact: in the largest unit that divides it.
function sizeText(frames) {
  for (const [unit, size] of UNITS) {
    if (frames && frames % size === 0) {
      return `${(frames / size).toLocaleString("en")} ${unit}`;
    }
  }
  return `${(frames * FRAME).toLocaleString("en")} B`;
}

// A size in frames, rounded, for gaps and axes.
function roundedSize(frames) {
  const [unit, size] = BINARY.find(([, least]) => frames >= least) ?? BINARY.at(-1);
  const value = frames / size;
  return `${value < 10 && value % 1 ? value.toFixed(1) : Math.round(value).toLocaleString("en")} ${unit}`;
}

// An address, `low` bytes into a frame of a space; its digits alone without `prefix`.
function addressText(space, frame, low = 0, prefix = "0x") {
  const full = frame >= space.half ? frame + space.hole : frame;
  const digits = full.toString(16) + low.toString(16).padStart(3, "0");
  const text = digits.replace(/^0+(?=.)/, "");
  return prefix + (prefix ? text : text.padStart(space.digits, "0"));
}

// An address given as text, as [frame, low bytes] of a space; null where it is none there.
function parseAddress(space, text) {
  const digits = text.trim().toLowerCase().replace(/^0x/, "").replaceAll(/[_`]/g, "");
  if (!/^[0-9a-f]{1,16}$/.test(digits)) return null;
  const value = BigInt(`0x${digits}`);
  let frame = Number(value >> 12n);
  const low = Number(value & 0xfffn);
  if (space.hole && frame >= space.half) {
    frame -= space.hole;
    if (frame < space.half) return null; // Between the canonical halves.
  }
  return frame < space.frames ? [frame, low] : null;
}
