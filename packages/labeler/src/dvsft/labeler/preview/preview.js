// data: {out, pages, reasons, rejects: [[source, page, what, stage, reason, message], ...], rejected: [[source, name, number], ...],
// funnel: {sources, rows: [[name, [value, paper's value], ...], ...]}}
const {pages} = data;
const COLORS = ["#d9480f", "#7048e8", "#c2255c", "#8a6d00", "#495057", "#0b7285", "#5c3c00", "#364fc7"];
const drawn = data.reasons.filter(reason => pages.some(page => page.words.some(word => word[2] === reason)));
const color = reason => COLORS[drawn.indexOf(reason) % COLORS.length];
const words = reason => reason.replaceAll("_", " ");
const hidden = new Set();
let shown = 0, viewer;

const total = pages.reduce((sum, page) => sum + page.labels.length, 0);
get("title").textContent = "Labels of " + data.out;
get("summary").textContent = `${count(pages.length, "page")} shown, ${count(total, "label")} on them`;

// Index
const entries = new Map();
for (const source of new Set(pages.map(page => page.source))) {
  const section = make("section", get("index")), own = pages.filter(page => page.source === source);
  make("small", make("h3", section, source), String(own.length));
  for (const page of own) {
    const entry = button(section, "", page.id, () => show(pages.indexOf(page)));
    entry.className = "entry";
    Object.assign(make("img", entry), {src: page.thumbnail, alt: "", loading: "lazy"});
    make("small", make("span", entry, page.id.split("/").slice(2).join("/") || page.id), count(page.labels.length, "label"));
    entries.set(page, entry);
  }
}
if (data.rejects.length) {
  const link = button(make("section", get("index")), `${data.rejects.length} rejected below`, "pages and questions left out, with reasons",
    () => get("rejects").scrollIntoView());
}

function show(number) {
  const page = pages[shown = number];
  entries.forEach((entry, other) => entry.setAttribute("aria-current", other === page));
  const entry = entries.get(page), index = get("index");
  index.scrollTo(entry.offsetLeft - index.offsetLeft - index.clientWidth / 2, entry.offsetTop - index.offsetTop - index.clientHeight / 2);
  get("name").textContent = page.id;
  get("about").textContent = `${page.width} × ${page.height} px, ${page.grid}, ${count(page.labels.length, "label")}, ${count(page.words.length, "word")}`;
  const labels = group(page.labels, 0);
  get("sheet").replaceChildren();
  viewer = new Viewer(get("sheet"), page, (k, box) => labels.has(k) && patch(page, labels.get(k), box), page.words.map(([text, box, reason]) => reason
    ? {text, box, className: "reason-" + reason, color: color(reason), tip: `${text}\nno label: ${words(reason)}`}
    : {text, box, className: "labeled"}));
  viewer.shown = mark;
  get("zoom").replaceChildren();
  tools(get("zoom"), [viewer]);
  questions(page);
  table(page);
  mark();
}

function patch(page, labels, [, y0, , y1]) {
  const [[k, word]] = labels, [, top, , bottom] = page.words[word][1];
  return {
    tokens: labels.map(label => label[3]),
    tip: labels.map(([k, word, id, token]) => `${page.words[word][0]}\ntoken ${visible(token)} (${id})\npatch ${k}${place(page, k)}`).join("\n\n"),
    word: labels.map(label => page.words[label[1]][0]).join(" "),
    words: labels.map(label => label[1]),
    above: Math.max(0, top - y0) > y1 - bottom,  // on the side with more room beside the word's ink
  };
}
const place = (page, k) => page.cols ? ` (row ${Math.floor(k / page.cols)}, column ${k % page.cols})` : "";

function questions(page) {
  const box = get("questions"), list = box.querySelector("ul");
  box.hidden = !page.qa.length && !page.pairs.length;
  const pairs = page.pairs.length ? ", " + count(page.pairs.length, "preference pair") : "";
  box.querySelector("summary").textContent = count(page.qa.length, "question") + pairs;
  list.replaceChildren();
  for (const [question, answers] of page.qa) make("b", make("li", list, question + " "), answers.join(" | "));
  for (const [prompt, chosen, rejected] of page.pairs) {
    const item = make("li", list, prompt + " ");
    make("b", item, chosen);
    make("span", item, " preferred to ");
    make("s", item, rejected);
  }
}

