import sys
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from trainer_fixtures import ROOT
from transformers import AutoConfig, AutoModelForImageTextToText

from dvsft.trainer.config import Lora, Model
from dvsft.trainer.families import ModelError
from dvsft.trainer.families.qwen_vl import LORA_TARGET, PARTS, grafted_config
from dvsft.trainer.model import audit, freeze, hash_frozen, load_model, local_folder, part_of


@pytest.fixture
def model(tiny):
    return AutoModelForImageTextToText.from_pretrained(tiny)


@pytest.fixture(scope="module")
def real():
    """Qwen3-VL-4B-Instruct's modules, without weights."""
    folder = ROOT.parent / "shared/data/qwen3-vl-4b-config"
    if not folder.is_dir():
        pytest.skip("no ../shared/data/qwen3-vl-4b-config")
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    model.tie_weights()
    return model


def test_the_named_parts_cover_a_real_model_and_do_not_overlap(real):
    counts = audit(real)
    assert sum(map(sum, counts.values())) == sum(parameter.numel() for parameter in real.parameters())
    assert {part_of(name, PARTS) for name, _ in real.named_parameters()} == PARTS.keys() - {"head"}  # tied
    deepstack = [name for name, _ in real.named_parameters() if part_of(name, PARTS).startswith("deepstack_mergers")]
    assert len({name.split(".")[3] for name in deepstack}) == 3


def test_a_frozen_vision_encoder_freezes_its_position_embeddings_and_no_merger(real):
    freeze(real, ["vision_encoder"])
    frozen = {name for name, parameter in real.named_parameters() if not parameter.requires_grad}
    assert "model.visual.pos_embed.weight" in frozen and "model.visual.patch_embed.proj.weight" in frozen
    assert frozen == {name for name, _ in real.named_parameters() if ".visual." in name and "merger" not in name}
    freeze(real, ["vision_encoder", "merger", "deepstack_mergers"])
    assert not any(p.requires_grad for name, p in real.named_parameters() if ".visual." in name)


def test_the_default_lora_pattern_names_the_language_side_of_a_real_model_only(real):
    import re

    linear = [name for name, module in real.named_modules() if isinstance(module, nn.Linear)]
    hit = [name for name in linear if re.fullmatch(LORA_TARGET, name)]
    assert len(hit) == 36 * 7 and not any("visual" in name or "lm_head" in name for name in hit)


def test_a_missing_checkpoint_is_looked_for_on_the_hub_only_if_it_can_be_one(tmp_path, monkeypatch):
    asked = []

    def download(name, **rest):
        asked.append(name)
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match=r"^out/tiny-model does not exist; expected the folder of a checkpoint"):
        local_folder("out/tiny-model")
    assert not asked
    with pytest.raises(ModelError, match=r"the hub did not give it: no network.*hf download Qwen/Qwen3-VL --local-dir"):
        local_folder("Qwen/Qwen3-VL")


def test_a_tied_head_cannot_be_frozen_without_the_embeddings(model):
    with pytest.raises(ModelError, match="tied to the embeddings"):
        freeze(model, ["head"])
    with pytest.raises(ModelError, match="tied to the embeddings"):
        freeze(model, ["language_model"])
    with pytest.raises(ModelError, match="tied to the embeddings"):
        freeze(model, ["language_model.rest"])
    freeze(model, ["head", "language_model"])
    assert not model.lm_head.weight.requires_grad


def test_the_merger_and_the_first_language_layer_can_train_alone(real):
    """What arXiv 2605.26656 trains with BASIC; `language_model` names the first layer and the rest."""
    freeze(real, ["vision_encoder", "deepstack_mergers", "language_model.rest", "head"])
    trains = {name for name, parameter in real.named_parameters() if parameter.requires_grad}
    first = {name for name, _ in real.named_parameters() if name.startswith("model.language_model.layers.0.")}
    assert len(first) == 11 and trains == first | {
        name for name, _ in real.named_parameters() if name.startswith("model.visual.merger.")
    }
    counts = audit(real)
    assert counts["language_model.first_layer"].frozen == 0 and counts["language_model.rest"].trainable == 0
    freeze(real, ["language_model", "head"])
    counts = audit(real)
    assert counts["language_model.first_layer"].trainable == counts["language_model.rest"].trainable == 0


