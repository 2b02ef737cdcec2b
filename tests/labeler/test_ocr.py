"""Words are true words, and engines that cannot start say why."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import rapidocr
from PIL import Image, ImageFont
from support import FONTS, SAMPLES, draw_page

from dvsft.labeler.config import ConfigError, Ocr, parse
from dvsft.labeler.ocr.engines import describe, make_engine
from dvsft.labeler.ocr.lines import LineEngine, Reading, character_ends, cut_line, detect_lines, place_words, read_page
from dvsft.labeler.ocr.openvino import OpenVinoSession
from dvsft.labeler.ocr.rapid import DET_MODEL
from dvsft.labeler.ocr.reader import EngineError
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
    placed = place_words(line, 100)
    assert placed
    first, second = placed
    assert first.centers == pytest.approx([10, 30])
    assert second.centers == pytest.approx([70, 90])
    assert (first.confidence, second.confidence) == pytest.approx((0.3, 0.8))


def test_full_width_signs_become_plain_ones():
    assert [word.text for word in place_words(reading("12％ （a）"), 100)] == ["12%", "(a)"]


def test_a_line_whose_characters_do_not_add_up_is_refused_and_its_words_counted():
    assert place_words(reading("ab cd", characters="abcx"), 100) is None

    class Liar(LineEngine):
        min_side = 32

        def detect(self, page):
            return np.array([[[10, 20], [200, 20], [200, 70], [10, 70]]], np.float32)

        def recognize(self, lines):
            return [reading("three lost words", characters="threelostword?") for _ in lines]

    assert read_page(Liar(), draw_page()) == ([], 3)


def test_lines_that_stick_out_of_the_page_are_read_inside_it():
    class Outside(LineEngine):
        min_side = 32

        def detect(self, page):
            boxes = [(-60, 20, 60, 70), (400, 10, 500, 40), (-90, -40, -10, -5)]
            return np.array([[[a, b], [c, b], [c, d], [a, d]] for a, b, c, d in boxes], np.float32)

        def recognize(self, lines):
            return [reading("word") for _ in lines]

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


def test_characters_end_halfway_between_their_centers_and_the_last_at_the_edge_of_the_box():
    assert character_ends([10, 20, 30], (100, 0, 190, 9)) == pytest.approx((130, 160, 190))
    assert character_ends([10, 20, 40], (0, 0, 45, 9)) == pytest.approx((10, 25, 45))
    assert character_ends([7], (100, 0, 130, 9)) == (130,)
    assert character_ends([7, 7], (100, 0, 130, 9)) is None


def test_the_engine_says_where_the_characters_of_a_drawn_word_end(engine):
    text, font = "minimum WWWW", ImageFont.truetype(str(FONTS / "LiberationSans-Regular.ttf"), 28)
    words, _ = engine.read(draw_page(text))
    assert [word.text for word in words] == text.split()
    for word in words:
        start = 24 + font.getlength(text[: text.index(word.text)])
        drawn = [start + font.getlength(word.text[: n + 1]) for n in range(len(word.text))]
        assert word.ends == pytest.approx(drawn, abs=6)  # m is 23 px wide, i is 6
        assert word.ends[-1] == word.box[2]
    sideways, _ = engine.read(draw_page("Total 42", (420, 200)).rotate(90, expand=True))
    assert sideways and all(word.ends is None for word in sideways)


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
    paddle: Any = make_engine(paddle_models)
    page = image.decode((SAMPLES / "docvqa/documents/table.png").read_bytes())
    page = page.crop((0, 0, page.width, 400))
    ours = {(word.text, tuple(round(edge) for edge in word.box)) for word in read_page(engine, page)[0]}
    theirs = {(word.text, tuple(round(edge) for edge in word.box)) for word in read_page(paddle, page)[0]}
    assert len(theirs) > 20
    assert len(ours & theirs) >= 0.9 * len(ours)
    assert describe(paddle_models)["det_model"] == "PP-OCRv6_small_det"


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


def ocr_table(**table):
    return parse({"model": {"processor": "p"}, "ocr": table}).ocr


@pytest.mark.parametrize("device", ["cuda:0", "gppu", "gpu:", "gpu:x", "GPU", "", "cpu:0", "gpu:1 "])
def test_what_is_no_device_is_refused(device):
    with pytest.raises(ConfigError, match=r'ocr\.device = .* expected "cpu", "gpu", or "gpu:1"'):
        ocr_table(device=device)


def test_a_device_names_its_gpu():
    assert [ocr_table(device=device).gpu for device in ("cpu", "gpu", "gpu:0", "gpu:12")] == [None, 0, 0, 12]


@pytest.mark.parametrize("device", ["gpu", "gpu:1"])
def test_a_gpu_that_onnx_runtime_does_not_use_is_refused_and_not_replaced_by_the_cpu(device):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("ONNX Runtime has CUDA here")
    with pytest.raises(EngineError, match="runs on CPUExecutionProvider"):
        make_engine(Ocr(device=device))


def test_paddles_models_on_a_gpu_that_is_not_there_are_refused(paddle_models, monkeypatch):
    with pytest.raises(EngineError, match="CUDAExecutionProvider"):
        make_engine(paddle_models.model_copy(update={"device": "gpu"}))
    stub = ModuleType("paddle")
    stub.__dict__["device"] = SimpleNamespace(cuda=SimpleNamespace(device_count=lambda: 1))
    monkeypatch.setitem(sys.modules, "paddle", stub)
    monkeypatch.setattr("paddleocr.TextDetection", lambda **_: None)
    monkeypatch.setattr("paddleocr.TextRecognition", lambda **_: None)
    make_engine(paddle_models.model_copy(update={"device": "gpu:0", "backend": ""}))
    with pytest.raises(EngineError, match="asks for GPU 1, but paddlepaddle sees 1"):
        make_engine(paddle_models.model_copy(update={"device": "gpu:1", "backend": ""}))


def test_the_number_of_a_gpu_reaches_onnx_runtime(monkeypatch):
    given = []

    class Recorder:
        def __init__(self, params):
            given.append(params)
            raise RuntimeError("seen enough")

    monkeypatch.setattr("rapidocr.RapidOCR", Recorder)
    make_engine.cache_clear()
    for device in ("cpu", "gpu", "gpu:3"):
        with pytest.raises(EngineError):
            make_engine(Ocr(device=device))
    key = "EngineConfig.onnxruntime."
    assert [(p[key + "use_cuda"], p[key + "cuda_ep_cfg.device_id"]) for p in given] == [
        (False, 0),
        (True, 0),
        (True, 3),
    ]


def test_settings_that_an_engine_would_ignore_are_refused():
    for settings in ({"backend": "paddle"}, {"det_folder": "d"}, {"rec_folder": "r"}):
        with pytest.raises(ConfigError, match=rf"ocr\.{next(iter(settings))} .* is of no use to"):
            ocr_table(**settings)
    with pytest.raises(ConfigError, match=r"ocr\.backend = .*tensorrt"):
        ocr_table(engine="paddleocr", backend="tensorrt", det_model="d", rec_model="r")
    with pytest.raises(ConfigError, match=r'backend = "openvino" computes on the CPU, found device = \'gpu\''):
        ocr_table(backend="openvino", device="gpu")
    with pytest.raises(ConfigError, match=r'precision = "fast" needs backend = "openvino", found backend = \'\''):
        ocr_table(precision="fast")


def test_many_lines_at_a_call_are_read_as_they_are_one_by_one(engine, paddle_models):
    """Lines of unlike lengths: padded to the longest of a batch, some would read differently."""
    page = image.decode((SAMPLES / "docvqa/documents/table.png").read_bytes())
    pixels = np.ascontiguousarray(np.asarray(page.crop((0, 0, page.width, 300)))[:, :, ::-1])
    lines = [cut_line(pixels, quad)[0] for quad in detect_lines(engine, pixels)]
    assert len(lines) > 5 and len({line.shape[1] // 100 for line in lines}) > 2
    for each in (engine, make_engine(paddle_models)):
        assert each.recognize([]) == []
        assert each.recognize(lines) == [reading for line in lines for reading in each.recognize([line])]


def test_an_engine_is_named_without_its_models_or_its_gpu(monkeypatch):
    monkeypatch.setattr("rapidocr.RapidOCR", None)
    named = describe(Ocr(device="gpu", det_model="/on/the/workers.onnx"))
    assert named == {
        "engine": "rapidocr",
        "version": version("rapidocr"),
        "det_model": "/on/the/workers.onnx",
        "rec_model": "PP-OCRv6_rec_small",
        "backend": "onnxruntime",
        "precision": "float32",
    }
    fast = describe(Ocr(backend="openvino", precision="fast"))
    assert (fast["backend"], fast["precision"]) == (f"openvino {version('openvino')}", "fast")
    assert describe(Ocr(backend="openvino"))["precision"] == "float32"
    paddle = Ocr(engine="paddleocr", device="gpu", det_model="PP-OCRv5_server_det", rec_model="PP-OCRv5_server_rec")
    assert describe(paddle)["backend"] == "paddle"
    monkeypatch.setattr(
        "dvsft.labeler.ocr.engines.version", lambda name: (_ for _ in ()).throw(PackageNotFoundError(name))
    )
    with pytest.raises(EngineError, match="--extra paddleocr"):
        describe(paddle)


STRIP = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
from PIL import Image
from dvsft.labeler.config import ConfigError, Ocr, parse
from dvsft.labeler.ocr.engines import make_engine
from dvsft.labeler.ocr.lines import read_page
assert read_page(make_engine(Ocr()), Image.new("RGB", (int(sys.argv[1]), int(sys.argv[2])), "white")) == ([], 0)
status = open("/proc/self/status").read()  # ru_maxrss would be that of the process this one was forked from
print(int(status.partition("VmHWM:")[2].split()[0]) / 2**20)
"""


