"""Where on a page an answer pulls: the gradient of its loss at the visual tokens, as in the pictures of
arXiv 2510.16333, and, which is ours, a figure for them.

    SFT   d(-s_c)         / d v_i        s_c, s_r: log-probabilities of the chosen and the rejected answer, the end of
    DPO   d(-(s_c - s_r)) / d v_i        the turn included; v_i: the projector's output at visual token i

A map has the L1 norm of one of them at each visual token. Its lift is the share of it on the patches of the answer's
words over the share of the page that these patches are: 1 where the gradient does not care about words.
"""

from __future__ import annotations

import argparse
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dvsft.evaluator import generate, lens, predictions, report
from dvsft.evaluator.cli import positive
from dvsft.evaluator.files import DataError
from dvsft.evaluator.generate import LocalModel
from dvsft.evaluator.predict import PredictError, Progress
from dvsft.evaluator.stats import clustered_standard_error, paired_difference
from dvsft.patchlabels import webpage
from dvsft.patchlabels.image import ImageError, decode
from dvsft.patchlabels.layout import Layout
from dvsft.visionloss.head import head_logits, head_transform

LOSSES = ("sft", "dpo")


@dataclass(frozen=True)
class Maps:
    """The maps of one pair. norms: by loss, (visual tokens,). inside: (visual tokens,), which of them show a word of
    the answer. seen: which of them show anything; separators do not."""

    page: str
    pair: Mapping[str, Any]
    norms: Mapping[str, np.ndarray]
    inside: np.ndarray
    seen: np.ndarray

    @cached_property
    def area(self) -> float:
        """The share of the page's patches that show a word of the answer."""
        return float(self.inside.sum() / self.seen.sum())

    def share(self, loss: str) -> float:
        """The share of the gradient on them."""
        return float(self.norms[loss][self.inside].sum() / self.norms[loss][self.seen].sum())

    def lift(self, loss: str) -> float:
        return self.share(loss) / self.area


def write(model: str, labels: str, out: Path, device: str = "cpu", pages: int = 100, pictures: int = 6) -> Path:
    """gradients.json (the figures) and gradients.html (the maps) in out; returns the page. labels: label shards with
    preference pairs, or their address. Raises DataError where there are none."""
    shards = lens.find_shards(labels)
    chosen = lens.choose(shards, pages, "pairs")
    if not chosen:
        raise DataError(f"{labels} holds no page with preference pairs; make them with: dvsft preferences")
    loaded = lens.open_model(model, shards, device)
    loaded.model.requires_grad_(False)  # what comes before the visual tokens then costs no memory
    maps, rejected = measure(loaded, chosen)
    found = figures(maps) | {"model": model, "labels": labels, "left_out": dict(rejected)}
    predictions.write_json(out / "gradients.json", found)
    shown = list(dict.fromkeys(one.page for one in maps))[:pictures]
    views = [view(page, maps, loaded) for page in chosen if page.row["id"] in shown]
    body = report.render("gradients.html.jinja", {"found": found, "losses": LOSSES})
    script = (resources("dvsft.evaluator") / "templates" / "gradients.js").read_text("utf-8")
    (out / "gradients.html").write_text(webpage.document("Gradients", body, script, views), encoding="utf-8")
    return out / "gradients.html"


def measure(loaded: LocalModel, pages: Sequence[lens.Page]) -> tuple[list[Maps], Counter[str]]:
    """The maps of all pairs of some pages, and how many pages or pairs were left out by reason."""
    found, rejected, progress = list[Maps](), Counter[str](), Progress("gradients", len(pages), aim="pages to look at")
    for page in pages:
        progress.step(1)
        try:
            image = decode(page.read_image())
        except ImageError as error:
            rejected[error.reason] += 1
            continue
        for pair in page.row["pairs"]:
            maps = look(loaded, page.row, pair, image)
            if isinstance(maps, str):
                rejected[maps] += 1
            else:
                found.append(maps)
    return found, rejected