def test_unknown_parts_and_strange_models_are_refused(model):
    with pytest.raises(ModelError, match=r"unknown parts \['vision'\]; expected some of vision_encoder"):
        freeze(model, ["vision"])
    with pytest.raises(ModelError, match="belongs to no part"):
        part_of("transformer.h.0.weight", PARTS)


def test_only_lora_weights_train_and_the_audit_counts_them(tiny):
    target = r".*language_model\.layers\.0\.self_attn\.q_proj"
    model = load_model(tiny, Model(path="", dtype="float32", lora=Lora(rank=2, alpha=4, target=target)))
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trains) == 2 and all(".lora_" in name for name in trains)
    assert audit(model)["language_model.first_layer"].trainable == 2 * (64 + 64)
    assert audit(model)["language_model.rest"].trainable == 0
    assert audit(model)["merger.first"].trainable == audit(model)["merger.rest"].trainable == 0


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nothing", "names no module"),
        (r".*(q_proj|linear_fc1)", "expected linear layers of the language side"),
        (r"lm_head|.*q_proj", "lm_head, which is tied"),
    ],
)
def test_a_lora_pattern_that_misses_the_language_side_is_refused(tiny, target, message):
    with pytest.raises(ModelError, match=message):
        load_model(tiny, Model(path="", dtype="float32", lora=Lora(target=target)))


def test_a_lora_on_a_part_that_freeze_names_is_refused(tiny):
    target = r".*language_model\.layers\.0\.self_attn\.q_proj"
    for frozen in (("language_model", "head"), ("language_model.first_layer",)):
        settings = Model(path="", dtype="float32", freeze=frozen, lora=Lora(rank=2, target=target))
        with pytest.raises(ModelError, match=r"layers\.0\.self_attn\.q_proj, a module of language_model.first_layer"):
            load_model(tiny, settings)


def test_the_hash_sees_any_frozen_weight_move_and_ignores_trained_ones(model):
    freeze(model, ["vision_encoder"])
    before = hash_frozen(model)
    with torch.no_grad():
        model.lm_head.weight += 1
        assert hash_frozen(model) == before
        model.model.visual.pos_embed.weight[3, 1] += 1e-6
    assert hash_frozen(model) != before


def test_a_run_whose_frozen_weights_move_ends_with_an_error(tiny, labels, tmp_path, monkeypatch):
    from trainer_fixtures import make_config

    from dvsft.trainer import train as training

    real = training.train_step

    def moving(engine, *arguments):
        engine.module.model.model.visual.pos_embed.weight.data += 1
        return real(engine, *arguments)

    monkeypatch.setattr(training, "train_step", moving)
    with pytest.raises(ModelError, match="frozen weights changed"):
        training.train(make_config(tmp_path / "run", tiny, labels, optimizer__max_steps=1))
    assert not (tmp_path / "run/final").exists()


def test_bfloat16_is_loaded_as_such(tiny):
    model = load_model(tiny, Model(path="", gradient_checkpointing=True))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.training and model.is_gradient_checkpointing


def test_every_second_layer_computes_its_activations_again_and_gradients_stay_the_same(folders):
    counts, gradients = [], []
    for setting in (False, True, 2):
        settings = Model(path="", dtype="float32", gradient_checkpointing=setting)
        model: Any = load_model(folders("qwen3_vl"), settings)
        runs = Counter[int]()
        for number, layer in enumerate(model.model.language_model.layers):
            layer.mlp.register_forward_pre_hook(lambda *_, runs=runs, number=number: runs.update([number]))
        model(input_ids=torch.arange(5, 25)[None]).logits.logsumexp(-1).sum().backward()
        counts.append([runs[number] for number in range(4)])
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    assert counts == [[1, 1, 1, 1], [2, 2, 2, 2], [2, 1, 2, 1]]
    for found in gradients[1:]:
        assert found.keys() == gradients[0].keys()
        assert all(torch.equal(found[name], gradients[0][name]) for name in found)


