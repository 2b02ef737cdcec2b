"""Label shards -> the samples of every step, in an order that depends on nothing but the seed.

Only a few numbers per page stay in memory; a page itself (image, labels, questions) is read when its turn
comes, and the row group around it is kept on disk. What a run sees is planned before it starts, so that all
ranks agree on it, a resumed run goes on where the killed one stopped, and every sample that is left out is
counted with its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dvsft.patchlabels.layout import LayoutSpec
from dvsft.trainer.cache import GroupCache
from dvsft.trainer.config import ConfigError, Dataset
from dvsft.trainer.pages import Pages
from dvsft.trainer.turns import ASKED, NOTHING, Asked

PAIR_TOKENS = 2
"""What a rejected answer takes besides its text: the copy of the prompt's last token, and the end of the turn."""


class Sample(NamedTuple):
    """One conversation: questions (numbers into the turns that can be asked of the page, for `qa` into that list) about
    one page, and the number of its instruction."""

    dataset: int
    page: int
    questions: tuple[int, ...]
    instruction: int


@dataclass(frozen=True)
class Lengths:
    """How long a conversation is, in tokens. count: texts -> tokens of each. instructions: tokens of each. template:
    (turns, with an image) -> tokens of the chat template around questions, instructions, answers and visual tokens; of
    the markers that some processors write between rows and tiles only those of the smallest image."""

    count: Callable[[list[str]], list[int]]
    instructions: tuple[int, ...]
    template: Mapping[tuple[int, bool], int]


