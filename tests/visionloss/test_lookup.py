"""Labels are looked up in label shards by what a trainer leaves of an example."""

import hashlib
import io

import pytest
from PIL import Image
from support import SAMPLES
from trainer.trainer_fixtures import draw_page, write_shard

from dvsft.visionloss.collator import Marks
from dvsft.visionloss.shards import Shards

PROCESSOR = SAMPLES / "processor"


class Tokenizer:
    def __init__(self, folder):
        self.name_or_path = str(folder)


@pytest.fixture(scope="module")
def page():
    return draw_page(0, PROCESSOR)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, page):
    folder = tmp_path_factory.mktemp("run") / "labels" / "drawn"
    folder.mkdir(parents=True)
    write_shard(folder / "00000.parquet", [page], PROCESSOR)
    write_shard(folder / "00001.parquet", [draw_page(1, PROCESSOR, grid=(3, 3))], PROCESSOR)
    return folder.parent


def test_an_image_is_known_by_its_file_however_a_trainer_holds_it(folder, page, tmp_path):
    find, data = Shards(folder, Tokenizer(PROCESSOR)), page["image"]["bytes"]
    (tmp_path / "page.png").write_bytes(data)
    path = str(tmp_path / "page.png")
    for image in (path, tmp_path / "page.png", data, {"bytes": data, "path": None}, {"path": path}, Image.open(path)):
        for example in ({"images": [image]}, {"image": image}):
            (mark,) = find(example)
            assert list(mark.patch_index) == page["patch_index"] and list(mark.token_id) == page["token_id"]
            assert mark.visual_tokens == 20
    assert (
        find({"id": page["id"]}) == find({"image_sha256": hashlib.sha256(data).hexdigest()}) == find({"images": [path]})
    )


def test_an_image_of_no_shard_and_an_example_without_images_have_no_labels(folder, page):
    find, data = Shards(folder), page["image"]["bytes"]
    assert find({"images": [b"another"]}) == [Marks()] and find({"images": []}) == find({"messages": []}) == []
    first, second = find({"images": [b"another", data]})
    assert first == Marks() and second.visual_tokens == 20


def test_an_image_without_its_file_is_refused(folder, page):
    picture = Image.open(io.BytesIO(page["image"]["bytes"]))
    with pytest.raises(ValueError, match="keep the column image_sha256 or id"):
        Shards(folder)({"images": [picture.convert("L")]})


def test_labels_of_another_tokenizer_and_folders_without_labels_are_refused(folder, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.sha256.*make relabel"):
        Shards(folder, Tokenizer(tmp_path))
    with pytest.raises(ValueError, match="found no label shard"):
        Shards(tmp_path)
