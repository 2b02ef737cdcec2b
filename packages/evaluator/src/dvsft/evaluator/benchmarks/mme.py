"""MME, Fu et al., arXiv 2306.13394: two yes-no questions per image in fourteen tasks. Official:
eval_tool/calculation.py of MME_Benchmark_release_version.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dvsft.evaluator.benchmarks.base import Benchmark
from dvsft.evaluator.files import Numbers, first_of, image_reader
from dvsft.evaluator.hub import Fields, HubSource, Row
from dvsft.evaluator.metrics import METRICS
from dvsft.evaluator.records import Sample, Score
from dvsft.evaluator.scorers import yes_no
from dvsft.patchlabels.prompts import ask

PERCEPTION = "existence count position color posters celebrity scene landmark artwork OCR".split()  # noqa: SIM905
COGNITION = ["commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"]


def read(root: Path) -> Iterator[Sample]:
    """A file per task of "image <tab> question <tab> answer", and the images in TASK/ or TASK/images/."""
    questions = first_of(root, "eval_tool/Your_Results", "questions")
    numbers = Numbers()
    for path in sorted(questions.glob("*.txt")):
        folder = first_of(root, f"{path.stem}/images", path.stem)
        for line in path.read_text(encoding="utf-8").splitlines():
            image, question, answer = line.split("\t")[:3]
            name = numbers(f"{path.stem}/{image}#")
            yield Sample(name, question, (answer,), image_reader(folder, image))


def fields(i: int, row: Row) -> list[Fields]:
    return [(f"{row['category']}/{row['question_id'].split('/')[-1]}#", row["question"], (row["answer"],))]


def prompt(question: str) -> str:
    """The one test instruction takes the place of MME's own, as in LLaVA's and lmms-eval's MME prompts."""
    return ask(question.strip().removesuffix("Please answer yes or no."))


def figures(scores: Sequence[Score]) -> dict[str, Any]:
    """MME's official figures: a task's score is accuracy per question + accuracy per image, each in percent.

    accuracy+ is the share of images with both questions right; perception and cognition are sums over their tasks.
    f1 is that of "yes" over all questions, where an "other" answer is a yes that was not found; the official script
    leaves those out of precision and recall.
    """
    members: dict[str, list[Score]] = defaultdict(list)
    for score in scores:
        members[score.group].append(score)
    tasks = {name: task(members[name]) for name in sorted(members)}
    said = [yes_no(score.prediction.text or "") for score in scores]
    true = [score.prediction.references[0].strip().lower() for score in scores]
    hits = sum(s == t == "yes" for s, t in zip(said, true, strict=True))
    asked = said.count("yes") + true.count("yes")
    whole = {
        "perception": sum(tasks[name]["score"] for name in PERCEPTION if name in tasks),
        "cognition": sum(tasks[name]["score"] for name in COGNITION if name in tasks),
        "accuracy": 100 * float(np.mean([score.values["mme_answer"] for score in scores])) if scores else None,
        "f1": 100 * 2 * hits / asked if asked else 0.0,
        "other": said.count("other"),
    }
    return {"mme": whole | {"tasks": tasks}}


def task(scores: Sequence[Score]) -> dict[str, float]:
    """accuracy, accuracy_plus and their sum, in percent."""
    images = defaultdict(list)
    for score in scores:
        images[score.prediction.id.partition("#")[0]].append(score.values["mme_answer"])
    accuracy = 100 * float(np.mean([score.values["mme_answer"] for score in scores]))
    plus = 100 * float(np.mean([len(answers) == 2 and all(answers) for answers in images.values()]))
    return {"accuracy": accuracy, "accuracy_plus": plus, "score": accuracy + plus}


BENCHMARKS = [
    Benchmark(
        name="mme",
        title="MME",
        local=read,
        layout="eval_tool/Your_Results/TASK.txt (image, question, answer by tab) and TASK/ or TASK/images/ "
        "of MME_Benchmark_release_version",
        folders=("mme", "MME_Benchmark_release_version"),
        hub=HubSource("lmms-lab-encoder/MME", "test", fields, old="lmms-lab/MME"),
        prompt=prompt,
        max_new_tokens=16,  # lmms-eval
        metrics=(METRICS["mme_answer"],),
        grouped=True,
        figures=figures,
    )
]