class Mixture:
    """Several datasets and how each asks its questions."""

    def __init__(
        self,
        datasets: Sequence[Dataset],
        spec: LayoutSpec,
        tokenizer_sha256: str,
        usable: Callable[[str], bool],
        lengths: Lengths,
        cache: GroupCache | None = None,
    ):
        self.datasets, self.spec, self.lengths = datasets, spec, lengths
        self.tokenizer_sha256, self.cache = tokenizer_sha256, cache
        asked = [NOTHING if dataset.vision_only else ASKED[dataset.ask] for dataset in datasets]
        self.pages = [
            Pages(dataset.labels, spec, tokenizer_sha256, how, cache)
            for dataset, how in zip(datasets, asked, strict=True)
        ]
        self.indexes = [pages.index(usable, lengths.count) for pages in self.pages]
        self.usable = [self._usable(number) for number in range(len(datasets))]
        self.dropped = sum((index.dropped for index in self.indexes), Counter())
        most = [dataset.max_pages or len(pages) for dataset, pages in zip(datasets, self.usable, strict=True)]
        if over := sum(max(0, len(pages) - n) for pages, n in zip(self.usable, most, strict=True)):
            self.dropped["over_max_pages"] = over

    def of(self, datasets: Sequence[Dataset], usable: Callable[[str], bool]) -> Mixture:
        """Other datasets for the same model."""
        return Mixture(datasets, self.spec, self.tokenizer_sha256, usable, self.lengths, self.cache)

    def epoch(self, seed: int, epoch: int, max_length: int) -> tuple[list[Sample], Counter[str]]:
        """The samples of one epoch, shuffled, and how many were dropped by reason. Raises ConfigError where none is
        left."""
        rng = np.random.default_rng([seed, epoch])
        drawn = [sample for number in range(len(self.datasets)) for sample in self._weighted(number, seed, rng)]
        kept = [sample for sample in drawn if self.length(sample) <= max_length]
        dropped = Counter(over_long=len(drawn) - len(kept)) if len(drawn) > len(kept) else Counter[str]()
        if not kept:
            raise ConfigError(self._nothing_left(self.dropped + dropped))
        return [kept[k] for k in rng.permutation(len(kept))], dropped

    def _nothing_left(self, dropped: Counter[str]) -> str:
        labeled = [one for index in self.indexes for one in index.labeled]
        reasons = ", ".join(f"{name} {count}" for name, count in dropped.items()) or "nothing"
        cure = '; questions_per_page = 0 or ask = "transcription" trains pages without questions'
        return (
            f"no sample is left to train on: found {len(labeled)} pages, {labeled.count(False)} without a label; "
            f"left out: {reasons}{cure if dropped['page_without_question'] else ''}"
        )

    def length(self, sample: Sample) -> int:
        """In tokens, image and template included, padding not."""
        index, turns = self.indexes[sample.dataset], len(sample.questions)
        tokens = dict(zip(index.questions[sample.page], index.text_tokens[sample.page], strict=True))
        texts = sum(tokens[number] for number in sample.questions)
        visual = index.visual_tokens[sample.page]
        instructions = turns * self.lengths.instructions[sample.instruction] if self.asked(sample).instructed else 0
        pair = PAIR_TOKENS if self.asked(sample).rejected else 0
        return self.lengths.template[turns, visual > 0] + visual + texts + instructions + pair

    def _weighted(self, number: int, seed: int, rng: np.random.Generator) -> list[Sample]:
        """The samples of one dataset in one epoch: a draw per whole unit of its weight, and a share of one more."""
        pages, weight = self._capped(number, seed), self.datasets[number].weight
        samples = [sample for _ in range(int(weight)) for sample in self._draw(number, pages, rng)]
        if part := weight % 1:
            more = list(self._draw(number, pages, rng))
            chosen = sorted(rng.permutation(len(more))[: round(part * len(more))].tolist())
            samples += [more[k] for k in chosen]
        return samples

    def _usable(self, number: int) -> list[int]:
        """The pages of a dataset that make a sample."""
        index, silent = self.indexes[number], self.pages[number].asked is NOTHING
        return [page for page, fits in enumerate(index.labeled if silent else index.questions) if fits]

    def _capped(self, number: int, seed: int) -> list[int]:
        """At most `max_pages` of the usable pages: the same in every epoch."""
        pages, most = self.usable[number], self.datasets[number].max_pages
        if most is None or len(pages) <= most:
            return pages
        chosen = np.random.default_rng([seed, number, most]).permutation(len(pages))[:most]
        return [pages[k] for k in sorted(chosen.tolist())]

    def _draw(self, number: int, pages: Sequence[int], rng: np.random.Generator) -> Iterator[Sample]:
        index, asked, wanted = self.indexes[number], self.pages[number].asked, self.datasets[number].questions_per_page
        if not asked.instructed:  # one sample per page or pair, nothing to draw
            for page in pages:
                turns = index.questions[page]
                samples = [(turn,) for turn in turns] if asked.rejected else [turns]
                yield from (Sample(number, page, turns, 0) for turns in samples)
            return
        for page in pages:
            usable = index.questions[page]
            order = rng.permutation(len(usable)).tolist()
            chosen = [(k,) for k in range(len(usable))] if wanted == "all" else [tuple(order[:wanted])]
            for places in chosen:
                instruction = int(rng.integers(len(self.lengths.instructions)))
                yield Sample(number, page, tuple(usable[k] for k in places), instruction)

    def labels_sha256(self) -> dict[str, str]:
        """Of every shard of all datasets, see Pages."""
        return {file: sha256 for pages in self.pages for file, sha256 in pages.labels_sha256().items()}

    def read(self, sample: Sample) -> dict[str, Any]:
        return self.pages[sample.dataset][sample.page]

    def forget(self) -> None:
        """Delete what the cache holds of these pages."""
        for pages in self.pages:
            pages.forget()

    def pair_id(self, sample: Sample) -> str:
        """Of a sample that is a preference pair."""
        return self.indexes[sample.dataset].pair_ids[sample.page][sample.questions[0]]

    def asked(self, sample: Sample) -> Asked:
        """How the sample's dataset asks."""
        return self.pages[sample.dataset].asked


def pad_to_steps(samples: Sequence[Sample], global_batch: int) -> list[Sample | None]:
    """Samples filled up with None (an empty sample that carries no label) to whole steps: the last step is
    smaller, nothing is lost."""
    return [*samples, *[None] * (-len(samples) % global_batch)]
