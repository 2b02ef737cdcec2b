"""What ms-swift and LLaMA-Factory are given; `make check-trainers` runs the real ones."""

import importlib
import sys
from types import ModuleType, SimpleNamespace

import pytest

from dvsft.visionloss import trainer
from dvsft.visionloss.collator import read_columns


@pytest.fixture
def modules(monkeypatch):
    """Stand-ins for modules by name, each with some attributes."""

    def put(**named):
        for name, attributes in named.items():
            module = ModuleType(name.replace("__", "."))
            vars(module).update(attributes, __path__=[])
            monkeypatch.setitem(sys.modules, module.__name__, module)

    return put


@pytest.fixture
def attached(monkeypatch):
    """The calls of `attach`."""
    calls = []
    for name in ("ms_swift", "llamafactory"):
        monkeypatch.delitem(sys.modules, f"dvsft.visionloss.{name}", raising=False)
    monkeypatch.setattr(trainer, "attach", lambda one, *settings, **named: calls.append((one, settings, named)))
    return calls


def test_the_callback_of_ms_swift_attaches_when_its_trainer_is_made(modules, attached):
    class Callback:
        def __init__(self, args, trainer):
            self.trainer = trainer

    known = dict[str, type]()
    modules(swift={}, swift__callbacks={"callbacks_map": known}, swift__callbacks__base={"TrainerCallback": Callback})
    importlib.import_module("dvsft.visionloss.ms_swift").register(weight=0.5, beta=0.2)
    theirs = SimpleNamespace(template=SimpleNamespace(remove_unused_columns=False))
    known["vision_labels"](None, theirs).on_init_end(None, None, None)
    ((one, settings, named),) = attached
    assert one is theirs and settings == (0.5, 0.2) and named["labels"] is read_columns
    assert "IMAGE_MAX_TOKEN_NUM" in named["cure"]
    theirs.template.remove_unused_columns = True
    with pytest.raises(ValueError, match="--remove_unused_columns false"):
        known["vision_labels"](None, theirs).on_init_end(None, None, None)


def test_the_launcher_of_llama_factory_puts_its_trainer_in_place_and_hands_over_the_rest(
    modules, attached, tmp_path, monkeypatch, capsys
):
    class Trainer:
        def __init__(self, data_collator):
            self.data_collator = data_collator

    seen = []

    def run_exp():
        seen.append(sys.argv[1:])
        sft.CustomSeq2SeqTrainer(SimpleNamespace(neat_packing=False))
        with pytest.raises(ValueError, match="neat_packing"):
            sft.CustomSeq2SeqTrainer(SimpleNamespace(neat_packing=True))

    sft = SimpleNamespace(CustomSeq2SeqTrainer=Trainer)
    modules(
        llamafactory={}, llamafactory__train={}, llamafactory__train__sft={"workflow": sft},
        llamafactory__train__tuner={"run_exp": run_exp},
    )  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["llamafactory"])
    launcher = importlib.import_module("dvsft.visionloss.llamafactory")
    config = str(tmp_path / "config.yaml")
    assert launcher.main([config, "--labels", "folder"]) == 2 and "found no file" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text("stage: sft")
    assert launcher.main([config, "--labels", "folder", "--weight", "0.5", "learning_rate=1e-6"]) == 0
    assert seen == [[config, "learning_rate=1e-6"]]
    ((_, _, named),) = attached
    assert {"labels": "folder", "weight": 0.5, "beta": 0.3}.items() <= named.items()
    assert "image_max_pixels" in named["cure"]
