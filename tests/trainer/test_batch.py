"""Batches, and where in the model's input each label really points."""

from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from support import qwen_spec
from trainer_fixtures import ALIKE, ROOT, SPEC, WORDS, draw_page, text_page, write_shard
from transformers import AutoModelForImageTextToText, AutoProcessor

from dvsft.patchlabels.prompts import TRANSCRIBE
from dvsft.patchlabels.rows import tokenizer_sha256
from dvsft.trainer.batch import FILLER, INSTRUCTIONS, Encoder, Example, make_example
from dvsft.trainer.config import Dataset
from dvsft.trainer.data import Mixture, Sample
from dvsft.trainer.methods import model_inputs
from dvsft.trainer.methods.dv_sft import DvSft
from dvsft.trainer.methods.sft import Sft
from dvsft.trainer.model import SupervisedModel
from dvsft.trainer.pages import DataError
from dvsft.visionloss.loss import IGNORE, TEXT


@pytest.fixture(scope="module")
def encoder(processor_folder):
    return Encoder(AutoProcessor.from_pretrained(processor_folder), SPEC)


@pytest.fixture(scope="module")
def model(tiny):
    return AutoModelForImageTextToText.from_pretrained(tiny).eval()


def mixture_of(folder, encoder, processor_folder):
    return Mixture(
        [Dataset(labels=(str(folder),), questions_per_page=2)],
        encoder.spec,
        tokenizer_sha256(processor_folder),
        encoder.usable,
        encoder.lengths(),
    )


def example_of(page, turns=(("Which word?", "total"),)):
    from dvsft.patchlabels import image

    picture = image.decode(page["image"]["bytes"]) if page["rows"] else None
    labels = page["patch_index"], page["token_id"]
    return Example(page["id"], turns, picture, page["visual_tokens"], *labels)


@pytest.fixture
def pages(processor_folder):
    return [draw_page(0, processor_folder), draw_page(1, processor_folder, grid=(3, 7))]


TEXT_ONLY = Example("text", (("What is two and two?", "four"),))


def test_text_labels_are_the_answers_and_their_end_of_turn_and_nothing_else(encoder, pages):
    turns = (("Which word is first?", "total"), ("And the last, in full?", "item price 12"))
    batch = encoder([example_of(pages[0], turns), example_of(pages[1])])
    decode = encoder.processor.tokenizer.decode
    text = [batch["labels"][k][(batch["labels"][k] != IGNORE) & (batch["image_index"][k] == TEXT)] for k in (0, 1)]
    assert decode(text[0]) == "total<|im_end|>item price 12<|im_end|>"
    assert decode(text[1]) == "total<|im_end|>"


def test_a_text_label_is_the_next_input_token(encoder, pages):
    batch = encoder([example_of(page) for page in pages])
    supervised = (batch["labels"] != IGNORE) & (batch["image_index"] == TEXT)
    assert torch.equal(batch["labels"][supervised], batch["input_ids"][:, 1:][supervised[:, :-1]])


def test_the_prompt_is_what_generation_would_be_given(encoder, pages):
    """Everything before the first answer label equals the processor's own prompt for inference."""
    example = example_of(pages[0])
    batch = encoder([example])
    text = encoder.processor.apply_chat_template(example.messages[:1], add_generation_prompt=True)
    prompt = encoder.processor(text=[text], images=[example.image], return_tensors="pt")
    first = int(((batch["labels"][0] != IGNORE) & (batch["image_index"][0] == TEXT)).nonzero()[0])
    assert torch.equal(batch["input_ids"][0, : first + 1], prompt["input_ids"][0])


def test_every_vision_label_stands_at_its_own_visual_token(encoder, pages):
    batch = encoder([TEXT_ONLY, *[example_of(page) for page in pages]])
    for number, page in enumerate(pages, 1):
        visual = (batch["input_ids"][number] == encoder.image_token).nonzero()[:, 0]
        assert len(visual) == page["rows"] * page["cols"]
        found = {
            patch: int(batch["labels"][number, position])
            for patch, position in enumerate(visual.tolist())
            if batch["labels"][number, position] != IGNORE
        }
        assert found == dict(zip(page["patch_index"], page["token_id"], strict=True))
        labeled = visual[torch.tensor(page["patch_index"])]
        assert (batch["image_index"][number, labeled] == number).all()
    assert (batch["image_index"][0] == TEXT).all()