def look(loaded: LocalModel, row: Mapping[str, Any], pair: Mapping[str, Any], image: Image.Image) -> Maps | str:
    """The maps of a pair, or why it has none."""
    layout = loaded.layout.fit(*image.size)
    inside = patches_of_answer(layout, row, pair)
    if not inside.any():
        return "answer_not_on_page"
    gradients = pair_gradients(loaded, pair, image)
    norms = {loss: gradient.abs().sum(-1).numpy() for loss, gradient in gradients.items()}
    seen = ~np.isnan(layout.rects()[:, 0])
    if not all(norm[seen].sum() > 0 for norm in norms.values()):
        return "no_gradient"
    return Maps(row["id"], pair, norms, inside, seen)


def pair_gradients(loaded: LocalModel, pair: Mapping[str, Any], image: Image.Image) -> dict[str, Tensor]:
    """By loss its gradient at the projector's output, (visual tokens, width) float32."""
    chosen, rejected = (answer_gradient(loaded, pair["prompt"], pair[side], image) for side in ("chosen", "rejected"))
    return {"sft": -chosen, "dpo": rejected - chosen}


def answer_gradient(loaded: LocalModel, prompt: str, answer: str, image: Image.Image) -> Tensor:
    """d s / d v, (visual tokens, width) float32, where s is the answer's log-probability."""
    batch, start = encode_answer(loaded, prompt, answer, image)
    head, transform = loaded.model.get_output_embeddings(), head_transform(loaded.model.config)
    ids = batch["input_ids"][0, start:]

    def log_probability(hidden: Tensor) -> Tensor:
        logits = head_logits(hidden[start - 1 : -1], head, transform)
        return torch.log_softmax(logits, -1).gather(1, ids[:, None]).sum()

    return visual_gradient(loaded.model, batch, log_probability)


def encode_answer(loaded: LocalModel, prompt: str, answer: str, image: Image.Image) -> tuple[Any, int]:
    """(the model's inputs for a prompt and its answer, where the answer starts). They end with the token that ends the
    turn, without the newline that some templates put behind it."""
    asked = generate.chat(loaded.processor, prompt)
    whole = generate.chat(loaded.processor, prompt, answer).rstrip("\n")
    before, batch = (generate.inputs_of_texts(loaded.processor, [text], [image]) for text in (asked, whole))
    start = before["input_ids"].shape[1]
    if not torch.equal(batch["input_ids"][:, :start], before["input_ids"]):
        raise PredictError(
            "a prompt is tokenized differently with an answer behind it; expected a chat template that leaves it alone"
        )
    return batch.to(loaded.model.device, loaded.model.dtype), start


def visual_gradient(model: Any, batch: Any, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """d loss(hidden states (T, D)) / d what the language model gets at each visual token, (visual tokens, D) float32:
    the projector's output. What a model adds in deeper layers (deepstack) is held fixed."""
    leaves: list[Tensor] = []

    def begin_here(layer: Any, arguments: Any, named: dict[str, Any]) -> Any:
        if named.get("inputs_embeds") is None:
            raise PredictError(f"{type(model).__name__} shows no inputs_embeds to its language model; take a Qwen-VL")
        leaves.append(named["inputs_embeds"].detach().requires_grad_())
        return arguments, named | {"inputs_embeds": leaves[-1]}

    hook = model.get_decoder().register_forward_pre_hook(begin_here, with_kwargs=True)
    try:
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss(model.base_model(**batch).last_hidden_state[0]), leaves[-1])
    finally:
        hook.remove()
    visual = batch["input_ids"][0] == model.config.image_token_id
    return gradient[0, visual].float().cpu()


def patches_of_answer(layout: Layout, row: Mapping[str, Any], pair: Mapping[str, Any]) -> np.ndarray:
    """(visual tokens,) bool: which of them show a part of a word of the chosen answer, or, where the page does not
    have it, of an accepted answer of the same question."""
    accepted = [
        answer for qa in row["qa"] or () if qa["question_id"] == pair["question_id"] for answer in qa["answers"]
    ]
    texts, rects = [word["text"] for word in row["words"]], layout.rects()
    found = next((words for answer in (pair["chosen"], *accepted) if (words := answer_words(texts, answer))), set())
    x0, y0, x1, y1 = rects.T
    inside = np.zeros(len(rects), bool)
    for word in found:
        left, top, right, bottom = row["words"][word]["box"]
        inside |= (x0 < right) & (x1 > left) & (y0 < bottom) & (y1 > top)
    return inside


