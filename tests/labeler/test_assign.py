"""The four label rules against a slow obvious version."""

import random

import pytest

from dvsft.labeler.labels.assign import Policy, assign
from dvsft.labeler.word import Word
from dvsft.patchlabels.grid import GridSpec

SPEC = GridSpec(16, 2, 65536, 2097152)
POLICY = Policy(max_tokens=3, max_height=3.0, leading_space=False)


def slow_labels(words, token_ids, width, height, policy):
    """METHOD: resize every box, then walk over all patches and all words for each of them."""
    grid = SPEC.fit(width, height)
    resized_width, resized_height = grid.resized
    survivors = []
    for index, (word, ids) in enumerate(zip(words, token_ids, strict=True)):
        _, y0, x1, y1 = word.box
        if not ids or len(ids) > policy.max_tokens:
            continue
        if (y1 - y0) * resized_height / height > policy.max_height * 32:
            continue
        survivors.append((index, x1 * resized_width / width, y1 * resized_height / height))
    labels = []
    for row in range(grid.rows):
        for col in range(grid.cols):
            here = [i for i, x, y in survivors if col * 32 < x <= col * 32 + 32 and row * 32 < y <= row * 32 + 32]
            if len(here) == 1:
                labels.append((row * grid.cols + col, token_ids[here[0]][0], here[0]))
    return labels


def random_page(draw):
    width, height = draw.randrange(200, 1400), draw.randrange(200, 1400)
    words, token_ids = [], []
    for _ in range(draw.randrange(0, 120)):
        x0, y0 = draw.uniform(-20, width), draw.uniform(-20, height)
        box = (x0, y0, x0 + draw.uniform(1, 200), y0 + draw.choice([12, 20, 60, 140]) * draw.uniform(0.5, 1.5))
        words.append(Word("w", box, 1.0))
        token_ids.append([draw.randrange(1000) for _ in range(draw.randrange(0, 6))])
    return words, token_ids, width, height


@pytest.mark.parametrize("seed", range(60))
def test_labels_equal_the_slow_version_on_random_boxes(seed):
    words, token_ids, width, height = random_page(random.Random(seed))
    found = assign(words, token_ids, SPEC.fit(width, height), POLICY)
    labels = list(zip(found.patch_index, found.token_id, found.label_word, strict=True))
    assert labels == slow_labels(words, token_ids, width, height, POLICY)


@pytest.mark.parametrize("seed", range(10))
def test_every_word_is_a_label_or_has_one_reason(seed):
    words, token_ids, width, height = random_page(random.Random(1000 + seed))
    found = assign(words, token_ids, SPEC.fit(width, height), POLICY)
    assert [i for i, reason in enumerate(found.reasons) if reason is None] == sorted(found.label_word)
    assert len(words) == len(found.patch_index) + found.dropped().total()


def one(box, ids, policy=POLICY):
    found = assign([Word("w", box, 1.0)], [ids], SPEC.fit(320, 320), policy)
    return found.patch_index, found.token_id, found.reasons[0]


def test_the_label_is_the_first_token_at_the_bottom_right_corner():
    assert one((10, 10, 100, 30), [7, 8, 9]) == ([3], [7], None)


def test_a_word_of_four_tokens_is_dropped():
    assert one((10, 10, 100, 30), [1, 2, 3, 4]) == ([], [], "too_many_tokens")


def test_a_word_of_exactly_three_patches_height_stays_and_a_taller_one_goes():
    assert one((10, 10, 100, 106), [1]) == ([33], [1], None)
    assert one((10, 10, 100, 106.5), [1]) == ([], [], "too_tall")


def test_two_words_in_one_patch_both_lose_their_label():
    words = [Word("a", (0, 0, 20, 20), 1.0), Word("b", (0, 5, 25, 25), 1.0), Word("c", (0, 0, 60, 20), 1.0)]
    found = assign(words, [[1], [2], [3]], SPEC.fit(320, 320), POLICY)
    assert found.patch_index == [1]
    assert found.reasons == ["contested", "contested", None]


def test_a_dropped_word_contests_nothing():
    words = [Word("a", (0, 0, 20, 20), 1.0), Word("long", (0, 5, 25, 25), 1.0)]
    assert assign(words, [[1], [1, 2, 3, 4]], SPEC.fit(320, 320), POLICY).patch_index == [0]


def test_rules_can_be_switched_off_for_rendered_words():
    rendered = Policy(max_tokens=None, max_height=None, leading_space=False)
    assert one((10, 10, 100, 200), [1, 2, 3, 4, 5], rendered) == ([63], [1], None)