@pytest.mark.parametrize("size", [(10_000, 51), (51, 10_000)], ids=["wide", "tall"])
def test_a_strip_takes_no_more_memory_than_its_pixels(size):
    """Half the sides of the longest strip that the grid takes; padded to a page it would be 100 megapixels."""
    done = subprocess.run([sys.executable, "-c", STRIP, *map(str, size)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 1.5, "GiB"


def test_every_line_keeps_its_own_text():
    class Two(LineEngine):
        min_side = 32

        def detect(self, page):
            boxes = [(10, 10, 110, 40), (10, 50, 60, 80)]
            return np.array([[[a, b], [c, b], [c, d], [a, d]] for a, b, c, d in boxes], np.float32)

        def recognize(self, lines):
            return [reading("long" if line.shape[1] == 100 else "short") for line in lines]

    words, _ = read_page(Two(), draw_page(""))
    assert [(word.text, word.box[1] < 45) for word in words] == [("long", True), ("short", False)]


def test_openvino_in_float32_reads_what_onnx_runtime_reads_and_two_threads_read_what_one_reads(engine):
    openvino = make_engine(Ocr(backend="openvino"))
    names = ("docvqa/documents/table.png", "docvqa/documents/invoice.png", "infographicvqa/images/trams.png")
    pages = [image.decode((SAMPLES / name).read_bytes()).crop((0, 0, 800, 400)) for name in names]
    expected = [[(word.text, word.box) for word in engine.read(page)[0]] for page in pages]
    assert min(map(len, expected)) > 10
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda page: [(word.text, word.box) for word in openvino.read(page)[0]], pages))
    assert found == expected


