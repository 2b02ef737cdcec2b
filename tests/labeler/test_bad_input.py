"""Bad input never ends a run and never vanishes: it is labeled correctly or rejected, counted, with a reason."""

import io
import json
import struct

import numpy as np
import pytest
from PIL import Image
from support import draw_page, encode, read_all, rejects

from dvsft.labeler.commands.label import beam_options, execute
from dvsft.labeler.config import load
from dvsft.labeler.runs import stats
from dvsft.labeler.runs.folder import prepare
from dvsft.labeler.stages import LabelShards
from dvsft.patchlabels import image


def bad_inputs() -> dict[str, bytes]:
    """Pages that cannot be labeled, by file name."""
    bomb = io.BytesIO()
    Image.new("1", (30000, 30000)).save(bomb, "PNG")
    return {
        "empty.png": b"",
        "text.png": b"this is no image at all",
        "truncated.png": encode(draw_page())[:300],
        "truncated.jpg": encode(draw_page(), "JPEG")[:400],
        "thin.png": encode(Image.new("RGB", (1, 5000), "white")),
        "bomb.png": bomb.getvalue(),
    }


def good_inputs() -> dict[str, bytes]:
    """The same line in every shape that pages come in."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = draw_page().rotate(90, expand=True)
    gray16 = Image.fromarray(np.asarray(draw_page().convert("L"), np.uint16) * 257)
    return {
        "plain.png": encode(draw_page()),
        "cmyk.jpg": encode(draw_page(mode="CMYK"), "JPEG", quality=95),
        "sixteen.png": encode(gray16),
        "palette.png": encode(draw_page(mode="P")),
        "alpha.png": encode(transparent(draw_page())),
        "animated.gif": encode(draw_page(), "GIF", save_all=True, append_images=[draw_page("another")]),
        "exif.jpg": encode(turned, "JPEG", exif=exif, quality=95),
        "page.tiff": encode(draw_page(), "TIFF"),
        "page.webp": encode(draw_page(), "WEBP", lossless=True),
    }


def transparent(page: Image.Image) -> Image.Image:
    """Black ink on nothing."""
    alpha = Image.eval(page.convert("L"), lambda value: 255 - value)
    return Image.merge("LA", [Image.new("L", page.size, 0), alpha])


def test_every_page_labels_correctly_or_lands_in_rejects_with_its_reason(write_config, label, tmp_path, capsys):
    pages = tmp_path / "pages"
    pages.mkdir()
    for name, data in {**good_inputs(), **bad_inputs()}.items():
        (pages / name).write_bytes(data)
    config = write_config("images", pages, output={"pages_per_shard": 4})
    assert label(config, tmp_path / "out") == 3  # 6 of 16 pages are more than 1%
    assert rejects(tmp_path / "out") == {
        "empty.png": ("decode", "empty"),
        "text.png": ("decode", "not_an_image"),
        "truncated.png": ("decode", "truncated"),
        "truncated.jpg": ("decode", "truncated"),
        "thin.png": ("grid", "no_grid"),
        "bomb.png": ("decode", "too_many_pixels"),
    }
    found = {row["id"].rpartition("/")[2]: row for row in read_all(tmp_path / "out")}
    assert [word["text"] for word in found.pop("animated.gif#2")["words"]] == ["another"]
    assert sorted(found) == sorted(good_inputs())
    plain = found["plain.png"]
    for name, row in found.items():
        assert [word["text"] for word in row["words"]] == ["Total", "42"], name
        assert (row["width"], row["height"]) == (320, 96), name
        assert row["patch_index"] == plain["patch_index"], name
        assert row["token_id"] == plain["token_id"], name
        assert name == "animated.gif" or row["image"]["bytes"] == good_inputs()[name], name
    counts = stats.read(str(tmp_path / "out"))["images-train"]
    assert counts["pages"] == 10 and counts["rejected.page.decode.truncated"] == 2
    assert "37.50% of all pages" in capsys.readouterr().out


def test_rejects_below_the_limit_end_well(write_config, label, tmp_path):
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/a.png").write_bytes(encode(draw_page()))
    (tmp_path / "pages/b.png").write_bytes(b"")
    config = write_config("images", tmp_path / "pages", output={"max_reject_share": 0.5})
    assert label(config, tmp_path / "out") == 0


def test_a_page_that_vanishes_after_planning_is_rejected(write_config, label, tmp_path):
    pages = tmp_path / "pages"
    pages.mkdir()
    for name in ("a.png", "b.png"):
        (pages / name).write_bytes(encode(draw_page()))
    config = write_config("images", pages, output={"max_reject_share": 0.9})
    run = prepare(load(config), str(tmp_path / "out"))
    (pages / "a.png").unlink()
    assert execute(run, LabelShards(run, 1), beam_options([])) == 0
    assert rejects(tmp_path / "out") == {"a.png": ("read", "unreadable")}


HOSTILE_LINES = [
    '{"id": "good", "text": "fine words"}',
    '{"id": "surrogate", "text": "bad \\ud800 x"}',
    '{"id": "\\udfff", "text": "x"}',
    '{"id": null, "text": "x"}',
    '{"id": true, "text": "x"}',
    '{"id": "long", "text": "%s"}' % ("x" * 1_200_000),
    "[" * 100_000,
    '{"id": "good", "text": "fine words"}',
]


def test_hostile_documents_are_rejected_one_by_one(write_config, label, tmp_path):
    (tmp_path / "d.jsonl").write_text("\n".join(HOSTILE_LINES))
    config = write_config("documents", tmp_path / "d.jsonl", output={"max_reject_share": 1.0})
    assert label(config, tmp_path / "out") == 0
    assert [row["id"] for row in read_all(tmp_path / "out")] == ["documents/train/good"]
    assert sorted(reason for _, reason in rejects(tmp_path / "out").values()) == [
        "bad_record",
        "bad_record",
        "bad_record",
        "bad_unicode",
        "bad_unicode",
        "duplicate_id",
        "text_too_long",
    ]


@pytest.mark.parametrize("questions", [["x"], "abc", 5, {"id": 1}, [None], [[]]])
def test_questions_of_the_wrong_shape_cost_no_page(write_config, label, tmp_path, questions):
    paragraph = {"context": "Some text.", "qas": questions}
    (tmp_path / "train-v1.1.json").write_text(json.dumps({"data": [{"title": "T", "paragraphs": [paragraph]}]}))
    assert label(write_config("squad", tmp_path), tmp_path / "out") == 0
    (row,) = read_all(tmp_path / "out")
    assert row["qa"] == []
    assert stats.read(str(tmp_path / "out"))["squad-train"].keys() & {
        "rejected.question.source.bad_question_id",
        "rejected.question.source.bad_question",
    }


def test_an_error_no_stage_foresaw_is_one_rejected_page(write_config, label, tmp_path, monkeypatch):
    import dvsft.labeler.runs.shard
    from dvsft.labeler.labels.render import render_page as real

    def fragile(text, *arguments, **settings):
        if "bomb" in text:
            raise ZeroDivisionError("boom")
        return real(text, *arguments, **settings)

    monkeypatch.setattr(dvsft.labeler.runs.shard, "render_page", fragile)
    (tmp_path / "d.jsonl").write_text('{"id": "a", "text": "bomb"}\n{"id": "b", "text": "fine"}\n')
    config = write_config("documents", tmp_path / "d.jsonl", output={"max_reject_share": 0.5})
    assert label(config, tmp_path / "out") == 0
    assert rejects(tmp_path / "out") == {"a": ("label", "ZeroDivisionError")}


def test_a_mended_page_is_a_reject_no_longer(write_config, label, tmp_path):
    pages = tmp_path / "pages"
    pages.mkdir()
    good = encode(draw_page())
    (pages / "a.png").write_bytes(bytes(len(good)))
    config = write_config("images", pages, output={"max_reject_share": 1.0})
    label(config, tmp_path / "out")
    assert rejects(tmp_path / "out")
    (pages / "a.png").write_bytes(good)
    (tmp_path / "out/labels/images-train/00000-of-00001.parquet").unlink()
    assert label(config, tmp_path / "out") == 0
    assert not rejects(tmp_path / "out")


@pytest.mark.parametrize("name", ["we[ir]d *?", "b\\s", "ünï cöde"])
def test_folders_may_have_any_name(write_config, label, tmp_path, name):
    pages = tmp_path / name
    pages.mkdir()
    (pages / "a [1].png").write_bytes(encode(draw_page()))
    config = write_config("images", pages)
    assert label(config, tmp_path / "out" / name) == 0
    assert [row["id"] for row in read_all(tmp_path / "out" / name)] == ["images/train/a [1].png"]


def test_pictures_behind_a_link_are_found(write_config, label, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/a.png").write_bytes(encode(draw_page()))
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/linked").symlink_to(tmp_path / "disk")
    assert label(write_config("images", tmp_path / "pages"), tmp_path / "out") == 0
    assert [row["id"] for row in read_all(tmp_path / "out")] == ["images/train/linked/a.png"]


def test_files_that_make_no_page_are_rejected_with_a_reason_and_each_page_is_there_once(write_config, label, tmp_path):
    pages = tmp_path / "pages"
    (pages / "deep").mkdir(parents=True)
    scan = draw_page()
    scan.save(pages / "scan.tiff", save_all=True, append_images=[draw_page("two"), draw_page("three")])
    (pages / "deep/a.png").write_bytes(encode(scan))
    (pages / "deep/itself").symlink_to(pages)
    (pages / "again").symlink_to(pages / "deep")
    (pages / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (pages / "report.djvu").write_bytes(b"AT&TFORM")
    (pages / "Thumbs.db").write_bytes(b"x")
    config = write_config("images", pages, output={"max_reject_share": 1.0})
    assert label(config, tmp_path / "out") == 0
    labeled = [row["id"].removeprefix("images/train/") for row in read_all(tmp_path / "out")]
    assert labeled == ["deep/a.png", "scan.tiff", "scan.tiff#2", "scan.tiff#3"]
    assert rejects(tmp_path / "out") == {
        "gone.png": ("source", "unreadable"),
        "report.djvu": ("source", "no_picture"),
        "Thumbs.db": ("source", "no_picture"),
    }
    counts = stats.read(str(tmp_path / "out"))["images-train"]
    assert counts["rejected.file.source.no_picture"] == counts["rejected.page.source.no_picture"] == 1


def test_a_thumbnail_in_a_tiff_is_no_page():
    thumbnail = draw_page()
    thumbnail.encoderinfo = {"tiffinfo": {254: 1}}
    assert image.frames(encode(draw_page(), "TIFF", save_all=True, append_images=[thumbnail])) == [0]
    pages = encode(draw_page(), "TIFF", save_all=True, append_images=[thumbnail, draw_page("x", (64, 64))])
    assert image.frames(pages) == [0, 2] and image.decode(pages, 2).size == (64, 64)


def test_a_directory_that_leads_nowhere_is_a_page_to_be_rejected():
    """The pages before it are fine, and how many come after it nobody knows."""
    data = bytearray(encode(draw_page(), "TIFF", save_all=True, append_images=[draw_page()]))
    (first,) = struct.unpack("<I", data[4:8])
    (tags,) = struct.unpack("<H", data[first : first + 2])
    behind_tags = first + 2 + 12 * tags  # where the next directory is named
    data[behind_tags : behind_tags + 4] = struct.pack("<I", 2**32 - 1)
    assert image.frames(bytes(data)) == [0, 1]
    with pytest.raises(image.ImageError) as refused:
        image.decode(bytes(data), 1)
    assert refused.value.reason == "truncated" and image.decode(bytes(data)).size == (320, 96)


def test_what_is_no_picture_has_one_frame_to_be_rejected():
    assert image.frames(b"") == image.frames(b"GIF89a") == image.frames(encode(draw_page())) == [0]


def test_a_run_in_the_folder_of_its_own_inputs_goes_on(write_config, label, tmp_path):
    (tmp_path / "a.png").write_bytes(encode(draw_page()))
    config = write_config("images", tmp_path)
    assert label(config, tmp_path) == 0
    next(tmp_path.glob("labels/*/*.parquet")).unlink()
    assert label(config, tmp_path) == 0


def test_files_of_the_user_that_look_temporary_are_left_alone(write_config, label, tmp_path):
    (tmp_path / "scan.tmp-1.png").write_bytes(encode(draw_page()))
    assert label(write_config("images", tmp_path), tmp_path) == 0
    assert (tmp_path / "scan.tmp-1.png").exists()


def test_questions_whose_answer_no_font_draws_are_rejected_and_counted(write_config, label, tmp_path):
    answers = {"1": ["kite"], "2": ["凧"], "3": ["凧", "kite"], "4": []}
    qas = [{"id": n, "question": "?", "answers": [{"text": text} for text in texts]} for n, texts in answers.items()]
    paragraph = {"context": "a 凧 kite", "qas": qas}
    (tmp_path / "train-v1.1.json").write_text(json.dumps({"data": [{"title": "T", "paragraphs": [paragraph]}]}))
    assert label(write_config("squad", tmp_path), tmp_path / "out") == 0
    (row,) = read_all(tmp_path / "out")
    assert {qa["question_id"]: qa["answers"] for qa in row["qa"]} == {"1": ["kite"], "3": ["kite"], "4": []}
    counts = stats.read(str(tmp_path / "out"))["squad-train"]
    assert counts["rejected.question.render.answer_not_drawn"] == 1 and counts["questions"] == 3
    assert rejects(tmp_path / "out") == {"T_0": ("render", "answer_not_drawn")}


def test_a_file_of_too_many_bytes_is_not_even_read(write_config, label, tmp_path, monkeypatch):
    pages = tmp_path / "pages"
    pages.mkdir()
    for name, size in (("small.png", (320, 96)), ("large.png", (640, 640))):
        (pages / name).write_bytes(encode(Image.effect_noise(size, 60)))
    sizes = {path.name: path.stat().st_size for path in pages.iterdir()}
    monkeypatch.setattr("dvsft.patchlabels.image.MAX_IMAGE_BYTES", sizes["small.png"])
    config = write_config("images", pages, output={"max_reject_share": 0.5})
    assert label(config, tmp_path / "out") == 0
    assert rejects(tmp_path / "out") == {"large.png": ("read", "too_many_bytes")}


@pytest.mark.parametrize(
    ("ocr", "said"),
    [
        ({"device": "gppu"}, 'expected "cpu"'),
        ({"det_model": "/none.onnx"}, "/none.onnx"),
        ({"backend": "paddle"}, "is of no use to"),
    ],
)
def test_an_engine_that_cannot_start_is_one_line_and_leaves_no_folder(write_config, label, tmp_path, capsys, ocr, said):
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/a.png").write_bytes(encode(draw_page()))
    assert label(write_config("images", tmp_path / "pages", ocr=ocr), tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_client_without_the_engines_gpu_or_models_can_prepare_a_run(write_config, tmp_path, monkeypatch):
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/a.png").write_bytes(encode(draw_page()))
    monkeypatch.setattr("rapidocr.RapidOCR", None)  # building one would fail
    config = write_config("images", tmp_path / "pages", ocr={"device": "gpu", "rec_model": "/there/rec.onnx"})
    run = prepare(load(config), str(tmp_path / "out"))
    assert run.producers["images-train"]["rec_model"] == "/there/rec.onnx"
