"""Text drawn on the patch grid."""

import io
import random
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from support import SPECS, qwen_spec, spec_of

from dvsft.labeler.config import FONTS
from dvsft.labeler.labels.assign import Policy, Tokens, assign
from dvsft.labeler.labels.fonts import Fonts
from dvsft.labeler.labels.render import contrast, pick_colors, render_page, undrawn_answer
from dvsft.labeler.labels.tiles import GAP
from dvsft.labeler.page import Unusable
from dvsft.patchlabels import image

RENDERED = Policy(max_tokens=None, max_height=None, leading_space=False)

SIDE, SPEC = 32, qwen_spec()
TEXT = "The mill, built in 1873 by Ødegård & Sons, ground rye; its wheel (6.5 m wide) stood “idle” for years. " * 3


def render(text=TEXT, name="p", spec=SPEC, seed=0):
    return render_page(text, spec, page_id=name, seed=seed, font_sizes=[21, 28])


def ink_of(rendered) -> np.ndarray:
    """(H, W) bool: pixels nearer to the text's color than to the ground's."""
    page = Image.open(io.BytesIO(rendered.png))
    return np.asarray(page) > 127


@pytest.mark.parametrize("number", range(8))
def test_every_word_starts_on_a_patch_boundary_and_keeps_to_one_row(number):
    page = render(name=str(number))
    for word in page.words:
        x0, y0, _, y1 = word.box
        assert x0 % SIDE == 0
        assert y0 // SIDE == (y1 - 1) // SIDE


def test_a_page_is_drawn_in_the_fonts_that_are_named():
    def widths(name, fonts):
        page = render_page(TEXT, SPEC, page_id=name, seed=0, font_sizes=[24, 24], fonts=Fonts(tuple(fonts)))
        return [word.box[2] - word.box[0] for word in page.words]

    names = [str(number) for number in range(6)]
    alone = {font: widths("0", [font]) for font in ("OpenSans-Regular", "LiberationMono-Regular")}
    drawn = [widths(name, list(alone)) for name in names]
    assert all(drawn.count(page) for page in alone.values()) and all(page in alone.values() for page in drawn)


@pytest.mark.parametrize("number", range(8))
def test_the_boxes_hold_all_the_ink_and_each_its_own(number):
    page = render(name=str(number))
    ink = ink_of(page)
    for word in page.words:
        x0, y0, x1, y1 = (int(edge) for edge in word.box)
        assert ink[y0:y1, x0:x1].any()
        ink[y0:y1, x0:x1] = False
    assert not ink.any()


def test_words_come_in_reading_order_with_room_between_them():
    words = render().words
    assert [word.text for word in words] == TEXT.split()
    for before, after in pairwise(words):
        same_row = before.box[1] // SIDE == after.box[1] // SIDE
        assert after.box[0] - before.box[2] >= GAP if same_row else after.box[1] > before.box[1]


@pytest.mark.parametrize("text", [TEXT, "tiny", " ".join(["word"] * 900), "x" * 200])
def test_the_models_resize_leaves_the_picture_as_it_is(text):
    page = render(text)
    rows, cols = SPEC.fit(page.width, page.height).grid or (0, 0)
    assert (cols * SIDE, rows * SIDE) == (page.width, page.height)
    assert image.decode(page.png).size == (page.width, page.height)


def test_the_same_seed_and_id_give_the_same_bytes_and_others_do_not():
    assert render().png == render().png
    assert len({render(name=name, seed=seed).png for name in "ab" for seed in (0, 1)}) == 4


def test_pages_vary_in_font_size_polarity_and_shape():
    pages = [render(name=str(n)) for n in range(40)]
    ground = [np.asarray(image.decode(page.png).convert("L"))[-1, -1] for page in pages]
    assert min(ground) < 110 and max(ground) > 145
    assert len({page.width for page in pages}) >= 5
    assert len({page.words[1].box[2] - page.words[1].box[0] for page in pages}) > len(FONTS)


def test_all_colors_can_be_read():
    draw = random.Random(3)
    pairs = [pick_colors(draw) for _ in range(500)]
    assert min(contrast(text, ground) for text, ground in pairs) >= 4.5
    assert 150 < sum(sum(text) < sum(ground) for text, ground in pairs) < 350


def test_contrast_is_that_of_wcag():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)


def test_words_that_no_font_can_draw_are_skipped_and_counted():
    page = render("plain 凧 🙂 שלום Ελληνικά Привет \u2800 naive\u0301 end")
    assert [word.text for word in page.words] == ["plain", "Ελληνικά", "Привет", "naive\u0301", "end"]
    assert page.no_glyph == 4


def test_soft_hyphens_and_zero_width_characters_cost_no_word():
    marked = (
        "co\u00adoper\u00adate \u200bzero\u200bwidth\u200d \u2060join\ufeff \u200eleft\u202c \u00a9\ufe0f \u200b end"
    )
    plain = "cooperate zerowidth join left \u00a9 end"
    page = render(marked)
    assert [word.text for word in page.words] == plain.split()
    assert page.no_glyph == 0
    assert page.png == render(plain).png


