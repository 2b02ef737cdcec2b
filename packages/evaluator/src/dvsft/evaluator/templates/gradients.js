// data: [{id, image, width, height, cols, views, pairs: [{prompt, chosen, rejected, inside: [visual token, ...],
// lift: {sft, dpo}, sft: [multiple of the mean, ...], dpo: [...]}]}]
const NAMES = {sft: "SFT", dpo: "DPO"};
data.forEach((page, number) => make("option", get("page"), page.id).value = number);
const place = (page, k) => `patch ${k}` + (page.cols ? ` (row ${Math.floor(k / page.cols)}, column ${k % page.cols})` : "");

function map(page, pair, loss) {
  const node = make("figure", get("views")), norms = pair[loss], most = Math.max(...norms), inside = new Set(pair.inside);
  make("figcaption", node, `${NAMES[loss]}, lift ${pair.lift[loss].toFixed(2)}`);
  return new Viewer(node, page, k => ({
    className: inside.has(k) ? "inside" : "",
    tokens: [],
    color: `rgba(178, 59, 46, ${(0.85 * norms[k] / most).toFixed(3)})`,
    tip: `${place(page, k)}\n${norms[k].toFixed(2)} times the mean`,
  }));
}
function draw() {
  const page = data[get("page").value], pair = page?.pairs[get("pair").value];
  ["views", "zoom", "texts"].forEach(id => get(id).replaceChildren());
  if (!pair) return;
  get("texts").textContent = `${pair.prompt}\nchosen: ${pair.chosen}\nrejected: ${pair.rejected}`;
  tools(get("zoom"), Object.keys(NAMES).map(loss => map(page, pair, loss)));
}
function choose() {
  get("pair").replaceChildren();
  data[get("page").value]?.pairs.forEach((pair, number) => make("option", get("pair"), `${number + 1}: ${pair.chosen.slice(0, 40)}`).value = number);
  draw();
}
get("page").onchange = choose;
get("pair").onchange = draw;
choose();