def test_liger_replaces_norms_and_gated_mlps_but_not_the_loss(tiny, monkeypatch):
    """With stand-ins of the package's two names: its kernels need a GPU."""
    settings, ids, given = Model(path="", dtype="float32", liger=True), torch.arange(5, 25)[None], []
    with pytest.raises(ModelError, match=r"liger = true needs .*pip install 'dvsft-trainer\[liger\]'"):
        load_model(tiny, settings)

    class Product:
        @staticmethod
        def apply(gate, value):
            given.append(gate.shape)
            return nn.functional.silu(gate) * value

    modules = {
        "liger_kernel": SimpleNamespace(),
        "liger_kernel.ops": SimpleNamespace(LigerSiLUMulFunction=Product),
        "liger_kernel.transformers": SimpleNamespace(
            _apply_liger_kernel_to_instance=lambda **given_: given.append(given_)
        ),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(ModelError, match="found no GPU"):
        load_model(tiny, settings)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model: Any = load_model(tiny, settings)
    plain: Any = load_model(tiny, Model(path="", dtype="float32"))
    assert given[0] == {"model": model, "cross_entropy": False, "fused_linear_cross_entropy": False}
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, plain(input_ids=ids).logits)
    assert len(given) == 1 + len(model.model.language_model.layers)