// Every word with its token or the reason why it has none, made when it is opened.
function table(page) {
  const box = get("words"), panel = box.querySelector(".panel");
  box.open = false;
  box.querySelector("summary").textContent = "All words as a table";
  panel.replaceChildren();
  box.ontoggle = () => {
    if (!box.open || panel.firstChild) return;
    const body = rows(make("table", panel), ["word", "token", "id", "patch", "no label because"]);
    const labels = group(page.labels, 1);
    page.words.forEach(([text, , reason], number) => {
      for (const [k, , id, token] of labels.get(number) || [[]])
        row(body, [text, token === undefined ? "" : visible(token), id ?? "", k ?? "", reason ? words(reason) : ""]);
    });
  };
}
function rows(table, names) {
  const head = make("tr", make("thead", table));
  names.forEach(name => make("th", head, name));
  return make("tbody", table);
}
function row(body, cells) {
  const line = make("tr", body);
  return cells.map(cell => make("td", line, String(cell)));
}

// What is drawn, and what is searched for
function toggle(name, text, swatch, change) {
  const node = button(get("legend"), text, "show or hide", () => {
    const on = node.ariaPressed !== "true";
    node.ariaPressed = on;
    change(on);
  });
  node.ariaPressed = true;
  node.id = name;
  node.prepend(Object.assign(make("span"), {className: "swatch", style: swatch}));
}
const hide = name => on => get("sheet").classList.toggle("hide-" + name, !on);
toggle("cells", "cells", "border: 1px solid #3b5bdb", hide("cells"));
toggle("tokens", "label, its token", "background: #1f9d61", hide("tokens"));
toggle("boxes", "its word", "border: 2px solid #2f6fd0", hide("boxes"));
for (const reason of drawn) {
  const number = pages.reduce((sum, page) => sum + page.words.filter(word => word[2] === reason).length, 0);
  toggle("reason-" + reason, `${words(reason)} ${number.toLocaleString("en-US")}`, "border: 2px solid " + color(reason), on => {
    hidden[on ? "delete" : "add"](reason);
    mark();
  });
}

const wanted = () => get("filter").value.trim().toLowerCase();
const named = page => (page.id + " " + page.source).toLowerCase().includes(wanted());
const hits = page => page.words.some(word => word[0].toLowerCase().includes(wanted()));
function mark() {
  const all = named(pages[shown]);
  get("sheet").querySelectorAll("[data-word]").forEach(node => node.classList.toggle("dim", !all && !node.dataset.word.includes(wanted())));
  for (const reason of drawn) get("sheet").querySelectorAll(".reason-" + reason).forEach(node => node.classList.toggle("none", hidden.has(reason)));
}
get("filter").oninput = () => {
  const found = pages.filter(page => named(page) || hits(page));
  entries.forEach((entry, page) => entry.hidden = !found.includes(page));
  get("summary").textContent = wanted() ? `${found.length} of ${pages.length} pages` : `${count(pages.length, "page")} shown, ${count(total, "label")} on them`;
  if (found.length && !found.includes(pages[shown])) show(pages.indexOf(found[0]));
  else if (pages.length) mark();
};
const step = by => {
  for (let next = shown + by; pages[next]; next += by) if (!entries.get(pages[next]).hidden) return show(next);
};
button(get("step"), "‹", "previous page (k)", () => step(-1));
button(get("step"), "›", "next page (j)", () => step(1));
addEventListener("keydown", event => {
  if (event.target !== get("filter") && !event.ctrlKey && !event.metaKey && "jk".includes(event.key)) step(event.key === "j" ? 1 : -1);
});

// What was left out, and the figures of the whole run
get("rejects").hidden = !data.rejects.length;
if (data.rejects.length) {
  get("rejects").querySelector("p").textContent = data.rejected.map(([source, name, number]) => `${source}: ${number.toLocaleString("en-US")} ${name}`).join(" · ");
  const body = rows(make("table", make("div", get("rejects"), undefined, "panel")), ["page", "what", "reason", "found and expected"]);
  for (const [, page, what, stage, reason, message] of data.rejects) row(body, [page, what, `${stage}: ${words(reason)}`, message]);
}
const figures = make("table", make("div", get("funnel"), undefined, "panel"), undefined, "figures");
const funnel = rows(figures, ["", ...data.funnel.sources]);
for (const [name, ...values] of data.funnel.rows) {
  const cells = row(funnel, [name, ...values.map(([value]) => value)]);
  values.forEach(([, paper], number) => paper && make("small", cells[number + 1], "paper " + paper));
}

if (pages.length) show(Math.min(pages.length - 1, Math.max(0, parseInt(location.hash.slice(1)) - 1 || 0)));
else get("reader").replaceChildren(make("p", undefined, "This run has no labeled page yet.", "soft"));
