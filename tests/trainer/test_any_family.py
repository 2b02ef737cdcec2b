"""From text to the lens, with models that nothing in dvsft names and with one of Qwen: label, train, predict, look."""

import json
import os

import pytest
from any_family import FAMILIES, write_family
from support import SAMPLES
from trainer_fixtures import assert_apart_is_together, loss_and_gradients

from dvsft.patchlabels import command, rows

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # before anything imports deepspeed
os.environ.setdefault("OMP_NUM_THREADS", "1")

EVERY = (*FAMILIES, "qwen2_5_vl")
LIMITS = {"min_pixels": 16 * 1024, "max_pixels": 64 * 1024}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny checkpoint of each family, made when it is first asked for."""
    root, made = tmp_path_factory.mktemp("families"), {}

    def folder(name):
        from dvsft.trainer.tiny import write_tiny

        if name not in made:
            to = root / name
            qwen = name not in FAMILIES
            made[name] = write_tiny(SAMPLES / "processor", to, model_type=name) if qwen else write_family(name, to)
        return made[name]

    return folder


def limits_of(name):
    return {} if name in FAMILIES else LIMITS


@pytest.fixture(scope="module")
def label_family(folders, tmp_path_factory):
    """Draw and label three short texts for a family; returns the run folder."""
    texts = ["the king cast paper near the house", "a man put the book in the mill", "noon met the line of ice"]
    paragraphs = [
        {"context": text, "qas": [{"id": f"{k}", "question": "What is first?", "answers": [{"text": text.split()[0]}]}]}
        for k, text in enumerate(texts)
    ]
    root = tmp_path_factory.mktemp("labeled")
    (root / "dev.json").write_text(json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}))

    def run(name):
        from dvsft.labeler.commands import label

        settings = "".join(f"{key} = {value}\n" for key, value in limits_of(name).items())
        config = root / f"{name}.toml"
        config.write_text(
            f'[[source]]\nkind = "squad"\npath = "{root}/dev.json"\nsplit = "validation"\n'
            f'[model]\nprocessor = "{folders(name)}"\n{settings}[render]\nfont_sizes = [14, 14]\n'
        )
        assert not command.run(label.main, ["--config", str(config), "--out", str(root / name)])
        return root / name

    return run


@pytest.mark.parametrize("name", EVERY)
def test_a_text_becomes_labels_a_checkpoint_answers_and_a_picture(folders, label_family, tmp_path, name):
    from support import read_log

    from dvsft.evaluator import predictions
    from dvsft.evaluator.cli import predict_verb
    from dvsft.patchlabels.errors import DvsftError
    from dvsft.patchlabels.settings import build
    from dvsft.trainer.config import Config
    from dvsft.trainer.train import train

    labeled = label_family(name)
    (shard,) = labeled.glob("labels/*/*.parquet")
    pages = list(rows.read(shard))
    assert len(pages) == 3 and all(page["patch_index"] for page in pages)
    settings = {
        "output": str(tmp_path / "run"),
        "tracker": "none",
        "model": {"path": str(folders(name)), "dtype": "float32", "gradient_checkpointing": False},
        "data": {**limits_of(name), "workers": 0, "dataset": [{"labels": [str(labeled / "labels")]}]},
        "method": {"name": "dv_sft", "vision_weight": 1.0, "beta": 0.1},
        "optimizer": {"learning_rate": 3e-3, "global_batch": 3, "micro_batch": 3, "epochs": 8},
        "deepspeed": {"zero_stage": 0},
    }
    train(build(settings, Config))
    log = read_log(tmp_path / "run/log.jsonl")
    assert {step["vision_labels"] for step in log} == {sum(len(set(page["patch_index"])) for page in pages)}
    assert log[-1]["vision_loss"] < 0.8 * log[0]["vision_loss"]

    assert ("apply_chat_template" in (tmp_path / "run/final/README.md").read_text()) == (name != "paligemma")

    model = ["--model", str(tmp_path / "run/final")]
    patches = ["--min-patches", "16", "--max-patches", "64"]
    asked = ["--benchmarks", "squad", "--data", str(labeled), "--out", str(tmp_path / "out")]
    if name in FAMILIES:
        with pytest.raises(DvsftError, match=r"found --min-patches and --max-patches, but \w+ has no such limit"):
            predict_verb([*model, *asked, *patches])
    else:
        asked += patches
    assert command.main(["predict", *model, *asked]) == 0
    said = predictions.read(predictions.files_of(tmp_path / "out", "squad"))[0]
    assert len(said) == 3 and all(answer.text is not None for answer in said)
    assert command.main(["lens", *model, "--labels", str(labeled / "labels"), "--out", str(tmp_path / "out")]) == 0
    seen = json.loads((tmp_path / "out/lens.json").read_text())["model"]
    assert seen["pages"] == 3 and seen["all"]["labels"] == sum(len(page["patch_index"]) for page in pages)
    assert seen["sight"] == {"gemma3": "image", "paligemma": "prompt"}.get(name, "past")


@pytest.fixture
def encoder(folders, request):
    from transformers import AutoProcessor

    from dvsft.patchlabels.layout import LayoutSpec
    from dvsft.trainer.batch import Encoder
    from dvsft.trainer.families import family_of

    folder = folders(request.param)
    processor = family_of(request.param).conversational(AutoProcessor.from_pretrained(folder))
    return Encoder(processor, LayoutSpec.from_folder(folder)), folder


@pytest.mark.parametrize("encoder", FAMILIES, indirect=True)
def test_pages_texts_and_the_blank_image_of_a_batch_leave_each_other_alone(encoder):
    """The loss of two pages of different shape and a text is the sum of theirs alone, where the text has the blank
    image; each answer and each label stands where the processor of one page alone puts it."""
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText

    from dvsft.trainer.batch import FILLER, Example
    from dvsft.trainer.methods.dv_sft import DvSft
    from dvsft.trainer.model import SupervisedModel
    from dvsft.visionloss.loss import IGNORE, TEXT

    encode, folder = encoder
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    supervised = SupervisedModel(model, DvSft(vision_weight=1.0)).train()

    def page(size, turns, color):
        tokens = encode.spec.fit(*size).visual_tokens
        return Example("p", turns, Image.new("RGB", size, color), tokens, [0, 3], [300, 301])

    examples = [
        page((300, 200), (("Which word?", "total"), ("And then?", "page order")), "red"),
        Example("t", (("What is two and two?", "four"),)),
        page((90, 250), (("Why?", "so"),), "blue"),
    ]
    batch = encode(examples)
    decode = encode.processor.tokenizer.decode
    for number, expected in enumerate(["total<|im_end|>page order<|im_end|>", "four<|im_end|>", "so<|im_end|>"]):
        labels, image = batch["labels"][number], batch["image_index"][number]
        assert decode(labels[(labels != IGNORE) & (image == TEXT)]) == expected
        visual = (batch["input_ids"][number] == model.config.image_token_id).nonzero()[:, 0]
        assert len(visual) == examples[number].visual_tokens
        assert (image != TEXT).nonzero()[:, 0].tolist() == ([int(visual[0]), int(visual[3])] if len(visual) else [])

    assert_apart_is_together(supervised, encode, examples)
    blank = int((encode.blank_batch["input_ids"] == encode.image_token).sum())
    assert blank == {"internvl": 16, "smolvlm": 4, "gemma3": 64, "mistral3": 4, "paligemma": 64}[folder.name]
    loss, gradients = loss_and_gradients(supervised, encode, [FILLER])
    assert loss == 0 and any("vision" in name or "projector" in name or "connector" in name for name in gradients)
    assert not any(gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("encoder", ["gemma3"], indirect=True)
def test_a_chat_template_that_writes_the_first_token_itself_gets_no_second_one(encoder):
    from dvsft.trainer.batch import Example

    encode, _ = encoder
    ids = encode([Example("t", (("What?", "four"),))])
    first = encode.processor.tokenizer.bos_token_id
    assert (ids["input_ids"][0, encode.blank_batch["input_ids"].shape[1] :] == first).sum() == 1


def drawn(text):
    from PIL import Image, ImageDraw

    page = Image.new("RGB", (300, 200), "white")
    ImageDraw.Draw(page).text((20, 20), text, fill="black")
    return page


@pytest.mark.parametrize("encoder", ["paligemma"], indirect=True)
def test_questions_and_answers_of_paligemma_are_those_of_its_processor(encoder):
    """Inputs, labels and text loss against prefix and suffix of the library's own call."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from dvsft.evaluator import generate
    from dvsft.trainer.batch import Example
    from dvsft.trainer.methods.sft import Sft
    from dvsft.trainer.model import SupervisedModel
    from dvsft.visionloss.loss import IGNORE

    encode, folder = encoder
    asked = [("Which word?\nAnswer in a word.", "page order"), ("Why?", "so")]
    pages = [drawn(answer) for _, answer in asked]
    batch = encode([Example("p", (turn,), page, 64) for turn, page in zip(asked, pages, strict=True)])
    library = AutoProcessor.from_pretrained(folder)
    library.tokenizer.padding_side = "left"
    prefixes, suffixes = [f"<image>answer en {question}" for question, _ in asked], [answer for _, answer in asked]
    theirs = library(text=prefixes, images=pages, suffix=suffixes, padding=True, return_tensors="pt")
    for name in ("input_ids", "token_type_ids", "attention_mask", "pixel_values"):
        assert torch.equal(batch[name], theirs[name]), name
    tested = generate.inputs(library, [question for question, _ in asked], pages)["input_ids"][0]
    assert batch["input_ids"][0, : len(tested)].tolist() == tested.tolist()
    assert torch.equal(batch["labels"][:, :-1], theirs["labels"][:, 1:]) and (theirs["labels"][:, 0] == IGNORE).all()

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).train()
    method = Sft()
    share = {kind: 1 / int(count) for kind, count in method.count(batch).items()}
    ours = SupervisedModel(model, method)(batch, share).loss
    torch.testing.assert_close(ours, model(**theirs).loss)


