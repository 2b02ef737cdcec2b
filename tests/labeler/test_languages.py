"""Scripts beyond Latin: where text without spaces splits, what is drawn, what is labeled."""

import io
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from support import FONTS, SAMPLES, read_all
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dvsft.labeler.config import ConfigError, Model, Ocr, Render
from dvsft.labeler.labels import fonts
from dvsft.labeler.labels.assign import Policy, assign
from dvsft.labeler.labels.fonts import Fonts, open_fonts
from dvsft.labeler.labels.processor import Processor, open_processor
from dvsft.labeler.labels.render import PACKAGED, from_the_right, render_page
from dvsft.labeler.ocr.engines import make_engine
from dvsft.labeler.page import Unusable
from dvsft.labeler.word import Word
from dvsft.patchlabels.layout import LayoutSpec

CHINESE = "我们在北京的大学学习计算机科学。他说42％的人"
JAPANESE = "東京は日本の首都です。"
ARABIC = "نحن ندرس اللغة العربية في New York Times كل يوم"
HINDI = "हिन्दी भाषा क्षत्रिय"
SPEC = LayoutSpec.from_grid({"patch": 16, "merge": 2, "min_pixels": 65536, "max_pixels": 2097152})
SIDE = 32


@pytest.fixture(scope="module")
def small():
    """A processor with a byte-level BPE that has learned some words of the texts above."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["我们", "北京", "大学", "学习", "科学", "日本", "です"] * 50, trainer)
    return Processor(SPEC, tokenizer)


@pytest.fixture(scope="module")
def qwen(real_data):
    return open_processor(str(real_data / "qwen3-vl-processor"), Model(processor="qwen"))


@pytest.fixture(params=["small", "qwen"])
def processor(request):
    return request.getfixturevalue(request.param)


def fonts_of(*languages):
    """The fonts for languages, where this machine has them."""
    try:
        return open_fonts(Render(languages=languages))
    except ConfigError as error:
        pytest.skip(str(error))


def render(text, processor, fonts, size=24):
    return render_page(text, SPEC, page_id="p", seed=0, font_sizes=[size, size], fonts=fonts, split=processor.units)


def ink_of(page) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(page.png))) > 127


@pytest.mark.parametrize("text", [CHINESE, JAPANESE])
def test_text_without_spaces_splits_into_whole_tokens(text, processor):
    units = processor.units(text.split())
    assert "".join(units) == text and len(units) > 5
    whole = processor.tokenizer.encode(text).ids
    assert [token for ids in processor.token_ids(units, False) for token in ids] == whole


def test_a_run_splits_at_the_tokenizers_words_and_beside_other_scripts_only_there(qwen):
    words = "我们在北京 Total総額 iPhone手機 한국어는 unbelievable नमस्ते"
    assert qwen.units(words.split()) == [
        "我们在", "北京", "Total", "総", "額", "iPhone", "手", "機", "한국어는", "unbelievable", "नमस्ते",
    ]  # fmt: skip


def test_each_wide_character_is_drawn_in_a_cell_of_its_own_and_the_last_one_gets_the_label(processor):
    page = render(CHINESE, processor, fonts_of("zh"))
    ink, words = ink_of(page), page.words
    assert [word.text for word in words] == processor.units([CHINESE]) and page.no_glyph == 0
    labels = assign(words, processor.tokens([w.text for w in words], False), SPEC.fit(page.width, page.height),
                    Policy(None, None, False))  # fmt: skip
    assert labels.label_word == list(range(len(words))) and set(labels.reasons) == {None}
    firsts = [ids[0] for ids in processor.token_ids([word.text for word in words], False)]
    assert labels.token_id == firsts
    cols = page.width // SIDE
    for word, patch in zip(words, labels.patch_index, strict=True):
        if not word.text.isascii():
            row, last = divmod(patch, cols)
            cells = [ink[row * SIDE : row * SIDE + SIDE, c * SIDE : c * SIDE + SIDE] for c in range(cols)]
            own = range(last - len(word.text) + 1, last + 1)
            assert all(cells[c].any() for c in own)
            assert word.box[0] // SIDE == own[0]
            drawn = [np.array_equal(cells[c], alone(character, page)) for c, character in zip(own, word.text, strict=True)]
            assert all(drawn)
        x0, y0, x1, y1 = map(int, word.box)
        assert ink[y0:y1, x0:x1].any(axis=0)[[0, -1]].all() and ink[y0:y1, x0:x1].any(axis=1)[[0, -1]].all()
        ink[y0:y1, x0:x1] = False
    assert not ink.any(), "ink outside of all boxes"


def alone(character, page):
    """One character drawn by Pillow in the middle of a cell, as a bool mask."""
    path, number = fonts.system_font("zh").split("#")
    size = 24
    while True:
        font = ImageFont.truetype(path, size, index=int(number), layout_engine=ImageFont.Layout.BASIC)
        ascent, descent = font.getmetrics()
        if ascent + descent <= SIDE:
            break
        size -= 1
    cell = Image.new("L", (SIDE, SIDE))
    base = (SIDE - ascent - descent) // 2 + ascent
    ImageDraw.Draw(cell).text((round((SIDE - font.getlength(character)) / 2), base), character, 255, font, "ls")
    return np.asarray(cell) > 127


def word_drawn(text, fonts, processor):
    """(h, w) bool: the ink of a page of one word."""
    page = render(text, processor, fonts)
    (word,) = page.words
    x0, y0, x1, y1 = map(int, word.box)
    return ink_of(page)[y0:y1, x0:x1]


def by_pillow(text, font, size, **options):
    """(h, w) bool: the ink of a text as Pillow draws it."""
    loaded = ImageFont.truetype(str(font), size, **options)
    picture = Image.new("L", (600, 120))
    ImageDraw.Draw(picture).text((100, 40), text, 255, loaded)
    ink = np.asarray(picture) > 127
    rows, cols = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return ink[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
