"""A benchmark is one file: nothing else names it, and a new file is all that a new one needs."""

import json
import pkgutil
import re
from functools import partial
from pathlib import Path

import pytest
from evaluator_fixtures import DATA

import dvsft.evaluator
from dvsft.evaluator import benchmarks, compare, curves, files, paper, predictions, report, score
from dvsft.evaluator.metrics import Metric
from dvsft.evaluator.records import Sample

SOURCES = Path(dvsft.evaluator.__path__[0])
TABLES = {"paper.py"}  # the paper's figures, by benchmark: data, no branch

TOY = '''
"""Counting: how many squares are there?"""
import json
from dvsft.evaluator.benchmarks.base import Benchmark
from dvsft.evaluator.files import image_reader
from dvsft.evaluator.metrics import METRICS, Metric
from dvsft.evaluator.records import Sample

def read(root):
    for i, (image, count) in enumerate(json.loads((root / "counts.json").read_text())):
        yield Sample(str(i), "How many squares?", (str(count),), image_reader(root, image))

def off_by(prediction, references):
    return min(1.0, abs(int(prediction) - int(references[0])) / 10)

def figures(scores):
    return {"largest": max(int(score.prediction.references[0]) for score in scores)}

BENCHMARKS = [Benchmark(
    name="squares", title="Squares", local=read, layout="counts.json", folders=("squares",), figures=figures,
    max_new_tokens=8,
    metrics=(Metric(off_by, higher_is_better=False), METRICS["exact_match"]),
)]
'''


def test_no_other_file_of_the_evaluator_names_a_benchmark():
    names = "|".join(re.escape(entry.name) for entry in benchmarks.ENTRIES)
    for path in SOURCES.rglob("*"):
        if path.suffix in (".py", ".jinja") and path.parent.name != "benchmarks" and path.name not in TABLES:
            found = re.findall(rf"""["'.](?:{names})["'\b]""", path.read_text())
            assert not found, f"{path.name} names {found}"
    assert set(paper.IN_DOMAIN + paper.OUT_OF_DOMAIN) | paper.OFFICIAL.keys() <= benchmarks.BENCHMARKS.keys()


def test_every_file_of_a_benchmark_is_found_and_reads_nothing_of_another():
    files = {file.name for file in pkgutil.iter_modules(benchmarks.__path__)}
    assert files >= {
        "base", "docvqa", "infographicvqa", "squad", "chartqa", "ocrbench", "ocrvqa", "textvqa", "mme", "transcription",
    }  # fmt: skip
    for name in files - {"base", "infographicvqa"}:  # the two sets of the same server share its hub set and address
        others = "|".join(files - {"base", name})
        assert not re.search(rf"benchmarks\.(?:{others})\b", (SOURCES / "benchmarks" / f"{name}.py").read_text())


def test_a_new_benchmark_is_one_new_file(tmp_path, monkeypatch):
    """With a metric, a direction and a figure of its own, from its data to the report."""
    (tmp_path / "squares.py").write_text(TOY)
    monkeypatch.setattr(benchmarks, "__path__", [*benchmarks.__path__, str(tmp_path)])
    (toy,) = benchmarks.find([str(tmp_path)])
    monkeypatch.setitem(benchmarks.BENCHMARKS, toy.name, toy)
    monkeypatch.setattr(benchmarks, "ENTRIES", [*benchmarks.ENTRIES, toy])
    monkeypatch.setattr(benchmarks, "METRICS", benchmarks.METRICS | {m.name: m for m in toy.metrics})
    (tmp_path / "data" / "squares").mkdir(parents=True)
    (tmp_path / "data" / "squares" / "counts.json").write_text('[["a.png", 3], ["b.png", 8]]')
    asked = benchmarks.load(toy, {"": str(tmp_path / "data")})
    for run, answers in (("worse", ["8", "2"]), ("better", ["3", "7"])):
        write_run(tmp_path / run, toy, asked, answers)
    result = score.score_run(tmp_path / "worse")["squares"]
    assert result["metric"] == "off_by" and result["score"] == pytest.approx(55) and result["largest"] == 8
    report.write([tmp_path / "worse", tmp_path / "better"], tmp_path / "report", {}, count=0)
    assert "| worse | squares |  | off_by ↓ | 55.00 |" in (tmp_path / "report" / "report.md").read_text()
    assert "| worse | squares |  | largest | 8.00 |" in (tmp_path / "report" / "report.md").read_text()
    first, second = (compare.open_run(tmp_path / run) for run in ("worse", "better"))
    assert compare.difference(first, second, "squares").mean == pytest.approx(-50)