def test_each_thread_has_a_request_and_results_of_its_own():
    """Results of rapidocr's own session are overwritten by the next call, and by those of other threads."""
    session = OpenVinoSession(Path(rapidocr.__file__).parent / "models" / f"{DET_MODEL}.onnx", "float32")
    noise = np.random.default_rng(0).normal(size=(12, 1, 3, 64, 64)).astype(np.float32)
    alone = [session(each) for each in noise]
    assert not any(np.shares_memory(a, b) for a, b in pairwise(alone)) and (alone[0] != alone[1]).any()
    with ThreadPoolExecutor(4) as pool:
        assert all((a == b).all() for a, b in zip(pool.map(session, noise), alone, strict=True))


def test_the_fast_precision_is_not_that_of_float32_and_reads_nearly_the_same(engine):
    fast: Any = make_engine(Ocr(backend="openvino", precision="fast"))
    for model in (fast._detector.text_det, fast._recognizer.text_rec):
        assert model.session._compiled.get_property("INFERENCE_PRECISION_HINT").to_string() in ("bf16", "bfloat16")
    page = image.decode((SAMPLES / "docvqa/documents/table.png").read_bytes()).crop((0, 0, 800, 400))
    ours, theirs = ({word.text for word in each.read(page)[0]} for each in (engine, fast))
    assert len(ours & theirs) >= 0.97 * len(ours)


