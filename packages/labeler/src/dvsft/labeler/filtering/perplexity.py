"""How sure a causal language model is of each answer, with and without its document (arXiv 2605.26656).

The one module of the labeler that needs torch: the extra `dvsft-labeler[filter]`.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import apache_beam as beam
import torch
import transformers
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler, PredictionResult, RunInference
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from dvsft.labeler import files
from dvsft.labeler.config import ConfigError, Filter
from dvsft.labeler.filtering.select import TEMPLATE, FilterRun, Row, write_perplexities
from dvsft.labeler.labels.processor import find_folder
from dvsft.labeler.page import Page
from dvsft.labeler.runs import progress
from dvsft.labeler.runs.plan import Shard, read_pages
from dvsft.patchlabels.prompts import first_answer

PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
IGNORE = -100


@dataclass(frozen=True)
class Read:
    """What a model keeps of texts that it has read. cache: keys and values. mask: (B, T), 1 for a token and 0 for
    padding on the right."""

    cache: Any
    mask: Tensor

    def of(self, rows: Sequence[int]) -> Read:
        """One for each row of a batch: the text that it goes on with. The cache is used up."""
        index = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(index)
        return Read(self.cache, self.mask[index])


@torch.inference_mode()
def read(model: Any, texts: Sequence[Sequence[int]]) -> Read:
    """Read token ids, none empty, once for all that goes on with them."""
    ids, mask = _padded(texts)
    mask = mask.to(model.device)
    made = model.base_model(input_ids=ids.to(model.device), attention_mask=mask, use_cache=True)
    return Read(made.past_key_values, mask)


@torch.inference_mode()
def answer_nll(
    model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], after: Read | None = None
) -> Tensor:
    """Mean negative log-likelihood of each answer's tokens after its prompt: (B,), nats, float64, on the CPU.

    prompts, answers: token ids, none empty. after: what stands before each prompt. They are padded on the right, where
    a causal model cannot look. Only the positions before an answer token meet the output head, through a hook on it, so
    that whatever a model does to its logits behind the head is done; one thread at a time. Log-softmax is in float32.
    """
    ids, mask = _padded([[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)])
    labels = torch.full_like(ids, IGNORE)  # labels[b, t]: what the logits at t must predict
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        labels[row, len(prompt) - 1 : len(prompt) + len(answer) - 1] = torch.tensor(answer)
    rows, columns = (labels != IGNORE).nonzero(as_tuple=True)
    given: dict[str, Any] = {"use_cache": False}
    if after:
        places = after.mask.sum(1, keepdim=True) + torch.arange(ids.shape[1], device=after.mask.device)
        seen = torch.cat([after.mask, mask.to(model.device)], dim=1)
        given = {"past_key_values": after.cache, "attention_mask": seen, "position_ids": places}
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, hidden: (hidden[0][rows, columns][None],))
    try:
        logits = model(input_ids=ids.to(model.device), **given).logits[0].float()  # (all answers' tokens, V)
    finally:
        hook.remove()
    targets = labels[rows, columns, None].to(model.device)
    nll = (logits.logsumexp(-1) - logits.gather(1, targets)[:, 0]).double().cpu()
    total = torch.zeros(len(ids), dtype=torch.float64).index_add_(0, rows, nll)
    return total / torch.tensor([len(answer) for answer in answers])


def _padded(texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids (B, T), zeros on the right, and their mask."""
    ids = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = 1
    return ids, mask


def keeps_all(model: Any) -> bool:
    """Whether a model keeps the keys and values of every token, so that texts of a batch can be picked and padded."""
    kinds = getattr(model.config, "layer_types", None) or []
    return bool(kinds) and set(kinds) == {"full_attention"}


@dataclass(frozen=True)
class Scorer:
    """A model on its device, which threads use in turn, and its tokenizer. max_length, batch_tokens: see
    `dvsft.labeler.config.Filter`."""

    model: Any
    tokenizer: Any
    max_length: int
    batch_tokens: int
    turn: threading.Lock = field(default_factory=threading.Lock)

    def token_ids(self, texts: Sequence[str], starts: bool) -> list[list[int]]:
        """Texts that start a sequence get the tokens that the model expects there; names of special tokens are text."""
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), add_special_tokens=starts, split_special_tokens=True)
        ids: list[list[int]] = encoded["input_ids"]
        return ids


