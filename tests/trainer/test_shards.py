"""Shards on S3, and how often a row group is read."""

import threading
import time
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_data import epoch_of, mixture_of
from trainer_fixtures import SPEC, draw_page, make_config, series, write_shard

from dvsft.patchlabels import rows, shards
from dvsft.patchlabels.errors import DvsftError
from dvsft.patchlabels.rows import tokenizer_sha256
from dvsft.trainer import pages
from dvsft.trainer.cache import GroupCache
from dvsft.trainer.pages import DataError, Pages
from dvsft.trainer.train import train

NAMES = ("a-b/0.parquet", "a/0.parquet", "a/1.parquet")
"""By their texts in another order than by their parts."""

ORDER = [*range(20, 60), *range(20)]
"""The numbers of their pages."""


def pages_of(place, processor_folder, cache=None):
    return Pages([str(place)], SPEC, tokenizer_sha256(processor_folder), cache=cache)


@pytest.fixture(scope="module")
def local(processor_folder, tmp_path_factory):
    """Three shards of 20 pages, which is two row groups each; twenty of them without questions."""
    folder = tmp_path_factory.mktemp("local")
    for shard, name in enumerate(NAMES):
        pages = [draw_page(20 * shard + k, processor_folder, qa=[] if shard == 1 else None) for k in range(20)]
        (folder / name).parent.mkdir(exist_ok=True)
        write_shard(folder / name, pages, processor_folder)
    return folder


@pytest.fixture
def remote(local, bucket):
    for name in NAMES:
        bucket.upload_file(str(local / name), "labels", f"train/{name}")
    return "s3://labels/train"


@pytest.fixture
def ranges(monkeypatch):
    """The (file, start, end) of every read that goes to S3."""
    import s3fs.core

    read, real = list[tuple[str, int, int]](), s3fs.core.S3File._fetch_range

    def fetch(file, start, end):
        read.append((file.path, start, end))
        return real(file, start, end)

    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", fetch)
    return read


@pytest.fixture
def groups(monkeypatch):
    """Which row groups are read."""
    read, real = list[int](), rows.read_group
    monkeypatch.setattr(
        rows, "read_group", lambda file, group, columns: read.append(group) or real(file, group, columns)
    )
    return read


def size_of(local, path):
    return (local / path.removeprefix("labels/train/")).stat().st_size


def test_shards_on_s3_give_the_plan_the_order_and_the_bytes_of_local_ones(local, remote, processor_folder):
    settings = (1, {"questions_per_page": 0, "max_pages": 15, "weight": 1.5}, "transcription")
    here, there = (mixture_of(processor_folder, *((place, how) for how in settings)) for place in (local, remote))
    assert [file.removeprefix(f"{remote}/") for file in there.pages[0].files] == [*NAMES[1:], NAMES[0]]
    assert [file.removeprefix(f"{local}/") for file in here.pages[0].files] == [*NAMES[1:], NAMES[0]]
    assert here.indexes == there.indexes and here.dropped == there.dropped
    assert list(here.labels_sha256().values()) == list(there.labels_sha256().values())
    samples = epoch_of(here)[0]
    assert epoch_of(there)[0] == samples
    assert [there.read(sample) for sample in samples[:8]] == [here.read(sample) for sample in samples[:8]]
    assert shards.find(f"{remote}/a/*.parquet") == [f"{remote}/a/0.parquet", f"{remote}/a/1.parquet"]


@pytest.fixture
def on_hub(local, serve_hub):
    """The same folder as a dataset of a hub on loopback, and the ranges that are read of it."""
    return serve_hub(local)


def test_shards_on_the_hub_are_those_of_the_folder_and_read_by_ranges(local, on_hub, processor_folder, tmp_path):
    address = "hf://datasets/owner/name"
    cache = GroupCache(str(tmp_path / "cache"), 1)
    here, there = (mixture_of(processor_folder, (place, 1), cache=cache) for place in (local, address))
    assert there.pages[0].files == [f"{address}/{name}" for name in (*NAMES[1:], NAMES[0])]
    assert here.indexes == there.indexes and epoch_of(here)[0] == epoch_of(there)[0]
    samples = epoch_of(here)[0]
    on_hub.clear()
    assert [there.read(sample) for sample in samples] == [here.read(sample) for sample in samples]
    size = {name: (local / name).stat().st_size for name in NAMES}
    read = [(name, *map(int, wanted.removeprefix("bytes=").split("-"))) for name, wanted in on_hub]
    data = [(name, first, last + 1) for name, first, last in read if last + 1 < size[name]]  # the rest are footers
    assert len(data) == len(set(data)) and 0 < sum(end - start for _, start, end in data) < sum(size.values())


def test_a_remote_file_that_goes_away_is_one_line_that_names_it(local, on_hub, processor_folder, monkeypatch):
    found = pages_of("hf://datasets/owner/name", processor_folder)

    def gone(file, start, end):
        raise RuntimeError("the transport's own error")

    monkeypatch.setattr("huggingface_hub.hf_file_system.HfFileSystemFile._fetch_range", gone)
    with pytest.raises(DataError, match=r"hf://datasets/owner/name/a/0.parquet: the transport's own.*--resume"):
        found[0]


