"""Offline vLLM, with a module of its call shape in its place that answers by the local model."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from evaluator_fixtures import picture, write_json
from PIL import Image

from dvsft.evaluator import generate, offline_vllm, predict, predictions
from dvsft.patchlabels import command


class SamplingParams:
    def __init__(self, n=1, temperature=1.0, top_p=1.0, seed=None, max_tokens=16):
        self.n, self.temperature, self.top_p, self.seed, self.max_tokens = n, temperature, top_p, seed, max_tokens


class LLM:
    """As vLLM 0.32's, as far as it is used here: image tokens are expanded here, and too long a prompt is refused."""

    made: ClassVar[list[Any]] = []

    def __init__(self, model, *, tensor_parallel_size=1, **kwargs):
        self.settings = {"tensor_parallel_size": tensor_parallel_size, **kwargs}
        self.local = generate.load(model)
        self.calls = []
        self.pad = self.local.processor.image_token_ids[0]
        LLM.made.append(self)

    def expanded(self, request):
        features = self.local.processor.image_processor([request["multi_modal_data"]["image"]], return_tensors="pt")
        count = int(features["image_grid_thw"].prod()) // 4
        ids = [i for token in request["prompt_token_ids"] for i in [token] * (count if token == self.pad else 1)]
        if len(ids) > self.settings["max_model_len"]:
            raise ValueError(f"The prompt is longer than\n{self.settings['max_model_len']}")
        return ids, features

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True):
        assert not use_tqdm
        self.calls.append((prompts, sampling_params))
        return [self.one(self.expanded(request), sampling_params) for request in prompts]

    def one(self, expanded, wanted):
        ids, features = expanded
        tokens = torch.tensor([ids])
        batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        batch["mm_token_type_ids"] = (tokens == self.pad).long()
        made = self.local.model.generate(**batch, **features, max_new_tokens=wanted.max_tokens)
        batch["attention_mask"] = torch.ones_like(tokens)
        said = generate.read(self.local, batch, made)[0]
        new = made[0, len(ids) : len(ids) + said.new_tokens].tolist()
        output = SimpleNamespace(text=f" {said.text}", token_ids=new, finish_reason=said.finish)
        return SimpleNamespace(prompt_token_ids=ids, outputs=[output] * wanted.n)


@pytest.fixture
def vllm(monkeypatch):
    module = ModuleType("vllm")
    vars(module).update(LLM=LLM, SamplingParams=SamplingParams)
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(LLM, "made", [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return LLM.made


@pytest.fixture
def ask(tmp_path, model_folder):
    """Run `dvsft predict` on five questions about two pages that no engine resizes; returns the stored predictions."""
    records = [
        {"questionId": n, "question": f"{'so ' * n}what?", "image": f"{n % 2}.png", "answers": ["x"]} for n in range(5)
    ]
    write_json(tmp_path / "docvqa" / "val_v1.0.json", records)
    for n, size in enumerate([(320, 640), (256, 256)]):
        picture(tmp_path / "docvqa" / "documents" / f"{n}.png", size=size)

    def run(name, *options, code=0):
        known = ["--model", str(model_folder), "--benchmarks", "docvqa", "--data", str(tmp_path)]
        assert command.main(["predict", *known, "--out", str(tmp_path / name), *options]) == code
        found, _ = predictions.read(predictions.files_of(tmp_path / name, "docvqa"))
        return [{**line.to_line(), "seconds": None} for line in found]

    return run


def test_vllm_gets_the_local_models_prompts_and_stores_the_same_predictions(vllm, ask, tmp_path, capsys):
    found = ask("vllm", "--engine", "vllm", "--max-model-len", "2000")
    assert found == ask("local", "--devices", "cpu")
    assert len(found) == 5 and all(line["prompt_tokens"] > 64 and line["new_tokens"] for line in found)
    (llm,) = vllm
    assert llm.settings == {
        "tensor_parallel_size": 1, "limit_mm_per_prompt": {"image": 1}, "max_model_len": 2000
    }  # fmt: skip
    (_, probe), (requests, wanted) = llm.calls
    assert probe.max_tokens == 1 and (wanted.temperature, wanted.max_tokens) == (0, 128) and len(requests) == 5
    assert predictions.settings(tmp_path / "vllm")["engine"] == "vllm"
    ask("local", "--engine", "vllm", code=2)
    assert "engine: found 'local', expected 'vllm'" in capsys.readouterr().err


def test_a_prompt_that_vllm_refuses_fails_alone(vllm, ask):
    found = ask("run", "--engine", "vllm", "--max-model-len", "200", "--max-failed", "1")
    errors = [line.get("error", "") for line in found]
    refused = "vllm_refuses: The prompt is longer than 200"
    assert errors == [refused, "", refused, "", refused] and found[1]["prediction"] is not None


def test_vllm_that_makes_other_prompts_is_refused(vllm, ask, monkeypatch, capsys):
    expanded = LLM.expanded
    monkeypatch.setattr(
        LLM, "expanded", lambda self, request: (expanded(self, request)[0][1:], expanded(self, request)[1])
    )
    ask("run", "--engine", "vllm", code=2)
    assert "differ from the local model's" in capsys.readouterr().err


def test_copies_of_a_model_get_their_own_gpus_in_order():
    parallel = offline_vllm.Parallel(tensor=2, data=2)
    assert [parallel.gpus(copy, None) for copy in range(2)] == ["0,1", "2,3"]
    assert parallel.gpus(1, "4,5,6,7") == "6,7"
    with pytest.raises(predict.PredictError, match="expected 4 GPUs"):
        parallel.gpus(0, "4,5,6")


def test_sampled_answers_of_vllm_are_n_per_prompt(vllm, model_folder):
    model = offline_vllm.load(str(model_folder), predict.PATCHES, offline_vllm.Parallel())
    image = Image.new("RGB", (256, 256), "red")
    found = offline_vllm.answers(model, ["What?", "Who?"], [image] * 2, 3, 0.7, 0.9, 5, 4)
    assert [len(of_prompt) for of_prompt in found] == [3, 3] and isinstance(found[0][0], predict.Answer)
    wanted = vllm[0].calls[-1][1]
    assert (wanted.n, wanted.temperature, wanted.top_p, wanted.seed, wanted.max_tokens) == (3, 0.7, 0.9, 5, 4)


def test_without_vllm_the_message_says_where_to_read(monkeypatch, ask, capsys):
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    ask("run", "--engine", "vllm", code=2)
    assert "environment of its own, see docs/how-to/evaluate.md" in capsys.readouterr().err