@pytest.mark.parametrize("encoder", ["paligemma"], indirect=True)
def test_visual_tokens_of_paligemma_see_the_question_and_no_answer(encoder):
    import torch
    from transformers import AutoModelForImageTextToText

    from dvsft.trainer.batch import Example
    from dvsft.trainer.methods import hidden_states

    encode, folder = encoder
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def visual(question, answer):
        batch = encode([Example("p", ((question, answer),), drawn("page"), 64)])
        return hidden_states(model, batch)[0, :64]

    before = visual("Which?", "page")
    torch.testing.assert_close(visual("Which?", "four"), before)
    assert not torch.allclose(visual("Why??", "page"), before, atol=1e-3)


def test_a_processor_without_a_chat_template_is_refused(folders):
    from transformers import AutoProcessor

    from dvsft.patchlabels.layout import LayoutSpec
    from dvsft.trainer.batch import Encoder
    from dvsft.trainer.families import ModelError

    processor = AutoProcessor.from_pretrained(folders("internvl"))
    processor.chat_template = None
    with pytest.raises(ModelError, match=r"InternVLProcessor has no chat template.*chat_template\.jinja"):
        Encoder(processor, LayoutSpec.from_folder(folders("internvl")))


@pytest.mark.parametrize("name", EVERY)
def test_questions_share_what_the_processor_makes_of_their_page_and_nothing_changes(folders, name):
    from PIL import Image
    from transformers import AutoProcessor

    from dvsft.evaluator import features, generate

    processor = AutoProcessor.from_pretrained(folders(name))
    processor.tokenizer.padding_side = "left"
    shared = features.PageProcessor(processor, generate.inputs)
    sizes = [(256, 256), (256, 256), (600, 200)]
    images = [Image.effect_noise(size, 90).convert("RGB") for size in sizes]
    pages, prompts = [shared.encode(image) for image in images], ["What?", "Which is the longest word?", "Who?", ""]
    for chosen in ([0, 0, 1, 0], [0, 1, 2, 2], [2]):
        asked = prompts[: len(chosen)]
        found = shared.batch(asked, [pages[i] for i in chosen])
        expected = generate.inputs(processor, asked, [images[i] for i in chosen])
        assert features.same(found, expected)
    assert shared.joins == (name in ("qwen2_5_vl", "internvl", "gemma3", "paligemma")), name


