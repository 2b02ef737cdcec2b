// data: [{id, image, width, height, views, labels: {visual token: [[text, word, token], ...]},
// models: {name: [[[text, probability, token], ...], ...]}}]
data.forEach((page, number) => make("option", get("page"), page.id).value = number);
const place = (page, k) => `patch ${k}` + (page.cols ? ` (row ${Math.floor(k / page.cols)}, column ${k % page.cols})` : "");
const quoted = labels => labels.map(([text, word]) => `${visible(text)} of “${word}”`).join(" or ");

function truth(page) {
  return k => page.labels[k] && {className: "truth", tokens: page.labels[k].map(label => label[0]), tip: `${place(page, k)}\nlabel ${quoted(page.labels[k])}`};
}
function reading(page, tops) {
  return k => {
    const labels = page.labels[k], [[text, probability, token]] = tops[k];
    const verdict = !labels ? "" : labels.some(label => label[2] === token) ? " right" : " wrong";
    return {
      className: "read" + verdict, tokens: [text],
      color: `rgba(36, 84, 166, ${(0.05 + 0.6 * probability).toFixed(3)})`,
      tip: [place(page, k), ...(labels ? ["label " + quoted(labels)] : []), ...tops[k].map(([text, p]) => `${(100 * p).toFixed(1)}%  ${visible(text)}`)].join("\n"),
    };
  };
}
function figure(page, title, fill, faded) {
  const node = make("figure", get("views"));
  make("figcaption", node, title);
  const viewer = new Viewer(node, page, fill);
  viewer.shown = () => {
    viewer.sheet.classList.toggle("faded", faded);
    viewer.sheet.querySelector("img").hidden = !get("image").checked;
  };
  viewer.shown();
  return viewer;
}
function draw() {
  const page = data[get("page").value];
  get("views").replaceChildren();
  get("zoom").replaceChildren();
  if (!page) return;
  const models = Object.entries(page.models).map(([name, tops]) => () => figure(page, name, reading(page, tops), true));
  tools(get("zoom"), [figure(page, "true labels", truth(page)), ...models.map(make => make())]);
}
get("page").onchange = draw;
get("image").onchange = () => document.querySelectorAll(".sheet > img").forEach(image => image.hidden = !get("image").checked);
get("only").onchange = () => document.querySelector("main").id = get("only").checked ? "only-labels" : "";
draw();
