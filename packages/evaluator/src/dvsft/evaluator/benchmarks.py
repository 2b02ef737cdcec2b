"""The benchmarks: each entry says where the data is, what is asked, how it is scored and how it is grouped.

Prompts, metrics and columns follow DV-SFT, arXiv 2605.26656, section 4 and Table 2; choices of ours where it
is silent are marked (ours).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from dvsft.evaluator import hub, layouts
from dvsft.evaluator.hub import HubSource
from dvsft.evaluator.layouts import DataError
from dvsft.evaluator.records import Sample
from dvsft.patchlabels.prompts import TRANSCRIBE, ask

OCRVQA_SAMPLES, OCRVQA_SEED = 3000, 0  # the number is the paper's, the seed is ours


def yes_no_prompt(question: str) -> str:
    """MME's own instruction gives way to the one test instruction, as in LLaVA's and lmms-eval's
    MME prompts.
    """
    return ask(question.strip().removesuffix("Please answer yes or no."))


def transcription_prompt(question: str) -> str:
    return TRANSCRIBE


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    title: its column in Table 2. domain: "in", "out" (of the training data) or "extra". layout: what lies in
    its folder, for people whose data is missing. metrics: names in `scorers`, the first is the figure of the
    table. group_metrics: the first metric of the groups that have another. headline: the groups whose means
    are averaged to the figure; empty: the mean over all questions.
    """

    name: str
    title: str
    domain: str
    local: Callable[[Path], Iterable[Sample]]
    layout: str
    metrics: tuple[str, ...]
    folders: tuple[str, ...]
    hub: HubSource | None = None
    prompt: Callable[[str], str] = ask
    max_new_tokens: int = 128
    grouped: bool = False
    group_metrics: Mapping[str, str] = field(default_factory=dict)
    headline: tuple[str, ...] = ()
    subset: Callable[[list[Sample]], list[Sample]] = list

    def metric(self, group: str) -> str:
        """The first metric of a group."""
        return self.group_metrics.get(group, self.metrics[0])


def group_of(sample_id: str) -> str:
    """The group of a grouped benchmark's sample: what stands before the first slash of its id."""
    return sample_id.partition("/")[0]


def visible_ocrvqa(samples: list[Sample]) -> list[Sample]:
    """The fixed random 3,000 whose answer can be on the cover: no genres, no yes or no (ours). Where the data has
    OCR tokens, the reader has left out answers that are not.
    """
    visible = [s for s in samples if s.references[0] not in ("Yes", "No") and not _asks_genre(s.question)]
    visible.sort(key=lambda sample: sample.id)
    return random.Random(OCRVQA_SEED).sample(visible, min(OCRVQA_SAMPLES, len(visible)))


def _asks_genre(question: str) -> bool:
    return question in ("What type of book is this?", "What is the genre of this book?")


MATH = "Handwritten Mathematical Expression Recognition"
RRC = "from https://rrc.cvc.uab.es/?ch=17 (registration)"
SHARDS = "*.parquet label shards of"
DOCVQA_FILES = "{split}_v1.0_withQT.json or {split}_v1.0.json, and documents/*.png; " + RRC
INFOVQA_FILES = "infographicsVQA_{split}_v1.0.json (or _withQT.json) and images/*; " + RRC
TRANSCRIPTION = Benchmark(
    name="transcription-contextual",
    title="Contextual",
    domain="extra",
    local=layouts.rendered_text,
    layout=f"{SHARDS} rendered documents (labeler, source `documents`, name contextual, split test)",
    metrics=("normalized_edit_distance", "character_error_rate", "word_accuracy"),
    folders=("contextual-test", "labels/contextual-test"),
    prompt=transcription_prompt,
    max_new_tokens=1024,
    grouped=True,
    headline=("x1",),
)

