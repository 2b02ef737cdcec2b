"""Samples -> the tensors of one forward pass.

`labels[t]` is what the logits AT position t must predict: at a visual token its own word, before an answer
token that token (so the usual shift of text labels is already done). `image_index[t]` says which of the two
it is. Where a visual token holds several words, `more_labels[t]` has the others.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from dvsft.patchlabels import image as images
from dvsft.patchlabels.layout import LayoutSpec
from dvsft.patchlabels.prompts import TEST_INSTRUCTION
from dvsft.trainer import branches
from dvsft.trainer.data import Lengths, Mixture, Sample
from dvsft.trainer.families import ModelError
from dvsft.trainer.pages import DataError
from dvsft.visionloss.loss import IGNORE, TEXT

INSTRUCTIONS = (
    TEST_INSTRUCTION,
    "Reply with the answer only, in as few words as possible.",
    "Keep your answer to a word or a short phrase.",
    "Give just the answer, without a full sentence.",
    "Respond briefly: no explanation, only the answer.",
    "State the answer in a few words and nothing else.",
    "A short answer is enough; leave out any reasoning.",
    "Write only the word, number or phrase that answers this.",
    "Be concise: one word or phrase will do.",
    "Please answer as shortly as you can.",
)


class Pair(NamedTuple):
    """The rejected answer to an example's only question, and the log-probabilities that the model gave the chosen and
    the rejected one before its first step."""

    id: str
    rejected: str
    reference: tuple[float, float]


@dataclass(frozen=True)
class Example:
    """A conversation about at most one page. patch_index and token_id are its labels; where `supervised` is
    false the sample only fills a batch."""

    id: str
    turns: tuple[tuple[str, str], ...]
    image: Any = None
    visual_tokens: int = 0
    patch_index: Sequence[int] = ()
    token_id: Sequence[int] = ()
    supervised: bool = True
    pair: Pair | None = None

    def tokens_by_patch(self) -> dict[int, list[int]]:
        """The labels of every labeled patch, each once."""
        found: dict[int, dict[int, None]] = defaultdict(dict)
        for patch, token in zip(self.patch_index, self.token_id, strict=True):
            found[patch][token] = None
        return {patch: list(tokens) for patch, tokens in found.items()}

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation as the chat template takes it; the page comes before the first question. Without a question
        the page is all of it."""
        if not self.turns:
            return [{"role": "user", "content": [{"type": "image"}]}]
        messages = []
        for number, (question, answer) in enumerate(self.turns):
            picture = [{"type": "image"}] if self.visual_tokens and not number else []
            messages.append({"role": "user", "content": [*picture, {"type": "text", "text": question}]})
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        return messages


CUTTING = ("do_image_splitting", "do_pan_and_scan")
"""Settings of image processors that may be switched off for one call."""

FILLER = Example(id="filler", turns=(("", ""),), supervised=False)


Reference = Mapping[str, tuple[float, float]]
"""Of every pair by its id, see Pair."""


def make_example(mixture: Mixture, sample: Sample | None, reference: Reference | None = None) -> Example:
    """Read and decode one sample; None gives the filler. Raises DataError that names the page."""
    if sample is None:
        return FILLER
    row, asked, instruction = mixture.read(sample), mixture.asked(sample), INSTRUCTIONS[sample.instruction]
    chosen = [asked.turns(row)[number] for number in sample.questions]
    turns = tuple((asked.prompt(question, instruction), answer) for question, answer in chosen)
    pair = None
    if asked.rejected:
        found = row["pairs"][sample.questions[0]]
        known = (reference or {}).get(found["pair_id"], (math.nan, math.nan))
        pair = Pair(found["pair_id"], found["rejected"], known)
    picture = open_page(row) if row["visual_tokens"] else None
    labels = row["patch_index"], row["token_id"]
    return Example(row["id"], turns, picture, row["visual_tokens"], *labels, pair=pair)


