"""One TOML a run; whatever is wrong with it is said with the cure."""

import tomllib
from typing import Any

import pytest
from support import ROOT

from dvsft.labeler.config import FONTS, ConfigError, extras, load, main, parse
from dvsft.patchlabels import command
from dvsft.patchlabels.settings import resolved

MINIMAL: dict[str, Any] = {"source": [{"kind": "images", "path": "pages"}], "model": {"processor": "p"}}


def test_defaults_are_the_papers_rules():
    config = parse(MINIMAL)
    assert (config.labels.max_tokens, config.labels.max_height, config.labels.leading_space) == (3, 3.0, False)
    assert config.source[0].slug == "images-train"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": {}}, "unknown key label (did you mean labels?)"),
        ({"labels": {"max_token": 3}}, "unknown key labels.max_token (did you mean max_tokens?)"),
        ({"labels": {"max_tokens": "3"}}, 'labels.max_tokens = "3", expected an integer'),
        ({"labels": {"leading_space": 1}}, "labels.leading_space = 1, expected true or false"),
        ({"model": {}}, "model.processor is missing"),
        ({"source": {"kind": "images"}}, "write [[source]]"),
        ({"source": [{"kind": "image", "path": "x"}]}, '"image", expected one of docvqa'),
        ({"source": [{"kind": "image", "path": "x"}]}, "did you mean images?"),
        ({"source": MINIMAL["source"] * 2}, "give each a name of its own"),
        ({"ocr": {"engine": "paddleocr"}}, "needs det_model and rec_model"),
        ({"ocr": {"engine": "tesseract"}}, "expected one of rapidocr, paddleocr"),
        ({"output": {"pages_per_shard": 0}}, "expected at least 1"),
        ({"output": {"max_reject_share": float("nan")}}, "expected a finite number"),
        ({"labels": {"max_height": -1.0}}, "expected more than 0"),
        ({"render": {"font_sizes": [30, 10]}}, "expected [smallest, largest]"),
        ({"render": {"font_sizes": [20]}}, "expected [smallest, largest]"),
        ({"filter": {"max_ppl_document": -1}}, "expected more than 0"),
        ({"filter": {"dtype": "float16"}}, "expected one of auto, bfloat16, float32"),
        ({"source": [{"kind": "documents", "path": "x", "draw": {"of": "word"}}]}, "did you mean words?"),
        (
            {"source": [{"kind": "squad", "path": "x", "draw": {"of": "words"}}]},
            'source[0].draw belongs to kind = "documents"',
        ),
        ({"source": [{"kind": "documents", "path": "x", "draw": {"min_characters": 500}}]}, "expected 0 < min < max"),
        ({"render": {"fonts": ["Roboto"]}}, "did you mean Roboto-Regular?"),
        ({"render": {"fonts": ["Comic"]}}, "fonts: found 'Comic', expected a font file (.ttf, .otf, .ttc) or a name"),
        ({"render": {"fonts": []}}, "render.fonts = [], expected at least 1"),
        (
            {"model": {"processor": "p", "min_pixels": 9, "max_pixels": 8}},
            "expected at least min_pixels = 9",
        ),
        ({"zzz": {}}, "unknown key zzz; expected one of model, source"),
    ],
)
def test_a_wrong_config_says_what_was_found_and_what_to_write(change, said):
    with pytest.raises(ConfigError) as caught:
        parse({**MINIMAL, **change})
    assert said in str(caught.value)


def test_integers_are_accepted_where_a_float_is_meant():
    assert parse({**MINIMAL, "labels": {"max_height": 2}}).labels.max_height == 2.0


def test_a_missing_file_points_to_the_examples(tmp_path):
    with pytest.raises(ConfigError, match="pipelines/configs"):
        load(tmp_path / "none.toml")


def test_extras_are_those_the_run_imports(tmp_path):
    paddle = {"engine": "paddleocr", "det_model": "d", "rec_model": "r"}
    source = {"kind": "docvqa", "path": "s3://bucket/docvqa"}
    assert extras(parse(MINIMAL)) == []
    assert extras(parse(MINIMAL), "s3://bucket/out") == ["aws"]
    assert extras(parse({**MINIMAL, "ocr": paddle, "source": [source]})) == ["aws", "paddle", "paddleocr"]
    assert extras(parse({**MINIMAL, "ocr": {"backend": "openvino"}, "source": [source]})) == ["aws", "openvino"]
    assert extras(parse({**MINIMAL, "source": [{"kind": "squad", "path": "rajpurkar/squad"}]})) == ["hub"]
    assert extras(parse({**MINIMAL, "filter": {"perplexities": "gs://bucket/p"}})) == ["gcp"]
    assert extras(parse({**MINIMAL, "source": [{"kind": "documents", "path": "EdinburghNLP/xsum"}]})) == ["hub"]
    assert extras(parse({**MINIMAL, "ocr": paddle, "source": [{"kind": "squad", "path": str(tmp_path)}]})) == []


def test_extras_are_those_of_the_settings_that_the_command_changes(tmp_path, capsys):
    (tmp_path / "run.toml").write_text('[[source]]\nkind = "images"\npath = "pages"\n[model]\nprocessor = "p"\n')
    run = ["--config", str(tmp_path / "run.toml"), "--out", "s3://bucket/out", "--runner=FlinkRunner"]
    changed = ["ocr.engine=paddleocr", "ocr.det_model=d", "ocr.rec_model=r", "ocr.backend=onnxruntime"]
    assert main([*run, *(f"--set={change}" for change in changed)]) == 0
    assert capsys.readouterr().out == "--extra aws --extra paddleocr\n"
    assert command.run(main, [*run, "--set=ocr.engin=x"]) == 2
    assert "ocr.engin (did" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines/configs").glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_config_loads(path):
    assert load(path).source == parse(tomllib.loads(path.read_text().replace("extends", "#"))).source


def test_the_settings_that_an_older_run_stored_are_still_the_same_settings():
    """run.json of version 0.1 holds every default, and null where filter.max_length was not set."""
    draw = {"of": "", "samples": 500, "min_characters": 200, "max_characters": 500, "seed": 0}
    stored = {
        "model": {"processor": "p"},
        "source": [{**MINIMAL["source"][0], "split": "train", "name": "", "subset": "", "draw": draw}],
        "labels": {"max_tokens": 3, "max_height": 3.0, "leading_space": False},
        "render": {"seed": 0, "font_sizes": [21, 28], "fonts": list(FONTS), "languages": []},
        "filter": {"perplexities": "", "min_ppl_question": 100.0, "max_length": None, "batch_tokens": 8192},
        "output": {"pages_per_shard": 256, "max_reject_share": 0.01},
    }
    assert parse(stored) == parse(MINIMAL) and resolved(parse(stored)) == resolved(parse(MINIMAL))


@pytest.mark.parametrize("verb", ["label", "relabel", "filter"])
def test_every_verb_with_a_config_takes_overrides(verb, tmp_path, capsys):
    (tmp_path / "run.toml").write_text('[model]\nprocessor = "p"\n')
    places = {"label": ["--out", "x"], "relabel": ["--from", "x", "--out", "y"], "filter": []}[verb]
    arguments = [verb, "--config", str(tmp_path / "run.toml"), *places, "--set", "labels.max_tokens=0"]
    assert command.main(arguments) == 2
    assert "labels.max_tokens = 0, expected at least 1" in capsys.readouterr().err
