"""Whole runs of a tiny model: two ranks under the deepspeed launcher in one start, and single ones in this
process."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from support import alone, read_log
from trainer_fixtures import (
    draw_page,
    final_weights,
    launch_two_ranks,
    make_config,
    on_pairs,
    series,
    text_page,
    write_shard,
    write_toml,
)
from transformers import AutoModelForImageTextToText, AutoTokenizer

from dvsft.patchlabels.prompts import TEST_INSTRUCTION
from dvsft.trainer.card import model_card
from dvsft.trainer.checkpoint import PROCESSOR_FILES, ResumeError
from dvsft.trainer.tiny import write_tiny
from dvsft.trainer.train import train

STAGES = (0, 1, 2, 3)
BASIC = {
    "method": "basic",
    "model__freeze": ["vision_encoder", "deepstack_mergers", "language_model.rest", "head"],
    "optimizer__max_steps": 4,
}


@pytest.fixture(scope="module")
def mixed(processor_folder, tmp_path_factory):
    """24 labeled pages, 8 texts without an image, 4 pages without labels: some batches lack the one or
    other."""
    folder = tmp_path_factory.mktemp("mixed")
    pages = [draw_page(number, processor_folder) for number in range(24)]
    pages += [text_page(n, processor_folder, [(f"What comes after {n}?", f"{n + 1}")]) for n in range(24, 32)]
    pages += [draw_page(number, processor_folder, labeled=False) for number in range(32, 36)]
    write_shard(folder / "0.parquet", pages, processor_folder)
    return folder


@pytest.fixture(scope="module")
def untied(processor_folder, tmp_path_factory):
    return write_tiny(processor_folder, tmp_path_factory.mktemp("untied"), tied=False)


@pytest.fixture(scope="module")
def four_layers(processor_folder, tmp_path_factory):
    """A checkpoint with two layers in BASIC's target, and token embeddings that are not the head's."""
    return write_tiny(processor_folder, tmp_path_factory.mktemp("four_layers"), tied=False, layers=4)


def silent_mix(folder) -> dict[str, Any]:
    """Settings: the same pages without questions, transcribed, and with a question."""
    asked = ({"questions_per_page": 0}, {"ask": "transcription"}, {"questions_per_page": 1})
    return {"data__dataset": [{"labels": [str(folder)], **how} for how in asked], "optimizer__max_steps": 4}


def preferences(shard, stage, micro_batch=None) -> dict[str, Any]:
    """Settings: pairs of pages and of texts; some batches have no image."""
    return {
        **on_pairs(shard),
        "method": "dv_dpo",
        "model__freeze": [],
        "deepspeed__zero_stage": stage,
        "optimizer__micro_batch": micro_batch or 1 + stage % 2,
        "optimizer__max_tokens": 200 if stage == 2 else None,
        "optimizer__global_batch": 4,
        "optimizer__max_steps": 4,
    }


@pytest.fixture(scope="module")
def two_ranks(tiny, untied, four_layers, mixed, pair_shard, tmp_path_factory):
    """Folder with the outputs of all two-rank runs; one start of the launcher for all of them."""
    root = tmp_path_factory.mktemp("two_ranks")
    short: dict[str, Any] = {"optimizer__max_steps": 4, "optimizer__epochs": 1}
    lora = {"rank": 4, "alpha": 8, "target": r".*language_model\.layers\.\d+\.self_attn\.q_proj|lm_head"}
    runs = []
    for stage in STAGES:
        learn: dict[str, Any] = {"optimizer__epochs": 4, "deepspeed__zero_stage": stage}
        learn["optimizer__micro_batch"] = 2 if stage % 2 else 4  # with and without accumulation
        runs.append((f"dvsft-{stage}", tiny, learn))
        runs.append((f"sft-{stage}", tiny, learn | {"method": "sft", "optimizer__max_steps": 5}))
        if stage != 1:
            basic = BASIC | {"deepspeed__zero_stage": stage, "optimizer__micro_batch": learn["optimizer__micro_batch"]}
            runs.append((f"basic-{stage}", four_layers, basic))
    eager = {"method__patch_weights": "attention", "model__attention": "eager", "model__gradient_checkpointing": True}
    runs.append(("basic-attention", four_layers, BASIC | eager | {"deepspeed__zero_stage": 3}))
    runs.append(("lora-head", untied, short | {"deepspeed__zero_stage": 3, "model__lora": lora}))
    bf16 = {"model__dtype": "bfloat16", "model__gradient_checkpointing": True, "deepspeed__offload": "all"}
    runs.append(("bf16-offload", tiny, short | {"deepspeed__zero_stage": 3} | bf16))
    runs.append(("silent", tiny, silent_mix(mixed) | {"deepspeed__zero_stage": 2}))
    runs += [(f"dv_dpo-{stage}", tiny, preferences(pair_shard, stage)) for stage in STAGES]
    runs.append(("resumed", tiny, short | {"deepspeed__zero_stage": 3, "checkpoint__resume_every": 2}))
    configs = [
        str(write_toml(root / f"{name}.toml", make_config(root / name, model, mixed, **changes)))
        for name, model, changes in runs
    ]
    launch_two_ranks(configs)
    return root


@pytest.fixture(scope="module")
def one_rank(tiny, mixed, tmp_path_factory):
    """The run dvsft-0 with one rank in this process: the same global batch, other passes and
    accumulation."""
    output = tmp_path_factory.mktemp("one_rank") / "run"
    config = make_config(
        output, tiny, mixed, optimizer__epochs=4, optimizer__micro_batch=1, checkpoint__export_at=[0.2, 2.5],
        tracker="tensorboard", data__workers=2,
    )  # fmt: skip
    train(config)
    return output


def test_two_ranks_learn_words_and_answers_in_every_zero_stage(two_ranks):
    for stage in STAGES:
        output = two_ranks / f"dvsft-{stage}"
        vision, accuracy = series(output, "vision_loss"), series(output, "patch_accuracy")
        text = series(output, "text_loss")
        assert vision[-1] < 0.5 * vision[0] and text[-1] < 0.5 * text[0]
        assert accuracy[0] < 0.1 and min(accuracy[-5:]) > 0.9  # chance among 12 words: 0.08
        text = series(two_ranks / f"sft-{stage}", "text_loss")
        assert text[-1] < 0.9 * text[0] and not series(two_ranks / f"sft-{stage}", "vision_loss")


def test_all_zero_stages_and_rank_counts_give_the_same_losses(two_ranks, one_rank):
    """One rank with 8 passes a step, two ranks with 1 pass of 4 or 2 of 2: the denominators are those of the
    whole step."""
    for name in ("text_loss", "vision_loss"):
        expected = torch.tensor(series(one_rank, name))
        for stage in STAGES:
            found = torch.tensor(series(two_ranks / f"dvsft-{stage}", name))
            torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-4)
            torch.testing.assert_close(found[:6], expected[:6], rtol=1e-5, atol=1e-5)
    assert series(one_rank, "vision_labels") == series(two_ranks / "dvsft-3", "vision_labels")


def test_preferences_have_the_same_losses_and_reference_in_all_zero_stages_and_rank_counts(
    two_ranks, tiny, pair_shard, tmp_path
):
    train(make_config(tmp_path / "one", tiny, pair_shard, **preferences(pair_shard, 0, micro_batch=1)))
    for stage in STAGES:
        for figure in ("dpo_loss", "margin", "vision_loss", "text_loss", "pairs"):
            found, expected = (series(folder, figure) for folder in (two_ranks / f"dv_dpo-{stage}", tmp_path / "one"))
            assert len(expected) == 4 and found == pytest.approx(expected, rel=1e-4, abs=1e-5), figure
        tables = [
            pq.read_table(f / "reference.parquet").to_pydict()
            for f in (two_ranks / f"dv_dpo-{stage}", tmp_path / "one")
        ]
        assert tables[0]["pair_id"] == tables[1]["pair_id"]
        assert tables[0]["rejected"] == pytest.approx(tables[1]["rejected"], rel=1e-5)


@pytest.mark.parametrize("patch_weights", ["uniform", "attention"])
def test_basic_has_the_same_losses_in_all_zero_stages_and_rank_counts(
    two_ranks, four_layers, mixed, tmp_path, patch_weights
):
    """On pages and texts mixed; one rank, pass by pass and without gradient checkpointing, is the reference."""
    eager = {"method__patch_weights": patch_weights, "model__attention": "eager"}
    train(make_config(tmp_path / "one", four_layers, mixed, optimizer__micro_batch=1, **BASIC, **eager))
    names = ["basic-attention"] if patch_weights == "attention" else ["basic-0", "basic-2", "basic-3"]
    for figure in ("text_loss", "direction_loss", "semantics_loss", "images"):
        expected = torch.tensor(series(tmp_path / "one", figure))
        assert len(expected) == 4
        for name in names:
            found = torch.tensor(series(two_ranks / name, figure))
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    expected = final_weights(tmp_path / "one")
    for name in names:
        for weight, tensor in final_weights(two_ranks / name).items():
            torch.testing.assert_close(tensor, expected[weight], rtol=0, atol=1e-4)


def test_pages_with_and_without_questions_share_batches_and_ranks(two_ranks, tiny, mixed, tmp_path):
    """One rank, a sample per pass, is the reference; some of its passes hold no answer, others no vision label."""
    train(make_config(tmp_path / "one", tiny, mixed, optimizer__micro_batch=1, **silent_mix(mixed)))
    for figure in ("text_loss", "vision_loss", "text_labels", "vision_labels"):
        found, expected = (torch.tensor(series(folder, figure)) for folder in (two_ranks / "silent", tmp_path / "one"))
        assert len(expected) == 4
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for name, weight in final_weights(tmp_path / "one").items():
        torch.testing.assert_close(final_weights(two_ranks / "silent")[name], weight, rtol=0, atol=1e-4)
    record = json.loads((tmp_path / "one/run.json").read_text())
    assert record["dropped"] == {"page_without_label": 12, "page_without_word": 12}


def test_exports_of_all_stages_load_to_the_same_weights(two_ranks):
    expected = final_weights(two_ranks / "dvsft-0")
    for stage in STAGES[1:]:
        found = final_weights(two_ranks / f"dvsft-{stage}")
        assert found.keys() == expected.keys()
        for name, weight in found.items():
            torch.testing.assert_close(weight, expected[name], rtol=0, atol=5e-3)


def test_frozen_weights_of_an_export_are_the_base_checkpoint_s_bit_for_bit(two_ranks, tiny):
    base, found = load_file(tiny / "model.safetensors"), final_weights(two_ranks / "dvsft-3")
    assert base.keys() == found.keys()
    for name, weight in base.items():
        is_frozen = ".visual." in name and "merger" not in name
        assert torch.equal(weight, found[name]) == is_frozen, name


def test_an_export_carries_the_base_processor_files_byte_for_byte(two_ranks, tiny):
    copied = [name for name in PROCESSOR_FILES if (tiny / name).exists()]
    assert "tokenizer.json" in copied and "preprocessor_config.json" in copied
    for name in copied:
        assert (two_ranks / "dvsft-3/final" / name).read_bytes() == (tiny / name).read_bytes()


def test_the_card_of_an_export_says_what_it_is_and_its_snippet_answers(one_rank, monkeypatch, tmp_path, capsys):
    text = (one_rank / "final/README.md").read_text()
    card = ModelCard(text).data.to_dict()
    assert card["pipeline_tag"] == "image-text-to-text" and "base_model" not in card  # a folder is no model of the hub
    record = json.loads((one_rank / "run.json").read_text())
    assert f"step {record['steps']} of {record['steps']}" in text and "method `dv_sft`" in text
    assert f"{record['samples']:,} samples" in text and str(one_rank.parent) not in text
    assert all(sha256 in text for sha256 in record["labels"].values())
    assert "step 1 of " in (one_rank / "epoch-0.2/README.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    Image.new("RGB", (160, 128), "white").save(tmp_path / "page.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(snippet.replace('"."', repr(str(one_rank / "final"))), names)
    limits = record["config"]["data"]
    assert names["inputs"]["image_grid_thw"].tolist() == [[1, 8, 10]] and limits["min_pixels"] < 160 * 128
    assert names["question"].endswith(TEST_INSTRUCTION) and capsys.readouterr().out


def test_the_card_names_a_base_on_the_hub_and_no_folder_of_this_machine():
    record: dict[str, Any] = {
        "config": {
            "output": "/home/me/out/run",
            "model": {"path": "Qwen/Qwen3-VL-2B-Instruct"},
            "data": {"dataset": [
                {"labels": ["/home/me/labels/docvqa"], "ask": "qa", "questions_per_page": 1, "weight": 2.0},
                {"labels": ["s3://b/c"], "ask": "transcription", "weight": 1.0, "max_pages": 7},
            ]},
            "method": {"name": "sft"},
        },
        "layout": {"family": "qwen_vl", "fields": {"min_pixels": 1, "max_pixels": 2}},
        "labels": {"/home/me/labels/docvqa/0.parquet": "abc"},
        "samples": 3, "dropped": {"over_long": 2}, "steps": 9, "parameters": {"head": {"trainable": 5, "frozen": 0}},
        "ranks": 2, "versions": {"torch": "2"}, "git_commit": None,
    }  # fmt: skip
    text = model_card(record, "final", 4)
    assert ModelCard(text).data.to_dict()["base_model"] == "Qwen/Qwen3-VL-2B-Instruct" and "/home/me" not in text
    assert "| docvqa | 1 questions per page | 2 | all |\n| s3://b/c | transcription | 1 | 7 |" in text
    assert '.size = {"shortest_edge": 1, "longest_edge": 2}  # as in training\n\nquestion = ' in text
    tiled = model_card(record | {"layout": {"family": "internvl", "fields": {"size": 448}}}, "final", 4)
    assert "shortest_edge" not in tiled and "from_pretrained(folder)\n\nquestion = " in tiled
    assert "step 4 of 9" in text and "over_long 2" in text and "- 0.parquet: `abc`" in text


def test_a_lora_is_exported_merged_and_as_adapter(two_ranks, untied):
    """With a LoRA on the head too, trained under ZeRO-3."""
    from peft import PeftModel

    folder = two_ranks / "lora-head/final"
    base, merged = (AutoModelForImageTextToText.from_pretrained(path) for path in (untied, folder))
    adapted = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(untied), folder / "adapter")
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        found, expected, untrained = (model(input_ids=ids).logits for model in (merged, adapted, base))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (found - untrained).abs().max() > 1e-3
    adapter = load_file(folder / "adapter/adapter_model.safetensors")
    assert any("lm_head.lora_B" in name and weight.any() for name, weight in adapter.items())
    text = series(two_ranks / "lora-head", "text_loss")
    assert text[-1] < text[0]


def test_bfloat16_with_offload_follows_float32(two_ranks):
    found, expected = (series(two_ranks / name, "text_loss") for name in ("bf16-offload", "resumed"))
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=5e-3, atol=0)


def test_two_ranks_resumed_from_a_state_repeat_the_undisturbed_run_exactly(two_ranks):
    for name in ("text_loss", "vision_loss", "gradient_norm", "learning_rate", "text_labels"):
        found = series(two_ranks / "resumed", name)
        assert len(found) == 4 and found == series(two_ranks / "resumed", name, "undisturbed.jsonl")


def test_checkpoints_at_fractions_of_the_epoch_are_plain_folders(one_rank):
    folders = {path.name for path in one_rank.iterdir() if path.is_dir()}
    assert {"epoch-0.2", "epoch-2.5", "final"} <= folders
    record = json.loads((one_rank / "run.json").read_text())
    assert record["steps"] == 20 and record["exports"] == {"1": "epoch-0.2", "12": "epoch-2.5", "20": "final"}
    model: Any = AutoModelForImageTextToText.from_pretrained(one_rank / "epoch-0.2")
    tokenizer: Any = AutoTokenizer.from_pretrained(one_rank / "epoch-0.2")
    ids = tokenizer("total", return_tensors="pt").input_ids
    assert model.generate(ids, max_new_tokens=2).shape == (1, ids.shape[1] + 2)


def test_run_json_says_what_the_run_was_made_from(one_rank, mixed):
    record = json.loads((one_rank / "run.json").read_text())
    assert (
        list(record["labels"]) == [str(mixed / "0.parquet")] and len(record["labels"][str(mixed / "0.parquet")]) == 64
    )
    assert record["samples"] == 4 * 36 and record["config"]["method"]["beta"] == 0.1 and record["config"]["seed"] == 0
    assert record["parameters"]["vision_encoder"]["trainable"] == 0
    assert record["parameters"]["merger.rest"]["trainable"] > 0 and record["versions"]["torch"]


def test_tensorboard_holds_every_figure_of_every_step(one_rank):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(one_rank / "tensorboard"))
    events.Reload()
    lines = read_log(one_rank / "log.jsonl")
    assert set(events.Tags()["scalars"]) == set(lines[0]) - {"step"}
    assert {"data_wait", "labels_per_second", "tokens_per_second", "memory_gib"} < set(lines[0])
    assert [event.step for event in events.Scalars("text_loss")] == list(range(1, 21))


def test_an_output_that_holds_a_run_is_not_overwritten(one_rank, tiny, mixed):
    with pytest.raises(ResumeError, match="already holds a run; add --resume"):
        train(make_config(one_rank, tiny, mixed))


def test_a_killed_run_resumes_to_the_exact_losses_of_the_undisturbed_one(tiny, labels, tmp_path):
    """SIGKILL at some step of a real process, then `--resume`."""
    settings = {"optimizer__max_steps": 14, "optimizer__epochs": 5, "checkpoint__resume_every": 3}
    undisturbed = tmp_path / "undisturbed"
    train(make_config(undisturbed, tiny, labels, **settings))

    config = make_config(tmp_path / "killed", tiny, labels, **settings)
    path = write_toml(tmp_path / "killed.toml", config)
    command = [sys.executable, "-m", "dvsft.trainer.train", "--config", str(path)]
    with subprocess.Popen(command, env=alone(), stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "killed/state/resume.json").exists() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert len(read_log(tmp_path / "killed/log.jsonl")) < 14
    train(config, resume=True)

    for name in ("step", "text_loss", "vision_loss", "patch_accuracy", "learning_rate", "vision_labels"):
        assert series(tmp_path / "killed", name) == series(undisturbed, name)
    ours, theirs = final_weights(tmp_path / "killed"), final_weights(undisturbed)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_state_of_other_ranks_is_refused_with_the_reason(two_ranks, tiny, mixed):
    settings = {"optimizer__max_steps": 4, "deepspeed__zero_stage": 3}
    with pytest.raises(ResumeError, match=r"ranks = 2, this run has 1; .*resume with the same"):
        train(make_config(two_ranks / "resumed", tiny, mixed, **settings), resume=True)


def test_resuming_before_the_first_state_starts_over(tiny, mixed, tmp_path):
    config = make_config(tmp_path / "new", tiny, mixed, optimizer__max_steps=1)
    for _ in range(2):
        train(config, resume=True)
        assert series(tmp_path / "new", "step") == [1]
        shutil.rmtree(tmp_path / "new/final")
