"""Scripts beyond Latin: where text without spaces splits, what is drawn, what is labeled."""

import io
import json
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from support import FONTS, read_all
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dvsft.labeler.config import ConfigError, Model, Ocr, Render
from dvsft.labeler.labels import fonts
from dvsft.labeler.labels.assign import Policy, assign
from dvsft.labeler.labels.fonts import Fonts, open_fonts
from dvsft.labeler.labels.processor import Processor, open_processor
from dvsft.labeler.labels.render import PACKAGED, from_the_right, render_page, undrawn_answer
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
    return np.asarray(Image.open(io.BytesIO(page.png))) > 0


@pytest.mark.parametrize("text", [CHINESE, JAPANESE])
def test_text_without_spaces_splits_into_whole_tokens(text, processor):
    units = processor.units(text.split())
    assert "".join(units) == text and len(units) > 5
    whole = processor.tokenizer.encode(text).ids
    assert [token for tokens in processor.tokens(units, False) for token in tokens.ids] == whole


def test_a_run_splits_at_the_tokenizers_words_and_beside_other_scripts_only_there(qwen):
    words = "我们在北京 Total総額 iPhone手機 한국어는 unbelievable नमस्ते"
    assert qwen.units(words.split()) == [
        "我们在", "北京", "Total", "総", "額", "iPhone", "手機", "한국어는", "unbelievable", "नमस्ते",
    ]  # fmt: skip


def test_each_wide_character_is_drawn_in_a_cell_of_its_own_and_the_last_one_gets_the_label(processor):
    page = render(CHINESE, processor, fonts_of("zh"))
    ink, words = ink_of(page), page.words
    assert [word.text for word in words] == processor.units([CHINESE]) and page.no_glyph == 0
    labels = assign(words, processor.tokens([w.text for w in words], False), SPEC.fit(page.width, page.height),
                    Policy(None, None, False))  # fmt: skip
    assert labels.label_word == list(range(len(words))) and set(labels.reasons) == {None}
    firsts = [tokens.ids[0] for tokens in processor.tokens([word.text for word in words], False)]
    assert labels.token_id == firsts
    cols = page.width // SIDE
    for word, patch in zip(words, labels.patch_index, strict=True):
        if not word.text.isascii():
            row, last = divmod(patch, cols)
            cells = [ink[row * SIDE : row * SIDE + SIDE, c * SIDE : c * SIDE + SIDE] for c in range(cols)]
            own = range(last - len(word.text) + 1, last + 1)
            assert all(cells[c].any() for c in own)
            assert word.box[0] // SIDE == own[0]
            for c, character in zip(own, word.text, strict=True):
                assert np.array_equal(cells[c], alone(character))
        x0, y0, x1, y1 = map(int, word.box)
        assert ink[y0:y1, x0:x1].any(axis=0)[[0, -1]].all() and ink[y0:y1, x0:x1].any(axis=1)[[0, -1]].all()
        ink[y0:y1, x0:x1] = False
    assert not ink.any(), "ink outside of all boxes"
    for before, after in pairwise(words):  # no blank cells in a run
        if not before.text.isascii() and before.box[1] // SIDE == after.box[1] // SIDE:
            assert after.box[0] // SIDE == (before.box[2] - 1) // SIDE + 1


def alone(character):
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
    return np.asarray(cell) > 0


def word_drawn(text, fonts, processor):
    """(h, w) bool: the ink of a page of one word."""
    page = render(text, processor, fonts)
    (word,) = page.words
    x0, y0, x1, y1 = map(int, word.box)
    return ink_of(page)[y0:y1, x0:x1]


def by_pillow(text, font, engine, **options):
    """(h, w) bool: the ink of a text as Pillow draws it, at the largest size up to 24 whose lines fit a cell."""
    for size in range(24, 0, -1):
        loaded = ImageFont.truetype(font, size, layout_engine=engine)
        if sum(loaded.getmetrics()) <= SIDE:
            break
    picture = Image.new("L", (600, 120))
    ImageDraw.Draw(picture).text((100, 80), text, 255, loaded, "ls", **options)
    ink = np.asarray(picture) > 0
    rows, cols = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return ink[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]


def only(language):
    """Fonts of one language alone."""
    return Fonts(fonts_of(language).others, (), shaping=True)


def pieces(ink):
    """Runs of inked columns."""
    inked = np.concatenate([[False], ink.any(axis=0)])
    return int((inked[1:] & ~inked[:-1]).sum())


