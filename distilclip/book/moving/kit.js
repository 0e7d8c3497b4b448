/* What the figures that move share: elements, controls, stored numbers, the start. */
const SVG = "http://www.w3.org/2000/svg";

/* An element with attributes and children; `on...` are listeners. */
function make(tag, attributes = {}, ...children) {
  const drawn = ["svg", "g", "line", "rect", "circle", "path", "text", "image", "title"];
  const node = drawn.includes(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

/* A slider with its name and its value in words. */
function slider({ label, min = 0, max, step = 1, value, say = String, change }) {
  const output = make("span", { class: "mv-value", "aria-hidden": "true" });
  const input = make("input", { type: "range", min, max, step, value });
  const node = make("label", { class: "mv-slider" }, make("span", {}, label, output), input);
  const tell = () => {
    output.textContent = say(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", () => { tell(); change(Number(input.value)); });
  tell();
  return {
    node,
    get value() { return Number(input.value); },
    set value(next) { input.value = next; tell(); },
    limit(last) { input.max = last; tell(); },
  };
}

let choices = 0;

/* One of several, as radio buttons; `change` gets the number of the one that is chosen. */
function choice({ legend, names, value = 0, change }) {
  const group = `mv-${legend.replace(/\W+/g, "-")}-${(choices += 1)}`;
  const node = make("fieldset", {}, make("legend", {}, legend));
  names.forEach((name, i) => {
    const input = make("input", { type: "radio", name: group, onchange: () => change(i) });
    input.checked = i === value;
    node.append(make("label", { class: "mv-choice" }, input, name));
  });
  return node;
}

/* A background for a number from -1 (orange) to 1 (blue), on which ink keeps a contrast of 4.5. */
function tint(value) {
  const colour = value > 0 ? "--mv-blue-rgb" : "--mv-orange-rgb";
  return `rgb(var(${colour}) / ${0.45 * Math.abs(value)})`;
}

/* Buttons in rows of `columns`. Tab reaches one of them, the arrow keys the others. */
function buttonGrid({ columns, names, label, change, value = 0 }) {
  const node = make("div", { class: "mv-grid", role: "group", "aria-label": label });
  node.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
  let now = value;
  const buttons = names.map((name, i) =>
    make("button", { type: "button", "aria-label": name, onclick: () => choose(i) }));
  function show() {
    buttons.forEach((button, i) => {
      button.tabIndex = i === now ? 0 : -1;
      button.setAttribute("aria-pressed", i === now);
    });
  }
  function choose(i) { now = i; show(); change(i); }
  node.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    const next = { Home: 0, End: names.length - 1 }[event.key] ?? now + (step ?? 0);
    if (step === undefined && !["Home", "End"].includes(event.key)) return;
    event.preventDefault();
    if (next < 0 || next >= names.length) return;
    choose(next);
    buttons[next].focus();
  });
  node.append(...buttons);
  show();
  return { node, buttons, choose };
}

/* Text that a screen reader is told when it changes. */
function news(attributes = {}) {
  return make("p", { "aria-live": "polite", ...attributes });
}

/* Whole numbers from 0 to 255, stored as base64. */
function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

function percent(share) {
  return share > 0 && share < 0.01 ? "under 1\u00a0%" : `${Math.round(100 * share)}\u00a0%`;
}

function calm() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

/* How many things a row of weights looks at: the exponential of its entropy. */
function spread(weights) {
  let sum = 0;
  for (const w of weights) if (w > 0) sum -= w * Math.log(w);
  return Math.exp(sum);
}

/* An image from a data address; `then` is called when it can be drawn. */
function picture(source, then) {
  const image = new Image();
  image.onload = () => then(image);
  image.src = source;
  return image;
}

/* Put the figure in the place of its still picture. */
function start(name, build) {
  for (const figure of document.querySelectorAll(`figure[data-moving="${name}"]`)) {
    if ("ready" in figure.dataset) continue;
    figure.dataset.ready = "";
    const data = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
    const stage = figure.querySelector(".moving-stage");
    build(stage, data);
    stage.hidden = false;
    figure.querySelector(".moving-still").remove();
  }
}
