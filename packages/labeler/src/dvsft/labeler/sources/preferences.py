"""Preference pairs of others: JSONL of image, question, chosen, rejected, such as MMPR's (arXiv 2411.10442).

The rules are those of arXiv 2510.16333's code: one image, no `<image>` in an answer, a limit on the tokens of prompt
and chosen answer, a draw by seed. What they leave out is counted. Its draw cannot be repeated, since it depends on the
order of all files; ours depends on the pairs' ids.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain

from tokenizers import Tokenizer

from dvsft.labeler import files
from dvsft.labeler.config import PairDraw, Source
from dvsft.labeler.page import Page, Reject, SourceError
from dvsft.labeler.runs.plan import Plan, cut
from dvsft.labeler.sources.folder import json_file, load_json, root
from dvsft.labeler.sources.record import Record

PLACEHOLDER = "<image>"
NUMBERS = ("chosen_score", "rejected_score", "chosen_count", "rejected_count", "samples")
RULE = "given"
"""What the column `rule` says of pairs that others made."""


def records(source: Source) -> Iterator[Record]:
    """Every pair of a .jsonl file, whose images are beside it, or of all that a meta.json names: {name: {root,
    annotation, ...}}, folder of images and .jsonl file. How often it repeats each (`repeat_time`) is for its own
    trainer and not read. Raises SourceError."""
    folder = root(source)
    sizes = files.sizes(folder)
    for name, images, annotation in _sets(source, folder):
        data = files.read_bytes(files.join(folder, annotation)) if annotation in sizes else None
        if data is None:
            raise SourceError(f"{source.path}: {annotation} is not below {folder}; put the annotations of {name} there")
        for number, line in enumerate(data.split(b"\n"), 1):
            if line.strip():
                yield _record(f"{name}:{number}", line, images, sizes)


def _sets(source: Source, folder: str) -> Iterator[tuple[str, str, str]]:
    """(name, folder of the images, annotation) of each set, both relative to `folder`."""
    if source.path.endswith(".jsonl"):
        name = source.path.rpartition("/")[2]
        yield name.removesuffix(".jsonl"), "", name
        return
    _, meta = json_file(source, "meta*.json")
    sets = load_json(files.join(folder, meta))
    if not isinstance(sets, dict) or not all(isinstance(one, dict) and "annotation" in one for one in sets.values()):
        raise SourceError(
            f"{meta}: found no sets, expected {{name: {{root, annotation}}}} as MMPR's meta.json has them"
        )
    own = folder.rstrip("/").rpartition("/")[2] + "/"  # a publisher's paths may begin with the folder itself
    for name, one in sets.items():
        yield name, *(str(one.get(key, "")).removeprefix("./").removeprefix(own) for key in ("root", "annotation"))


def _record(identity: str, line: bytes, images: str, sizes: Mapping[str, int]) -> Record:
    """A line as a record of the page that it is about; as an error, which counts as a pair, where it cannot be used."""
    try:
        found = json.loads(line)
        given = found.get("image")
        shown = given if isinstance(given, list) else [given]
        prompt, chosen, rejected = (found[key] for key in ("question", "chosen", "rejected"))
        if not all(isinstance(text, str) for text in (prompt, chosen, rejected)):
            raise TypeError("question, chosen and rejected are text")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return _error(
            identity, "bad_record", f"{type(error).__name__}: {error}, expected image, question, chosen, rejected"
        )
    if len(shown) != 1 or not isinstance(shown[0], str) or prompt.count(PLACEHOLDER) > 1:
        return _error(identity, "not_one_image", f"found {given!r}")
    if PLACEHOLDER in chosen or PLACEHOLDER in rejected:
        return _error(identity, "image_in_answer", f"an answer holds {PLACEHOLDER}")
    prompt, chosen, rejected = prompt.replace(PLACEHOLDER, "").strip(), chosen.strip(), rejected.strip()
    if not prompt or not chosen or chosen == rejected:
        return _error(identity, "no_pair", "found no question, no chosen answer, or two answers that are the same")
    path = "/".join(part for part in (images.strip("/"), shown[0].removeprefix("./")) if part)
    if path not in sizes:
        return _error(identity, "missing_image", f"{path} is not there")
    texts = {"pair_id": identity, "question_id": identity, "prompt": prompt, "chosen": chosen, "rejected": rejected}
    return {"name": path, "path": path, "size": sizes[path], "pair": texts | dict.fromkeys(NUMBERS) | {"rule": RULE}}


def _error(identity: str, reason: str, message: str) -> Record:
    return {"name": identity, "error": (reason, f"{identity}: {message}"), "what": "pair"}


def drawn_pairs(plan: Plan, settings: PairDraw, tokenizer: Tokenizer, pages_per_shard: int) -> Plan:
    """A plan with the pairs that are short enough and drawn, and the pages that have any; the others are rejects."""
    pages, rejects, fitting = list(chain.from_iterable(plan.shards)), list(plan.rejects), list[str]()
    for page in pages:
        for pair, tokens in zip(page.pairs, _tokens(page, tokenizer), strict=True):
            if tokens > settings.max_tokens:
                message = f"{pair['pair_id']}: prompt and chosen answer have {tokens} tokens"
                rejects.append(Reject(page.id, "select", "too_long", message, "pair"))
            else:
                fitting.append(pair["pair_id"])
    kept = {*fitting}
    if settings.draw is not None and len(fitting) > settings.draw:
        kept = {*random.Random(settings.seed).sample(sorted(fitting), settings.draw)}
        undrawn = {*fitting} - kept
        lost = [(page, pair) for page in pages for pair in page.pairs if pair["pair_id"] in undrawn]
        rejects += [Reject(page.id, "select", "not_drawn", pair["pair_id"], "pair") for page, pair in lost]
    taken = [replace(page, pairs=[pair for pair in page.pairs if pair["pair_id"] in kept]) for page in pages]
    return cut([page for page in taken if page.pairs], rejects, pages_per_shard)


def _tokens(page: Page, tokenizer: Tokenizer) -> list[int]:
    """Of prompt and chosen answer of each pair."""
    texts = [pair[key] for pair in page.pairs for key in ("prompt", "chosen")]
    counts = [len(encoding) for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    return [sum(counts[at : at + 2]) for at in range(0, len(counts), 2)]
