"""What a model reads at each patch: its visual logits as a picture beside the true labels, and as recall.

The logits AT visual token i are compared with the label of patch i, un-shifted, as in the loss of DV-SFT
(arXiv 2605.26656, equation 2): a model trained by the usual shifted loss on these labels scores nothing here.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as resources
from itertools import groupby, pairwise
from pathlib import Path
from typing import IO, Any

import pyarrow.compute as pc
import torch
from PIL import Image

from dvsft.evaluator import files, generate, predictions, report
from dvsft.evaluator.generate import LocalModel
from dvsft.evaluator.predict import PATCHES, PredictError
from dvsft.evaluator.records import Lens, LensFigures, Recall
from dvsft.patchlabels import rows, webpage
from dvsft.patchlabels.image import ImageError, decode
from dvsft.patchlabels.layout import LayoutSpec
from dvsft.patchlabels.shards import find
from dvsft.visionloss.head import check_head, head_logits, head_transform

TOP = 5
CHUNK = 256  # visual tokens whose logits over the vocabulary are held in float32 at a time
HEIGHTS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # edges of the word height bins, patches
COLUMNS = ["id", "width", "height", "rows", "cols", "visual_tokens", "words", "patch_index", "token_id", "label_word"]
COLUMNS += ["qa", "pairs"]

Shard = Path | str
"""A file, or an address (dvsft.patchlabels.shards)."""

Place = tuple[str, int, int]
"""Shard, row group, row."""


@dataclass(frozen=True)
class Page:
    """One labeled page."""

    row: dict[str, Any]
    """COLUMNS of the label contract."""
    dataset: str
    read_image: Callable[[], bytes]
    """The encoded bytes, read when called."""


@dataclass(frozen=True)
class Reading:
    """What the model says at the m patches of a page. tokens, probabilities: (m, TOP), best first."""

    tokens: torch.Tensor
    probabilities: torch.Tensor


@dataclass(frozen=True)
class Hit:
    """What the model says at one label."""

    dataset: str
    height: float
    """Of the label's word, in patches."""
    rank: int
    """Of the label's token at its patch: 0 is first, TOP is below the best TOP."""


def write(
    models: Mapping[str, str], labels: Shard, out: Path, device: str = "cpu", pages: int = 200, pictures: int = 6
) -> Path:
    """lens.json (the numbers) and lens.html (the pictures) in out; returns the page.

    models: {"model": folder} and, to see what training brought, {"base": folder}. labels: a folder of label
    shards or of such folders, or their address. Raises ContractError if the labels are for another grid or tokenizer.
    """
    shards = find_shards(labels)
    chosen = choose(shards, pages)
    numbers: dict[str, LensFigures] = {}
    readings: dict[str, dict[str, Reading]] = {}
    for name, folder in models.items():
        loaded = open_model(folder, shards, device)
        numbers[name], readings[name] = look(loaded, chosen, pictures)
    written = Lens(**numbers).to_json()
    predictions.write_json(out / "lens.json", written)
    shown = [page for page in chosen if page.row["id"] in readings[name]]
    views = [
        view(
            page, {n: found[page.row["id"]] for n, found in readings.items()}, loaded.layout, loaded.processor.tokenizer
        )
        for page in shown
    ]
    claims = list(dict.fromkeys(SIGHT[figures.sight] for figures in numbers.values()))
    body = report.render("lens.html.jinja", {"numbers": written, "models": list(models), "claims": claims})
    script = (resources("dvsft.evaluator") / "templates" / "lens.js").read_text("utf-8")
    (out / "lens.html").write_text(webpage.document("Lens", body, script, views), encoding="utf-8")
    return out / "lens.html"


def look(loaded: LocalModel, pages: Sequence[Page], pictures: int) -> tuple[LensFigures, dict[str, Reading]]:
    """(figures over all pages, the readings of the first `pictures` pages by id). Unreadable pages are counted."""
    hits: list[Hit] = []
    kept: dict[str, Reading] = {}
    rejected: Counter[str] = Counter()
    for i, page in enumerate(pages):
        try:
            reading = read(loaded, page, decode(page.read_image()))
        except ImageError as error:
            rejected[error.reason] += 1
            continue
        hits += measure(page, reading, loaded.layout)
        if len(kept) < pictures:
            kept[page.row["id"]] = reading
        print(f"lens: page {i + 1} of {len(pages)}", file=sys.stderr)
    counted: dict[str, Any] = {"pages": len(pages) - rejected.total(), "rejected": rejected}
    found = LensFigures(**recalls(hits), **counted, folder=loaded.model.name_or_path, sight=sight(loaded))
    return found, kept


def find_shards(folder: str | Path) -> list[str]:
    """All label shards below a folder or an address. Raises DataError where there are none."""
    found = find(str(folder))
    if not found:
        raise files.DataError(f"{folder} holds no *.parquet label shards; make them with: make labels")
    return found


