"""Gradients at the visual tokens: those of naive autograd, and what their maps say of a page."""

import json

import numpy as np
import pytest
import torch
from evaluator_fixtures import VOCABULARY
from support import assert_nothing_ran, scrolls_sideways

from dvsft.evaluator import generate, gradients, lens
from dvsft.patchlabels import command, rows
from dvsft.patchlabels.image import decode
from dvsft.patchlabels.layout import LayoutSpec


def pair_of(number, chosen, rejected, question="q"):
    return {
        "pair_id": f"p{number}", "question_id": question, "prompt": "Which word is it?", "chosen": chosen,
        "rejected": rejected, "chosen_score": 1.0, "rejected_score": 0.0, "chosen_count": 3, "rejected_count": 2,
        "samples": 16, "rule": "answer",
    }  # fmt: skip


@pytest.fixture(scope="module")
def pair_shards(labels_folder, tmp_path_factory):
    """Three pages: two pairs, one whose answer is nowhere; none; one, whose page has another accepted answer."""
    shard, folder = lens.find_shards(labels_folder)[0], tmp_path_factory.mktemp("pairs")
    pages = list(rows.read(shard))
    words = [[word["text"] for word in page["words"]] for page in pages]
    absent = next(word for word in VOCABULARY if word not in words[0])
    pages[0]["pairs"] = [pair_of(0, " ".join(words[0][3:5]), words[0][7]), pair_of(1, absent, words[0][0])]
    pages[2]["pairs"] = [
        pair_of(2, "<img src=x onerror='window.pwned=1'>", "</script>", pages[2]["qa"][1]["question_id"])
    ]
    rows.write(folder / "0.parquet", pages, rows.open_shard(shard)[1])
    return folder


@pytest.fixture(scope="module")
def loaded(model_folder, pair_shards):
    return lens.open_model(str(model_folder), lens.find_shards(pair_shards), "cpu")


@pytest.fixture(scope="module")
def page(pair_shards):
    (found,) = [page for page in lens.choose(lens.find_shards(pair_shards), 9, "pairs") if len(page.row["pairs"]) == 2]
    return found


def naive_gradients(loaded, pair, image):
    """By autograd on whole conversations and all their logits, from the vision tower's output on."""
    merged = []

    def begin(module, arguments, output):
        output.pooler_output = output.pooler_output.detach().requires_grad_()
        merged.append(output.pooler_output)
        return output

    def score(answer):
        asked = generate.chat(loaded.processor, pair["prompt"])
        whole = asked + answer + "<|im_end|>"
        texts = [loaded.processor(text=[text], images=[image], return_tensors="pt") for text in (asked, whole)]
        start, batch = texts[0]["input_ids"].shape[1], texts[1]
        logits = loaded.model(**batch).logits[0].double()
        labels = batch["input_ids"][0].clone()
        labels[:start] = -100
        return -torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="sum")

    hook = loaded.model.model.visual.register_forward_hook(begin)
    chosen, rejected = (torch.autograd.grad(score(pair[side]), merged[-1])[0] for side in ("chosen", "rejected"))
    hook.remove()
    return {"sft": -chosen, "dpo": -(chosen - rejected)}


def test_gradients_are_those_of_naive_autograd_on_the_whole_sequence(loaded, page):
    pair, image = page.row["pairs"][0], decode(page.read_image())
    found, expected = gradients.pair_gradients(loaded, pair, image), naive_gradients(loaded, pair, image)
    for loss in gradients.LOSSES:
        assert found[loss].shape == (64, 32) and found[loss].abs().sum() > 0
        torch.testing.assert_close(found[loss], expected[loss], rtol=1e-4, atol=1e-7)


def test_a_loss_that_reads_one_patch_has_all_its_gradient_there(loaded, page):
    """The first visual token sees no other."""
    image = decode(page.read_image())
    batch, _ = gradients.encode_answer(loaded, "Which?", "sun", image)
    first = int((batch["input_ids"][0] == loaded.model.config.image_token_id).nonzero()[0, 0])

    def norms(place):
        found = gradients.visual_gradient(loaded.model, batch, lambda hidden: hidden[place].square().sum())
        return found.abs().sum(-1)

    assert norms(first)[0] > 0 and not norms(first)[1:].any()
    assert norms(first + 1)[:2].all() and not norms(first + 1)[2:].any()


def test_the_chosen_answer_gains_by_a_step_against_the_gradient_and_sums_follow_the_losses(loaded, page):
    pair, image = page.row["pairs"][0], decode(page.read_image())
    found = gradients.pair_gradients(loaded, pair, image)
    swapped = gradients.pair_gradients(loaded, pair | {"chosen": pair["rejected"], "rejected": pair["chosen"]}, image)
    torch.testing.assert_close(found["dpo"], -swapped["dpo"])
    torch.testing.assert_close(found["dpo"], found["sft"] - swapped["sft"])
    same = gradients.pair_gradients(loaded, pair | {"rejected": pair["chosen"]}, image)
    assert not same["dpo"].any() and torch.equal(same["sft"], found["sft"])

    batch, start = gradients.encode_answer(loaded, pair["prompt"], pair["chosen"], image)
    visual = batch["input_ids"][0] == loaded.model.config.image_token_id

    def score(step):
        def move(layer, arguments, named):
            named["inputs_embeds"] = named["inputs_embeds"].clone()
            named["inputs_embeds"][0, visual] -= step * found["sft"]
            return arguments, named

        hook = loaded.model.get_decoder().register_forward_pre_hook(move, with_kwargs=True)
        with torch.no_grad():
            logits = loaded.model(**batch).logits[0].double()
        hook.remove()
        chosen = torch.log_softmax(logits, -1)[start - 1 : -1].gather(1, batch["input_ids"][0, start:, None])
        return float(chosen.sum())

    step = 0.01 / float(found["sft"].norm())
    assert score(step) - score(0.0) == pytest.approx(step * float(found["sft"].square().sum()), rel=0.1)