def test_arabic_letters_join_and_run_from_right_to_left(small):
    shown = only("ar")
    drawn = word_drawn("نحن", shown, small)
    assert np.array_equal(drawn, by_pillow("نحن", shown.first[0], ImageFont.Layout.RAQM, direction="rtl"))
    isolated = by_pillow("نحن"[::-1], shown.first[0], ImageFont.Layout.BASIC)
    assert pieces(drawn) == 1 < pieces(isolated) and drawn.shape != isolated.shape
    height = word_drawn("سا", shown, small).sum(axis=0)
    assert height.argmax() < len(height) / 3, "alif, the last letter and the highest, stands at the left"


def test_devanagari_letters_join_into_conjuncts(small):
    shown = only("hi")
    drawn = word_drawn("क्ष", shown, small)
    assert np.array_equal(drawn, by_pillow("क्ष", shown.first[0], ImageFont.Layout.RAQM))
    assert drawn.shape[1] < by_pillow("क्ष", shown.first[0], ImageFont.Layout.BASIC).shape[1]
    before = word_drawn("कि", shown, small).shape[1]  # the vowel sign stands before the letter that it follows
    assert before > word_drawn("क", shown, small).shape[1]


@pytest.mark.parametrize(("text", "language"), [(ARABIC, "ar"), (HINDI, "hi")])
def test_words_of_shaped_scripts_lie_where_the_labels_say(text, language, processor):
    page = render(text, processor, fonts_of(language))
    words, ink = page.words, ink_of(page)
    assert [word.text for word in words] == text.split() and page.no_glyph == 0
    tokens = processor.tokens([word.text for word in words], False)
    labels = assign(words, tokens, SPEC.fit(page.width, page.height), Policy(None, None, False))
    assert sorted(labels.label_word) == list(range(len(words)))
    cols = page.width // SIDE
    for patch, number in zip(labels.patch_index, labels.label_word, strict=True):
        x0, y0, x1, y1 = map(int, words[number].box)
        row, col = divmod(patch, cols)
        assert (row, col) == ((y1 - 1) // SIDE, (x1 - 1) // SIDE)
        assert ink[y0:y1, x0:x1].any(axis=0)[[0, -1]].all() and ink[y0:y1, x0:x1].any(axis=1)[[0, -1]].all()
        ink[y0:y1, x0:x1] = False
    assert not ink.any(), "ink outside of all boxes"


def test_lines_of_an_arabic_page_begin_at_the_right_and_latin_words_keep_their_order(small):
    words = render(ARABIC, small, fonts_of("ar")).words
    for before, after in pairwise(words):
        (x, y, *_), (next_x, next_y, *_) = before.box, after.box
        if y // SIDE == next_y // SIDE:
            assert (x < next_x) == (before.text.isascii() and after.text.isascii())
    page = render("Latin words here", small, fonts_of("ar"))
    assert [word.box[0] for word in page.words] == sorted(word.box[0] for word in page.words)


def test_words_from_the_right_fill_the_cells_that_lie_mirrored():
    cells = [(0, 0), (0, 2), (0, 3), (0, 4), (1, 0)]
    placed = from_the_right(["نحن", "New", "York", "كل", "في"], cells, [2, 1, 1, 3, 2], 8)
    assert placed == [(0, 6), (0, 4), (0, 5), (0, 1), (1, 6)]


@pytest.mark.parametrize(("language", "family"), [("zh", "SC"), ("zh-Hant", "TC"), ("ja", "JP"), ("ko", "KR")])
def test_a_collection_gives_the_face_of_its_language(language, family):
    (font,) = fonts_of(language).others
    path, number = font.split("#")
    assert ImageFont.truetype(path, 20, index=int(number)).getname()[0] == f"Noto Sans CJK {family}"


def test_a_mark_stays_with_its_letter(small):
    assert small.units(["か\u3099き"])[0] == "か\u3099"


def test_joiners_stay_where_letters_are_shaped_and_cost_no_word_elsewhere(small):
    persian = "می\u200cخواهم"
    assert [word.text for word in render(f"{persian} \u200c", small, fonts_of("fa")).words] == [persian]
    assert [word.text for word in render("co\u200cop", small, PACKAGED).words] == ["coop"]


def test_without_languages_other_scripts_are_counted_and_the_message_says_what_to_set(small):
    page = render("plain 凧, नमस्ते שלום", small, PACKAGED)
    assert [word.text for word in page.words] == ["plain"] and page.no_glyph == 3
    for text, hint in (("凧", 'languages = ["zh"], whose font is in the package fonts-noto-cjk'),
                       ("नमस्ते", 'languages = ["hi"], whose font is in the package fonts-noto-core'),
                       ("🙂", "name a font that can in render.fonts")):  # fmt: skip
        with pytest.raises(Unusable) as refused:
            render(text, small, PACKAGED)
        assert hint in str(refused.value)


def test_an_answer_in_a_run_without_spaces_is_undrawn_only_where_its_own_units_are(small):
    shown, text = fonts_of("zh"), "我们在北京🙂的大学"
    assert undrawn_answer(text, "北京🙂", shown, small.units)
    assert not undrawn_answer(text, "大学", shown, small.units)
    assert not undrawn_answer("我们在北京的大学", "北京", shown, small.units)
    assert undrawn_answer("我们在北京的大学", "北京", PACKAGED, small.units)


def test_a_language_without_an_installed_font_names_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr(fonts, "FOLDERS", (str(tmp_path),))
    fonts.system_font.cache_clear()
    fonts.open_fonts.cache_clear()
    with pytest.raises(ConfigError, match=r"apt-get install fonts-noto-cjk, or name a font file in render\.fonts"):
        open_fonts(Render(languages=("ja",)))
    monkeypatch.setattr("PIL.features.check", lambda name: name != "fribidi")
    with pytest.raises(ConfigError, match=r"ar, whose letters must be shaped.*apt-get install libfribidi0"):
        open_fonts(Render(languages=("ar",)))
    fonts.system_font.cache_clear()


def test_a_font_file_of_the_users_own_is_drawn_and_part_of_what_made_the_labels(write_config, label, tmp_path):
    path = fonts_of("zh").others[0]
    (tmp_path / "d.jsonl").write_text(f'{{"id": "a", "text": "{CHINESE} Latin"}}', encoding="utf-8")
    config = write_config("documents", tmp_path / "d.jsonl", render={"fonts": [path]})
    assert label(config, tmp_path / "out") == 0
    (row,) = read_all(tmp_path / "out")
    assert row["dropped"]["no_glyph"] == 0 and row["words"][-1]["text"] == "Latin"
    assert len(row["words"]) == len(row["patch_index"]) > 10
    producer = json.loads((tmp_path / "out" / "run.json").read_text())["producers"]["documents-train"]
    assert producer["font_files"] == {path: sha256(Path(path.partition("#")[0]).read_bytes()).hexdigest()}
    with pytest.raises(ConfigError, match=r"no\.ttf' cannot be read"):
        open_fonts(Render(fonts=(str(tmp_path / "no.ttf"),)))


def test_a_line_without_spaces_on_a_scan_labels_the_cell_in_which_each_unit_ends(processor):
    text, width = CHINESE, 40.0
    word = Word(text, (10.0, 70.0, 10.0 + width * len(text), 95.0), 0.9)
    (tokens,) = processor.tokens([text], False)
    layout = SPEC.fit(1024, 512)
    found = assign([word], [tokens], layout, Policy(3, 3.0, False))
    expected: dict[int, int] = {}
    at = 0
    for unit in processor.units([text]):  # the slow obvious version; characters are wider than cells
        at += len(unit)
        ids = processor.tokens([unit], False)[0].ids
        if len(ids) <= 3:
            expected[layout.tokens_at(10 + width * at, 95.0)[0]] = ids[0]
    assert dict(zip(found.patch_index, found.token_id, strict=True)) == expected and len(expected) >= 8
    assert found.reasons == [None] and set(found.label_word) == {0}
    crowded = Word(text, (10.0, 70.0, 10.0 + 1.2 * len(text), 95.0), 0.9)
    packed = assign([crowded], [tokens], layout, Policy(None, None, False))
    assert packed.patch_index == [] and packed.reasons == ["contested"], "units that share a patch, as words do"


@pytest.mark.parametrize("engine", ["rapidocr"])
def test_a_chinese_character_in_a_latin_line_costs_the_other_words_nothing(engine):
    path, number = fonts_of("zh").others[0].split("#")
    latin = ImageFont.truetype(str(FONTS / "LiberationSans-Regular.ttf"), 34)
    chinese = ImageFont.truetype(path, 34, index=int(number))
    page, x, truth = Image.new("RGB", (900, 120), "white"), 40.0, {}
    for word in ["Invoice", "total", "额", "equals", "42", "yen", "日本", "paid"]:
        font = latin if word.isascii() else chinese
        ImageDraw.Draw(page).text((x, 80), word, "black", font, "ls")
        truth[word] = (x, x + font.getlength(word))
        x += font.getlength(word) + 16
    words, misaligned = make_engine(Ocr(engine=engine)).read(page)
    assert misaligned == 0
    found = {word.text: word.box for word in words}
    for word, (x0, x1) in truth.items():
        if word.isascii():
            assert word in found, f"{word} among {sorted(found)}"
            assert (found[word][0], found[word][2]) == pytest.approx((x0, x1), abs=6)