def write_text_model(folder, processor_folder, like, hidden=64, tied=True):
    """A tiny random Qwen3 whose tokens are those of the checkpoint `like`."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from dvsft.trainer.checkpoint import copy_processor

    config = Qwen3Config(
        vocab_size=AutoConfig.from_pretrained(like).text_config.vocab_size,
        hidden_size=hidden,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        tie_word_embeddings=tied,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    copy_processor(processor_folder, folder)
    return folder


def test_a_grafted_model_is_the_text_model_on_text_and_the_donor_s_encoder_on_images(tiny, processor_folder, tmp_path):
    from transformers import AutoModelForCausalLM

    from dvsft.trainer.graft import graft

    for tied in (True, False):
        output = tmp_path / f"grafted-{tied}"
        text_folder = write_text_model(tmp_path / f"text-{tied}", processor_folder, tiny, tied=tied)
        text = AutoModelForCausalLM.from_pretrained(text_folder).eval()
        graft(text_folder, tiny, output)

        grafted = AutoModelForImageTextToText.from_pretrained(output).eval()
        ids = torch.arange(10, 50).view(2, 20)
        with torch.no_grad():
            assert torch.equal(grafted(input_ids=ids).logits, text(input_ids=ids).logits)
        base, found = load_file(tiny / "model.safetensors"), load_file(output / "model.safetensors")
        visual = [name for name in base if ".visual." in name]
        assert visual and all(torch.equal(base[name], found[name]) for name in visual)
        assert (output / "tokenizer.json").read_bytes() == (tiny / "tokenizer.json").read_bytes()


def test_grafting_models_that_do_not_fit_is_refused(tiny):
    from types import SimpleNamespace

    donor = AutoConfig.from_pretrained(tiny)
    with pytest.raises(ModelError, match=r"width 65 .* width 64"):
        grafted_config(SimpleNamespace(model_type="qwen3", hidden_size=65, head_dim=16), donor)
    with pytest.raises(ModelError, match="half of head_dim 32"):
        grafted_config(SimpleNamespace(model_type="qwen3", hidden_size=64, head_dim=32), donor)
    with pytest.raises(ModelError, match="found a text model llama and a qwen3_vl"):
        grafted_config(SimpleNamespace(model_type="llama", hidden_size=64, head_dim=16), donor)


@pytest.mark.parametrize(("merger", "kept"), [("first", {"norm", "linear_fc1"}), ("fresh", set())])
def test_a_graft_onto_another_width_keeps_the_layers_of_the_mergers_that_it_names(
    tiny, processor_folder, tmp_path, merger, kept
):
    from dvsft.trainer.checkpoint import copy_processor
    from dvsft.trainer.graft import graft

    donor = AutoModelForImageTextToText.from_pretrained(tiny)
    for parameter in donor.model.visual.parameters():
        parameter.data += 0.5  # no weight is what it is drawn as
    donor.save_pretrained(tmp_path / "donor")
    copy_processor(tiny, tmp_path / "donor")
    write_text_model(tmp_path / "text", processor_folder, tiny, hidden=48)
    for output in ("out", "again"):
        graft(tmp_path / "text", tmp_path / "donor", tmp_path / output, merger, seed=3)
    base, found = (load_file(tmp_path / folder / "model.safetensors") for folder in ("donor", "out"))
    same = {name for name, weight in base.items() if ".visual." in name and torch.equal(weight, found[name])}
    of_mergers = {name for name in same if "merger" in name}
    assert {name.split(".")[-2] for name in of_mergers} == kept
    assert len(of_mergers) == 3 * 2 * len(kept)  # weight and bias, in the merger and two deepstack mergers
    assert same - of_mergers == {name for name in base if ".visual." in name and "merger" not in name}
    assert found["model.visual.merger.linear_fc2.weight"].shape[0] == 48
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "again/model.safetensors").read_bytes()
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    pixels, grid = torch.randn(16, 3 * 2 * 16 * 16), torch.tensor([[1, 4, 4]])
    assert model.model.visual(pixels, grid_thw=grid).pooler_output.shape == (4, 48)


def test_an_exported_encoder_gives_the_model_s_own_features_to_the_bit(tiny, tmp_path):
    from transformers import AutoModel

    from dvsft.trainer.export_encoder import main

    main([str(tiny), str(tmp_path / "encoder")])
    ours = AutoModelForImageTextToText.from_pretrained(tiny).model.visual.eval()
    theirs = AutoModel.from_pretrained(tmp_path / "encoder").eval()
    pixels, grid = torch.randn(16, 3 * 2 * 16 * 16), torch.tensor([[1, 4, 4]])
    with torch.no_grad():
        one, two = (model(pixels, grid_thw=grid) for model in (ours, theirs))
    assert torch.equal(one.last_hidden_state, two.last_hidden_state) and torch.equal(
        one.pooler_output, two.pooler_output
    )
    assert all(map(torch.equal, one.deepstack_features, two.deepstack_features))
    config = tiny / "preprocessor_config.json"
    assert (tmp_path / "encoder" / config.name).read_bytes() == config.read_bytes()


def test_a_checkpoint_whose_logits_are_not_what_its_config_says_is_refused(tiny, tmp_path):
    import json
    import shutil

    folder = shutil.copytree(tiny, tmp_path / "capped")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["final_logit_softcapping"] = 0.01
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"differ by \d+% from Transform\(scale=1.0, cap=0.01\)"):
        load_model(folder, Model(path="", dtype="float32"))


def test_the_example_in_the_docs_runs_and_trains_the_head(tiny, processor_folder):
    import re

    from trainer_fixtures import ROOT, draw_page

    from dvsft.patchlabels import image

    page = draw_page(0, processor_folder)
    names = {
        "checkpoint": tiny,
        "page": image.decode(page["image"]["bytes"]),
        "patch_index": torch.tensor(page["patch_index"]),
        "token_id": torch.tensor(page["token_id"]),
    }
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs/explanation/losses.md").read_text(), re.DOTALL)[1]
    assert len(code.splitlines()) <= 16
    exec(code, names)
    assert names["total"] > 0 and names["model"].lm_head.weight.grad.any()
