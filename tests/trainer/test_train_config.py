import pytest
from trainer_fixtures import ROOT

from dvsft.trainer.config import Config, ConfigError, build, load

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
    assert len(configs) == 11
    methods = {"sft": "sft", "dvsft": "dv_sft", "basic": "basic"}
    for name, config in configs.items():
        assert config.method == methods[name.rpartition("-")[2]] and config.loss.beta == 0.3
        if not name.startswith("tiny"):
            assert config.optimizer.learning_rate == (2e-5 if "8b" in name else 5e-6)
            assert config.optimizer.global_batch == 64 and config.optimizer.warmup_ratio == 0.03
            assert (config.data.min_pixels, config.data.max_pixels) == (32 * 32 * 64, 32 * 32 * 2048)
            assert config.method == "sft" or config.loss.vision_weight == 2e-3
        if config.method == "basic":
            assert (config.loss.direction_weight, config.loss.semantics_weight) == (1.0, 0.01)
            assert config.loss.patch_weights == "uniform"
    lora = configs["qwen3-vl-8b-lora-dvsft"].model.lora
    assert (lora.rank, lora.alpha) == (64, 128)


def test_the_method_line_alone_turns_one_method_into_another(tmp_path):
    """Whatever the other settings of a DV-SFT run are; `freeze` stays what the file says."""
    text = (ROOT / "pipelines/configs/train/qwen3-vl-2b-dvsft.toml").read_text()
    configs = [load(write(tmp_path, text.replace('"dv_sft"', f'"{name}"'))) for name in ("sft", "dv_sft", "basic")]
    assert [config.method for config in configs] == ["sft", "dv_sft", "basic"]
    assert len({(config.loss, config.model, config.data, config.optimizer) for config in configs}) == 1


def test_an_unset_setting_gets_its_default_and_an_integer_serves_as_a_float(tmp_path):
    config = load(write(tmp_path, MINIMAL))
    assert config.loss.beta == 0.3 and config.model.freeze == ("vision_encoder",)
    assert config.optimizer.learning_rate == 1.0 and isinstance(config.optimizer.learning_rate, float)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("learning_rate", "lerning_rate", "'optimizer.lerning_rate'; did you mean 'optimizer.learning_rate'"),
        ("learning_rate = 1", "global_batch = 8", "missing setting 'optimizer.learning_rate'"),
        ("= 1\n", '= "1"\n', "optimizer.learning_rate: expected float, found '1'"),
        ('["labels"]', '["labels"]\nquestions_per_page = 3', r"\[0\].questions_per_page: expected 1 or 2"),
        ('["labels"]', '["labels"]\nquestions_per_page = true', "questions_per_page: expected 1 or 2"),
        ('["labels"]', '"labels"', "labels: expected an array, found 'labels'"),
        ("[model]", "[loss]\nbeta = 1.5\n[model]", "0 <= loss.beta <= 1"),
        ("[model]", '[deepspeed]\nzero_stage = 2\noffload = "all"\n[model]', "needs zero_stage 3, found 2"),
        ("[model]", "[checkpoint]\nexport_at = [2.0]\n[model]", r"export_at in \(0, 1\]"),
        ("[model]", "[loss]\nvision_weight = 0.0\n[model]", 'vision_weight > 0.*text loss alone set method = "sft"'),
        ('output = "out"', 'output = "out"\nmethod = "dvsft"', "method: expected 'sft' or 'dv_sft' or 'basic', found"),
        ('[model]\npath = "model"', "model = 3", "model: expected a table, found 3"),
        ("[model]", "[model", "is no TOML"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_with_what_was_expected(tmp_path, old, new, message):
    with pytest.raises(ConfigError, match=message):
        load(write(tmp_path, MINIMAL.replace(old, new)))


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ("[loss]\nsemantics_weight = -1", "direction_weight and loss.semantics_weight >= 0, found 1.0 and -1.0"),
        (
            '[loss]\npatch_weights = "attention"',
            'which model.attention = "sdpa" never makes; set model.attention = "eager"',
        ),
        ("[model.lora]", "trains the merger, which model.lora freezes; take out model.lora"),
        ("", "trains the merger, which model.freeze freezes"),
    ],
)
def test_basic_refuses_what_would_train_nothing(tmp_path, tables, message):
    frozen = "" if tables else 'freeze = ["merger"]\n'
    text = 'method = "basic"\n' + MINIMAL.replace("[[data", f"{frozen}[[data") + tables
    with pytest.raises(ConfigError, match=message):
        load(write(tmp_path, text))


def test_a_global_batch_that_does_not_divide_is_refused(tmp_path):
    config = load(write(tmp_path, MINIMAL + "global_batch = 64\nmicro_batch = 2\n"))
    assert config.accumulation(4) == 8
    with pytest.raises(ConfigError, match="64 is no multiple of micro_batch x ranks = 2 x 3"):
        config.accumulation(3)


def test_a_resolved_configuration_reads_back_the_same(tmp_path):
    import json
    from dataclasses import asdict

    def without_none(x):
        return {k: without_none(v) for k, v in x.items() if v is not None} if isinstance(x, dict) else x

    config = load(ROOT / "pipelines/configs/train/qwen3-vl-8b-lora-dvsft.toml")
    assert build(Config, without_none(json.loads(json.dumps(asdict(config))))) == config
