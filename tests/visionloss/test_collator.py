"""Labels come to the positions of their visual tokens, however a trainer pads, packs or cuts its batches."""

from itertools import chain

import pytest
import torch

from dvsft.visionloss.collator import IMAGES, LABELS, Collator, Marks, read_columns

PAD, TEXT, VISUAL = 0, 5, 9


def collate(side="right", length=None, pack=False):
    """A trainer's collator: `input_ids` of the examples padded on one side, cut to a length, or all in one row."""

    def make(examples):
        assert all(set(example) <= {"input_ids", "question"} for example in examples), "a column of labels came through"
        ids = [torch.tensor(example.pop("input_ids"))[:length] for example in examples]
        if pack:
            return {"input_ids": torch.cat(ids)[None]}
        batch = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=PAD, padding_side=side)
        return {"input_ids": batch, "attention_mask": (batch != PAD).long()}

    return make


def example(visual, patch_index=(), token_id=(), texts=(2, 1), **columns):
    """`visual` visual tokens between some of text."""
    ids = [TEXT] * texts[0] + [VISUAL] * visual + [TEXT] * texts[1]
    return {"input_ids": ids, "patch_index": patch_index, "token_id": token_id, "visual_tokens": visual} | columns


def placed(batch):
    """{(row, k-th visual token of the row): labels} by the slow way."""
    found = {}
    for row, (ids, labels) in enumerate(zip(batch["input_ids"].tolist(), batch[LABELS].tolist(), strict=True)):
        kth = -1
        for token, own in zip(ids, labels, strict=True):
            kth += token == VISUAL
            own = [label for label in own if label != -100]
            assert not own or token == VISUAL
            if own:
                found[row, kth] = own
    return found


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_moves_no_label(side):
    examples = [example(4, [1, 3], [20, 21]), example(6, [0], [22], texts=(5, 3)), example(0, texts=(3, 0))]
    batch = Collator(collate(side), VISUAL)(examples)
    assert placed(batch) == {(0, 1): [20], (0, 3): [21], (1, 0): [22]}
    assert batch[IMAGES][batch[IMAGES] >= 0].tolist() == [0, 0, 1]
    assert (batch[IMAGES] >= 0).equal(batch[LABELS][..., 0] != -100)


def test_examples_packed_in_one_row_keep_their_images_apart():
    examples = [example(4, [1], [20]), example(2, None, None, visual_tokens=None), example(3, [2], [21])]
    batch = Collator(collate(pack=True), VISUAL)(examples)
    assert placed(batch) == {(0, 1): [20], (0, 8): [21]}
    assert batch[IMAGES][batch[IMAGES] >= 0].tolist() == [0, 2]


def test_lists_of_examples_are_packs():
    def make(packs):
        assert [[len(one) for one in pack] for pack in packs] == [[1, 1], [1]]
        return collate()([{"input_ids": [*chain.from_iterable(one["input_ids"] for one in pack)]} for pack in packs])

    batch = Collator(make, VISUAL)([[example(4, [3], [20]), example(2, [1], [21])], [example(5, [0], [22])]])
    assert placed(batch) == {(0, 3): [20], (0, 5): [21], (1, 0): [22]}


def test_several_images_of_an_example_are_told_apart():
    images = [Marks([1], [20], 2), Marks(), Marks([0, 2], [21, 20], 3)]
    one = {"input_ids": [VISUAL, VISUAL, TEXT, VISUAL, VISUAL, VISUAL]}
    batch = Collator(collate(), VISUAL, lambda example: [images[0], images[2]])([one])
    assert placed(batch) == {(0, 1): [20], (0, 2): [21], (0, 4): [20]}
    assert batch[IMAGES][batch[IMAGES] >= 0].tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match="without visual_tokens"):
        Collator(collate(), VISUAL, lambda example: images)([{"input_ids": [VISUAL] * 6}])


def test_a_patch_with_two_labels_keeps_both():
    batch = Collator(collate(), VISUAL)([example(4, [1, 1, 2], [20, 21, 22]), example(2, [0], [23])])
    assert placed(batch) == {(0, 1): [20, 21], (0, 2): [22], (1, 0): [23]} and batch[LABELS].shape[-1] == 2


def test_rows_and_cols_of_older_shards_say_how_many_visual_tokens():
    assert read_columns({"patch_index": [5], "token_id": [7], "rows": 2, "cols": 3}) == [Marks([5], [7], 6)]


def test_labels_that_were_cut_off_are_refused():
    with pytest.raises(ValueError, match=r"found 4 visual tokens where the labels were made on 6.*raise.*max_length"):
        Collator(collate(length=6), VISUAL)([example(6, [1], [20])])
    batch = Collator(collate(length=9), VISUAL)([example(6, [1], [20], texts=(2, 4))])  # text alone is cut
    assert placed(batch) == {(0, 1): [20]}


def test_a_second_resize_is_refused_with_the_setting_that_mends_it():
    for found in (4, 8):
        with pytest.raises(ValueError, match=f"found {found} visual tokens where the labels were made on 6: set SIZE"):
            Collator(collate(), VISUAL, cure="set SIZE")([example(found, [1], [20], visual_tokens=6)])


def test_one_page_too_many_and_one_too_few_do_not_make_up_for_each_other():
    with pytest.raises(ValueError, match="found 4 visual tokens"):
        Collator(collate(), VISUAL)([example(4, [1], [20], visual_tokens=5), example(6, [1], [20], visual_tokens=5)])


@pytest.mark.parametrize(
    "columns",
    [
        {"patch_index": [4], "token_id": [1]},
        {"patch_index": [-1], "token_id": [1]},
        {"patch_index": [1, 2], "token_id": [1]},
        {"patch_index": [1], "token_id": [1], "visual_tokens": None},
    ],
)
def test_labels_that_fit_no_image_are_refused(columns):
    with pytest.raises(ValueError, match="expected"):
        Collator(collate(), VISUAL)([example(4, **columns)])


def test_an_image_nobody_labeled_may_have_any_size():
    one = {"input_ids": [TEXT, VISUAL, VISUAL], "patch_index": None, "token_id": None, "visual_tokens": None}
    assert placed(Collator(collate(), VISUAL)([one, example(2, [1], [20])])) == {(1, 1): [20]}


def test_columns_that_ms_swift_keeps_apart_are_found_and_taken_out():
    one = example(4)
    columns = {"patch_index": [2], "token_id": [20], "visual_tokens": 4, "question": "?"}

    def make(examples):
        assert [e["_extra_kwargs"] for e in examples] == [{"question": "?"}]
        return collate()([{"input_ids": examples[0]["input_ids"]}])

    batch = Collator(make, VISUAL)([{"input_ids": one["input_ids"], "_extra_kwargs": columns}])
    assert placed(batch) == {(0, 2): [20]}
