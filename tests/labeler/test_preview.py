"""The preview page: complete, self-contained, and safe with hostile text."""

import json
import re
from typing import Any

import pytest
from PIL import Image
from support import SAMPLES

from dvsft.labeler.preview.html import write_preview
from dvsft.labeler.runs.identity import RunError

HOSTILE = "</script><script>alert(1)</script> <img/src=x/onerror=alert(2)> <!-- & \u2028 plain"


@pytest.fixture
def run(write_config, label, tmp_path):
    """A run of one hostile document."""
    (tmp_path / "d.jsonl").write_text(json.dumps({"id": "<b>x", "text": HOSTILE}))
    assert label(write_config("documents", tmp_path / "d.jsonl"), tmp_path / "out") == 0
    return str(tmp_path / "out")


def pages_in(document: str) -> Any:
    (found,) = re.findall(r"const pages = (\[.*\]), reasons", document)
    return json.loads(found)


def test_hostile_text_reaches_the_page_only_as_escaped_json(run):
    with open(write_preview(run, 5)) as file:
        document = file.read()
    assert document.count("<script>") == document.count("</script>") == 1
    assert "<img" not in document and "<b>" not in document and "<!--" not in document
    assert "innerHTML" not in document and "insertAdjacentHTML" not in document
    (page,) = pages_in(document)
    assert page["id"] == "documents/train/<b>x"
    assert [word[0] for word in page["words"]] == HOSTILE.split()


def test_the_page_asks_no_network_for_anything(run):
    with open(write_preview(run, 5)) as file:
        document = file.read()
    assert not re.findall(r"""(?:src|href|url\()=?["'(]?https?:""", document)


def test_labels_and_reasons_shown_are_those_of_the_rows(write_config, label, tmp_path):
    config = write_config("documents", tmp_path / "d.jsonl")
    (tmp_path / "d.jsonl").write_text("".join(json.dumps({"id": n, "text": "one two"}) + "\n" for n in range(9)))
    label(config, tmp_path / "out")
    with open(write_preview(str(tmp_path / "out"), 4)) as file:
        pages = pages_in(file.read())
    assert len(pages) == 4
    for page in pages:
        assert [label[1] for label in page["labels"]] == [0, 1]
        assert [word[2] for word in page["words"]] == [None, None]
        assert page["image"].startswith("data:image/webp;base64,")


def test_a_page_too_tall_for_webp_is_shown_all_the_same(write_config, label, tmp_path):
    (tmp_path / "pages").mkdir()
    Image.new("L", (100, 17000), 255).save(tmp_path / "pages/a.png")
    assert label(write_config("images", tmp_path / "pages"), tmp_path / "out") == 0
    with open(write_preview(str(tmp_path / "out"), 1)) as file:
        assert pages_in(file.read())[0]["image"].startswith("data:image/png;base64,")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="is no run folder"):
        write_preview(str(SAMPLES), 1)