def test_the_lora_of_every_family_is_on_all_layers_of_its_language_model_alone(folders):
    import torch
    from transformers import AutoModelForImageTextToText

    from dvsft.trainer.config import Lora
    from dvsft.trainer.model import add_lora

    for name in FAMILIES:
        model = AutoModelForImageTextToText.from_pretrained(folders(name), dtype=torch.float32)
        linear = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
        add_lora(model, Lora(rank=2))
        hit = {n.partition(".lora_")[0] for n, p in model.named_parameters() if p.requires_grad}
        assert hit == {n for n in linear if ".layers." in n and (".language_model." in n or ".text_model." in n)}, name


def test_crops_of_pan_and_scan_reach_the_calls_that_forget_them_otherwise(folders, tmp_path):
    """Gemma-3's processor cuts nothing, whatever its file says, unless each call asks for it."""
    import shutil

    from PIL import Image
    from transformers import AutoProcessor

    from dvsft.evaluator import generate
    from dvsft.evaluator.predict import PATCHES
    from dvsft.patchlabels.layout import LayoutSpec
    from dvsft.trainer.batch import Encoder, Example

    folder = tmp_path / "gemma3"
    shutil.copytree(folders("gemma3"), folder)
    for file in folder.glob("*processor*.json"):
        stored = json.loads(file.read_text())
        images = stored.get("image_processor", stored)
        images.update(do_pan_and_scan=True, pan_and_scan_min_crop_size=64, pan_and_scan_max_num_crops=4)
        file.write_text(json.dumps(stored))
    page, spec = Image.effect_noise((300, 900), 80).convert("RGB"), LayoutSpec.from_folder(folder)
    count = spec.fit(*page.size).visual_tokens
    assert count == 4 * 64  # the page and three crops
    batch = Encoder(AutoProcessor.from_pretrained(folder), spec)([Example("page", (("What?", "It."),), page, count)])
    assert int(batch["visual"].sum()) == count and len(batch["pixel_values"]) == 4
    processor, layout = generate.open_processor(str(folder), PATCHES)  # compares the count of a page too
    asked = generate.inputs(processor, ["What?"], [page])
    assert layout.fit(*page.size).visual_tokens == int((asked["input_ids"] == processor.image_token_ids[0]).sum())
    assert Encoder(processor, spec).blank_batch["pixel_values"].shape[0] == 1
