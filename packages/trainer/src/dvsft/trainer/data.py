"""Label shards -> the samples of every step, in an order that depends on nothing but the seed.

Only a few numbers a page stay in memory; a page itself (image, labels, questions) is read when its turn
comes. What a run sees is planned before it starts, so that all ranks agree on it, a resumed run goes on
where the killed one stopped, and every sample that is left out is counted with its reason.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dvsft.patchlabels import rows
from dvsft.patchlabels.errors import DvsftError
from dvsft.patchlabels.grid import GridSpec
from dvsft.trainer.config import ConfigError, Dataset
from dvsft.trainer.turns import ASKED, NOTHING, Asked

DECIDING_COLUMNS = ("id", "image_sha256", "rows", "cols", "patch_index", "token_id")
"""What of a row decides training besides its turns; the image by its hash."""

INDEX_COLUMNS = ("visual_tokens", "patch_index")
PAGE_COLUMNS = ("id", "image", "rows", "cols", "patch_index", "token_id")


class DataError(DvsftError):
    """Label shards or a page that cannot be trained on."""


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
    (turns, with an image) -> tokens of the chat template around questions, instructions, answers and visual tokens."""

    count: Callable[[list[str]], list[int]]
    instructions: tuple[int, ...]
    template: Mapping[tuple[int, bool], int]


@dataclass(frozen=True)
class Index:
    """What is kept of every page: its visual tokens, whether some have a label, its usable questions and the tokens of
    each with its answer. `dropped` counts what cannot be used, by reason."""

    visual_tokens: list[int]
    labeled: list[bool]
    questions: list[tuple[int, ...]]
    text_tokens: list[tuple[int, ...]]
    dropped: Counter[str]


class Pages:
    """The pages of one dataset by number, read from its shards one at a time."""

    def __init__(self, labels: Sequence[str], grid: GridSpec, tokenizer_sha256: str, asked: Asked = ASKED["qa"]):
        """labels: folders (every *.parquet below) or globs. Raises DataError where there are none and
        dvsft.patchlabels.rows.ContractError for shards made for another model."""
        self.asked = asked
        self.files = _shards(labels)
        groups: list[tuple[int, int, int]] = []
        for number, file in enumerate(self.files):
            parquet, metadata = rows.open_shard(file)
            with parquet:
                metadata.require(layout=grid.layout_spec(), tokenizer_sha256=tokenizer_sha256, where=str(file))
                counts = [parquet.metadata.row_group(g).num_rows for g in range(parquet.num_row_groups)]
            groups += [(number, g, count) for g, count in enumerate(counts)]
        self._file_and_group = [(number, g) for number, g, _ in groups]
        self._end = np.cumsum([count for *_, count in groups])

    def __len__(self) -> int:
        return int(self._end[-1]) if len(self._end) else 0

    def __getitem__(self, page: int) -> dict[str, Any]:
        """Of the row of a page, as dvsft.patchlabels.rows defines it, what training needs; a row group is in memory
        meanwhile."""
        group = int(np.searchsorted(self._end, page, side="right"))
        file, number = self._file_and_group[group]
        parquet, _ = rows.open_shard(self.files[file])
        with parquet:
            first = self._end[group] - parquet.metadata.row_group(number).num_rows
            return rows.read_some(parquet, number, [page - first], [*PAGE_COLUMNS, *self.asked.columns])[0]

    def labels_sha256(self) -> dict[str, str]:
        """For every shard, sha256 over the columns of its rows that decide training."""
        columns = (*DECIDING_COLUMNS, *self.asked.columns)
        return {str(file): _labels_sha256(file, columns) for file in self.files}

    def index(self, usable: Callable[[str], bool], count: Callable[[list[str]], list[int]]) -> Index:
        """Read the questions of all pages once. usable: whether a text may stand in a prompt. count: see Lengths."""
        index, asked = Index([], [], [], [], Counter()), self.asked
        columns = (*INDEX_COLUMNS, *asked.columns)
        for row in (row for file in self.files for row in rows.read(file, columns)):
            kept, turns = {}, asked.turns(row)
            for number, (question, answer) in enumerate(turns):
                if not question or not answer:
                    index.dropped["question_without_answer"] += 1
                elif not usable(question + answer):
                    index.dropped["special_token_in_text"] += 1
                else:
                    kept[number] = (asked.prompt(question, ""), answer)
            if not (row["patch_index"] if asked is NOTHING else turns):
                index.dropped[asked.missing] += 1
            tokens = count([text for pair in kept.values() for text in pair]) if kept else []
            index.visual_tokens.append(row["visual_tokens"])
            index.labeled.append(bool(row["patch_index"]))
            index.questions.append(tuple(kept))
            index.text_tokens.append(tuple(map(sum, zip(tokens[::2], tokens[1::2], strict=True))))
        return index