def test_a_patch_with_several_words_holds_them_all_and_the_loss_is_that_of_their_set(encoder, model, pages):
    """Its labels are repeated patches in the row, in any number; the words of the other patches stay alone."""
    first = example_of(pages[0])
    patches, tokens = list(first.patch_index), list(first.token_id)
    doubled = [*patches, patches[0], patches[0], patches[2]], [*tokens, tokens[1], tokens[0], tokens[3]]
    example = Example(**{**vars(first), "patch_index": doubled[0], "token_id": doubled[1]})
    batch = encoder([TEXT_ONLY, example, example_of(pages[1])])
    assert batch["more_labels"].shape == (*batch["labels"].shape, 1)
    visual = (batch["input_ids"][1] == encoder.image_token).nonzero()[:, 0]
    held = torch.cat([batch["labels"][..., None], batch["more_labels"]], -1)[1, visual].tolist()
    found = {patch: {*row} - {IGNORE} for patch, row in enumerate(held) if row[0] != IGNORE}
    assert found == {p: {t for q, t in zip(*doubled, strict=True) if q == p} for p in patches}
    method = DvSft(beta=0.3)
    assert method.count(batch)["vision_labels"] == len(patches) + len(pages[1]["patch_index"])

    with torch.no_grad():
        ours = SupervisedModel(model, method)(encoder([example]), ALIKE).sums
        inputs = encoder([example])
        log_p = model(**model_inputs(inputs)).logits[0].double().log_softmax(-1)
    words, expected, hits = set(tokens), 0.0, 0
    for position, own in zip(
        (inputs["input_ids"][0] == encoder.image_token).nonzero()[:, 0][patches], found.values(), strict=True
    ):
        rest = words - own
        expected -= 0.7 * sum(log_p[position, t] for t in own) / len(own)
        expected -= 0.3 * sum(log_p[position, t] for t in rest) / len(rest)
        hits += int(log_p[position].argmax()) in own
    torch.testing.assert_close(ours["vision"].double(), expected, rtol=1e-5, atol=0)
    assert ours["hits"] == hits


def test_painting_over_a_patch_changes_the_input_of_its_label_alone(encoder, model, processor_folder):
    """The word of a label is under the position that must predict it: not one token beside, nor a row away.

    A patch is painted over in a real processed image; the model's inputs (image features after the
    processor, patch embedding and merger, without attention between patches) must change at exactly one
    position, and this is where the batch holds the label.
    """
    page = draw_page(0, processor_folder, grid=(5, 6))
    example = example_of(page)
    batch = encoder([TEXT_ONLY, example])  # left padding moves the image along the sequence
    before = visual_inputs(model, batch)
    for patch, token in zip(page["patch_index"], page["token_id"], strict=True):
        pixels = np.array(example.image)
        row, col = divmod(patch, page["cols"])
        side = 32
        pixels[row * side : (row + 1) * side, col * side : (col + 1) * side] = 0
        painted = Example(**{**vars(example), "image": Image.fromarray(pixels)})
        after = visual_inputs(model, encoder([TEXT_ONLY, painted]))
        changed = (after != before).any(-1).nonzero().tolist()
        assert len(changed) == 1
        assert batch["labels"][tuple(changed[0])] == token
        assert batch["image_index"][tuple(changed[0])] == 1


def visual_inputs(model, batch):
    """(B, T, width): what the language model is fed at each position, with the encoder's blocks left
    out."""
    visual = model.model.visual
    with torch.no_grad():
        features = visual.merger(visual.patch_embed(batch["pixel_values"]))
        inputs = model.get_input_embeddings()(batch["input_ids"])
    mask = batch["input_ids"] == model.config.image_token_id
    return inputs.masked_scatter(mask[..., None], features)


def test_labels_of_a_real_page_stand_on_the_patches_that_show_their_words(processor_folder):
    """FUNSD: a scan at its own size goes through the processor; the darkest labeled patches hold ink, and
    painting one over changes its rows of pixel_values and no others."""
    folder = ROOT.parent / "shared/data/funsd/images"
    if not folder.is_dir():
        pytest.skip("no ../shared/data/funsd")
    image = Image.open(sorted(folder.glob("*.png"))[0]).convert("RGB")
    spec = qwen_spec(max_pixels=1024 * 400)
    encoder = Encoder(AutoProcessor.from_pretrained(processor_folder), spec)
    fit = spec.fit(*image.size)
    (ink,) = fit.tokens_at(image.width * 0.5, image.height * 0.5)
    example = Example("real", TEXT_ONLY.turns, image, fit.visual_tokens, [ink], [5])
    x0, y0, x1, y1 = fit.rects()[ink]
    painted = image.copy()
    shrink = 4  # resampling reaches a little over the edges
    inner = round(x0 + shrink), round(y0 + shrink), round(x1 - shrink), round(y1 - shrink)
    painted.paste((255, 0, 0), inner)
    batch = encoder([example])
    other = encoder([Example(**{**vars(example), "image": painted})])
    difference = (batch["pixel_values"] - other["pixel_values"]).abs().sum(1).view(fit.visual_tokens, 4).sum(1)
    assert int(difference.argmax()) == ink and (difference > 0).sum() == 1
    visual = (batch["input_ids"][0] == encoder.image_token).nonzero()[:, 0]
    assert batch["labels"][0, visual[ink]] == 5 and (batch["image_index"][0] == 0).sum() == 1


