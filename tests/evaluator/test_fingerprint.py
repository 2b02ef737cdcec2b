"""A fingerprint sees whatever decides a model's answers, and reads a file once."""

import hashlib
import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dvsft.evaluator import fingerprint as module
from dvsft.evaluator.fingerprint import fingerprint

TENSORS = [f"layers.{i}.weight" for i in range(8)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "cache_path", own_cache_path)
    return tmp_path / "cache" / "dvsft" / "sha256.json"


own_cache_path = module.cache_path  # before any fixture replaces it


@pytest.fixture
def reads(monkeypatch):
    """The names of the files that were read whole, in order."""
    names, digest = [], hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, name: names.append(os.path.basename(file.name)) or digest(file, name)
    )
    return names


def write_model(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: np.zeros(30_000, np.float32) for name in TENSORS}, folder / "model.safetensors")
    for name in ("config.json", "generation_config.json", "tokenizer.json", "preprocessor_config.json"):
        (folder / name).write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


@pytest.mark.parametrize("name", TENSORS)
def test_one_number_of_any_tensor_changes_the_fingerprint(tmp_path, name):
    folder = write_model(tmp_path / "model")
    before, size = fingerprint(folder), (folder / "model.safetensors").stat().st_size
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = tensors[name].copy()
    tensors[name][15_000] = 1e-3
    save_file(tensors, folder / "model.safetensors")
    assert (folder / "model.safetensors").stat().st_size == size and size > 4 * 2**17
    assert fingerprint(folder) != before


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "preprocessor_config.json",
        "chat_template.jinja",
        "additional_chat_templates/tools.jinja",
        "modeling_own.py",
        "merges.txt",
        "pytorch_model.bin",
        "adapter_model.safetensors",
    ],
)
def test_every_file_that_decides_an_answer_changes_the_fingerprint(tmp_path, name):
    folder = write_model(tmp_path / "model")
    before = fingerprint(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("other")
    assert fingerprint(folder) != before


@pytest.mark.parametrize("name", ["README.md", "trainer_state.json", "optimizer.pt", "rng_state_0.pth", "run.json"])
def test_files_that_decide_no_answer_leave_the_fingerprint_alone(tmp_path, name):
    folder = write_model(tmp_path / "model")
    before = fingerprint(folder)
    (folder / name).write_text("other")
    assert fingerprint(folder) == before


def test_a_copy_elsewhere_has_the_same_fingerprint_and_a_renamed_shard_another(tmp_path):
    one, other = write_model(tmp_path / "one"), write_model(tmp_path / "other")
    assert fingerprint(one) == fingerprint(other)
    (other / "model.safetensors").rename(other / "model-00001-of-00001.safetensors")
    assert fingerprint(one) != fingerprint(other)


def test_an_adapters_base_model_counts(tmp_path):
    base, adapter = write_model(tmp_path / "base"), tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    save_file({"lora_A": np.zeros(4, np.float32)}, adapter / "adapter_model.safetensors")
    before = fingerprint(adapter)
    (base / "generation_config.json").write_text('{"eos_token_id": 1}')
    after = fingerprint(adapter)
    assert after != before
    save_file({"lora_A": np.ones(4, np.float32)}, adapter / "adapter_model.safetensors")
    assert fingerprint(adapter) != after


def test_a_file_is_read_once_and_again_when_it_was_replaced(tmp_path, monkeypatch, reads):
    monkeypatch.setattr(module, "SETTLED", -(10**12))
    folder = write_model(tmp_path / "model")
    before = fingerprint(folder)
    assert len(reads) == 6
    assert fingerprint(folder) == before and len(reads) == 6
    weights = folder / "model.safetensors"
    stat, content = weights.stat(), bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a copy that keeps times leaves it
    assert fingerprint(folder) != before
    assert reads[6:] == ["model.safetensors"]


def test_a_file_that_was_just_written_is_not_remembered(tmp_path, reads):
    folder = write_model(tmp_path / "model")
    fingerprint(folder)
    fingerprint(folder)
    assert reads.count("model.safetensors") == 2


@pytest.mark.parametrize("content", ["", "[1]", '{"x": 3}', "null"])
def test_a_damaged_cache_costs_time_and_nothing_else(tmp_path, cache, content):
    folder = write_model(tmp_path / "model")
    before = fingerprint(folder)
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text(content)
    assert fingerprint(folder) == before


def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(tmp_path, cache):
    folder = write_model(tmp_path / "model")
    before = fingerprint(folder)
    cache.unlink()
    cache.parent.rmdir()
    cache.parent.write_text("a file where the folder should be")
    assert fingerprint(folder) == before