def write_run(run, benchmark, samples, answers):
    path = predictions.path_of(run, benchmark.name)
    path.parent.mkdir(parents=True)
    lines = [
        {"id": sample.id, "question": sample.question, "references": list(sample.references), "prediction": answer}
        for sample, answer in zip(samples, answers, strict=True)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {"model": run.name, "endpoint": None, "patches": [64, 2048], "tags": {}, "created": "now"}
    predictions.write_json(run / "run.json", settings)


def test_a_metric_of_a_benchmarks_own_file_is_known_by_name():
    assert all(isinstance(metric, Metric) for metric in benchmarks.METRICS.values())
    for entry in benchmarks.ENTRIES:
        for metric in (*entry.metrics, *entry.group_metrics.values()):
            assert benchmarks.METRICS[metric.name] is metric


def test_the_test_sets_without_answers_alone_have_a_file_for_their_server():
    submitted = {entry.name for entry in benchmarks.ENTRIES if entry.submit}
    assert submitted == {entry.name for entry in benchmarks.ENTRIES if not entry.metrics}
    assert submitted == {"docvqa-test", "infographicvqa-test"}


def test_transcriptions_are_drawn_over_the_scale_of_their_pages(tmp_path):
    benchmark = benchmarks.get("transcription-contextual")
    sample = partial(Sample, question="", references=("abcd",), read_image=bytes)
    write_run(tmp_path, benchmark, [sample("x0.25/page"), sample("x1/page")], ["ab", "abcd"])
    points = curves.resolutions(compare.open_run(tmp_path))
    found = {point.tags["scale of the drawn page"]: point.scores for point in points}
    assert found == {0.25: {"Contextual ↓": 50.0}, 1.0: {"Contextual ↓": 0.0}}


def test_a_whole_page_fits_into_the_answer_of_a_transcription():
    """The longest text of the paper's kind, 850 characters, is no more tokens than characters."""
    assert all(entry.max_new_tokens >= 850 for entry in benchmarks.ENTRIES if entry.scale_of)


def test_the_figure_of_the_table_is_the_papers_metric():
    firsts = {entry.name: entry.metrics[0].name for entry in benchmarks.ENTRIES if entry.metrics}
    assert (
        firsts.items()
        >= {
            "docvqa": "anls",
            "infographicvqa": "anls",
            "squad": "squad_exact_match",  # the paper does not say which; report.md does
            "chartqa": "relaxed_accuracy",
            "ocrbench": "contains",
            "ocrvqa": "exact_match",
            "textvqa": "vqa_accuracy",
            "mme": "mme_answer",
            "transcription-contextual": "normalized_edit_distance",
            "transcription-noncontextual": "normalized_edit_distance",
        }.items()
    )


def real_answers(name):
    """Lists of references of a benchmark's real questions."""
    folder = DATA / name
    if name == "squad":
        records = json.loads((folder / "dev-240-paragraphs.json").read_text())["data"]
        answers = [qa["answers"] for article in records for page in article["paragraphs"] for qa in page["qas"]]
        return [[answer["text"] for answer in of_question] for of_question in answers]
    if name == "docvqa":
        return [record["answers"] for record in files.read_json(folder / "val-all-questions.json")]
    if name == "chartqa":
        groups = ("human", "augmented")
        return [[str(r["label"])] for group in groups for r in files.read_json(folder / f"test_{group}.json")]
    if name == "ocrvqa":
        return [[record["gt_answers"]] for record in files.read_json(next(folder.glob("*.json")))]
    return [record["answers"] for record in files.read_json(folder / "val.jsonl")]


@pytest.mark.parametrize("name", ["docvqa", "squad", "chartqa", "ocrvqa", "textvqa"])
def test_no_right_answer_is_cut_off(name):
    if not (DATA / "qwen3-vl-processor").is_dir() or not (DATA / name).is_dir():
        pytest.skip(f"the questions of {name} and Qwen3-VL's tokenizer are not there")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(DATA / "qwen3-vl-processor" / "tokenizer.json"))
    shortest = [min(answers, key=len) for answers in real_answers(name)]
    lengths = sorted(len(encoded.ids) + 1 for encoded in tokenizer.encode_batch(shortest))
    assert len(lengths) > 100 and lengths[-1] <= benchmarks.get(name).max_new_tokens


@pytest.mark.parametrize(
    ("name", "file", "images"),
    [("docvqa", "{}_v1.0.json", "documents"), ("infographicvqa", "infographicsVQA_{}_v1.0.json", "images")],
)
def test_each_split_of_the_rrc_reads_its_own_file(name, file, images, tmp_path):
    (tmp_path / images).mkdir()
    for number, split in enumerate(("val", "test")):
        record = {"questionId": number, "question": "?", "image": "a.png", "image_local_name": "a.png"}
        (tmp_path / file.format(split)).write_text(json.dumps({"data": [record]}))
    found = {one: benchmarks.load(benchmarks.get(one), {one: str(tmp_path)}) for one in (name, f"{name}-test")}
    assert {one: samples[0].id for one, samples in found.items()} == {name: "0", f"{name}-test": "1"}
