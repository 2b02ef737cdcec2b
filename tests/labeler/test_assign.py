"""The label rules against a slow obvious version, on layouts of one grid and of tiles."""

import random
from dataclasses import replace

import numpy as np
import pytest
from support import qwen_spec, spec_of

from dvsft.labeler.labels.assign import Policy, Tokens, assign, right_edge
from dvsft.labeler.word import Word

SPEC = qwen_spec()
POLICY = Policy(max_tokens=3, max_height=3.0, leading_space=False)
OURS = {
    "small": replace(POLICY, min_height=9.0),
    "subword": replace(POLICY, rule="subword"),
    "set": replace(POLICY, contested="set", max_tokens=None),
    "all": replace(POLICY, rule="subword", contested="set", min_height=9.0, max_height=None),
}


def slow_labels(words, tokens, layout, policy):
    """Walk over all visual tokens, for each over all words, for each over the tokens that it may give."""
    cells, views = layout.rects(), layout.view_index()
    labels = []
    for patch, (x0, y0, x1, y1) in enumerate(cells):
        if np.isnan(x0):
            continue
        view = layout.views[views[patch]]
        if view.thumbnail and policy.min_height is None:
            continue
        here = []
        for index, (word, encoded) in enumerate(zip(words, tokens, strict=True)):
            if not encoded.ids or (policy.max_tokens is not None and len(encoded.ids) > policy.max_tokens):
                continue
            cells_high = (word.box[3] - word.box[1]) / (y1 - y0)
            if policy.max_height is not None and cells_high > policy.max_height:
                continue
            if policy.min_height is not None and cells_high * view.side[1] < policy.min_height:
                continue
            whole = [(0, encoded.ids[0], word.box[2])]
            parts = [(n, i, glyph_end(word, e)) for n, (i, e) in enumerate(zip(encoded.ids, encoded.ends, strict=True))]
            for number, token, x in parts if policy.rule == "subword" else whole:
                on_page = 0 < x <= layout.width and 0 < word.box[3] <= layout.height
                if on_page and x0 < x <= x1 and y0 < word.box[3] <= y1:
                    here.append((patch, token, index, number))
        if policy.contested == "set":
            labels += here
        elif len({index for _, _, index, _ in here}) == 1:
            labels.append(min(here, key=lambda label: label[3]))
    return [label[:3] for label in labels]


def glyph_end(word, end):
    left, _, right, _ = word.box
    if end == len(word.text):
        return right
    return word.ends[end - 1] if word.ends else left + (right - left) * end / len(word.text)


def found_labels(words, tokens, layout, policy):
    found = assign(words, tokens, layout, policy)
    return list(zip(found.patch_index, found.token_id, found.label_word, strict=True))


def random_page(draw, text="word"):
    width, height = draw.randrange(200, 1400), draw.randrange(200, 1400)
    words, tokens = [], []
    for _ in range(draw.randrange(0, 120)):
        x0, y0 = draw.uniform(-20, width), draw.uniform(-20, height)
        box = (x0, y0, x0 + draw.uniform(1, 200), y0 + draw.choice([12, 20, 60, 140]) * draw.uniform(0.5, 1.5))
        cuts = sorted(draw.uniform(x0, box[2]) for _ in text[1:])
        words.append(Word(text, box, 1.0, (*cuts, box[2]) if draw.random() < 0.5 else None))
        count = draw.randrange(0, 6)
        ends = sorted(draw.randrange(1, 5) for _ in range(count))
        tokens.append(Tokens([draw.randrange(1000) for _ in range(count)], [*ends[:-1], 4] if count else []))
    return words, tokens, width, height


@pytest.mark.parametrize("seed", range(40))
def test_labels_equal_the_slow_version_on_random_boxes(seed):
    words, tokens, width, height = random_page(random.Random(seed))
    layout = SPEC.fit(width, height)
    assert found_labels(words, tokens, layout, POLICY) == slow_labels(words, tokens, layout, POLICY)


