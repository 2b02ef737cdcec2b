"""The preview page: complete, self-contained, and safe with hostile text."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support import SAMPLES, assert_nothing_ran, draw_page, scrolls_sideways

from dvsft.labeler.preview.html import write_preview
from dvsft.labeler.runs.identity import RunError
from dvsft.patchlabels import webpage

HOSTILE = "</script><script>window.pwned=1</script> <img/src=x/onerror=window.pwned=1> <!-- & \u2028 plain"


@pytest.fixture
def run(write_config, label, tmp_path):
    """A run of one hostile document."""
    (tmp_path / "d.jsonl").write_text(json.dumps({"id": "<b>x", "text": HOSTILE}))
    assert label(write_config("documents", tmp_path / "d.jsonl"), tmp_path / "out") == 0
    return str(tmp_path / "out")


def pages_in(document: str) -> Any:
    (found,) = re.findall(r"const data = (\{.*\});", document)
    return json.loads(found)["pages"]


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


def test_a_page_too_tall_for_webp_is_shown_all_the_same():
    assert webpage.picture(Image.new("L", (9, 17000), 255)).startswith("data:image/png;base64,")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="is no run folder"):
        write_preview(str(SAMPLES), 1)


@pytest.fixture(scope="module")
def opened_preview(tmp_path_factory):
    """The preview of two sources: four texts, one of them empty and one hostile; a scan, and a file that is none."""
    from dvsft.labeler.commands import label
    from dvsft.patchlabels import command

    folder = tmp_path_factory.mktemp("preview")
    texts = [("a", "one two"), ("b", "three " * 60), ("c", HOSTILE), ("d", " ")]
    (folder / "d.jsonl").write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in texts))
    (folder / "scans").mkdir()
    draw_page("Total 42 incomprehensibilities", (640, 96)).save(folder / "scans/good.png")
    (folder / "scans/bad.png").write_bytes(b"no picture")
    sources = {"documents": "d.jsonl", "images": "scans"}
    config = "".join(f"[[source]]\nkind = '{kind}'\npath = '{folder}/{path}'\n" for kind, path in sources.items())
    config += (
        f"[model]\nprocessor = '{SAMPLES}/processor'\n[labels]\nmax_tokens = 2\n[output]\nmax_reject_share = 1.0\n"
    )
    (folder / "run.toml").write_text(config)
    assert command.run(label.main, ["--config", str(folder / "run.toml"), "--out", str(folder / "out")]) == 0
    return Path(write_preview(str(folder / "out"), 9)).as_uri()


def displayed(browser, selector):
    return [node for node in browser.find_elements("css selector", selector) if node.is_displayed()]


def open_page(browser, name):
    (entry,) = [entry for entry in displayed(browser, ".entry") if entry.get_attribute("title").endswith(name)]
    entry.click()


def test_tokens_of_labels_are_read_without_pointing_at_them(chromium, opened_preview):
    chromium.get(opened_preview)
    assert [token.text for token in displayed(chromium, ".token")] == ["one", "t"]
    for token in displayed(chromium, ".token"):
        assert float(token.value_of_css_property("font-size").removesuffix("px")) >= 9
        cell = token.find_element("xpath", "..").rect
        assert cell["x"] <= token.rect["x"] and token.rect["x"] + token.rect["width"] <= cell["x"] + cell["width"]
    assert not displayed(chromium, "#tip")
    for _ in range(5):
        chromium.find_element("css selector", "[title=smaller]").click()
    assert not displayed(chromium, ".token") and len(displayed(chromium, ".patch")) == 2
    chromium.find_element("xpath", "//button[text()='Read tokens']").click()
    assert len(displayed(chromium, ".token")) == 2


def test_each_word_has_its_own_box_where_its_ink_is(chromium, opened_preview):
    chromium.get(opened_preview)
    page = chromium.execute_script("return pages[0]")
    sheet = chromium.find_element("css selector", ".sheet").rect
    scale = sheet["width"] / page["width"]
    for box, (_, edges, reason) in zip(displayed(chromium, ".word.labeled"), page["words"], strict=True):
        place = [box.rect["x"] - sheet["x"], box.rect["y"] - sheet["y"], box.rect["width"], box.rect["height"]]
        x0, y0, x1, y1 = edges
        assert place == pytest.approx([x0 * scale, y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale], abs=1.5)
        assert reason is None


def test_the_first_screen_is_pages_and_the_funnel_a_folded_table_with_a_column_per_source(chromium, opened_preview):
    chromium.get(opened_preview)
    assert displayed(chromium, ".sheet")[0].rect["y"] < 250 and not displayed(chromium, "#funnel table")
    chromium.find_element("css selector", "#funnel summary").click()
    head, *rows = [
        [cell.text for cell in row.find_elements("xpath", "./*")] for row in displayed(chromium, "#funnel tr")
    ]
    assert head == ["", "documents-train", "images-train"]
    figures = {name: values for name, *values in rows}
    assert figures["pages read"] == ["4", "2"] and figures["pages labeled"] == ["3", "1"]
    assert figures["- too_many_tokens"] == ["0", "1"] and figures["- page.decode.not_an_image"] == ["0", "1"]


def test_the_index_opens_a_page_and_the_search_narrows_it(chromium, opened_preview):
    chromium.get(opened_preview)
    assert [entry.text.split("\n") for entry in displayed(chromium, ".entry")] == [
        ["a", "2 labels"], ["b", "60 labels"], ["c", "5 labels"], ["good.png", "2 labels"],
    ]  # fmt: skip
    open_page(chromium, "good.png")
    assert chromium.find_element("id", "name").text == "images/train/good.png"
    assert [token.text for token in displayed(chromium, ".token")] == ["T", "4"]
    (dropped,) = displayed(chromium, ".word:not(.labeled)")
    assert dropped.get_attribute("data-tip") == "incomprehensibilities\nno label: too many tokens"
    chromium.find_element("id", "filter").send_keys("three")
    assert [entry.text.split("\n")[0] for entry in displayed(chromium, ".entry")] == ["b"]
    assert chromium.find_element("id", "name").text == "documents/train/b"
    assert_nothing_ran(chromium)


def test_what_was_rejected_stands_there_with_its_reason(chromium, opened_preview):
    chromium.get(opened_preview)
    rejected = chromium.find_element("id", "rejects")
    assert rejected.is_displayed()
    assert (
        "bad" in rejected.text
        and "not an image" in rejected.text
        and "expected PNG, JPEG, TIFF or WebP" in rejected.text
    )


def test_the_preview_of_a_hostile_text_runs_nothing_of_it(chromium, opened_preview):
    from selenium.webdriver.support.ui import WebDriverWait

    chromium.get(opened_preview)
    open_page(chromium, "c")
    chromium.find_element("css selector", "#words summary").click()
    rows = WebDriverWait(chromium, 10).until(lambda browser: displayed(browser, "#words tbody tr"))
    words = [row.find_element("css selector", "td").text for row in rows]
    assert words == HOSTILE.split()
    assert_nothing_ran(chromium)


def test_a_phone_scrolls_the_page_in_its_frame_and_the_document_not_sideways(phone, opened_preview):
    phone.get(opened_preview)
    for name in ("b", "good.png"):
        open_page(phone, name)
        phone.find_element("xpath", "//button[text()='Read tokens']").click()
        assert len(displayed(phone, ".token")) >= 1
        for details in displayed(phone, "summary"):
            details.click()
        assert not scrolls_sideways(phone)


def test_a_run_on_the_hub_is_looked_at_from_where_it_is(run, serve_hub, tmp_path):
    read = serve_hub(Path(run))
    here = Path(write_preview(run, 5)).read_text()
    assert write_preview("hf://datasets/owner/name", 5, str(tmp_path / "page.html")) == str(tmp_path / "page.html")
    assert pages_in((tmp_path / "page.html").read_text()) == pages_in(here)
    assert any(name.startswith("labels/") for name, _ in read)