def patches_of(layout: LayoutSpec) -> tuple[int, int]:
    """The fewest and most patches that the labels' pixel limits come to, if they have such."""
    if "max_pixels" not in layout.fields:
        return PATCHES
    side = layout.fit(64, 64).views[0].side
    area = round(side[0] * side[1])
    return layout.fields["min_pixels"] // area, layout.fields["max_pixels"] // area


def open_model(folder: str, shards: Sequence[Shard], device: str) -> LocalModel:
    """The model with the pixel limits of the labels. Raises ContractError if any shard is for another model."""
    loaded = generate.load(folder, device, patches_of(rows.open_shard(shards[0])[1].layout))
    sha256 = rows.tokenizer_sha256(folder)
    for shard in shards:
        rows.open_shard(shard)[1].require(layout=loaded.layout, tokenizer_sha256=sha256, where=str(shard))
    try:
        check_head(loaded.model, head_transform(loaded.model.config))
    except TypeError as error:
        raise PredictError(f"{folder}: {error}") from error
    return loaded


def choose(shards: Sequence[Shard], count: int, having: str = "patch_index") -> list[Page]:
    """Up to `count` pages that have labels, or anything else in the column `having`, at random, always the same ones
    for the same shards. Their words are held in memory, their images in a file that goes away with the last page."""
    places = [place for shard in shards for place in places_having(shard, having)]
    chosen = random.Random(0).sample(places, min(count, len(places)))
    found, images = dict[Place, Page](), tempfile.TemporaryFile()  # noqa: SIM115  gone with its last reader
    for shard, members in groupby(sorted(chosen), key=lambda place: place[0]):
        found |= read_pages(shard, list(members), images)
    return [found[place] for place in chosen]


def places_having(shard: Shard, column: str) -> Iterator[Place]:
    """Where the pages of a shard are whose list in a column is not empty. Reads that column alone."""
    parquet, _ = rows.open_shard(shard)
    for group in range(parquet.num_row_groups if column in parquet.schema_arrow.names else 0):
        lists = parquet.read_row_group(group, columns=[column])[column]
        for row, number in enumerate(pc.list_value_length(lists).to_pylist()):
            if number:
                yield str(shard), group, row


def keep(images: IO[bytes], data: bytes) -> Callable[[], bytes]:
    """Write an encoded image to a file, so that its row group need not be read again; returns what reads it back."""
    start = images.seek(0, os.SEEK_END)
    images.write(data)
    images.flush()
    return lambda: os.pread(images.fileno(), len(data), start)


def read_pages(shard: Shard, places: Sequence[Place], images: IO[bytes]) -> dict[Place, Page]:
    """Pages of one shard, in the order of their row groups, each of which is read once."""
    parquet, metadata = rows.open_shard(shard)
    found = {}
    for group, members in groupby(places, key=lambda place: place[1]):
        places_here = list(members)
        table = rows.read_group(parquet, group, [*COLUMNS, "image"])
        read = rows.rows_of(table, [number for *_, number in places_here], [*COLUMNS, "image"])
        for place, row in zip(places_here, read, strict=True):
            found[place] = Page(row, metadata.dataset, keep(images, row.pop("image")["bytes"]))
    return found


@torch.inference_mode()
def read(loaded: LocalModel, page: Page, image: Image.Image) -> Reading:
    """The TOP tokens and probabilities at the position of each visual token of a page, un-shifted.

    What is asked after the image does not matter where `sight` says that visual tokens see no question.
    """
    batch = generate.encode(loaded, [""], [image])
    positions = (batch["input_ids"][0] == loaded.model.config.image_token_id).nonzero()[:, 0]
    expected = page.row["visual_tokens"]
    if len(positions) != expected:
        raise rows.ContractError(f"{page.row['id']}: found {len(positions)} visual tokens, expected {expected}")
    hidden = loaded.model.base_model(**batch).last_hidden_state[0, positions]
    head, transform = loaded.model.get_output_embeddings(), head_transform(loaded.model.config)
    best = [torch.softmax(head_logits(chunk, head, transform), -1).topk(TOP) for chunk in hidden.split(CHUNK)]
    return Reading(
        tokens=torch.cat([b.indices for b in best]).cpu(), probabilities=torch.cat([b.values for b in best]).cpu()
    )


SIGHT = {
    "past": "A visual token sees the page through the vision encoder, and in the language model what stands before it.",
    "image": "In the language model, too, a visual token of this model sees its whole image, also what comes later: "
    "that it names a word shows that the model knows the word's place, not that this part of the page was enough.",
    "prompt": "A visual token of this model sees the whole prompt, the question too: what is shown is what it names "
    "when nothing is asked, and a question may change it.",
}
"""What the lens may claim of a model, by what its visual tokens see."""