@dataclass(frozen=True)
class Request:
    """One perplexity to be found: of `answer` after `prompt`, for a column of a row. shared: the first tokens of the
    prompt that those of the page's other questions begin with too."""

    row: Row
    column: str
    prompt: list[int]
    answer: list[int]
    shared: int = 0

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


def score_pages(scorer: Scorer, pages: Sequence[Page]) -> list[Row]:
    """The row of every question of some pages, as `dvsft.labeler.filtering.select.SCHEMA` defines it."""
    asked = [(page, qa) for page in pages for qa in page.qa]
    rows, requests = [], []
    for (page, qa), (answer, prompts) in zip(asked, _encoded(scorer, asked), strict=True):
        row: Row = {"page_id": page.id, "question_id": qa["question_id"], "answer_tokens": len(answer)}
        rows.append(row)
        if not answer:
            row["refused"] = "no_answer"
        elif max(map(len, prompts.values())) + len(answer) > scorer.max_length:
            row["refused"] = "too_long"
        else:
            requests += [Request(row, column, prompt, answer) for column, prompt in prompts.items()]
    if keeps_all(scorer.model):
        requests = with_shared(requests)
    for batch in batches(requests, scorer.batch_tokens):
        _fill(scorer, batch)
        progress.PAGES.add(len(pages) * len(batch) / len(requests))
    return rows


def with_shared(requests: Sequence[Request]) -> list[Request]:
    """The requests that read a document, with how much of it is read once for all questions of its page."""
    pages: dict[str, list[Request]] = {}
    for request in requests:
        if request.column == "ppl_document":
            pages.setdefault(request.row["page_id"], []).append(request)
    shared = {}
    for page, found in pages.items():
        first, last = min(request.prompt for request in found), max(request.prompt for request in found)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
        shared[page] = min(same, *(len(request.prompt) - 1 for request in found)) if len(found) > 1 else 0
    return [
        replace(request, shared=shared[request.row["page_id"]]) if request.column == "ppl_document" else request
        for request in requests
    ]


def batches(requests: Sequence[Request], batch_tokens: int) -> Iterator[list[Request]]:
    """Requests of like length together, the longest first, and those of a page that share its document; padded, a
    batch has at most batch_tokens, or one row. All requests of a batch share something, or none does."""
    batch: list[Request] = []
    for request in sorted(requests, key=_order):
        full = batch and max(map(len, batch)) * (len(batch) + 1) > batch_tokens
        if full or (batch and bool(batch[0].shared) != bool(request.shared)):
            yield batch
            batch = []
        batch.append(request)
    if batch:
        yield batch


def _order(request: Request) -> tuple[Any, ...]:
    page = request.row["page_id"] if request.shared else ""
    return bool(request.shared), -request.shared, page, -len(request)


def _fill(scorer: Scorer, batch: Sequence[Request]) -> None:
    """Write the perplexities of a batch, exp of the mean negative log-likelihood, into its rows."""
    try:
        with scorer.turn:
            nll = _nll(scorer.model, batch)
    except torch.OutOfMemoryError as error:
        raise RuntimeError(
            f"{len(batch)} rows of up to {len(batch[0])} tokens do not fit into memory; lower filter.batch_tokens, "
            f"now {scorer.batch_tokens}, and type make filter again"
        ) from error
    for request, value in zip(batch, nll.exp().tolist(), strict=True):
        if math.isfinite(value):
            request.row[request.column] = value
        else:
            request.row["refused"] = "not_finite"


def _nll(model: Any, batch: Sequence[Request]) -> Tensor:
    answers = [each.answer for each in batch]
    if not batch[0].shared:
        return answer_nll(model, [each.prompt for each in batch], answers)
    documents = {each.row["page_id"]: each.prompt[: each.shared] for each in batch}
    places = {page: place for place, page in enumerate(documents)}
    after = read(model, list(documents.values())).of([places[each.row["page_id"]] for each in batch])
    return answer_nll(model, [each.prompt[each.shared :] for each in batch], answers, after)