def test_without_openvino_its_backend_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    make_engine.cache_clear()
    with pytest.raises(EngineError, match=r'--extra openvino .* or set backend = "onnxruntime"'):
        make_engine(Ocr(backend="openvino"))


def test_a_page_meets_the_detector_as_rapidocr_itself_prepares_it(engine, colored_page):
    ours = engine._detector.text_det.get_preprocess()
    theirs = type(engine._detector.text_det).get_preprocess(engine._detector.text_det)
    pixels = np.asarray(colored_page)
    assert (ours(pixels) == theirs(pixels)).all() and ours(pixels).dtype == theirs(pixels).dtype


@pytest.fixture
def colored_page() -> Image.Image:
    """Red, green and blue differ everywhere."""
    noise = np.random.default_rng(0).integers(0, 80, (96, 320, 3), np.uint8)
    return Image.fromarray(noise + np.array([0, 80, 160], np.uint8))


def test_an_engine_sees_pages_and_lines_as_blue_green_red(colored_page, tmp_path):
    """As OpenCV reads them, which is what the models were trained on."""
    seen = []

    class Spy(LineEngine):
        min_side = 32

        def detect(self, page):
            seen.append(page)
            return np.array([[[10, 20], [110, 20], [110, 60], [10, 60]]], np.float32)

        def recognize(self, lines):
            seen.extend(lines)
            return [None for _ in lines]

    colored_page.save(tmp_path / "page.png")
    expected = cv2.imread(str(tmp_path / "page.png"))
    read_page(Spy(), colored_page)
    assert (seen[0] == expected).all()
    assert (seen[1] == expected[20:60, 10:110]).all()


def test_rapidocr_hands_on_the_colors_it_is_given(engine, colored_page, monkeypatch):
    seen = []
    model = engine._recognizer.text_rec
    monkeypatch.setattr(engine._recognizer, "text_rec", lambda given: seen.append(given.img[0]) or model(given))
    line = np.asarray(colored_page)
    engine.recognize([line])
    assert (seen[0] == line).all()


def test_the_settings_of_the_detector_reach_it(engine, monkeypatch):
    strict: Any = make_engine(Ocr(box_threshold=0.99, min_side=100))
    page = np.ascontiguousarray(np.asarray(draw_page(size=(320, 320))))
    assert len(engine.detect(page)) == 1
    assert len(strict.detect(page)) == 0
    sizes = {}
    for name, each in (("strict", strict), ("default", engine)):
        monkeypatch.setattr(each, "detect", lambda image, name=name: sizes.update({name: image.shape[:2]}) or [])
        read_page(each, draw_page(size=(320, 320)))
    assert sizes == {"strict": (320, 320), "default": (640, 640)}


def test_paddles_detector_gets_its_settings_too(paddle_models):
    page = np.ascontiguousarray(np.asarray(draw_page(size=(320, 320))))
    strict: Any = make_engine(paddle_models.model_copy(update={"box_threshold": 0.99, "min_side": 100}))
    assert len(strict.detect(page)) == 0 and strict.min_side == 100
    lax: Any = make_engine(paddle_models.model_copy(update={"box_threshold": 0.3}))
    assert len(lax.detect(page)) == 1


def test_no_line_is_turned_upside_down_on_a_guess(engine):
    """The classifier for that takes short cells for upside-down ones ("$889.88" becomes "88.688$")."""
    line = np.ascontiguousarray(np.asarray(draw_page("Total amount due", (320, 96)))[20:70])
    upright, turned = engine.recognize([line, np.ascontiguousarray(line[::-1, ::-1])])
    assert upright.text == "Total amount due"
    assert turned is None or turned.text != "Total amount due"
    assert engine._recognizer.text_cls is None and engine._detector.text_cls is None


@pytest.fixture
def paddle_models(tmp_path) -> Ocr:
    """PaddleOCR model folders around the ONNX files inside the rapidocr wheel."""
    import shutil
    from importlib.resources import files

    import onnxruntime
    import yaml

    models = files("rapidocr") / "models"
    recognizer = str(models / "PP-OCRv6_rec_small.onnx")
    session = onnxruntime.InferenceSession(recognizer, providers=["CPUExecutionProvider"])
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
