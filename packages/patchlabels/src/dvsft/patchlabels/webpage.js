"use strict";
// Words and names come from pages, models and data sets: they enter the document as textContent only.
const get = id => document.getElementById(id);
function make(tag, parent, text, className) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  if (parent) parent.append(node);
  return node;
}
const count = (number, noun) => `${number.toLocaleString("en-US")} ${noun}${number === 1 ? "" : "s"}`;
function group(list, place) {  // what has the same value at `place`
  const groups = new Map();
  for (const item of list) groups.set(item[place], [...(groups.get(item[place]) || []), item]);
  return groups;
}
const visible = text => text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/ /g, "␣") || "∅";
// In letters: those of scripts without spaces are twice as wide as Latin ones.
const length = text => [...text].reduce((sum, letter) => sum + (letter > "\u2e7f" ? 2 : 1), 0);

const READABLE = 38;  // px of a cell on the screen in which its token can be read
const FAR = 16;  // px of a cell below which lines hide the page
const READ = 46;  // px that "read" makes of a cell

// A page with its cells, in a frame of its own that scrolls and zooms.
// page: {image, width, height, views: [{name, cells: [[visual token, x0, y0, x1, y1], ...]}]}, boxes in px of the page.
// words: [{text, box, className, color, tip}]. fill(visual token, box) returns null for a cell that is left alone, or
// {tokens, tip, className, color, word, words, above}: word is what a search finds, words are numbers of `words`, above
// puts the tokens at the upper edge.
class Viewer {
  constructor(parent, page, fill, words = []) {
    Object.assign(this, {page, fill, words});
    this.frame = make("div", parent, undefined, "frame");
    this.sheet = make("div", this.frame, undefined, "sheet");
    this.sheet.style.aspectRatio = `${page.width} / ${page.height}`;
    this.sheet.addEventListener("pointerover", event => tip(event.target));
    this.sheet.addEventListener("pointerleave", () => tip());
    drag(this.frame);
    this.show(0);
  }
  show(number) {
    const {page, sheet} = this, cells = page.views[number].cells;
    Object.assign(this, {view: number, cell: cells.length ? Math.min(...cells.slice(0, 99).map(([, x0, , x1]) => x1 - x0)) : 32});
    sheet.replaceChildren();
    Object.assign(make("img", sheet), {src: page.image, alt: ""});
    sheet.append(lines(page, cells));
    const boxes = this.words.map(({text, box, className, color, tip}) => {
      const node = this.place("word " + className, box, tip);
      if (color) node.style.outlineColor = color;
      node.dataset.word = text.toLowerCase();
      return node;
    });
    for (const [k, ...box] of cells) {
      const filled = this.fill(k, box);
      if (!filled) continue;
      const node = this.patch(box, filled), own = (filled.words || []).map(word => boxes[word]);
      node.onpointerenter = () => own.forEach(word => word.classList.add("chosen"));
      node.onpointerleave = () => own.forEach(word => word.classList.remove("chosen"));
    }
  }
  place(className, [x0, y0, x1, y1], tip) {
    const node = make("div", this.sheet, undefined, className), {width, height} = this.page;
    const share = (part, whole) => 100 * part / whole + "%";
    Object.assign(node.style, {left: share(x0, width), top: share(y0, height), width: share(x1 - x0, width), height: share(y1 - y0, height)});
    if (tip) node.dataset.tip = tip;
    return node;
  }
  patch(box, {tokens, tip, className = "", color, word, above}) {
    const node = this.place("patch " + className, box, tip), text = tokens.map(visible).join(" | ");
    if (color) node.style.background = color;
    if (word !== undefined) node.dataset.word = word.toLowerCase();
    const token = make("span", node, text, "token" + (above ? " top" : ""));
    token.style.setProperty("--length", Math.max(3, length(text)));
    return node;
  }
  zoom(scale) {
    this.scale = scale;
    this.sheet.style.width = this.page.width * scale + "px";
    this.sheet.style.setProperty("--cell", this.cell * scale + "px");
    this.sheet.classList.toggle("readable", this.cell * scale >= READABLE);
    this.sheet.classList.toggle("far", this.cell * scale < FAR);
  }
  // The scale at which the whole width shows, and one at which tokens can be read.
  get fit() { return (this.frame.parentElement.clientWidth - 2) / this.page.width; }
  get read() { return READ / this.cell; }
  // The whole width if tokens can be read in it, or if most of the page would be out of sight otherwise.
  start() {
    const whole = this.fit * this.cell;
    this.zoom(whole >= READABLE ? Math.min(this.fit, 2 * this.read) : whole < READ / 2.2 ? this.fit : this.read);
  }
}