def answer_words(words: Sequence[str], answer: str) -> set[int]:
    """The numbers of the words that spell an answer, wherever they stand one after the other. Case, punctuation and
    where words end within the answer do not count."""
    plain = [_plain(word) for word in words]
    starts = np.cumsum([0, *map(len, plain)])
    text, wanted = "".join(plain), _plain("".join(answer.split()))
    found: set[int] = set()
    place = text.find(wanted) if wanted else -1
    while place >= 0:
        end = place + len(wanted)
        if place in starts and end in starts:
            found |= {number for number, start in enumerate(starts[:-1]) if place <= start < end and plain[number]}
        place = text.find(wanted, place + 1)
    return found


def _plain(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter not in string.punctuation)


def figures(maps: Sequence[Maps]) -> dict[str, Any]:
    """Mean shares and lifts with standard errors over pages, and the difference of the two lifts with its interval."""
    pages = [one.page for one in maps]
    lifts = {loss: np.array([one.lift(loss) for one in maps]) for loss in LOSSES}
    found: dict[str, Any] = {"pairs": len(maps), "pages": len(set(pages))}
    if not maps:
        return found
    weights, one_group = np.full(len(maps), 1 / len(maps)), np.zeros(len(maps), int)
    for loss in LOSSES:
        found[loss] = {
            "share": float(np.mean([one.share(loss) for one in maps])),
            "lift": float(lifts[loss].mean()),
            "standard_error": clustered_standard_error(lifts[loss], weights, one_group, pages),
        }
    difference = paired_difference(lifts["dpo"] - lifts["sft"], pages)
    return found | {"area": float(np.mean([one.area for one in maps])), "dpo_minus_sft": vars(difference)}


def view(page: lens.Page, maps: Sequence[Maps], loaded: LocalModel) -> dict[str, Any]:
    """A page as gradients.js takes it: its cells, and of each pair the norms in multiples of their mean."""
    row = page.row
    return {
        "id": row["id"],
        "image": webpage.picture(decode(page.read_image())),
        "width": row["width"],
        "height": row["height"],
        "cols": row["cols"],
        "views": webpage.views(loaded.layout.fit(row["width"], row["height"])),
        "pairs": [
            {name: one.pair[name] for name in ("prompt", "chosen", "rejected")}
            | {"inside": np.flatnonzero(one.inside).tolist(), "lift": {loss: one.lift(loss) for loss in LOSSES}}
            | {loss: np.round(one.norms[loss] / one.norms[loss][one.seen].mean(), 3).tolist() for loss in LOSSES}
            for one in maps
            if one.page == row["id"]
        ],
    }


def main(arguments: Sequence[str]) -> None:
    """`dvsft gradients`: where on a page the gradient of an answer falls."""
    verb = argparse.ArgumentParser(
        description="Show at which visual tokens the losses of SFT and DPO pull on a page with preference pairs, and "
        "how much more on the words of the answer than on the rest of the page."
    )
    verb.add_argument("model", metavar="MODEL", help="Hugging Face folder")
    verb.add_argument("--shards", required=True, metavar="DIR", help="label shards with pairs, or s3://, gs://, hf://")
    verb.add_argument("--out", required=True, type=Path, metavar="DIR", help="for gradients.json and gradients.html")
    verb.add_argument("--pages", type=positive, default=100, help="pages measured; default %(default)s")
    verb.add_argument("--pictures", type=positive, default=6, help="pages shown; default %(default)s")
    verb.add_argument("--device", help="default: the first GPU, else cpu")
    options = verb.parse_args(arguments)
    device = options.device or generate.devices()[0]
    print(write(options.model, options.shards, options.out, device, options.pages, options.pictures))
