import base64
import io
import re

import numpy as np
from PIL import Image
from trainer_fixtures import draw_page, make_config, write_shard, write_toml

from dvsft.patchlabels import image
from dvsft.trainer import inspect


def test_the_page_shows_each_label_beside_its_patch_and_escapes_all_text(tiny, processor_folder, tmp_path):
    question = "Is <script>alert(1)</script> & co. here?"
    page = draw_page(0, processor_folder, qa=[(question, "<b>no</b>")])
    page["patch_index"].append(page["patch_index"][-1])  # two words on the last patch
    page["token_id"].append(page["token_id"][0])
    write_shard(tmp_path / "0.parquet", [page], processor_folder)
    config = make_config(tmp_path / "run", tiny, tmp_path, optimizer__micro_batch=1)
    path = write_toml(tmp_path / "run.toml", config)
    inspect.main(["--config", str(path), "--output", str(tmp_path / "batch.html")])
    html = (tmp_path / "batch.html").read_text(encoding="utf-8")

    assert "&lt;" in html and not re.search(r"<(?![!/a-z])|<script|<b>", html)
    assert "4 x 5 patches, 10 vision labels" in html
    figures = re.findall(r'<img src="data:image/png;base64,([^"]+)"><figcaption>(\d+): (.*?)</figcaption>', html)
    assert [int(patch) for _, patch, _ in figures] == page["patch_index"][:-1]
    assert figures[-1][2] == "f | total"
    whole = image.decode(page["image"]["bytes"])
    for data, patch, _ in figures:
        row, col = divmod(int(patch), page["cols"])
        expected = whole.crop((32 * col, 32 * row, 32 * col + 32, 32 * row + 32))
        shown = Image.open(io.BytesIO(base64.b64decode(data)))
        assert np.array_equal(np.asarray(shown), np.asarray(expected))
    words = [word["text"] for word in page["words"][:-1]]
    assert all(word.startswith(label) and label for word, (*_, label) in zip(words, figures[:-1], strict=True))