function lines(page, cells) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), path = document.createElementNS(svg.namespaceURI, "path");
  svg.setAttribute("viewBox", `0 0 ${page.width} ${page.height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  path.setAttribute("d", cells.map(([, x0, y0, x1, y1]) => `M${x0} ${y0}H${x1}V${y1}H${x0}Z`).join(""));
  svg.append(path);
  return svg;
}

function tip(node) {
  const box = get("tip") || Object.assign(make("div", document.body), {id: "tip"}), text = node && node.closest("[data-tip]")?.dataset.tip;
  box.style.display = text ? "block" : "none";
  if (!text) return;
  box.textContent = text;
  const at = node.getBoundingClientRect(), below = at.bottom + 8 + box.offsetHeight < innerHeight;
  box.style.left = Math.max(6, Math.min(at.left, innerWidth - box.offsetWidth - 6)) + "px";
  box.style.top = (below ? at.bottom + 8 : Math.max(6, at.top - box.offsetHeight - 8)) + "px";
}

function drag(frame) {  // with a mouse; fingers scroll by themselves
  let from = null;
  frame.addEventListener("pointerdown", event => {
    if (event.pointerType === "mouse" && event.button === 0) from = [event.clientX + frame.scrollLeft, event.clientY + frame.scrollTop];
  });
  addEventListener("pointermove", event => {
    if (!from) return;
    frame.classList.add("held");
    frame.scrollTo(from[0] - event.clientX, from[1] - event.clientY);
  });
  addEventListener("pointerup", () => { from = null; frame.classList.remove("held"); });
}

function button(parent, text, title, action) {
  const node = make("button", parent, text);
  Object.assign(node, {type: "button", title, onclick: action});
  return node;
}

// Zoom buttons, and a switch where there are several views, for viewers that move together.
function tools(parent, viewers) {
  const zoom = scale => viewers.forEach(viewer => {
    const {frame} = viewer, old = viewer.scale;
    const [x, y] = [frame.scrollLeft + frame.clientWidth / 2, frame.scrollTop + frame.clientHeight / 2];
    viewer.zoom(Math.min(8, Math.max(0.05, scale(viewer))));
    frame.scrollTo(x * viewer.scale / old - frame.clientWidth / 2, y * viewer.scale / old - frame.clientHeight / 2);
  });
  button(parent, "−", "smaller", () => zoom(viewer => viewer.scale / 1.3));
  button(parent, "+", "larger", () => zoom(viewer => viewer.scale * 1.3));
  button(parent, "Whole width", "as wide as there is room", () => zoom(viewer => viewer.fit));
  button(parent, "Read tokens", "large enough to read the token in its cell", () => zoom(viewer => viewer.read));
  const views = viewers[0].page.views;
  if (views.length > 1) {
    const select = make("select", parent);
    select.ariaLabel = "View";
    views.forEach((view, number) => make("option", select, view.name).value = number);
    select.onchange = () => viewers.forEach(viewer => { viewer.show(+select.value); viewer.zoom(viewer.scale); viewer.shown?.(); });
  }
  viewers.forEach(viewer => viewer.start());
  viewers.forEach(one => one.frame.addEventListener("scroll", () => viewers.forEach(other => {
    if (other !== one) other.frame.scrollTo(one.frame.scrollLeft, one.frame.scrollTop);
  })));
}