@pytest.mark.parametrize("policy", OURS)
@pytest.mark.parametrize("family", ["qwen_vl", "internvl", "gemma3", "llava", "hunyuan_vl"])
def test_every_rule_equals_the_slow_version_on_every_kind_of_layout(family, policy):
    for seed in range(2):
        words, tokens, width, height = random_page(random.Random(f"{family} {policy} {seed}"))
        layout = spec_of(family).fit(width, height)
        expected = slow_labels(words, tokens, layout, OURS[policy])
        assert found_labels(words, tokens, layout, OURS[policy]) == expected
        patches = [patch for patch, _, _ in expected]
        assert patches == sorted(patches)
        assert len(patches) == len(set(patches)) or policy in ("set", "all")


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("policy", [POLICY, *OURS.values()])
def test_every_word_has_a_label_or_one_reason(seed, policy):
    words, tokens, width, height = random_page(random.Random(1000 + seed))
    found = assign(words, tokens, spec_of("internvl").fit(width, height), policy)
    assert [i for i, reason in enumerate(found.reasons) if reason is None] == sorted({*found.label_word})
    assert len(words) == len({*found.label_word}) + found.dropped().total()


def tokens_of(ids):
    return Tokens(ids, [1] * len(ids))


def one(box, ids, policy=POLICY):
    found = assign([Word("w", box, 1.0)], [tokens_of(ids)], SPEC.fit(320, 320), policy)
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
    found = assign(words, [tokens_of([1]), tokens_of([2]), tokens_of([3])], SPEC.fit(320, 320), POLICY)
    assert found.patch_index == [1]
    assert found.reasons == ["contested", "contested", None]


def test_a_dropped_word_contests_nothing():
    words = [Word("a", (0, 0, 20, 20), 1.0), Word("long", (0, 5, 25, 25), 1.0)]
    tokens = [tokens_of([1]), tokens_of([1, 2, 3, 4])]
    assert assign(words, tokens, SPEC.fit(320, 320), POLICY).patch_index == [0]


def test_rules_can_be_switched_off_for_rendered_words():
    rendered = Policy(max_tokens=None, max_height=None, leading_space=False)
    assert one((10, 10, 100, 200), [1, 2, 3, 4, 5], rendered) == ([63], [1], None)


def labels_of(words, tokens, policy, family="qwen_vl", size=(320, 320)):
    return found_labels(words, tokens, spec_of(family).fit(*size), policy)


def test_subwords_label_the_patches_in_which_their_last_glyphs_end():
    long = Word("incomprehensible", (0, 0, 160, 20), 1.0)  # 10 px a letter, 32 px a patch
    tokens = [Tokens([7, 8, 9], [2, 8, 16])]
    assert labels_of([long], tokens, OURS["subword"]) == [(0, 7, 0), (2, 8, 0), (4, 9, 0)]
    squeezed = replace(long, ends=(*(2.0 * (n + 1) for n in range(15)), 160.0))
    assert labels_of([squeezed], tokens, OURS["subword"]) == [(0, 7, 0), (4, 9, 0)]  # 8 ends at 16 px, behind 7
    assert labels_of([squeezed], tokens, replace(OURS["subword"], contested="set"))[:2] == [(0, 7, 0), (0, 8, 0)]


def test_a_word_inside_one_patch_labels_it_with_its_first_token_by_either_rule():
    words, tokens = [Word("word", (1, 1, 30, 20), 1.0)], [Tokens([5, 6], [2, 4])]
    assert labels_of(words, tokens, POLICY) == labels_of(words, tokens, OURS["subword"]) == [(0, 5, 0)]


def test_a_token_without_a_glyph_has_no_place():
    words, tokens = [Word("word", (40, 1, 90, 20), 1.0)], [Tokens([1, 2], [0, 4])]
    assert labels_of(words, tokens, OURS["subword"]) == [(2, 2, 0)]


def test_characters_that_nobody_placed_are_equally_wide():
    word = Word("abcd", (10, 0, 50, 9), 1.0)
    assert [right_edge(word, n) for n in (1, 2, 4)] == [20, 30, 50]
    assert right_edge(replace(word, ends=(1.0, 2.0)), 2) == 30  # of another text


