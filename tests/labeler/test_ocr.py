"""Words are true words, and engines that cannot start say why."""

import numpy as np
import pytest
from PIL import Image
from support import SAMPLES, draw_page

from dvsft.labeler.config import Ocr
from dvsft.labeler.ocr.engines import make_engine
from dvsft.labeler.ocr.lines import EngineError, Reading, cut_line, place_words, read_page
from dvsft.patchlabels import image


def reading(text: str, **changes) -> Reading:
    characters = text.replace(" ", "")
    columns = [(text_index + 0.5) / len(text) for text_index, c in enumerate(text) if c != " "]
    fields = {"characters": characters, "columns": columns, "confidences": [0.9] * len(characters)}
    return Reading(text=text, **{**fields, **changes})


@pytest.fixture(scope="module")
def engine():
    return make_engine(Ocr())


def test_a_line_is_split_at_its_spaces_and_nowhere_else():
    text = "naïve café: mail a.b-c@d.org re $1,234.56 (x-ray) 日本 ok"
    assert [word.text for word in place_words(reading(text), 500)] == text.split()


def test_each_word_keeps_the_columns_and_scores_of_its_own_characters():
    line = reading("ab cd", confidences=[0.2, 0.4, 0.6, 1.0])
    first, second = place_words(line, 100)
    assert first.centres == pytest.approx([10, 30])
    assert second.centres == pytest.approx([70, 90])
    assert (first.confidence, second.confidence) == pytest.approx((0.3, 0.8))


def test_full_width_signs_become_plain_ones():
    assert [word.text for word in place_words(reading("12％ （a）"), 100)] == ["12%", "(a)"]


def test_a_line_whose_characters_do_not_add_up_is_refused_and_its_words_counted():
    assert place_words(reading("ab cd", characters="abcx"), 100) is None

    class Liar:
        min_side = 32

        def detect(self, page):
            return np.array([[[10, 20], [200, 20], [200, 70], [10, 70]]], np.float32)

        def recognise(self, line):
            return reading("three lost words", characters="threelostword?")

    assert read_page(Liar(), draw_page()) == ([], 3)


def test_lines_that_stick_out_of_the_page_are_read_inside_it():
    class Outside:
        min_side = 32

        def detect(self, page):
            boxes = [(-60, 20, 60, 70), (400, 10, 500, 40), (-90, -40, -10, -5)]
            return np.array([[[a, b], [c, b], [c, d], [a, d]] for a, b, c, d in boxes], np.float32)

        def recognise(self, line):
            return reading("word")

    words, _ = read_page(Outside(), draw_page())
    assert len(words) == 1
    x0, y0, x1, y1 = words[0].box
    assert 0 <= x0 < x1 <= 320 and 0 <= y0 < y1 <= 96


def test_alignments_of_unequal_length_cost_their_line_only():
    assert place_words(reading("ab cd", columns=[0.1]), 100) is None
    assert place_words(reading("ab cd", confidences=[0.1]), 100) is None


def test_a_line_is_cut_out_flat_and_its_homography_leads_back():
    page = np.zeros((100, 100, 3), np.uint8)
    quad = np.array([[10, 20], [50, 40], [45, 50], [5, 30]], np.float32)
    crop, to_line = cut_line(page, quad)
    assert crop.shape[:2] == (11, 45)
    corner = to_line @ [50, 40, 1]
    assert corner[:2] / corner[2] == pytest.approx([45, 0], abs=0.5)


def test_a_line_that_stands_upright_is_read_after_a_quarter_turn():
    page = np.zeros((100, 100, 3), np.uint8)
    page[80:90, 10:20] = 255
    crop, to_line = cut_line(page, np.array([[10, 10], [20, 10], [20, 90], [10, 90]], np.float32))
    assert crop.shape[:2] == (10, 80)
    assert crop[:, 70:].min() == 255 and crop[:, :70].max() == 0
    assert (to_line @ [15, 85, 1])[:2] == pytest.approx([75, 5])


def test_the_embedded_engine_reads_a_drawn_line(engine):
    words, misaligned = read_page(engine, draw_page("Total $1,234.56 for O'Neill-Brown", (640, 96)))
    assert [word.text for word in words] == ["Total", "$1,234.56", "for", "O'Neill-Brown"]
    assert misaligned == 0
    assert all(0.8 < word.confidence <= 1 for word in words)