@torch.inference_mode()
def sight(loaded: LocalModel) -> str:
    """How far visual tokens see in the language model, a key of SIGHT: measured, by noise on what the first layer gets
    at the last visual token or at the last token of the prompt, which moves the first visual token or not."""
    batch = generate.encode(loaded, ["a question"], [Image.new("RGB", (256, 256), "white")])
    visual = (batch["input_ids"][0] == loaded.model.config.image_token_id).nonzero()[:, 0]
    first, calm = visual[0], loaded.model.base_model(**batch).last_hidden_state[0, visual[0]]

    def moves(position: int) -> bool:
        def disturb(layer: Any, arguments: Any, named: dict[str, Any]) -> Any:
            states = (named["hidden_states"] if not arguments else arguments[0]).clone()
            states[0, position] = states[0, position] * -3 + 1
            return (states, *arguments[1:]) if arguments else arguments, named if arguments else named | {
                "hidden_states": states
            }

        hook = loaded.model.get_decoder().layers[0].register_forward_pre_hook(disturb, with_kwargs=True)
        try:
            found = loaded.model.base_model(**batch).last_hidden_state[0, first]
        finally:
            hook.remove()
        return not torch.allclose(found, calm, atol=1e-5, rtol=1e-4)

    if moves(-1):
        return "prompt"
    return "image" if moves(int(visual[-1])) else "past"


def measure(page: Page, reading: Reading, spec: LayoutSpec) -> list[Hit]:
    """A hit per label. Where a visual token has several, each is ranked as if the others were not there."""
    layout = spec.fit(page.row["width"], page.row["height"])
    views, best = layout.view_index(), reading.tokens.tolist()
    labels = list(zip(page.row["patch_index"], page.row["token_id"], page.row["label_word"], strict=True))
    held: dict[int, set[int]] = defaultdict(set)
    for patch, token, _ in labels:
        held[patch].add(token)
    hits = []
    for patch, token, word in labels:
        view, (_, y0, _, y1) = layout.views[views[patch]], page.row["words"][word]["box"]
        others = [found for found in best[patch] if found == token or found not in held[patch]]
        rank = others.index(token) if token in others else TOP
        hits.append(Hit(page.dataset, (y1 - y0) * view.scale[1] / view.side[1], rank))
    return hits


def recalls(hits: Sequence[Hit]) -> dict[str, Any]:
    """Those of LensFigures: over all labels, by dataset, by word height."""
    by_dataset: dict[str, list[Hit]] = defaultdict(list)
    by_height: dict[str, list[Hit]] = {name: [] for name in height_names()}
    for hit in hits:
        by_dataset[hit.dataset].append(hit)
        by_height[height_names()[sum(hit.height >= edge for edge in HEIGHTS)]].append(hit)
    return {
        "all": recall(hits),
        "datasets": {name: recall(members) for name, members in sorted(by_dataset.items())},
        "heights": {name: recall(members) for name, members in by_height.items() if members},
    }


def height_names() -> list[str]:
    edges = [f"{edge:g}" for edge in HEIGHTS]
    between = [f"{low} to {high}" for low, high in pairwise(edges)]
    return [f"below {edges[0]}", *between, f"{edges[-1]} and more"]


def recall(hits: Sequence[Hit]) -> Recall:
    n = len(hits)
    at_1, at_5 = (sum(hit.rank < k for hit in hits) / n if n else None for k in (1, TOP))
    return Recall(labels=n, at_1=at_1, at_5=at_5)


def view(page: Page, readings: Mapping[str, Reading], layout: LayoutSpec, tokenizer: Any) -> dict[str, Any]:
    """A page as lens.js takes it: its cells, its labels, and each model's top tokens by visual token."""
    row, image = page.row, decode(page.read_image())
    labels: dict[int, list[list[Any]]] = defaultdict(list)
    for patch, word, token in zip(row["patch_index"], row["label_word"], row["token_id"], strict=True):
        labels[patch].append([text_of(tokenizer, token), row["words"][word]["text"], token])
    return {
        "id": row["id"],
        "image": webpage.picture(image),
        "width": row["width"],
        "height": row["height"],
        "cols": row["cols"],
        "views": webpage.views(layout.fit(row["width"], row["height"])),
        "labels": labels,
        "models": {
            name: [
                [[text_of(tokenizer, t), round(p, 4), t] for t, p in zip(tokens, probabilities, strict=True)]
                for tokens, probabilities in zip(reading.tokens.tolist(), reading.probabilities.tolist(), strict=True)
            ]
            for name, reading in readings.items()
        },
    }


def text_of(tokenizer: Any, token: int) -> str:
    """A token as text; in the tokenizer's own notation where it is a part of a character."""
    text: str = tokenizer.decode([token])
    return str(tokenizer.convert_ids_to_tokens(token)) if "\ufffd" in text else text
