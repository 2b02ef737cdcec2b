"""The bundled sample is what its generator makes, and hangs together."""

import json
import subprocess
import sys

from support import SAMPLES, run_files

MADE = ("docvqa", "infographicvqa", "squad", "processor")


def test_the_generator_writes_the_sample_byte_for_byte(tmp_path):
    """The whole tree is copied, because the generator writes beside itself and reads the fonts of the labeler."""
    import shutil

    copy = tmp_path / "samples"
    shutil.copytree(SAMPLES, copy)
    for name in MADE:
        shutil.rmtree(copy / name)
    fonts = SAMPLES.parent / "packages/labeler/src/dvsft/labeler/fonts"
    shutil.copytree(fonts, tmp_path / "packages/labeler/src/dvsft/labeler/fonts")
    subprocess.run([sys.executable, str(copy / "make.py")], check=True, capture_output=True)
    for name in MADE:
        assert run_files(copy / name) == run_files(SAMPLES / name), name


def test_every_question_is_answered_on_its_page():
    words = json.loads((SAMPLES / "docvqa/words.json").read_text())
    for record in json.loads((SAMPLES / "docvqa/train_v1.0.json").read_text())["data"]:
        text = " ".join(word["text"] for word in words[record["image"]])
        for answer in record["answers"]:
            assert all(part.casefold() in text.casefold() for part in answer.split()), record


def test_the_sample_is_small():
    assert sum(map(len, run_files(SAMPLES).values())) < 4_000_000