def test_an_answer_ends_with_the_token_of_its_turn_and_no_newline(loaded, page):
    batch, start = gradients.encode_answer(loaded, "Which?", "sun", decode(page.read_image()))
    tokenizer = loaded.processor.tokenizer
    assert tokenizer.decode(batch["input_ids"][0, start:]) == "sun<|im_end|>"


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("net total", {1, 2}),
        ("TOTAL:", {2, 5}),
        ("total 42", {2, 3}),
        ("4", set()),  # within a word
        ("42 net", set()),  # the other way round
        ("...", set()),
        ("", set()),
        ("東京", {7, 8}),  # words without spaces between them
    ],
)
def test_an_answer_s_words_are_wherever_they_stand_one_after_the_other(answer, found):
    words = ["The", "net", "Total,", "42.", "-", "total", "43", "東", "京"]
    assert gradients.answer_words(words, answer) == found


def test_patches_of_an_answer_are_all_that_its_words_touch(loaded, page):
    layout = loaded.layout.fit(256, 256)
    words = [
        {"text": "sun", "box": [30.0, 4.0, 70.0, 28.0]},
        {"text": "sun", "box": [64.0, 60.0, 96.0, 64.0]},
        {"text": "moon", "box": [0.0, 0.0, 9.0, 9.0]},
    ]
    inside = gradients.patches_of_answer(layout, {"words": words, "qa": []}, pair_of(0, "sun", "moon"))
    assert np.flatnonzero(inside).tolist() == [0, 1, 2, 10]


def test_lift_is_the_share_of_the_gradient_over_the_share_of_the_page():
    norms = {"sft": np.array([9.0, 2.0, 1.0, 1.0, 4.0]), "dpo": np.array([0.0, 1.0, 1.0, 1.0, 1.0])}
    maps = gradients.Maps("p", {}, norms, np.array([0, 0, 0, 0, 1], bool), np.array([0, 1, 1, 1, 1], bool))
    assert maps.area == 0.25 and maps.share("sft") == 0.5 and maps.lift("sft") == 2.0 and maps.lift("dpo") == 1.0
    found = gradients.figures([maps, maps])
    assert found["sft"] == {"share": 0.5, "lift": 2.0, "standard_error": 0.0} and found["pages"] == 1
    assert found["dpo_minus_sft"]["mean"] == -1.0 and found["dpo_minus_sft"]["low"] is None


@pytest.fixture(scope="module")
def written(model_folder, pair_shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("gradients")
    arguments = [str(model_folder), "--shards", str(pair_shards), "--out", str(out), "--device", "cpu"]
    assert command.run(gradients.main, arguments) == 0
    return out


def test_the_verb_measures_pairs_whose_answer_is_on_the_page_and_counts_the_others(written):
    found = json.loads((written / "gradients.json").read_text())
    assert found["pairs"] == found["pages"] == 2 and found["left_out"] == {"answer_not_on_page": 1}
    for loss in gradients.LOSSES:
        assert found[loss]["lift"] > 0 and found[loss]["standard_error"] > 0 and 0 < found[loss]["share"] < 1


def test_shards_without_pairs_and_unreadable_pages(model_folder, labels_folder, pair_shards, loaded, tmp_path, capsys):
    arguments = [str(model_folder), "--shards", str(labels_folder), "--out", str(tmp_path), "--device", "cpu"]
    assert command.run(gradients.main, arguments) == 2
    assert "holds no page with preference pairs; make them with: dvsft preferences" in capsys.readouterr().err
    (page, *_) = lens.choose(lens.find_shards(pair_shards), 1, "pairs")
    maps, rejected = gradients.measure(loaded, [lens.Page(page.row, page.dataset, lambda: b"torn")])
    assert maps == [] and rejected == {"not_an_image": 1}
    assert gradients.figures(maps) == {"pairs": 0, "pages": 0}


def test_the_page_shows_both_maps_and_the_patches_of_the_answer(chromium, written, page):
    chromium.get((written / "gradients.html").as_uri())
    options = chromium.find_elements("css selector", "#page option")
    assert len(options) == 2
    next(option for option in options if option.text == page.row["id"]).click()
    figures = chromium.find_elements("css selector", "figure")
    assert [figure.text.partition(",")[0] for figure in figures] == ["SFT", "DPO"]
    for figure in figures:
        patches = figure.find_elements("css selector", ".patch")
        assert len(patches) == 64
        inside = [k for k, patch in enumerate(patches) if "inside" in patch.get_attribute("class")]
        words = page.row["words"]
        layout = LayoutSpec(
            "qwen_vl", {"patch_size": 16, "merge_size": 2, "min_pixels": 65536, "max_pixels": 2097152}
        ).fit(256, 256)
        expected = gradients.patches_of_answer(layout, {"words": words, "qa": []}, page.row["pairs"][0])
        assert inside == np.flatnonzero(expected).tolist()
    assert_nothing_ran(chromium)
    assert not scrolls_sideways(chromium)