def open_page(row: Mapping[str, Any]) -> Image.Image:
    """The image of a row, upright. Raises DataError where it is not what its labels were made on."""
    try:
        page = images.decode(row["image"]["bytes"])
    except images.ImageError as error:
        raise DataError(f"page {row['id']}: {error}; label again, which rejects such pages") from error
    if page.size != (row["width"], row["height"]):
        raise DataError(
            f"page {row['id']}: found an image of {page.width} x {page.height} px, its labels were made on "
            f"{row['width']} x {row['height']}; label again: make labels"
        )
    return page


class Encoder:
    """Examples -> tensors, through the checkpoint's own processor."""

    def __init__(self, processor: Any, spec: LayoutSpec, pairs: bool = False, shared: bool = True):
        """Sets the processor's pixel limits to the layout's, where it has such, and its padding to the left. pairs:
        batches hold the rejected answers too; shared: in the row of the chosen one, see `branches`, or in a row of
        their own. Raises ModelError for a processor without a chat template."""
        self.processor, self.spec, self.pairs, self.shared = processor, spec, pairs, shared
        if not processor.chat_template:
            raise ModelError(
                f"{type(processor).__name__} has no chat template, which training writes conversations with; put the "
                "chat_template.jinja of an instruction-tuned checkpoint into its folder"
            )
        spec.set_up(processor)
        processor.tokenizer.padding_side = "left"
        self.image_token: int = processor.image_token_ids[0]
        self.answer_type: int | None = getattr(processor, "answer_type", None)
        self._options = {"add_special_tokens": not self._writes_bos()}
        # spaces and line ends are tokens of their own in some vocabularies, and harmless
        self._special = tuple(token for token in processor.tokenizer.get_added_vocab() if token.strip())

    def _writes_bos(self) -> bool:
        """Whether the chat template itself begins with the token that the tokenizer would put first."""
        first = self.processor.tokenizer.bos_token
        return bool(first) and self.render(FILLER).startswith(first)

    def usable(self, text: str) -> bool:
        """Whether a question or answer holds no special token, which would take the prompt apart."""
        return not any(token in text for token in self._special)

    def render(self, example: Example, messages: int | None = None, **options: Any) -> str:
        """The chat template over the first `messages` messages, all by default."""
        text: str = self.processor.apply_chat_template(example.messages[:messages], tokenize=False, **options)
        return text

    def tokens(self, text: str) -> list[int]:
        ids: list[int] = self.processor.tokenizer(text, **self._options)["input_ids"]
        return ids

    def lengths(self) -> Lengths:
        """How long conversations of this processor are. Questions, instructions and answers are tokenized each by
        itself: the chat template puts special tokens and line ends around them, which tokenizers merge with nothing."""
        return Lengths(
            count=self._bare_lengths,
            instructions=tuple(self._bare_lengths(INSTRUCTIONS)),
            template={
                (turns, image): self._template(turns, image)
                for turns, image in [(0, True), (1, False), (1, True), (2, False), (2, True)]
            },
        )

    def _bare_lengths(self, texts: Sequence[str]) -> list[int]:
        return list(map(len, self.processor.tokenizer(list(texts), add_special_tokens=False)["input_ids"]))

    def _template(self, turns: int, image: bool) -> int:
        """Tokens of the chat template alone, with what the processor writes around an image. Without turns there is an
        image."""
        page = self._blank if image else FILLER
        ids = self._process([replace(page, turns=(("x", "x"),) * turns)])["input_ids"][0]
        return len(ids) - 2 * turns * self._bare_lengths(["x"])[0] - int((ids == self.image_token).sum())

    def answer_spans(self, example: Example, ids: Sequence[int]) -> list[tuple[int, int]]:
        """[start, end) of every answer and its end-of-turn token in `ids`, the tokens of the example, unpadded, as the
        processor expands them for its image or not.

        Raises DataError if the prompt is tokenized differently with an answer behind it than without.
        """
        whole = self.tokens(self.render(example))
        expanded = len(ids) - len(whole)  # by the image, which stands before all answers
        spans = []
        for turn in range(len(example.turns)):
            prompt = self.tokens(self.render(example, 2 * turn + 1, add_generation_prompt=True))
            answered = self.tokens(self.render(example, 2 * turn + 2).rstrip("\n"))
            start, end = len(prompt) + expanded, len(answered) + expanded
            fits = whole[: len(prompt)] == prompt and whole[: len(answered)] == answered
            if not fits or list(ids[start:end]) != answered[len(prompt) :]:
                raise DataError(
                    f"page {example.id}: the answer {example.turns[turn][1]!r} melts into its prompt's tokens"
                )
            spans.append((start, end))
        return spans

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """The batch: what the model takes, and labels, image_index, visual (bool: a visual token stands here), all
        (B, T), and more_labels (B, T, K), K = 0 where no visual token has several; padded on the left. A batch without
        images gets a masked, unsupervised blank one. Raises DataError where a page's image and its labels do not fit
        together."""
        pairs = [example.pair for example in examples if example.pair]
        if self.pairs and not self.shared:
            examples = [row for example in examples for row in _two_rows(example)]
        batch = self._process(examples)
        if self.pairs:
            batch = self._with_branches(examples, batch)
        batch["labels"] = torch.full_like(batch["input_ids"], IGNORE)
        batch["image_index"] = torch.full_like(batch["input_ids"], TEXT)
        most = max(len(tokens) for example in examples for tokens in [(), *example.tokens_by_patch().values()])
        batch["more_labels"] = torch.full((*batch["input_ids"].shape, max(most - 1, 0)), IGNORE)
        if self.pairs:
            branches.label_answers(batch, batch["labels"])
        for number, example in enumerate(examples):
            self._check_count(example, batch["input_ids"][number])
            if self.answer_type is not None and example.turns:
                padding, tokens = _unpadded(batch, number)
                start, _ = self.answer_spans(example, tokens)[0]
                batch["token_type_ids"][number, padding + start :] = self.answer_type
            if example.supervised:
                self._supervise(example, number, batch)
        if not any(example.visual_tokens for example in examples):
            batch = self._with_blank_image(batch)
        batch["visual"] = batch["input_ids"] == self.image_token
        if self.pairs:
            has_pair = torch.tensor([example.pair is not None for example in examples])
            first = has_pair.cumsum(0) - 1
            batch["pair"] = (first if self.shared else first // 2).where(has_pair, -1)
            reference = torch.tensor([pair.reference for pair in pairs], dtype=torch.float64)
            batch["reference"] = reference.view(-1, 2)
        return batch

    def _process(self, examples: Sequence[Example], **images: bool) -> dict[str, Tensor]:
        """What the model takes, all that the processor makes. images: settings of its image part. Each text has its
        list of images, which may be empty: some processors count them text by text."""
        pictures = [[example.image] if example.visual_tokens else [] for example in examples]
        options = self._options | images
        if "mm_token_type_ids" in self.processor.model_input_names:
            options["return_mm_token_type_ids"] = True
        encoded = self.processor(
            text=[self.render(example) for example in examples],
            images=pictures if any(pictures) else None,
            padding=True,
            return_tensors="pt",
            **options,
        )
        return dict(encoded)

    @cached_property
    def _blank(self) -> Example:
        """A black page and nothing else, of the shape that makes the fewest visual tokens."""
        sizes = ((64, 64), (320, 32), (32, 320))
        size = min(sizes, key=lambda size: self.spec.fit(*size).visual_tokens)
        return Example("blank", (), Image.new("RGB", size), self.spec.fit(*size).visual_tokens)

    @cached_property
    def blank_batch(self) -> dict[str, Tensor]:
        """The blank page, in one piece where the processor would cut it."""
        return self._process([self._blank], **{name: False for name in CUTTING if self.spec.fields.get(name)})

    def _with_blank_image(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch without images plus a blank one that no position attends to, left of its first sample: ranks must all
        run the encoder or none, since with ZeRO one would wait for the other's gradients."""
        blank = self.blank_batch
        high, wide = len(batch["input_ids"]), blank["input_ids"].shape[1]
        padding = {"input_ids": self.processor.tokenizer.pad_token_id}
        padding |= {"labels": IGNORE, "image_index": TEXT, "more_labels": IGNORE}
        padded = {
            name: torch.cat([value.new_full((high, wide, *value.shape[2:]), padding.get(name, 0)), value], 1)
            for name, value in batch.items()
        }
        for name in padded.keys() & blank.keys() - {"attention_mask"}:
            padded[name][0, :wide] = blank[name][0]
        return {**blank, **padded}

    def _check_count(self, example: Example, ids: Tensor) -> None:
        found = int((ids == self.image_token).sum())
        if found != example.visual_tokens:
            raise DataError(
                f"page {example.id}: the processor makes {found} visual tokens of the image, its labels count "
                f"{example.visual_tokens}; label it again, or project the labels onto this model: make relabel"
            )

    def _with_branches(self, examples: Sequence[Example], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The rejected answers too, and `branch`."""
        spans = [
            self.answer_spans(example, _unpadded(batch, number)[1])[0] if example.pair else None
            for number, example in enumerate(examples)
        ]
        if self.shared:
            rejected = [self._answer(_rejected_row(example)) if example.pair else [] for example in examples]
            columns = {name: value for name, value in batch.items() if value.shape == batch["input_ids"].shape}
            pad = self.processor.tokenizer.pad_token_id
            return batch | branches.append_rejected(columns, spans, rejected, pad)
        branch = torch.zeros_like(batch["input_ids"])
        for number, (example, span) in enumerate(zip(examples, spans, strict=True)):
            if span:
                side = branches.CHOSEN if example.supervised else branches.REJECTED
                padding, _ = _unpadded(batch, number)
                branch[number, padding + span[0] - (side == branches.REJECTED) : padding + span[1]] = side
        return batch | {"branch": branch}

    def _answer(self, example: Example) -> list[int]:
        """The tokens of an example's only answer, the end of the turn included."""
        ids = self.tokens(self.render(example))
        ((start, end),) = self.answer_spans(example, ids)
        return ids[start:end]

    def _supervise(self, example: Example, number: int, batch: dict[str, Tensor]) -> None:
        """Write one example's text and vision labels into row `number` of the batch."""
        ids, labels = batch["input_ids"][number], batch["labels"][number]
        padding, tokens = _unpadded(batch, number)
        for start, end in () if "branch" in batch else self.answer_spans(example, tokens):
            labels[padding + start - 1 : padding + end - 1] = ids[padding + start : padding + end]
        if example.visual_tokens:
            visual = (ids == self.image_token).nonzero()[:, 0]
            sets, width = example.tokens_by_patch(), 1 + batch["more_labels"].shape[-1]
            labeled = visual[torch.tensor(list(sets), dtype=torch.long)]
            filled = [[*tokens, *[IGNORE] * (width - len(tokens))] for tokens in sets.values()]
            table = torch.tensor(filled, dtype=torch.long).view(-1, width)  # (n, width), also for n = 0
            labels[labeled], batch["more_labels"][number, labeled] = table[:, 0], table[:, 1:]
            batch["image_index"][number, labeled] = number


def _unpadded(batch: Mapping[str, Tensor], number: int) -> tuple[int, list[int]]:
    """The length of a row's padding, and its tokens behind it."""
    padding = int((batch["attention_mask"][number] == 0).sum())
    return padding, batch["input_ids"][number, padding:].tolist()


def _rejected_row(example: Example) -> Example:
    """Its rejected answer in place of the chosen one, without labels."""
    ((question, _),) = example.turns
    other = example.pair.rejected if example.pair else ""
    return replace(example, turns=((question, other),), patch_index=(), token_id=(), supervised=False)


def _two_rows(example: Example) -> list[Example]:
    return [example, _rejected_row(example)] if example.pair else [example]