def test_a_blank_page_has_no_words(engine):
    assert read_page(engine, draw_page("")) == ([], 0)


def test_a_tiny_page_is_read_without_error(engine):
    page = draw_page("", (3, 3))
    assert read_page(engine, page) == ([], 0)


def test_a_tall_infographic_is_read_as_well_at_its_foot_as_at_its_head(engine):
    one = image.decode((SAMPLES / "infographicvqa/images/trams.png").read_bytes())
    tall = Image.new("RGB", (one.width, 3 * one.height))
    for part in range(3):
        tall.paste(one, (0, part * one.height))
    words, _ = read_page(engine, tall)
    counts = [sum(part * one.height <= word.box[1] < (part + 1) * one.height for word in words) for part in range(3)]
    assert min(counts) > 70
    assert max(counts) - min(counts) <= 3


def test_models_that_are_not_there_fail_before_the_run_and_say_so():
    with pytest.raises(EngineError, match=r"none\.onnx"):
        make_engine(Ocr(det_model="/none.onnx"))


def test_paddleocr_reads_like_rapidocr_with_the_same_models(engine, paddle_models):
    paddle = make_engine(paddle_models)
    page = image.decode((SAMPLES / "docvqa/documents/table.png").read_bytes())
    page = page.crop((0, 0, page.width, 400))
    ours = {(word.text, tuple(round(edge) for edge in word.box)) for word in read_page(engine, page)[0]}
    theirs = {(word.text, tuple(round(edge) for edge in word.box)) for word in read_page(paddle, page)[0]}
    assert len(theirs) > 20
    assert len(ours & theirs) >= 0.9 * len(ours)
    assert paddle.producer["det_model"] == "PP-OCRv6_small_det"


def test_paddleocr_without_its_models_fails_before_the_run(tmp_path):
    settings = Ocr(
        engine="paddleocr",
        backend="onnxruntime",
        det_model="PP-OCRv5_server_det",
        rec_model="PP-OCRv5_server_rec",
        det_folder=str(tmp_path),
        rec_folder=str(tmp_path),
    )
    with pytest.raises(EngineError, match="det_folder"):
        make_engine(settings)


@pytest.fixture
def paddle_models(tmp_path) -> Ocr:
    """PaddleOCR model folders around the ONNX files inside the rapidocr wheel."""
    import shutil
    from importlib.resources import files

    import onnxruntime
    import yaml

    models = files("rapidocr") / "models"
    recogniser = str(models / "PP-OCRv6_rec_small.onnx")
    session = onnxruntime.InferenceSession(recogniser, providers=["CPUExecutionProvider"])
    characters = session.get_modelmeta().custom_metadata_map["character"].splitlines()
    normalize = {"mean": [0.5] * 3, "std": [0.5] * 3, "scale": "1./255.", "order": "hwc"}
    configs = {
        "det": {
            "Global": {"model_name": "PP-OCRv6_small_det"},
            "PreProcess": {
                "transform_ops": [
                    {"DetResizeForTest": {"resize_long": 960}},
                    {"NormalizeImage": normalize},
                    {"ToCHWImage": None},
                ]
            },
            "PostProcess": {
                "name": "DBPostProcess",
                "thresh": 0.3,
                "box_thresh": 0.6,
                "max_candidates": 1000,
                "unclip_ratio": 1.6,
            },
        },
        "rec": {
            "Global": {"model_name": "PP-OCRv6_small_rec"},
            "PreProcess": {"transform_ops": [{"RecResizeImg": {"image_shape": [3, 48, 320]}}]},
            "PostProcess": {"name": "CTCLabelDecode", "character_dict": characters},
        },
    }
    for part, config in configs.items():
        folder = tmp_path / part
        folder.mkdir()
        shutil.copy(str(models / f"PP-OCRv6_{part}_small.onnx"), folder / "inference.onnx")
        (folder / "inference.yml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    return Ocr(
        engine="paddleocr",
        backend="onnxruntime",
        det_model="PP-OCRv6_small_det",
        rec_model="PP-OCRv6_small_rec",
        det_folder=str(tmp_path / "det"),
        rec_folder=str(tmp_path / "rec"),
    )
