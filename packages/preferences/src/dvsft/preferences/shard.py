"""The rows of a label shard -> what was asked and answered, and from that the same rows with pairs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dvsft.evaluator.predict import Answer as Said
from dvsft.labeler import files
from dvsft.labeler.page import Reject
from dvsft.labeler.runs.plan import Shard, read_pages
from dvsft.labeler.runs.shard import Results, Row, label_text
from dvsft.patchlabels import image, rows
from dvsft.patchlabels.prompts import ask, first_answer
from dvsft.patchlabels.rows import Metadata
from dvsft.preferences.config import Config, Rule
from dvsft.preferences.folder import PairRun
from dvsft.preferences.pairing import Answer, Candidate, Pair, pair_answers, pair_transcriptions
from dvsft.preferences.questions import Question, metric_of, questions_of, score_of
from dvsft.preferences.samplers import Ask
from dvsft.preferences.twins import single_words, with_twin

Record = dict[str, Any]
"""A line of a samples file: `id` of the page, and `asked`, see `record_of`."""

TWIN = "~twin"
COLUMNS = ("id", "image", "words.list.element.text", "qa")

RULES: dict[Rule, Callable[..., list[Pair] | str]] = {"answer": pair_answers, "transcription": pair_transcriptions}


def ask_page(row: Row, run: PairRun, slug: str, sampler: Ask) -> list[Record]:
    """The record of one page: all its questions, asked and scored. What fails is kept with its error."""
    source, config = run.labels.source(slug), run.config
    asked = []
    for question in questions_of(row, config.pairs.rules, source.kind, source.rendered):
        said = _answers(row, question, config, sampler) if question.references else []
        asked.append(record_of(question, said))
    return [{"id": row["id"], "asked": asked}]


def _answers(row: Row, question: Question, config: Config, sampler: Ask) -> list[Said]:
    try:
        picture = image.decode(row["image"]["bytes"])
    except image.ImageError as error:
        return [Said(None, f"{error.reason}: {error}")]
    most = config.sampler.max_new_tokens or question.max_new_tokens
    return sampler(question.prompt, picture, seed_of(config.sampler.seed, row["id"], question), most)


def seed_of(seed: int, page_id: str, question: Question) -> int:
    """31 bits that depend on the question alone, so that neither order nor a kill changes what is drawn."""
    text = f"{seed}:{page_id}:{question.rule}:{question.question_id}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1


def record_of(question: Question, said: Sequence[Said]) -> Record:
    """answers: the greedy one, then the samples, with scores; an error in place of what failed."""
    return {
        "rule": question.rule,
        "question_id": question.question_id,
        "prompt": question.prompt,
        "references": list(question.references),
        "answers": [
            {"error": one.error} if one.text is None else {"text": one.text, "score": question.score(one.text)}
            for one in said
        ],
    }


def pairs_of(record: Record, run: PairRun, slug: str) -> Iterator[tuple[dict[str, Any], list[Pair] | str]]:
    """Of every question of a page: what was asked, and its pairs or why there are none."""
    kind = run.labels.source(slug).kind
    for asked in record["asked"]:
        answers = [Answer(one["text"], one["score"]) for one in asked["answers"] if "text" in one]
        text = first_answer(asked["references"])
        score = 1.0 if asked["rule"] == "transcription" else _score(kind, text, asked["references"])
        yield asked, RULES[asked["rule"]](answers, run.config.pairs, Answer(text, score)) if text else "no_reference"


def _score(kind: str, text: str, references: Sequence[str]) -> float:
    metric = metric_of(kind)
    return score_of(metric, text, references) if metric and references else 0.0


def paired(shard: Shard, records: Sequence[Record], run: PairRun) -> Iterator[Row | Reject]:
    """The rows of a label shard with their pairs, each followed by its twin, if it has one, and the questions without a
    pair. shard: of this run."""
    source = replace(shard, out=run.source)
    twins = (
        _Twins(source, run) if "twins" in run.config.pairs.rules and run.labels.source(shard.slug).rendered else None
    )
    with files.open_binary(source.labels) as file:
        for row, record in zip(rows.read(file), records, strict=True):
            pairs, rejects = [], list[Reject]()
            for asked, found in pairs_of(record, run, shard.slug):
                if isinstance(found, str):
                    rejects.append(_reject(row["id"], asked, found))
                else:
                    about = asked["question_id"], asked["prompt"], asked["rule"]
                    pairs += [stored(row["id"], *about, pair, number) for number, pair in enumerate(found)]
            results = twins.added(row, pairs) if twins else [row | {"pairs": pairs}]
            yield from (*results, *rejects)


class _Twins:
    """Twins of the pages of one shard, whose other answers are the words that are put in."""

    def __init__(self, source: Shard, run: PairRun):
        self.run, self.slug = run, source.slug
        with files.open_binary(source.labels) as file:
            self.words = sorted({word for row in rows.read(file, ["qa"]) for word in single_words(row["qa"])})
        self.pages = {page.id: page for page in read_pages(source)}
        self.processor = run.labels.processor()

    def added(self, row: Row, pairs: list[dict[str, Any]]) -> Results:
        settings, render = self.run.config, self.run.labels.config.render
        page, metric = self.pages[row["id"]], metric_of(self.run.labels.source(self.slug).kind)
        assert metric is not None, "a source without a scorer"
        policy = self.run.labels.policy(self.slug)

        def draw(text: str) -> Row:
            return label_text(replace(page, text=text, qa=[]), render, self.processor, policy)

        found = with_twin(row, page.text or "", self.words, draw, metric, settings.pairs, settings.sampler.seed)
        if isinstance(found, Reject):
            return [row | {"pairs": pairs}, found]
        qa, twin, other = found
        twin = twin | {"id": row["id"] + TWIN, "qa": [other]}
        one, two = (
            self._pair(name, mine, theirs) for name, mine, theirs in ((row["id"], qa, other), (twin["id"], other, qa))
        )
        return [row | {"pairs": [*pairs, one]}, twin | {"pairs": [two]}]

    def _pair(self, page_id: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
        kind, (right, wrong) = (
            self.run.labels.source(self.slug).kind,
            (first_answer(qa["answers"]) for qa in (mine, theirs)),
        )
        sides = [Candidate(text, _score(kind, text, mine["answers"]), 0, text) for text in (right, wrong)]
        return stored(page_id, mine["question_id"], ask(mine["question"]), "twins", Pair(sides[0], sides[1], 0), 0)


def stored(page_id: str, question_id: str, prompt: str, rule: str, pair: Pair, number: int) -> dict[str, Any]:
    """A pair as the column `pairs` has it."""
    return {
        "pair_id": f"{page_id}:{question_id}:{rule}:{number}",
        "question_id": question_id,
        "prompt": prompt,
        "chosen": pair.chosen.text,
        "rejected": pair.rejected.text,
        "chosen_score": pair.chosen.score,
        "rejected_score": pair.rejected.score,
        "chosen_count": pair.chosen.count,
        "rejected_count": pair.rejected.count,
        "samples": pair.samples,
        "rule": rule,
    }


def _reject(page_id: str, asked: Record, reason: str) -> Reject:
    errors = [one["error"] for one in asked["answers"] if "error" in one]
    scores = sorted(one["score"] for one in asked["answers"] if "score" in one)
    found = f"{len(scores)} answers that score {scores[0]:g} to {scores[-1]:g}" if scores else "no answer"
    message = f"{asked['rule']}, question {asked['question_id']}: {found}" + (f"; {errors[0]}" if errors else "")
    return Reject(page_id, "pair", reason, message, "question")


def metadata_of(shard: Shard, run: PairRun) -> Metadata:
    """The label shard's, with what made the pairs."""
    with files.open_binary(replace(shard, out=run.source).labels) as file:
        return replace(rows.open_shard(file)[1], pairs=run.about(shard.slug))


def write_samples(path: str, records: Sequence[Record]) -> None:
    files.write_bytes(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode())


def read_samples(path: str) -> list[Record]:
    return [json.loads(line) for line in files.read_bytes(path).split(b"\n") if line]