def test_an_image_of_another_size_than_its_labels_is_refused(encoder, processor_folder, tmp_path):
    page = draw_page(0, processor_folder)
    write_shard(tmp_path / "0.parquet", [page | {"width": page["height"], "height": page["width"]}], processor_folder)
    with pytest.raises(DataError, match=r"page drawn/train/0000: .* 160 x 128 px, its labels were made on 128 x 160"):
        make_example(mixture_of(tmp_path, encoder, processor_folder), Sample(0, 0, (0,), 0))


def test_an_image_with_another_number_of_visual_tokens_than_its_labels_is_refused(encoder, pages):
    examples = [example_of(page) for page in pages]
    other = Example(**{**vars(examples[1]), "visual_tokens": 20})
    with pytest.raises(DataError, match=r"page drawn/train/0001: the processor makes 21 .* count 20; .*make relabel"):
        encoder([examples[0], other])


def test_a_batch_without_images_carries_a_masked_blank_one_that_changes_nothing(encoder, model):
    """Loss and gradients equal the same texts without the blank image, and the vision side runs."""
    batch = encoder([TEXT_ONLY, Example("b", (("Name?", "a longer answer here"),))])
    assert batch["image_grid_thw"].tolist() == [[1, 4, 4]]
    wide = encoder.blank_batch["input_ids"].shape[1]
    assert (batch["attention_mask"][:, :wide] == 0).all() and (batch["labels"][:, :wide] == IGNORE).all()
    assert batch["visual"].sum() == batch["visual"][0, :wide].sum() == 4
    plain = {key: value[:, wide:] for key, value in batch.items() if "image_grid" not in key and "pixel" not in key}
    supervised = SupervisedModel(model, DvSft())
    gradients = []
    for inputs in (batch, plain):
        supervised.zero_grad()
        result = supervised(inputs, ALIKE)
        result.loss.backward()
        gradients.append((result.loss, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    (loss, found), (expected_loss, expected) = gradients
    torch.testing.assert_close(loss, expected_loss)
    for name, gradient in found.items():
        if name in expected:
            torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4)
        else:
            assert ".visual." in name and not gradient.any()
    assert any("merger" in name for name in found)


def test_the_filler_supervises_nothing(encoder):
    assert (encoder([FILLER, FILLER])["labels"] == IGNORE).all()


def test_a_batch_of_several_pages_gives_each_the_loss_it_has_alone(encoder, model, pages):
    examples = [
        example_of(pages[0]),
        TEXT_ONLY,
        example_of(pages[1], (("Why?", "page order"), ("So?", "no"))),
    ]
    supervised = SupervisedModel(model, DvSft(vision_weight=1.0, chunk_size=7))
    with torch.no_grad():
        together = supervised(encoder(examples), ALIKE)
        alone = [supervised(encoder([example]), ALIKE) for example in examples]
    torch.testing.assert_close(together.loss, sum(result.loss for result in alone), rtol=1e-5, atol=1e-5)
    for name in ("text", "vision"):
        torch.testing.assert_close(
            together.sums[name], sum(result.sums[name] for result in alone), rtol=1e-5, atol=1e-5
        )


def test_the_text_loss_equals_transformers_own(encoder, model, pages):
    """Stock loss of the model on the same batch: mean over answer tokens, shifted by the library."""
    batch = encoder([example_of(page) for page in pages])
    ours = SupervisedModel(model, Sft())(batch, ALIKE)
    text = torch.where(batch["image_index"] == TEXT, batch["labels"], IGNORE)
    stock = torch.cat([torch.full_like(text[:, :1], IGNORE), text[:, :-1]], 1)
    expected = model(**model_inputs(batch), labels=stock).loss
    torch.testing.assert_close(ours.sums["text"] / (text != IGNORE).sum(), expected)
    assert ours.sums.keys() == {"text"}


@pytest.mark.parametrize("method", [Sft(), DvSft(beta=0.0)])
def test_a_model_that_caps_its_logits_learns_from_the_capped_ones(encoder, model, pages, monkeypatch, method):
    monkeypatch.setattr(model.config.text_config, "final_logit_softcapping", 0.5, raising=False)
    batch = encoder([example_of(page) for page in pages])
    with torch.no_grad():
        ours = SupervisedModel(model, method)(batch, ALIKE)
        logits = 0.5 * torch.tanh(model(**model_inputs(batch)).logits / 0.5)
    for name, chosen in {"text": batch["image_index"] == TEXT, "vision": batch["image_index"] >= 0}.items():
        labels = batch["labels"].where(chosen, IGNORE)
        expected = torch.nn.functional.cross_entropy(logits.mT, labels, ignore_index=IGNORE, reduction="sum")
        if name in ours.sums:
            torch.testing.assert_close(ours.sums[name], expected, rtol=1e-5, atol=0)


def test_the_planned_length_of_every_sample_is_that_of_its_batch_to_the_token(encoder, processor_folder, tmp_path):
    """Pages and texts, one question or two, all instructions, and texts that begin and end in signs that a tokenizer
    might merge with their neighbors."""
    qa = [("Which word is it? " * 9, "total"), ('"Why" -- or (if not)...', "$1,234.50 %"), ("7" * 40, "...and so on")]
    pages = [draw_page(0, processor_folder, qa=qa), text_page(1, processor_folder, qa=qa)]
    write_shard(tmp_path / "0.parquet", pages, processor_folder)
    mixture = mixture_of(tmp_path, encoder, processor_folder)
    questions = [(0,), (1,), (2,), (0, 1), (1, 0), (2, 1)]
    for number, page, asked in product(range(len(INSTRUCTIONS)), range(2), questions):
        sample = Sample(0, page, asked, number)
        batch = encoder([make_example(mixture, sample)])
        assert mixture.length(sample) == int(batch["attention_mask"].sum()), sample
    longest = max(mixture.length(sample) for sample in mixture.epoch(0, 0, 10**6)[0])
    kept, dropped = mixture.epoch(0, 0, longest)
    fewer, more = mixture.epoch(0, 0, longest - 1)
    assert len(kept) == 2 and not dropped and len(fewer) == 1 and more == {"over_long": 1}


def test_a_page_without_question_stands_alone_in_its_turn_and_a_transcription_holds_all_words(
    encoder, processor_folder, tmp_path
):
    """In one batch, left padded, the shorter with the masked positions; their lengths are the planned ones."""
    page = draw_page(0, processor_folder, qa=[])
    write_shard(tmp_path / "0.parquet", [page], processor_folder)
    datasets = [
        Dataset(labels=(str(tmp_path),), questions_per_page=0),
        Dataset(labels=(str(tmp_path),), ask="transcription"),
    ]
    sha256, lengths = tokenizer_sha256(processor_folder), encoder.lengths()
    mixture = Mixture(datasets, SPEC, sha256, encoder.usable, lengths)
    samples = sorted(mixture.epoch(0, 0, 10**6)[0])
    batch = encoder([make_example(mixture, sample) for sample in samples])
    assert [mixture.length(sample) for sample in samples] == batch["attention_mask"].sum(1).tolist()
    decode, text = encoder.processor.tokenizer.decode, batch["image_index"] == TEXT
    shown = [decode(ids[mask > 0]) for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    image = "<|vision_start|>" + "<|image_pad|>" * 20 + "<|vision_end|>"
    assert shown[0] == f"<|im_start|>user\n{image}<|im_end|>\n"
    assert shown[1].startswith(f"<|im_start|>user\n{image}{TRANSCRIBE}<|im_end|>\n<|im_start|>assistant\n")
    answers = [decode(batch["labels"][k][(batch["labels"][k] != IGNORE) & text[k]]) for k in (0, 1)]
    assert answers == ["", " ".join(word["text"] for word in page["words"]) + "<|im_end|>"]
    assert [(batch["image_index"][k] == k).sum() for k in (0, 1)] == [10, 10]


def test_a_page_has_the_same_vision_loss_without_a_question_and_no_text_loss(encoder, model, pages):
    supervised = SupervisedModel(model, DvSft(vision_weight=0.5))
    silent = supervised(encoder([example_of(pages[0], ())]), ALIKE)
    spoken = supervised(encoder([example_of(pages[0])]), ALIKE)
    torch.testing.assert_close(silent.sums["vision"], spoken.sums["vision"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(silent.loss, 0.5 * silent.sums["vision"])
    assert silent.sums["text"] == 0 < spoken.sums["text"]


def test_an_image_that_cannot_be_decoded_is_an_error_that_names_its_page(encoder, processor_folder, tmp_path):
    page = draw_page(7, processor_folder)
    page["image"]["bytes"] = page["image"]["bytes"][:200]
    write_shard(tmp_path / "0.parquet", [page], processor_folder)
    mixture = mixture_of(tmp_path, encoder, processor_folder)
    with pytest.raises(DataError, match=r"page drawn/train/0007: .* cannot be decoded.*label again"):
        make_example(mixture, Sample(0, 0, (0,), 0))


def test_there_are_ten_instructions_and_the_test_one_is_among_them():
    assert len(set(INSTRUCTIONS)) == 10
    assert "Answer the question using a single word or phrase." in INSTRUCTIONS


def test_texts_with_special_tokens_are_not_usable(encoder):
    assert encoder.usable("How many < 5 | 6 > are there?") and all(map(encoder.usable, WORDS))
    assert not encoder.usable("is <|image_pad|> here")
