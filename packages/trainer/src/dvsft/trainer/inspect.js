// data: [{id, about, page: null or as Viewer takes it, tokens: [[text, kind, what it predicts], ...], crops: [[visual token, its labels, picture], ...]}]
get("summary").textContent = count(data.length, "sample");
for (const example of data) {
  const article = make("article", document.querySelector("main"), undefined, "example"), head = make("div", article, undefined, "head");
  make("h2", head, example.id);
  make("p", head, example.about, "soft");
  const left = make("div", article), right = make("div", article);
  if (example.page) page(left, example);
  make("h3", right, "Tokens");
  make("p", right, "Green tokens are supervised: below each is what it must predict.", "soft");
  const talk = make("div", right, undefined, "talk panel");
  for (const [text, kind, predicts] of padded(example.tokens)) {
    const token = make("span", talk, visible(text), kind);
    if (kind === "text") make("i", token, "→ " + visible(predicts));
  }
  if (!example.crops.length) continue;
  make("h2", right, "Labels and their patches");
  const list = make("div", right, undefined, "crops");
  for (const [k, labels, picture] of example.crops) {
    const figure = make("figure", list);
    figure.dataset.patch = k;
    Object.assign(make("img", figure), {src: picture, alt: ""});
    make("small", make("figcaption", figure, labels.map(visible).join(" | ")), "patch " + k);
  }
}

// Padding as one token.
function padded(tokens) {
  const padding = tokens.filter(([, kind]) => kind === "padding");
  return [...(padding.length ? [[`${padding[0][0]} × ${padding.length}`, "padding"]] : []), ...tokens.filter(([, kind]) => kind !== "padding")];
}

function page(parent, {page, crops}) {
  const labels = new Map(crops), bar = make("div", parent, undefined, "tools"), place = make("div", parent);
  const viewer = new Viewer(place, page, k => labels.has(k) && {
    tokens: labels.get(k), tip: `patch ${k} must predict ${labels.get(k).map(visible).join(" or ")}`});
  tools(bar, [viewer]);
}
