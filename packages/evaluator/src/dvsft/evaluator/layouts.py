"""Benchmark data as its publishers lay it out in folders -> samples. Nothing is decoded here, nothing
downloaded.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from dvsft.evaluator.records import Sample
from dvsft.patchlabels import rows
from dvsft.patchlabels.errors import DvsftError


class DataError(DvsftError):
    """Benchmark data that is missing or laid out differently; the message says which file goes where."""


def first_of(root: Path, *names: str) -> Path:
    """The first of some file or folder names that exists under root. Raises DataError."""
    for name in names:
        if (root / name).exists():
            return root / name
    raise DataError(f"{root} holds none of: {', '.join(names)}")


def image_reader(folder: Path, name: str) -> Callable[[], bytes]:
    """Reads folder/name; a name that climbs out of the folder is refused, since names come from
    data files.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"image name {name!r} leaves {folder}")
    return partial(Path.read_bytes, folder / name)


def read_json(path: Path) -> Any:
    """A JSON file, or the lines of a .jsonl file as a list; of {"data": [...]} the list."""
    text = path.read_text(encoding="utf-8")
    content = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
    return content["data"] if isinstance(content, dict) and "data" in content else content


class Numbers:
    """Ends an id with how often its beginning was seen before: the same ids from a folder and from the hub, as long
    as both keep the publisher's order within a group or an image."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def __call__(self, beginning: str) -> str:
        self.seen[beginning] += 1
        return f"{beginning}{self.seen[beginning] - 1}"


def docvqa(root: Path, split: str) -> Iterator[Sample]:
    """RRC challenge 17 task 1: {split}_v1.0*.json and documents/."""
    images = first_of(root, "documents", "spdocvqa_images")
    for record in read_json(first_of(root, f"{split}_v1.0_withQT.json", f"{split}_v1.0.json")):
        reader = image_reader(images, Path(record["image"]).name)
        yield Sample(str(record["questionId"]), record["question"], tuple(record.get("answers", ())), reader)


def infographicvqa(root: Path, split: str) -> Iterator[Sample]:
    """RRC challenge 17 task 3: infographicsVQA_{split}_v1.0*.json and images/."""
    images = first_of(root, "infographicsvqa_images", "images")
    name = f"infographicsVQA_{split}_v1.0"
    for record in read_json(first_of(root, f"{name}_withQT.json", f"{name}.json")):
        reader = image_reader(images, record["image_local_name"])
        yield Sample(str(record["questionId"]), record["question"], tuple(record.get("answers", ())), reader)


def chartqa(root: Path) -> Iterator[Sample]:
    """The test folder of vis-nlp/ChartQA: test_human.json, test_augmented.json, png/. Groups: human,
    augmented.
    """
    folder = first_of(root, "test_human.json", "test/test_human.json", "ChartQA Dataset/test/test_human.json").parent
    images = first_of(folder, "png")
    for group in ("human", "augmented"):
        for i, record in enumerate(read_json(folder / f"test_{group}.json")):
            reader = image_reader(images, record["imgname"])
            yield Sample(f"{group}/{i}", record["query"], (str(record["label"]),), reader)


def ocrbench(root: Path) -> Iterator[Sample]:
    """Yuliang-Liu/MultimodalOCR: OCRBench.json and OCRBench_Images/. Groups: the ten question types."""
    images = first_of(root, "OCRBench_Images")
    for i, record in enumerate(read_json(first_of(root, "OCRBench.json", "OCRBench/OCRBench.json"))):
        answers = record["answers"]
        references = tuple(answers) if isinstance(answers, list) else (answers,)
        reader = image_reader(images, record["image_path"])
        yield Sample(f"{record['type']}/{i}", record["question"], references, reader)


def ocrvqa(root: Path) -> Iterator[Sample]:
    """OCR-VQA: dataset.json (books of split 3 = test) and images/, or a list of question, gt_answers, image_path.
    Of records with `ocr_tokens` the questions whose answer is on the cover.
    """
    images = first_of(root, "images")
    content = read_json(first_of(root, "dataset.json", "questions-5000.json"))
    if isinstance(content, list):
        for i, record in enumerate(content):
            reader = image_reader(images, Path(record["image_path"]).name)
            if on_cover(record["gt_answers"], record.get("ocr_tokens")):
                yield Sample(str(i), record["question"], (record["gt_answers"],), reader)
        return
    for book, record in sorted(content.items()):
        if record["split"] != 3:
            continue
        reader = image_reader(images, book + Path(record["imageURL"]).suffix)
        for i, (question, answer) in enumerate(zip(record["questions"], record["answers"], strict=True)):
            if on_cover(answer, record.get("ocr_tokens")):
                yield Sample(f"{book}#{i}", question, (answer,), reader)


def on_cover(answer: str, ocr_tokens: Sequence[str] | None) -> bool:
    """Whether OCR found every word of the answer, without case and punctuation; True where there was no OCR."""
    if ocr_tokens is None:
        return True
    found = set(_words(" ".join(ocr_tokens)))
    return all(word in found for word in _words(answer))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def textvqa(root: Path) -> Iterator[Sample]:
    """TextVQA 0.5.1 val: TextVQA_0.5.1_val.json (or its records as val.jsonl) and train_images/ID.jpg."""
    images = first_of(root, "train_images", "train_val_images/train_images", "images")
    for record in read_json(first_of(root, "TextVQA_0.5.1_val.json", "val.jsonl")):
        reader = image_reader(images, f"{record['image_id']}.jpg")
        yield Sample(str(record["question_id"]), record["question"], tuple(record["answers"]), reader)


def mme(root: Path) -> Iterator[Sample]:
    """MME: a file per task of "image <tab> question <tab> answer" and the images in TASK/ or TASK/images/."""
    questions = first_of(root, "eval_tool/Your_Results", "questions")
    numbers = Numbers()
    for path in sorted(questions.glob("*.txt")):
        folder = first_of(root, f"{path.stem}/images", path.stem)
        for line in path.read_text(encoding="utf-8").splitlines():
            image, question, answer = line.split("\t")[:3]
            name = numbers(f"{path.stem}/{image}#")
            yield Sample(name, question, (answer,), image_reader(folder, image))


@lru_cache(maxsize=2)
def _row_group(shard: str, group: int) -> list[dict[str, Any]]:
    return pq.ParquetFile(shard).read_row_group(group, columns=["image"]).to_pylist()


def shard_image(shard: str, group: int, row: int) -> bytes:
    """The image bytes of one row of a label shard."""
    return _row_group(shard, group)[row]["image"]["bytes"]


def label_rows(root: Path, columns: list[str]) -> Iterator[tuple[dict[str, Any], Callable[[], bytes]]]:
    """The rows of all label shards in a folder. Raises DataError if there are none."""
    shards = sorted(root.glob("*.parquet"))
    if not shards:
        raise DataError(f"{root} holds no *.parquet label shards")
    for shard in shards:
        yield from shard_rows(shard, columns)


def shard_rows(shard: Path, columns: list[str]) -> Iterator[tuple[dict[str, Any], Callable[[], bytes]]]:
    """The rows of a label shard, images left on disk: (row, reader of its image)."""
    parquet, _ = rows.open_shard(shard)
    for group in range(parquet.num_row_groups):
        for i, row in enumerate(parquet.read_row_group(group, columns=columns).to_pylist()):
            yield row, partial(shard_image, str(shard), group, i)


def rendered_questions(root: Path) -> Iterator[Sample]:
    """Rendered pages with questions (label shards): a sample per question."""
    for row, reader in label_rows(root, ["id", "qa"]):
        for qa in row["qa"]:
            yield Sample(qa["question_id"], qa["question"], tuple(qa["answers"]), reader)


SCALES = (0.25, 0.5, 0.75, 1.0)


def rendered_text(root: Path) -> Iterator[Sample]:
    """Rendered pages whose words are to be read, at every scale. Groups: x0.25 ... x1 of the drawn size."""
    for row, reader in label_rows(root, ["id", "words"]):
        text = " ".join(word["text"] for word in row["words"])
        for scale in SCALES:
            yield Sample(f"x{scale:g}/{row['id']}", "", (text,), reader, scale)