ENTRIES = [
    Benchmark(
        name="docvqa",
        title="DocVQA",
        domain="in",
        local=partial(layouts.docvqa, split="val"),
        layout=DOCVQA_FILES.format(split="val"),
        metrics=("anls",),
        folders=("docvqa",),
        hub=HubSource("lmms-lab-encoder/DocVQA", "validation", hub.rrc, "DocVQA", old="lmms-lab/DocVQA"),
    ),
    Benchmark(
        name="docvqa-test",
        title="DocVQA",
        domain="in",
        local=partial(layouts.docvqa, split="test"),
        layout=DOCVQA_FILES.format(split="test"),
        metrics=(),
        folders=("docvqa",),
        hub=HubSource("lmms-lab-encoder/DocVQA", "test", hub.rrc, "DocVQA", old="lmms-lab/DocVQA"),
    ),
    Benchmark(
        name="infographicvqa",
        title="InfoVQA",
        domain="in",
        local=partial(layouts.infographicvqa, split="val"),
        layout=INFOVQA_FILES.format(split="val"),
        metrics=("anls",),
        folders=("infographicvqa",),
        hub=HubSource("lmms-lab-encoder/DocVQA", "validation", hub.rrc, "InfographicVQA", old="lmms-lab/DocVQA"),
    ),
    Benchmark(
        name="infographicvqa-test",
        title="InfoVQA",
        domain="in",
        local=partial(layouts.infographicvqa, split="test"),
        layout=INFOVQA_FILES.format(split="test"),
        metrics=(),
        folders=("infographicvqa",),
        hub=HubSource("lmms-lab-encoder/DocVQA", "test", hub.rrc, "InfographicVQA", old="lmms-lab/DocVQA"),
    ),
    Benchmark(
        name="squad",
        title="SQuAD",
        domain="in",
        local=layouts.rendered_questions,
        layout=f"{SHARDS} rendered SQuAD validation paragraphs (labeler, source `squad`)",
        metrics=("squad_exact_match", "squad_f1"),
        folders=("squad-validation", "squad-dev", "labels/squad-validation", "labels/squad-dev"),
    ),
    Benchmark(
        name="chartqa",
        title="ChartQA",
        domain="out",
        local=layouts.chartqa,
        layout="test_human.json, test_augmented.json and png/ of https://github.com/vis-nlp/ChartQA",
        metrics=("relaxed_accuracy",),
        folders=("chartqa",),
        hub=HubSource("lmms-lab-encoder/ChartQA", "test", hub.chartqa, old="lmms-lab/ChartQA"),
        grouped=True,
        headline=("human", "augmented"),
    ),
    Benchmark(
        name="ocrbench",
        title="OCRBench",
        domain="out",
        local=layouts.ocrbench,
        layout="OCRBench.json and OCRBench_Images/ of https://github.com/Yuliang-Liu/MultimodalOCR",
        metrics=("contains",),
        folders=("ocrbench",),
        hub=HubSource("echo840/OCRBench", "test", hub.ocrbench),
        grouped=True,
        group_metrics={MATH: "contains_math"},
    ),
    Benchmark(
        name="ocrvqa",
        title="OCRVQA",
        domain="out",
        local=layouts.ocrvqa,
        layout="dataset.json and images/ID.jpg of https://ocr-vqa.github.io",
        metrics=("exact_match",),
        folders=("ocrvqa",),
        hub=HubSource("howard-hou/OCR-VQA", "test", hub.ocrvqa),
        subset=visible_ocrvqa,
    ),
    Benchmark(
        name="textvqa",
        title="TextVQA",
        domain="out",
        local=layouts.textvqa,
        layout="TextVQA_0.5.1_val.json and train_images/ID.jpg of https://textvqa.org/dataset",
        metrics=("vqa_accuracy",),
        folders=("textvqa",),
        hub=HubSource("lmms-lab-encoder/textvqa", "validation", hub.textvqa, old="lmms-lab/textvqa"),
    ),
    Benchmark(
        name="mme",
        title="MME",
        domain="extra",
        local=layouts.mme,
        layout="eval_tool/Your_Results/TASK.txt (image, question, answer by tab) and TASK/ or TASK/images/ "
        "of MME_Benchmark_release_version",
        metrics=("mme_answer",),
        folders=("mme", "MME_Benchmark_release_version"),
        hub=HubSource("lmms-lab-encoder/MME", "test", hub.mme, old="lmms-lab/MME"),
        prompt=yes_no_prompt,
        grouped=True,
    ),
    TRANSCRIPTION,
    replace(
        TRANSCRIPTION,
        name="transcription-noncontextual",
        title="Non-contextual",
        layout=f"{SHARDS} rendered random words (labeler, source `documents`, name noncontextual, split test)",
        folders=("noncontextual-test", "labels/noncontextual-test"),
    ),
]
BENCHMARKS = {entry.name: entry for entry in ENTRIES}


def get(name: str) -> Benchmark:
    """The benchmark called `name`. Raises DataError with the names there are."""
    if name not in BENCHMARKS:
        raise DataError(f"found benchmark {name!r}, expected one of: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def load(benchmark: Benchmark, data: Mapping[str, str]) -> list[Sample]:
    """All samples of a benchmark.

    data: {"": a folder with a subfolder for each benchmark, NAME: that benchmark's own folder}; a value
    "hub:" or "hub:ID" instead of a folder fetches a Hugging Face dataset. Raises DataError.
    """
    place = data.get(benchmark.name, data.get("", ""))
    try:
        samples = benchmark.subset(list(_source(benchmark, place, named=benchmark.name in data)))
    except DataError as error:
        raise DataError(f"{benchmark.name}: {error}\nIts folder should hold {benchmark.layout}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{benchmark.name}: a record under {place} cannot be read ({type(error).__name__}: {error})\n"
            f"Its folder should hold {benchmark.layout}"
        ) from error
    if len({sample.id for sample in samples}) < len(samples):
        raise DataError(f"{benchmark.name}: found the same id twice under {place}, expected unique ids")
    return samples


def _source(benchmark: Benchmark, place: str, named: bool) -> Iterator[Sample] | Iterable[Sample]:
    if place.startswith("hub:"):
        if benchmark.hub is None:
            raise DataError("is rendered by the labeler and is not on the hub")
        return hub.samples(benchmark.hub, place.removeprefix("hub:"))
    root = Path(place)
    if not named:
        root = layouts.first_of(root, *benchmark.folders)
    if not root.is_dir():
        raise DataError(f"{root} is no folder")
    return benchmark.local(root)
