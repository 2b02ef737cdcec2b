"""Fixtures: a processor folder, a tiny random checkpoint, and label shards of drawn pages."""

import os

import pytest

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # before anything imports deepspeed
os.environ.setdefault("OMP_NUM_THREADS", "1")

from trainer_fixtures import ROOT, draw_page, write_shard


@pytest.fixture(scope="session")
def processor_folder():
    for folder in (ROOT / "samples/processor", ROOT.parent / "shared/data/qwen3-vl-processor"):
        if (folder / "tokenizer.json").is_file():
            return folder
    pytest.skip("no processor: neither samples/processor nor ../shared/data/qwen3-vl-processor is there")


@pytest.fixture(scope="session")
def tiny(processor_folder, tmp_path_factory):
    """Folder of a tiny random Qwen3-VL checkpoint with tied embeddings."""
    from dvsft.trainer.tiny import write_tiny

    return write_tiny(processor_folder, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def labels(processor_folder, tmp_path_factory):
    """Folder with three shards of 24 pages in all, 4 x 5 patches each, two questions a page."""
    folder = tmp_path_factory.mktemp("labels")
    pages = [draw_page(number, processor_folder) for number in range(24)]
    for shard in range(3):
        write_shard(folder / f"{shard:05d}.parquet", pages[8 * shard : 8 * shard + 8], processor_folder)
    return folder
