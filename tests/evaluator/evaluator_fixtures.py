"""A tiny random Qwen3-VL, small pages with label rows, and every benchmark in its publisher's layout."""

import json
import os
import random
import shutil
import string
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # models this small only wait for each other's threads

import pytest
from PIL import Image, ImageDraw, ImageFont

from dvsft.patchlabels import rows
from dvsft.patchlabels.layout import LayoutSpec

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
PROCESSORS = (ROOT / "samples" / "processor", DATA / "qwen3-vl-processor")
ONE_PATCH = 32
WEIGHTS = 0.08  # with the usual 0.02 so small a model needs minutes to see its pictures


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """No test writes into the user's cache of fingerprints."""
    from dvsft.evaluator import fingerprint

    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setattr(fingerprint, "cache_path", lambda: folder / "sha256.json")
        yield


@pytest.fixture(scope="session")
def processor_folder():
    for folder in PROCESSORS:
        if (folder / "preprocessor_config.json").is_file():
            return folder
    pytest.skip(f"no Qwen3-VL processor found in {' or '.join(map(str, PROCESSORS))}")


def tiny_model(processor_folder, folder, hidden=32, seed=0):
    """Save a random Qwen3-VL of two layers, with the processor's vocabulary, in folder."""
    import torch
    from transformers import AutoProcessor, Qwen3VLConfig, Qwen3VLForConditionalGeneration

    processor = AutoProcessor.from_pretrained(processor_folder)
    token = processor.tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(processor.tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [4, 2, 2], "rope_type": "default"},
        "tie_word_embeddings": True,
        "initializer_range": WEIGHTS,
        "eos_token_id": token("<|im_end|>"),
        "pad_token_id": processor.tokenizer.pad_token_id,
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": hidden,
        "deepstack_visual_indexes": [0],
        "num_position_embeddings": 256,
        "initializer_range": WEIGHTS,
    }
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config)
    # an untrained model does not know when to stop: half of the vocabulary ends an answer
    model.generation_config.eos_token_id = list(range(0, len(processor.tokenizer), 2))
    model.save_pretrained(folder)
    shutil.copytree(processor_folder, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
    return Path(folder)


@pytest.fixture(scope="session")
def model_folder(processor_folder, tmp_path_factory):
    return tiny_model(processor_folder, tmp_path_factory.mktemp("tiny-qwen3-vl"))


def picture(path, words="", size=(256, 256), seed=0):
    """Save a small picture of its own color with words on it."""
    rng = random.Random(f"{path}{seed}")
    image = Image.new("RGB", size, tuple(rng.randint(180, 255) for _ in range(3)))
    ImageDraw.Draw(image).text((8, 8), words or Path(path).stem, fill="black", font=ImageFont.load_default(24))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def label_page(number, words, spec, tokenizer, cols=8, lines=8):
    """One page of the label contract: words drawn on patch boundaries, each labeled at its last patch."""
    font = ImageFont.load_default(20)
    image = Image.new("RGB", (cols * ONE_PATCH, lines * ONE_PATCH), "white")
    found: list[Any] = []
    labels: dict[Any, Any] = {}
    draw, col, row = ImageDraw.Draw(image), 0, 0
    for word in words:
        width = draw.textlength(word, font)
        span = int(-(-(width + 6) // ONE_PATCH))
        if col + span > cols:
            col, row = 0, row + 1
        if row == lines:
            break
        x, y = col * ONE_PATCH, row * ONE_PATCH + 2
        draw.text((x + 2, y), word, fill="black", font=font)
        labels[row * cols + col + span - 1] = (
            tokenizer.encode(word, add_special_tokens=False)[0],
            len(found),
        )
        box = [x + 2.0, float(y), (col + span) * ONE_PATCH - 4.0, y + 24.0]
        found.append({"text": word, "box": box, "confidence": 1.0})
        col += span
    return page_row(f"squad/dev/{number:04d}", image, found, labels, spec)


def page_row(name, image, words, labels, spec):
    import hashlib
    import io

    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    page_layout = spec.fit(*image.size)
    high, wide = page_layout.grid
    order = sorted(labels)
    return {
        "id": name,
        "image": {"bytes": buffer.getvalue(), "path": f"{Path(name).name}.png"},
        "image_sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
        "width": image.width,
        "height": image.height,
        "rows": high,
        "cols": wide,
        "visual_tokens": page_layout.visual_tokens,
        "words": words,
        "patch_index": order,
        "token_id": [labels[i][0] for i in order],
        "label_word": [labels[i][1] for i in order],
        "dropped": dict.fromkeys(rows.DROP_REASONS, 0),
        "qa": [
            {
                "question_id": f"{name[-4:]}-{i}",
                "question": f"What is word {i}?",
                "answers": [words[i]["text"]],
            }
            for i in range(2)
        ],
    }


def write_shard(folder, pages, spec, processor_folder, dataset="squad", split="dev"):
    folder.mkdir(parents=True, exist_ok=True)
    metadata = rows.Metadata(
        layout=spec,
        tokenizer={"name": "tiny", "sha256": rows.tokenizer_sha256(processor_folder)},
        policy={"corner": "bottom-right"},
        producer={"engine": "test"},
        dataset=dataset,
        split=split,
        fingerprint="0" * 64,
    )
    rows.write(folder / "00000.parquet", pages, metadata)


VOCABULARY = [
    "sun",
    "moon",
    "tree",
    "house",
    "river",
    "stone",
    "light",
    "wind",
    "fire",
    "rain",
    "salt",
    "iron",
]


@pytest.fixture(scope="session")
def labels_folder(processor_folder, tmp_path_factory):
    """Three rendered pages of words from a small vocabulary, as a folder of label shards."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(processor_folder)
    area = ONE_PATCH**2
    spec = LayoutSpec.from_folder(processor_folder, 64 * area, 2048 * area)
    rng = random.Random(0)
    pages = [label_page(i, rng.choices(VOCABULARY, k=40), spec, tokenizer) for i in range(3)]
    folder = tmp_path_factory.mktemp("labels") / "squad-dev"
    write_shard(folder, pages, spec, processor_folder)
    return folder


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture(scope="session")
def data_folder(labels_folder, tmp_path_factory):
    """Every benchmark in its publisher's layout, a few samples each, with drawn pictures."""
    root = tmp_path_factory.mktemp("data")
    for split in ("val", "test"):
        records = [
            {
                "questionId": 10 * n + (split == "test"),
                "question": f"Which page is {n}?",
                "image": f"documents/{n}.png",
            }
            | ({"answers": [f"page {n}", str(n)]} if split == "val" else {})
            for n in range(3)
        ]
        write_json(root / "docvqa" / f"{split}_v1.0.json", {"dataset_name": "docvqa", "data": records})
        records = [
            {"questionId": 50 + n, "question": "How many?", "image_local_name": f"{n}.jpeg"}
            | ({"answers": [str(n)]} if split == "val" else {})
            for n in range(2)
        ]
        write_json(root / "infographicvqa" / f"infographicsVQA_{split}_v1.0.json", {"data": records})
    for n in range(3):
        picture(root / "docvqa" / "documents" / f"{n}.png", f"page {n}")
        picture(root / "infographicvqa" / "images" / f"{n}.jpeg", size=(200, 700))
    chartqa(root / "chartqa")
    ocrbench(root / "ocrbench")
    ocrvqa(root / "ocrvqa")
    textvqa(root / "textvqa")
    mme(root / "mme")
    for name in ("labels/squad-dev", "labels/contextual-test", "labels/noncontextual-test"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).symlink_to(labels_folder)
    return root


def chartqa(folder):
    for group in ("human", "augmented"):
        records = [{"imgname": f"{n}.png", "query": f"What is bar {n}?", "label": str(n)} for n in range(2)]
        write_json(folder / f"test_{group}.json", records)
    for n in range(2):
        picture(folder / "png" / f"{n}.png")


def ocrbench(folder):
    kinds = [("Regular Text Recognition", "IIIT5K", "CENTRE"), ("Doc-oriented VQA", "docVQA", ["a", "b"])]
    kinds.append(("Handwritten Mathematical Expression Recognition", "HME100k", "x ^ 2\n"))
    records = [
        {
            "type": kind,
            "dataset_name": dataset,
            "id": 5,
            "image_path": f"{dataset}/{n}.png",
            "question": "what?",
        }
        | {"answers": answers}
        for n, (kind, dataset, answers) in enumerate(kinds)
    ]
    write_json(folder / "OCRBench.json", records)
    for record in records:
        picture(folder / "OCRBench_Images" / record["image_path"])


def ocrvqa(folder):
    books = {
        f"book{n}": {
            "imageURL": f"http://example.org/{n}.jpg",
            "split": 3 if n else 1,
            "questions": ["Who wrote this book?", "What type of book is this?", "Is this a comedy book?"],
            "answers": ["Ann Lee", "Travel", "No"],
        }
        for n in range(3)
    }
    write_json(folder / "dataset.json", books)
    for name in books:
        picture(folder / "images" / f"{name}.jpg")


def textvqa(folder):
    records = [
        {"question_id": n, "image_id": f"im{n}", "question": "what brand?", "answers": ["dakota"] * 10}
        for n in range(2)
    ]
    write_json(folder / "TextVQA_0.5.1_val.json", {"data": records})
    for record in records:
        picture(folder / "train_images" / f"{record['image_id']}.jpg")


def mme(folder):
    for task, images in (("OCR", "OCR"), ("posters", "posters/images")):
        lines = [
            f"{n}.jpg\tIs it {letter}? Please answer yes or no.\t{answer}\n"
            for n in range(2)
            for letter, answer in (("A", "Yes"), ("B", "No"))
        ]
        path = folder / "eval_tool" / "Your_Results" / f"{task}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines))
        for n in range(2):
            picture(folder / images / f"{n}.jpg")


def predicted(lines):
    """Predictions from the JSON objects of their lines."""
    from dvsft.evaluator.records import Prediction

    return [Prediction.from_line(line) for line in lines]


def write_run(folder, answers, lens=None, **tags):
    """A run folder as `predict` leaves it. answers: benchmark -> its lines."""
    settings = {
        "model": f"/models/{folder.name}",
        "endpoint": None,
        "patches": [64, 2048],
        "instruction": "",
        "tags": tags,
        "created": "2026-01-01T00:00:00Z",
        "samples": {name: len(lines) for name, lines in answers.items()},
    }
    write_json(folder / "run.json", settings)
    for name, lines in answers.items():
        path = folder / "predictions" / f"{name}.0.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps({"benchmark": name, **line}) + "\n" for line in lines))
    if lens is not None:
        about = {"datasets": {}, "heights": {}, "pages": 1, "rejected": {}, "folder": folder.name, "sight": "past"}
        write_json(folder / "lens.json", {"model": {"all": {"labels": 100, **lens}, **about}})
    return folder


def engine_of(function):
    """An engine around a function of prompts, images and the most new tokens."""
    from dvsft.evaluator import predict

    return predict.Engine(lambda batch, max_new_tokens: function(*batch, max_new_tokens))


@pytest.fixture
def write_lines(tmp_path):
    """Write prediction lines to a new file and return its path."""

    def write(lines):
        path = tmp_path / f"{''.join(random.choices(string.ascii_lowercase, k=8))}.jsonl"
        path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
        return path

    return write
