import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from support import assert_nothing_ran, scrolls_sideways
from trainer_fixtures import draw_page, make_config, write_shard, write_toml

from dvsft.patchlabels import image
from dvsft.trainer import inspect

HOSTILE = "Is </script><script>window.pwned=1</script> & co. here?"


@pytest.fixture(scope="module")
def inspected(tiny, processor_folder, tmp_path_factory):
    """(the page that the command writes, the row it shows)."""
    folder = tmp_path_factory.mktemp("inspect")
    page = draw_page(0, processor_folder, qa=[(HOSTILE, "<b>no</b>")])
    page["patch_index"].append(page["patch_index"][-1])  # two words on the last patch
    page["token_id"].append(page["token_id"][0])
    write_shard(folder / "0.parquet", [page], processor_folder, policy={"contested": "set"})
    config = make_config(folder / "run", tiny, folder, optimizer__micro_batch=1)
    path = write_toml(folder / "run.toml", config)
    inspect.main(["--config", str(path), "--output", str(folder / "batch.html")])
    return folder / "batch.html", page


def test_the_page_shows_each_label_beside_its_patch_and_escapes_all_text(inspected):
    path, page = inspected
    html = path.read_text(encoding="utf-8")
    assert html.count("<script>") == html.count("</script>") == 1
    assert "<b>no" not in html and "innerHTML" not in html
    ((example,),) = map(json.loads, re.findall(r"const data = (\[.*\]);", html))
    assert "20 visual tokens, 10 vision labels" in example["about"]
    assert [patch for patch, _, _ in example["crops"]] == page["patch_index"][:-1]
    assert example["crops"][-1][1] == ["f", "total"]
    whole = image.decode(page["image"]["bytes"])
    for patch, _, data in example["crops"]:
        row, col = divmod(patch, page["cols"])
        expected = whole.crop((32 * col, 32 * row, 32 * col + 32, 32 * row + 32))
        shown = Image.open(io.BytesIO(base64.b64decode(data.removeprefix("data:image/png;base64,"))))
        assert np.array_equal(np.asarray(shown), np.asarray(expected))
    words = [word["text"] for word in page["words"][:-1]]
    assert all(word.startswith(token) for word, (_, (token,), _) in zip(words, example["crops"][:-1], strict=True))


def test_the_crops_are_marked_on_the_whole_page_and_supervised_tokens_say_what_they_predict(chromium, inspected):
    path, page = inspected
    chromium.get(path.as_uri())
    sheet, marked = chromium.find_element("css selector", ".sheet").rect, {}
    for patch in chromium.find_elements("css selector", ".sheet .patch"):
        col, row = ((patch.rect[axis] - sheet[axis]) / patch.rect["width"] for axis in "xy")
        marked[round(row) * page["cols"] + round(col)] = patch.text
    crops = chromium.find_elements("css selector", ".crops figure")
    assert list(marked) == [int(figure.get_attribute("data-patch")) for figure in crops] == page["patch_index"][:-1]
    assert [figure.text.split("\n")[0] for figure in crops] == list(marked.values())
    assert marked[page["patch_index"][-1]] == "f | total"
    predicted = "".join(
        node.text.removeprefix("→ ") for node in chromium.find_elements("css selector", ".talk .text i")
    )
    assert predicted == "<b>no</b><|im_end|>"
    assert_nothing_ran(chromium)


def test_a_batch_fits_the_width_of_a_phone(phone, inspected):
    phone.get(inspected[0].as_uri())
    assert not scrolls_sideways(phone)