def _encoded(scorer: Scorer, asked: Sequence[tuple[Page, Any]]) -> Iterator[tuple[list[int], dict[str, list[int]]]]:
    """Token ids of every answer, and of its prompt for each column. Of several answers the first one counts, as in
    training; a question without one gets no tokens. Prompt and answer are encoded apart, so that it is exactly known
    which tokens are the answer's."""
    answers = [first_answer(qa["answers"]) for _, qa in asked]
    encoded = scorer.token_ids([TEMPLATE["answer"].format(answer=answer) for answer in answers], starts=False)
    prompts = {
        f"ppl_{name}": scorer.token_ids(
            [TEMPLATE[name].format(document=page.text, question=qa["question"].strip()) for page, qa in asked],
            starts=True,
        )
        for name in ("question", "document")
    }
    for number, answer in enumerate(answers):
        yield encoded[number] if answer else [], {column: ids[number] for column, ids in prompts.items()}


def load_scorer(settings: Filter) -> Scorer:
    """Raises ConfigError, or OSError where the folder holds no causal language model."""
    folder = find_model(settings.model)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=_dtype(settings))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return Scorer(model.to(_device(settings)).eval(), tokenizer, _max_length(settings, folder), settings.batch_tokens)


def describe(settings: Filter) -> dict[str, Any]:
    """What decides the perplexities, so that others are never mixed in. Raises ConfigError."""
    folder = find_model(settings.model)
    return {
        "model": settings.model,
        "sha256": _sha256(folder),
        "template": TEMPLATE,
        "dtype": str(_dtype(settings)).removeprefix("torch."),
        "max_length": _max_length(settings, folder),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def find_model(name: str) -> Path:
    """The folder of a causal language model: as named, or downloaded. Raises ConfigError."""
    folder = find_folder("filter.model", name, PATTERNS)
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise ConfigError(
            f"filter.model = {name!r} lacks config.json or *.safetensors; expected a causal language model"
        )
    return folder


def _sha256(folder: Path) -> str:
    """Of the weights, the config and the tokenizer, wherever they came from."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), folder / "config.json", folder / "tokenizer.json"]):
        if path.is_file():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _max_length(settings: Filter, folder: Path) -> int:
    window = getattr(AutoConfig.from_pretrained(folder), "max_position_embeddings", None)
    if settings.max_length is None and window is None:
        raise ConfigError(f"{settings.model} does not say how long its window is; set filter.max_length, in tokens")
    return min(length for length in (settings.max_length, window) if length is not None)


def _device(settings: Filter) -> torch.device:
    if settings.device != "auto":
        return torch.device(settings.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _dtype(settings: Filter) -> torch.dtype:
    if settings.dtype != "auto":
        named: torch.dtype = getattr(torch, settings.dtype)
        return named
    return torch.float32 if _device(settings).type == "cpu" else torch.bfloat16


class PerplexityHandler(ModelHandler[Shard, PredictionResult, Scorer]):
    """A shard -> the rows of its questions. Its example is a whole shard, because batches of like length are made
    within one: what lands in a batch, and so the last digit, does not depend on the runner."""

    def __init__(self, settings: Filter):
        super().__init__(min_batch_size=1, max_batch_size=1)
        self.settings = settings

    def load_model(self) -> Scorer:
        return load_scorer(self.settings)

    def run_inference(self, batch: Sequence[Shard], model: Scorer, inference_args: Any = None) -> Iterator[Any]:
        for shard in batch:
            yield PredictionResult(shard, score_pages(model, read_pages(shard)))


class ScoreShards(beam.PTransform[beam.PCollection[Shard], beam.PCollection[Shard]]):
    """Shard names -> the same names, once their perplexities are there. Shards that are there are skipped."""

    def __init__(self, run: FilterRun, settings: Filter):
        super().__init__()
        self.run, self.settings = run, settings

    def expand(self, shards: beam.PCollection[Shard]) -> beam.PCollection[Shard]:
        return (
            shards
            | "Missing" >> beam.Filter(lambda shard: not files.exists(shard.perplexities))
            | "Perplexity" >> RunInference(PerplexityHandler(self.settings))
            | "Write" >> beam.ParDo(_WriteShard(self.run))
        )


class _WriteShard(beam.DoFn):
    def __init__(self, run: FilterRun):
        self.run = run
        self.questions = Metrics.counter("labeler", "questions")

    def process(self, result: Any) -> Iterator[Shard]:
        write_perplexities(self.run, result.example, result.inference)
        self.questions.inc(len(result.inference))
        yield result.example