def _labels_sha256(file: Path, columns: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for row in rows.read(file, columns):
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def _shards(labels: Iterable[str]) -> list[Path]:
    files: list[Path] = []
    for pattern in labels:
        root = Path(pattern)
        found = root.rglob("*.parquet") if root.is_dir() else map(Path, glob.glob(pattern, recursive=True))
        shards = sorted(path for path in found if path.is_file())
        if not shards:
            raise DataError(f"{pattern}: found no label shards (*.parquet); make them with: make labels")
        files += shards
    return files


class Mixture:
    """Several datasets and how each asks its questions."""

    def __init__(
        self,
        datasets: Sequence[Dataset],
        grid: GridSpec,
        tokenizer_sha256: str,
        usable: Callable[[str], bool],
        lengths: Lengths,
    ):
        self.datasets, self.lengths = datasets, lengths
        asked = [NOTHING if dataset.vision_only else ASKED[dataset.ask] for dataset in datasets]
        self.pages = [
            Pages(dataset.labels, grid, tokenizer_sha256, how) for dataset, how in zip(datasets, asked, strict=True)
        ]
        self.indexes = [pages.index(usable, lengths.count) for pages in self.pages]
        self.dropped = sum((index.dropped for index in self.indexes), Counter())

    def epoch(self, seed: int, epoch: int, max_length: int) -> tuple[list[Sample], Counter[str]]:
        """The samples of one epoch, shuffled, and how many were dropped by reason. Raises ConfigError where none is
        left."""
        rng = np.random.default_rng([seed, epoch])
        drawn = [sample for number in range(len(self.datasets)) for sample in self._draw(number, rng)]
        kept = [sample for sample in drawn if self.length(sample) <= max_length]
        dropped = Counter(over_long=len(drawn) - len(kept)) if len(drawn) > len(kept) else Counter()
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
        return self.lengths.template[turns, visual > 0] + visual + texts + instructions

    def _draw(self, number: int, rng: np.random.Generator) -> Iterator[Sample]:
        index, asked, wanted = self.indexes[number], self.pages[number].asked, self.datasets[number].questions_per_page
        if not asked.instructed:  # one sample per page, nothing to draw
            fit = index.labeled if asked is NOTHING else index.questions
            yield from (Sample(number, page, index.questions[page], 0) for page, fits in enumerate(fit) if fits)
            return
        for page, usable in enumerate(index.questions):
            order = rng.permutation(len(usable)).tolist()
            chosen = [(k,) for k in range(len(usable))] if wanted == "all" else [tuple(order[:wanted])]
            for places in filter(None, chosen):
                instruction = int(rng.integers(len(self.lengths.instructions)))
                yield Sample(number, page, tuple(usable[k] for k in places), instruction)

    def labels_sha256(self) -> dict[str, str]:
        """Of every shard of all datasets, see Pages."""
        return {file: sha256 for pages in self.pages for file, sha256 in pages.labels_sha256().items()}

    def read(self, sample: Sample) -> dict[str, Any]:
        return self.pages[sample.dataset][sample.page]

    def asked(self, sample: Sample) -> Asked:
        """How the sample's dataset asks."""
        return self.pages[sample.dataset].asked


def pad_to_steps(samples: Sequence[Sample], global_batch: int) -> list[Sample | None]:
    """Samples filled up with None (an empty sample that carries no label) to whole steps: the last step is
    smaller, nothing is lost."""
    return [*samples, *[None] * (-len(samples) % global_batch)]


def micro_batches(
    samples: Sequence[Sample | None],
    *,
    rank: int,
    world_size: int,
    micro_batch: int,
    accumulation: int,
    first_step: int = 0,
) -> list[Sequence[Sample | None]]:
    """The batches of one rank from step `first_step` on, `accumulation` of them a step."""
    per_pass = micro_batch * world_size
    first_pass, passes = first_step * accumulation, len(samples) // per_pass
    starts = (k * per_pass + rank * micro_batch for k in range(first_pass, passes))
    return [samples[start : start + micro_batch] for start in starts]
