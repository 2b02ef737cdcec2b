import json
from typing import Any

import pytest
from trainer_fixtures import ROOT

from dvsft.patchlabels.settings import build, resolved
from dvsft.trainer.config import Config, ConfigError, load
from dvsft.trainer.methods import all_methods
from dvsft.trainer.methods.dv_sft import DvSft

METHODS = [method.model_fields["name"].default for method in all_methods()]

MINIMAL = """
output = "out"
[model]
path = "model"
[[data.dataset]]
labels = ["labels"]
[optimizer]
learning_rate = 1
"""


def write(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_every_shipped_configuration_loads_with_the_paper_s_settings():
    paths = sorted((ROOT / "pipelines/configs/train").glob("*.toml"))
    configs = {path.stem: load(path) for path in paths}
    assert len(configs) >= 11
    methods = {name.replace("_", ""): name for name in METHODS}
    for name, config in configs.items():
        method: Any = config.method
        assert method.name == methods[name.rpartition("-")[2]]
        asks_pairs = config.data.dataset[0].ask == "pairs"
        if not name.startswith("tiny"):
            rates = {"dpo": 1e-6, "dv_dpo": 1e-6, "sft": 5e-6}
            assert config.optimizer.learning_rate == (
                rates[method.name] if asks_pairs else 2e-5 if "8b" in name else 5e-6
            )
            assert config.optimizer.global_batch == (256 if asks_pairs else 64)
            assert config.optimizer.warmup_ratio == 0.03 and config.model.freeze == (
                () if asks_pairs else config.model.freeze
            )
            side = {"qwen3": 32, "qwen2.5": 28}.get(name.partition("-")[0])  # px of a visual token; None: no limits
            limits = (side**2 * 64, side**2 * 2048) if side else (None, None)
            assert (config.data.min_pixels, config.data.max_pixels) == limits
            assert method.name != "dv_sft" or method.vision_weight == 2e-3
        if method.name == "dv_sft":
            assert method.beta == 0.3
        if method.pairs:
            assert (method.preference_beta, method.chosen_weight) == (0.1, 0.0)
        if method.name == "basic":
            assert (method.direction_weight, method.semantics_weight) == (1.0, 0.01)
            assert method.patch_weights == "uniform"
    lora = configs["qwen3-vl-8b-lora-dvsft"].model.lora
    assert (lora.rank, lora.alpha) == (64, 128)


def test_the_table_of_the_method_alone_turns_one_run_into_another():
    """The shipped SFT and DV-SFT of every size."""
    folder = ROOT / "pipelines/configs/train"
    for baseline in folder.glob("*-sft.toml"):
        path = baseline.with_name(baseline.name.replace("-sft", "-dvsft"))
        if not path.exists():  # a baseline of DPO
            continue
        ours, other = load(path), load(baseline)
        assert ours.method != other.method
        assert ours == other.model_copy(update={"method": ours.method, "output": ours.output})


def test_an_unset_setting_gets_its_default_and_an_integer_serves_as_a_float(tmp_path):
    config = load(write(tmp_path, MINIMAL))
    assert isinstance(config.method, DvSft) and config.method.beta == 0.3 and config.model.freeze == ("vision_encoder",)
    assert config.optimizer.learning_rate == 1.0 and isinstance(config.optimizer.learning_rate, float)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("learning_rate", "lerning_rate", r"unknown key optimizer.lerning_rate \(did you mean learning_rate\?\)"),
        ("learning_rate = 1", "global_batch = 8", "optimizer.learning_rate is missing"),
        ("= 1\n", '= "1"\n', 'optimizer.learning_rate = "1", expected a number'),
        ('["labels"]', '["labels"]\nquestions_per_page = 3', r"dataset\[0\].questions_per_page = 3, expected one of"),
        ('["labels"]', '["labels"]\nquestions_per_page = true', "page = true, expected one of 0, 1, 2, all"),
        ('["labels"]', '"labels"', 'labels = "labels", expected a list'),
        ('["labels"]', '["labels"]\nask = "words"', r'dataset\[0\].ask = "words", expected one of qa, transcription'),
        ('["labels"]', '["labels"]\nask = "transcription"\nquestions_per_page = 2', "= 2, expected 0 or 1 with ask"),
        ("[model]", '[method]\nname = "dv_sft"\nbeta = 1.5\n[model]', "method.beta = 1.5, expected at most 1"),
        ("[model]", '[deepspeed]\nzero_stage = 2\noffload = "all"\n[model]', "needs zero_stage 3, found 2"),
        ("[model]", "[checkpoint]\nexport_at = [2.0]\n[model]", r"export_at in \(0, 1\]"),
        ("[model]", '[method]\nname = "dv_sft"\nvision_weight = 0.0\n[model]', "weight = 0.0, expected more than 0"),
        ("[model]", '[method]\nname = "sft"\nbeta = 0.3\n[model]', "unknown key method.beta"),
        ("[model]", "[method]\nbeta = 0.3\n[model]", "method.name is missing"),
        ("[model]", '[method]\nname = "dvsft"\n[model]', rf"one of {', '.join(METHODS)} \(did you mean dv_sft\?\)"),
        ('[model]\npath = "model"', "model = 3", "model = 3, expected a table"),
        ("[model]", "[model", "is not TOML"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_with_what_was_expected(tmp_path, old, new, message):
    with pytest.raises(ConfigError, match=message):
        load(write(tmp_path, MINIMAL.replace(old, new)))


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ("semantics_weight = -1", "method.semantics_weight = -1, expected at least 0"),
        (
            'patch_weights = "attention"',
            'which model.attention = "sdpa" never makes; set model.attention = "eager"',
        ),
        ("[model.lora]", "trains the merger, which model.lora freezes; take out model.lora"),
        ("", "trains the merger, which model.freeze freezes"),
    ],
)
def test_basic_refuses_what_would_train_nothing(tmp_path, tables, message):
    frozen = "" if tables else 'freeze = ["merger"]\n'
    text = MINIMAL.replace("[[data", f"{frozen}[[data") + '[method]\nname = "basic"\n' + tables
    with pytest.raises(ConfigError, match=message):
        load(write(tmp_path, text))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optimizer.micro_batch=0", "optimizer.micro_batch = 0, expected at least 1"),
        ("optimizer.epochs=0", "optimizer.epochs = 0, expected at least 1"),
        ("optimizer.global_batch=-8", "optimizer.global_batch = -8, expected at least 1"),
        ("optimizer.learning_rate=-1", "optimizer.learning_rate = -1, expected more than 0"),
        ("optimizer.warmup_ratio=3", "optimizer.warmup_ratio = 3, expected at most 1"),
        ("optimizer.max_steps=0", "optimizer.max_steps = 0, expected at least 1"),
        ("optimizer.max_grad_norm=-1", "optimizer.max_grad_norm = -1, expected at least 0"),
        ("optimizer.weight_decay=-1", "optimizer.weight_decay = -1, expected at least 0"),
        ("method={name = 'sft', chunk_size = 0}", "method.chunk_size = 0, expected at least 1"),
        ("checkpoint.resume_every=0", "checkpoint.resume_every = 0, expected at least 1"),
        ("checkpoint.export_at=[0.0]", r"checkpoint.export_at\[0\] = 0.0, expected more than 0"),
        ("data.dataset=[]", r"data.dataset = \[\], expected at least 1"),
        ("data.dataset[0].labels=[]", r"data.dataset\[0\].labels = \[\], expected at least 1"),
        ("data.max_pixels=10", "data.max_pixels = 10, expected at least min_pixels = 65536"),
        ("data.max_length=0", "data.max_length = 0, expected at least 1"),
        ("data.workers=-1", "data.workers = -1, expected at least 0"),
        ("deepspeed.zero_stage=true", "deepspeed.zero_stage = true, expected one of 0, 1, 2, 3"),
        ("deepspeed.zero_stage=2.0", "deepspeed.zero_stage = 2.0, expected one of 0, 1, 2, 3"),
        ("model.lora={rank = 0}", "model.lora.rank = 0, expected at least 1"),
        ("seed=-1", "seed = -1, expected at least 0"),
        ("zzz=1", "unknown key zzz; expected one of output, model, data"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_before_the_run(tmp_path, setting, message):
    path = write(tmp_path, MINIMAL)
    with pytest.raises(ConfigError, match=message):
        load(path, [setting])


def test_a_method_that_needs_answers_refuses_pages_without_any(tmp_path):
    silent = '[[data.dataset]]\nlabels = ["other"]\nquestions_per_page = 0\n'
    text = MINIMAL.replace("[optimizer]", silent + "[optimizer]")
    message = (
        r'data.dataset\[1\].questions_per_page = 0 shows pages without an answer, and method.name = "sft" trains on'
    )
    with pytest.raises(ConfigError, match=message):
        load(write(tmp_path, text + '[method]\nname = "sft"\n'))
    assert load(write(tmp_path, text)).data.dataset[1].vision_only
    transcribing = text.replace("_page = 0", '_page = 0\nask = "transcription"')
    assert not load(write(tmp_path, transcribing + '[method]\nname = "sft"\n')).data.dataset[1].vision_only


def test_a_global_batch_that_does_not_divide_is_refused(tmp_path):
    config = load(write(tmp_path, MINIMAL + "global_batch = 64\nmicro_batch = 2\n"))
    config.check_batch(4)
    with pytest.raises(ConfigError, match="64 is no multiple of micro_batch x ranks = 2 x 3"):
        config.check_batch(3)


def test_samples_and_tokens_per_pass_are_not_both_given(tmp_path):
    with pytest.raises(ConfigError, match=r"micro_batch = 2 beside max_tokens = 4096, .*leave out one"):
        load(write(tmp_path, MINIMAL + "micro_batch = 2\nmax_tokens = 4096\n"))
    load(write(tmp_path, MINIMAL + "global_batch = 64\nmax_tokens = 4096\n")).check_batch(3)


def test_a_resolved_configuration_reads_back_the_same(tmp_path):
    config = load(ROOT / "pipelines/configs/train/qwen3-vl-8b-lora-dvsft.toml")
    assert build(json.loads(json.dumps(resolved(config))), Config) == config