def test_a_row_group_on_s3_is_read_once_by_all_processes_together(local, remote, ranges, processor_folder, tmp_path):
    """Two ranks with one cache, two epochs: every byte at most once, in all less than the files hold."""
    cache = tmp_path / "cache"
    ranks = [mixture_of(processor_folder, (remote, 0), cache=GroupCache(str(cache), 1)) for _ in range(2)]
    samples = epoch_of(ranks[0])[0] + epoch_of(ranks[0], epoch=1)[0]
    ranges.clear()
    for number, sample in enumerate(samples):
        assert ranks[number % 2].read(sample)["id"] == f"drawn/train/{ORDER[sample.page]:04d}"
    footers = [each for each in ranges if each[2] == size_of(local, each[0])]
    data = [each for each in ranges if each[2] != size_of(local, each[0])]
    assert len(footers) == 6 and sum(end - start for _, start, end in footers) <= 6 * 65_536  # two row groups a shard
    assert 0 < sum(end - start for _, start, end in data) < sum((local / name).stat().st_size for name in NAMES)
    for (path, _, end), (other, start, _) in pairwise(sorted(data)):
        assert path != other or end <= start
    for rank in ranks:
        rank.forget()
    assert not cache.exists()


def test_files_are_read_in_order_some_at_a_time_and_an_error_is_that_of_its_file(monkeypatch):
    monkeypatch.setattr(pages, "FILES_AT_ONCE", 3)
    together = threading.Barrier(3)

    def read(file):
        if file in "012":
            together.wait(60)  # breaks unless all three are being read
        return 10 // (int(file) - 9)

    found = pages._ahead(read, [str(number) for number in range(20)])
    assert [next(found) for _ in range(9)] == [10 // (number - 9) for number in range(9)]
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_the_index_leaves_images_and_words_where_they_are(local, remote, ranges, processor_folder):
    mixture_of(processor_folder, (remote, 1)).labels_sha256()
    groups = [pq.ParquetFile(local / name).metadata.row_group(g) for name in NAMES for g in (0, 1)]
    columns = [group.column(k) for group in groups for k in range(group.num_columns)]
    heavy = [column for column in columns if column.path_in_schema.startswith(("image.bytes", "words."))]
    starts = {column.dictionary_page_offset or column.data_page_offset for column in heavy}
    assert len(heavy) >= 12 and not [one for one in ranges if one[1] in starts and one[2] != size_of(local, one[0])]


def test_what_does_not_fit_into_the_cache_is_read_again_and_not_kept(local, groups, processor_folder, tmp_path):
    pages = pages_of(local, processor_folder, GroupCache(str(tmp_path / "cache"), 0))
    assert [pages[page]["id"] for page in (3, 4)] == ["drawn/train/0023", "drawn/train/0024"]
    assert groups == [0, 0] and not (tmp_path / "cache").exists()
    one_group = max(pq.ParquetFile(local / name).metadata.row_group(0).total_byte_size for name in NAMES)
    pages = pages_of(local, processor_folder, GroupCache(str(tmp_path / "cache"), (one_group + 99) / 2**30))
    for page in (3, 4, 17, 18, 23, 24):
        assert pages[page]["id"].endswith(f"{ORDER[page]:02d}")
    assert groups[2:] == [0, 1, 1, 0, 0]  # the first one fits


def test_a_cache_whose_disk_is_full_or_gone_costs_reads_and_no_run(
    local, groups, processor_folder, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("no folder")
    pages = pages_of(local, processor_folder, GroupCache(str(tmp_path / "file"), 1))
    assert [pages[page]["id"] for page in (0, 0)] == ["drawn/train/0020"] * 2 and groups == [0, 0]

    def full(table):
        raise OSError("No space left on device")

    pages = pages_of(local, processor_folder, GroupCache(str(tmp_path / "cache"), 1))
    monkeypatch.setattr("pyarrow.ipc.RecordBatchFileWriter.write_table", lambda self, table: full(table))
    assert [pages[page]["id"] for page in (0, 0)] == ["drawn/train/0020"] * 2 and groups == [0] * 4
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_rows_of_other_shards_under_the_same_name_are_not_taken_from_the_cache(processor_folder, tmp_path):
    for number in (1, 2):
        write_shard(tmp_path / "0.parquet", [draw_page(number, processor_folder)], processor_folder)
        pages = pages_of(tmp_path, processor_folder, GroupCache(str(tmp_path / "cache"), 1))
        assert pages[0]["id"] == f"drawn/train/000{number}"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://nothing-of-this-name/x", "found no label shards|cannot be listed"),
        ("nonsense://labels", "nonsense://labels: .*nonsense"),
        ("s3://labels/nowhere", "found no label shards"),
    ],
)
def test_an_address_without_shards_is_refused_in_one_line(bucket, processor_folder, address, message):
    with pytest.raises(DvsftError, match=message):
        pages_of(address, processor_folder)


def test_a_run_on_s3_with_workers_learns_what_a_local_one_does(local, remote, tiny, tmp_path):
    for name, place in (("here", local), ("there", remote)):
        train(make_config(tmp_path / name, tiny, place, data__workers=2, data__cache=str(tmp_path / "cache"),
                          optimizer__max_steps=2))  # fmt: skip
    for figure in ("text_loss", "vision_loss", "gradient_norm"):
        assert series(tmp_path / "here", figure) == series(tmp_path / "there", figure)
    assert not (tmp_path / "cache").exists()


def test_who_asks_for_a_table_that_another_reads_waits_for_it(tmp_path):
    begun, reads, found = threading.Event(), list[int](), list[pa.Table]()

    def read():
        reads.append(1)
        begun.set()
        time.sleep(0.2)  # in which the other asks
        return pa.table({"a": [1, 2]})

    first = threading.Thread(target=lambda: found.append(GroupCache(str(tmp_path), 1).table("name", read)))
    first.start()
    begun.wait(60)
    found.append(GroupCache(str(tmp_path), 1).table("name", read))
    first.join()
    assert reads == [1] and found[0].equals(found[1]) and found[0]["a"].to_pylist() == [1, 2]