def test_a_set_holds_every_word_that_ends_in_the_patch_in_the_order_of_words():
    words = [Word("a", (0, 0, 20, 20), 1.0), Word("b", (0, 5, 25, 25), 1.0), Word("c", (0, 0, 60, 20), 1.0)]
    tokens = [tokens_of([3]), tokens_of([3]), tokens_of([1])]
    assert labels_of(words, tokens, OURS["set"]) == [(0, 3, 0), (0, 3, 1), (1, 1, 2)]


def test_a_small_word_is_told_from_others_in_pixels_of_the_model():
    small = Word("a", (10, 10, 100, 18.9), 1.0)
    found = assign([small], [tokens_of([1])], SPEC.fit(320, 320), OURS["small"])
    assert (found.patch_index, found.reasons) == ([], ["too_small"])
    doubled = spec_of("qwen_vl", min_pixels=640 * 640).fit(320, 320)
    assert assign([small], [tokens_of([1])], doubled, OURS["small"]).reasons == [None]


def test_a_word_cut_by_a_tiles_edge_goes_to_the_tile_that_holds_its_corner():
    layout = spec_of("internvl").fit(896, 448)
    assert [view.thumbnail for view in layout.views] == [False, False, True]
    word = Word("a", (400, 10, 500, 40), 1.0)  # the edge is at 448
    found = assign([word], [tokens_of([1])], layout, POLICY)
    assert found.patch_index == [256 + 16 + 1]  # second tile, row 1 (28 px each), column 52 // 28


def test_a_thumbnail_gets_the_words_that_can_be_read_there():
    layout = spec_of("internvl").fit(896, 448)  # the thumbnail is 448 px wide: half
    words = [Word("a", (10, 10, 100, 40), 1.0), Word("b", (500, 300, 600, 312), 1.0)]
    tokens = [tokens_of([1]), tokens_of([2])]
    limited = assign(words, tokens, layout, replace(POLICY, min_height=8.0))
    views = [layout.views[layout.view_index()[patch]].thumbnail for patch in limited.patch_index]
    in_thumbnail = {word for word, thumbnail in zip(limited.label_word, views, strict=True) if thumbnail}
    in_detail = {word for word, thumbnail in zip(limited.label_word, views, strict=True) if not thumbnail}
    assert in_detail == {0, 1}  # 30 and 12 px
    assert in_thumbnail == {0, 1}  # 448 px high is all of the page: not reduced from top to bottom
    high = assign(words, tokens, layout, replace(POLICY, min_height=20.0))
    assert high.reasons == [None, "too_small"]
    without = assign(words, tokens, layout, POLICY)
    assert not any(layout.views[layout.view_index()[patch]].thumbnail for patch in without.patch_index)


def test_a_word_that_the_recognizer_is_not_sure_of_neither_labels_nor_contests():
    unsure, sure, alone = (
        Word("a", (0, 0, 20, 20), 0.79),
        Word("b", (0, 5, 25, 25), 0.8),
        Word("c", (0, 0, 60, 20), 0.5),
    )
    tokens = [tokens_of([3]), tokens_of([4]), tokens_of([5])]
    layout = SPEC.fit(320, 320)
    found = assign([unsure, sure, alone], tokens, layout, replace(POLICY, min_confidence=0.8))
    assert found.reasons == ["low_confidence", None, "low_confidence"] and found.token_id == [4]
    assert assign([unsure, sure, alone], tokens, layout, POLICY).reasons == ["contested", "contested", None]


def test_a_confidence_at_the_limit_passes_also_after_it_was_stored():
    stored = float(np.float32(0.9))
    assert stored < 0.9
    policy = replace(POLICY, min_confidence=0.9)
    for confidence in (0.9, stored):
        assert assign([Word("a", (0, 0, 9, 9), confidence)], [tokens_of([1])], SPEC.fit(320, 320), policy).reasons == [
            None
        ]
