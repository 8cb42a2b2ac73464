// Colours and patterns of classes, as the style sheet has them.

const PATTERNS = { rwx: "cross", rx: "slope", x: "slope", folded: "dots", d: "slope", g: "cross" };
const FILLS = {
  r: "sky", rw: "green", rx: "orange", rwx: "red", x: "yellow", none: "none",
  a: "sky", b: "blue", c: "green", d: "orange", e: "purple", f: "yellow", g: "red", h: "grey",
};

class Palette {
  constructor() {
    this.probe = document.createElement("span");
    this.probe.hidden = true;
    document.body.append(this.probe);
    this.read();
  }

  // Take the colours of the theme that is shown.
  read() {
    this.known = new Map();
    this.tiles = new Map();
  }

  // Return a colour of the style sheet by name.
  get(name) {
    if (!this.known.has(name)) {
      this.probe.style.color = `var(--${name})`;
      this.known.set(name, getComputedStyle(this.probe).color);
    }
    return this.known.get(name);
  }

  fill(style) {
    return this.get(FILLS[style] ?? "grey");
  }

  // Return black or white, whichever is read better on a colour.
  ink(style) {
    const [red, green, blue] = this.fill(style).match(/[\d.]+/g).map((part) => {
      const value = Number(part) / 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000" : "#fff";
  }

  // Return a pattern to lay over a fill, or null.
  pattern(context, style) {
    const kind = PATTERNS[style];
    if (!kind) return null;
    if (!this.tiles.has(kind)) this.tiles.set(kind, this.tile(context, kind));
    return this.tiles.get(kind);
  }

  tile(context, kind) {
    const canvas = new OffscreenCanvas(8, 8);
    const ink = canvas.getContext("2d");
    ink.strokeStyle = ink.fillStyle = "#0008";
    ink.lineWidth = 1.2;
    if (kind === "dots") {
      ink.fillRect(1, 1, 2, 2);
      ink.fillRect(5, 5, 2, 2);
    } else {
      ink.beginPath();
      for (const shift of [-8, 0, 8]) {
        ink.moveTo(shift, 8);
        ink.lineTo(shift + 8, 0);
        if (kind === "cross") {
          ink.moveTo(shift, 0);
          ink.lineTo(shift + 8, 8);
        }
      }
      ink.stroke();
    }
    return context.createPattern(canvas, "repeat");
  }
}
