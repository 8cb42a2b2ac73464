// What maps and charts have in common: elements, counts, and the theme.

const THEMES = ["system", "light", "dark"];

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function counted(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

// Show the theme after the one that is shown, and say on a button which it is.
function turnTheme(button) {
  const at = THEMES.indexOf(document.documentElement.dataset.theme ?? "system");
  const next = THEMES[(at + 1) % THEMES.length];
  if (next === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  button.textContent = `theme: ${next}`;
}