def test_an_answer_is_undrawn_where_a_part_of_it_is():
    text = "the 凧 kite of 東京 flew co\u00adop"
    fonts = Fonts(("OpenSans-Regular",))
    lost = [
        answer for answer in ("凧", "the 凧 kite", "東", "kite of 東京 flew") if undrawn_answer(text, answer, fonts)
    ]
    assert lost == ["凧", "the 凧 kite", "東", "kite of 東京 flew"]
    for answer in ("kite of", "the", "coop", "co\u00adop", "yes, 凧 it does", ""):
        assert not undrawn_answer(text, answer, fonts)
    assert not undrawn_answer("a 凧 kite, and kite", "kite", fonts)


@pytest.mark.parametrize("number", range(12))
@pytest.mark.parametrize("text", ["a b", "tiny", "some more words than two"])
def test_a_short_text_gets_a_page_of_ordinary_shape(text, number):
    """The smallest page has 64 patches; of two words it was a strip two patches wide and 32 high."""
    page = render(text, str(number))
    assert 0.8 <= page.width / page.height <= 2.2
    assert 65536 <= page.width * page.height <= 1.2 * 65536


def test_a_text_that_cannot_be_drawn_or_does_not_fit_is_refused():
    with pytest.raises(Unusable, match="none of which the fonts can draw"):
        render("凧 🙂")
    with pytest.raises(Unusable, match="do not fit on the largest page"):
        render(TEXT * 60)


def test_letters_higher_than_their_font_says_are_not_cut():
    for number in range(len(FONTS) * 3):
        page = render_page("ẤỖǛ ÅÇģ", SPEC, page_id=str(number), seed=0, font_sizes=[28, 28])
        for word in page.words:
            top, bottom = word.box[1] % SIDE, (word.box[3] - 1) % SIDE + 1
            assert bottom - top > 20
            assert (top, bottom) != (0, SIDE), "the ink fills the line to both edges: it was cut"


@pytest.mark.parametrize("number", range(12))
def test_a_text_that_fits_in_some_shape_is_drawn_in_that_shape(number):
    narrow = qwen_spec(max_pixels=65536)
    page = render("Yes we can do this and that", str(number), narrow)
    assert page.width * page.height == 65536


@pytest.mark.parametrize("family", SPECS)
def test_no_family_resamples_what_is_drawn_for_it_and_every_word_has_a_patch_of_its_own(family):
    spec = spec_of(family)
    for text in ("a b", TEXT[:300] if family == "llava" else TEXT):
        page = render(text, family, spec)
        views = [view for view in spec.fit(page.width, page.height).views if not view.thumbnail]
        assert all(view.scale == pytest.approx((1, 1)) for view in views)
        assert all(float(view.x[-1, 1]) <= page.width and float(view.y[-1, 1]) <= page.height for view in views)
        tokens = [Tokens([1], [len(word.text)]) for word in page.words]
        labels = assign(page.words, tokens, spec.fit(page.width, page.height), RENDERED)
        assert [word.text for word in page.words] == text.split()
        if family == "llava_onevision":  # 6 px at the end of each tile are seen by no token
            assert len(labels.patch_index) > 0.9 * len(page.words)
        else:
            assert labels.reasons == [None] * len(page.words)
        assert all(word.box[3] - word.box[1] >= 5 for word in page.words if word.text.isalpha())


def test_a_longer_text_gets_more_tiles():
    pages = [render(TEXT * n, spec=spec_of("internvl")) for n in (1, 4)]
    assert [(page.width, page.height) for page in pages] == [(448, 448), (1344, 448)]
    with pytest.raises(Unusable, match="largest page"):
        render(TEXT * 60, spec=spec_of("internvl"))


def test_no_page_is_drawn_whose_ends_the_model_crops():
    with pytest.raises(Unusable, match="largest page"):
        render(TEXT, spec=spec_of("llava"))  # would fit on 672 x 336 px, of which it sees the middle


def test_low_patches_get_lines_of_several():
    page = render(TEXT, spec=spec_of("pixtral"))  # 16 px a patch
    assert all(word.box[0] % 16 == 0 for word in page.words)
    assert len({word.box[1] // 32 for word in page.words}) == page.height // 32
    assert max(word.box[3] - word.box[1] for word in page.words) > 16


def test_ends_of_drawn_characters_lie_between_their_ink():
    page = render("lil mom a\u0301 il", spec=SPEC)
    for word in page.words[:2]:
        ends = np.array(word.ends) - word.box[0]
        assert len(ends) == 3 and (np.diff(ends) > 0).all() and ends[-1] == word.box[2] - word.box[0]
    narrow, wide = page.words[0].ends, page.words[1].ends
    assert narrow and wide
    x0, _, x1, _ = page.words[1].box
    assert wide[0] - x0 > 0.3 * (x1 - x0)  # m, the first of mom, is more than a third of it
    x0, y0, x1, y1 = (int(edge) for edge in page.words[3].box)
    inked = np.flatnonzero(ink_of(page)[y0:y1, x0:x1].any(axis=0))
    (gap,) = np.flatnonzero(np.diff(inked) > 1)  # between i and l
    assert page.words[3].ends and inked[gap] <= page.words[3].ends[0] - x0 <= inked[gap + 1]
    assert page.words[2].ends is None  # drawn as one letter, written as two


def test_another_side_draws_on_another_grid():
    other = qwen_spec(14, 4 * 28 * 28, 1280 * 28 * 28)
    page = render(spec=other)
    assert all(word.box[0] % 28 == 0 for word in page.words)
    assert (page.width % 28, page.height % 28) == (0, 0)
