"""Fixtures: a processor folder, a tiny random checkpoint, and label shards of drawn pages."""

import os

import pytest

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # before anything imports deepspeed
os.environ.setdefault("OMP_NUM_THREADS", "1")

from trainer_fixtures import ROOT, draw_page, text_page, with_pairs, write_shard


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
def folders(processor_folder, tmp_path_factory):
    """model type -> the folder of a tiny random checkpoint of four layers, made when it is first asked for."""
    from dvsft.trainer.tiny import write_tiny

    root, made = tmp_path_factory.mktemp("kin"), {}

    def folder(model_type):
        if model_type not in made:
            made[model_type] = write_tiny(processor_folder, root / model_type, layers=4, model_type=model_type)
        return made[model_type]

    return folder


@pytest.fixture(scope="session")
def labels(processor_folder, tmp_path_factory):
    """Folder with three shards of 24 pages in all, 4 x 5 patches each, two questions a page."""
    folder = tmp_path_factory.mktemp("labels")
    pages = [draw_page(number, processor_folder) for number in range(24)]
    for shard in range(3):
        write_shard(folder / f"{shard:05d}.parquet", pages[8 * shard : 8 * shard + 8], processor_folder)
    return folder


@pytest.fixture(scope="session")
def pair_shard(processor_folder, tmp_path_factory):
    """Six pages of two preference pairs each, two texts of one, and a page without."""
    pages = [with_pairs(draw_page(number, processor_folder), 2) for number in range(6)]
    pages += [with_pairs(text_page(n, processor_folder, [(f"What comes after {n}?", f"{n + 1}")])) for n in (6, 7)]
    pages.append(draw_page(8, processor_folder) | {"pairs": []})
    return write_shard(tmp_path_factory.mktemp("pairs") / "0.parquet", pages, processor_folder)
