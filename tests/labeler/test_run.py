"""Whole runs: what they write, that they resume, refuse, relabel and reject."""

import errno
import json
import os
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deadly
import pytest
from support import INTERNVL, SAMPLES, as_version_1, draw_page, encode, internvl_processor, read_all, run_files
from tokenizers import Tokenizer

from dvsft.labeler import stages as transforms
from dvsft.labeler.commands import label as label_command
from dvsft.labeler.commands import relabel
from dvsft.labeler.ocr.engines import make_engine
from dvsft.labeler.preview.html import write_preview
from dvsft.labeler.runs import stats
from dvsft.labeler.runs.identity import RunError
from dvsft.labeler.runs.plan import Shard
from dvsft.patchlabels import command, rows

SMALL = {"pages_per_shard": 3}


@pytest.fixture
def squad_config(write_config):
    return write_config("squad", SAMPLES / "squad", output=SMALL)


def test_rendered_labels_are_right_by_construction(squad_config, label, tmp_path):
    """Read the rows back: every label is the first token of the word whose ink ends in its patch."""
    tokenizer = Tokenizer.from_file(str(SAMPLES / "processor/tokenizer.json"))
    assert label(squad_config, tmp_path / "out") == 0
    found = read_all(tmp_path / "out")
    assert len(found) == 40
    assert [row["id"] for row in found] == sorted(row["id"] for row in found)
    for row in found:
        assert len(row["patch_index"]) == len(row["words"]) == len(set(row["patch_index"]))
        for patch, token, index in zip(row["patch_index"], row["token_id"], row["label_word"], strict=True):
            word = row["words"][index]
            last_pixel = word["box"][2] - 1, word["box"][3] - 1
            assert patch == last_pixel[1] // 32 * row["cols"] + last_pixel[0] // 32
            assert token == tokenizer.encode(word["text"], add_special_tokens=False).ids[0]
    bundled = [row for path in sorted((SAMPLES / "labels").glob("*.parquet")) for row in rows.read(path)]
    assert len(bundled) == 8
    for old, new in zip(bundled, found, strict=False):
        assert [old[name] for name in ("id", "patch_index", "token_id", "qa")] == [
            new[name] for name in ("id", "patch_index", "token_id", "qa")
        ], "samples/labels: make labels, and copy the first two shards of squad-train"


def test_a_full_disk_is_one_line_and_finished_shards_stay(squad_config, label, tmp_path, monkeypatch, capfd, caplog):
    write, shards, written = rows.write, iter(range(100)), threading.Event()

    def write_one(path, *rest):
        if next(shards):
            assert written.wait(timeout=20)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, *rest)
        written.set()

    monkeypatch.setattr(rows, "write", write_one)
    assert label(squad_config, tmp_path / "out") == 2
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith(("error", "Traceback"))]
    assert len(said) == 1 and "no space left" in said[0] and "same command again" in said[0]
    assert not caplog.records  # nor in Beam's log
    assert len(list(tmp_path.glob("out/labels/*/*.parquet"))) == 1
    monkeypatch.undo()
    assert label(squad_config, tmp_path / "out") == 0 and len(read_all(tmp_path / "out")) == 40


def test_the_number_of_threads_and_the_runner_change_no_byte(write_config, label, tmp_path):
    pages = tmp_path / "pages"
    pages.mkdir()
    for number in range(7):
        (pages / f"{number}.png").write_bytes(encode(draw_page(f"Number {number}")))
    config = write_config("images", pages, output=SMALL)
    runs = {
        "one": ["--threads=1"],
        "three": ["--threads=3"],
        "processes": ["--direct_running_mode=multi_processing", "--direct_num_workers=2"],
    }
    for name, flags in runs.items():
        assert label(config, tmp_path / name, *flags) == 0
    first, *others = (run_files(tmp_path / name) for name in runs)
    assert all(other == first for other in others)
    assert sum(len(row["patch_index"]) for row in read_all(tmp_path / "one")) == 14


def test_all_threads_of_a_process_share_one_engine(write_config, label, tmp_path, monkeypatch):
    (tmp_path / "pages").mkdir()
    for number in range(4):
        (tmp_path / f"pages/{number}.png").write_bytes(encode(draw_page(f"Number {number}")))
    made = []
    monkeypatch.setattr(transforms, "make_engine", lambda settings: made.append(make_engine(settings)) or made[-1])
    config, out = write_config("images", tmp_path / "pages"), tmp_path / "out"
    assert label(config, out, "--threads=3") == 0
    assert len(made) == 1
    monkeypatch.setattr(label_command, "make_engine", made.append)
    assert label(config, out) == 0
    assert len(made) == 1  # nothing was missing
    next(out.glob("labels/*/*.parquet")).unlink()
    assert label(config, out) == 0
    assert len(made) == 3


def test_a_second_run_does_only_what_is_missing(squad_config, label, tmp_path):
    out = tmp_path / "out"
    label(squad_config, out)
    whole = run_files(out)
    shards = sorted(out.glob("labels/*/*.parquet"))
    shards[4].unlink()
    before = {path: path.stat().st_mtime_ns for path in shards if path.exists()}
    assert label(squad_config, out) == 0
    assert run_files(out) == whole
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_other_settings_on_the_same_folder_are_refused_with_both_values(write_config, label, tmp_path, capsys):
    out = tmp_path / "out"
    assert label(write_config("squad", SAMPLES / "squad", output=SMALL), out) == 0
    whole = run_files(out)
    changed = write_config("squad", SAMPLES / "squad", output=SMALL, render={"seed": 5}, model={"max_pixels": 1048576})
    assert label(changed, out) == 2
    said = capsys.readouterr().err
    for part in ("config.render.seed was 0, is 5", "config.model.max_pixels was None, is 1048576", "another OUT"):
        assert part in said
    assert run_files(out) == whole


def test_changed_inputs_on_the_same_folder_are_refused(write_config, label, tmp_path, capsys):
    source = tmp_path / "d.jsonl"
    source.write_text('{"id": "a", "text": "one two"}\n')
    config = write_config("documents", source)
    assert label(config, tmp_path / "out") == 0
    source.write_text('{"id": "a", "text": "one three"}\n')
    assert label(config, tmp_path / "out") == 2
    assert "planned.documents-train.fingerprint" in capsys.readouterr().err


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Callable[[Path], Any], dict[str, bytes]]:
    """How a run of 40 shards is started, as a process; and what it makes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    words = ["alpha", "beta", "gamma", "delta"]
    texts = [{"id": n, "text": " ".join(random.Random(n).choices(words, k=150))} for n in range(160)]
    (folder / "d.jsonl").write_text("\n".join(map(json.dumps, texts)))
    config = folder / "run.toml"
    config.write_text(
        f'[[source]]\nkind = "documents"\npath = "{folder}/d.jsonl"\n[model]\nprocessor = "{SAMPLES}/processor"\n'
        "[output]\npages_per_shard = 4\n"
    )

    def start(out: Path) -> Any:
        arguments = ["--config", str(config), "--out", str(out)]
        process = deadly.PROCESSES.Process(target=deadly.undisturbed, args=(arguments,))
        process.start()
        return process

    finish(start(folder / "out"))
    return start, run_files(folder / "out")


def finish(process) -> None:
    process.join()
    assert process.exitcode == 0


@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_at_any_moment_and_started_again_equals_an_undisturbed_one(undisturbed, tmp_path, seed):
    start, whole = undisturbed
    out, draw = tmp_path / "out", random.Random(seed)
    for shards in sorted(draw.sample(range(35), 2)):
        process = start(out)
        wait_for(lambda least=shards: len(list(out.glob("labels/*/*"))) >= least)
        time.sleep(draw.uniform(0, 0.2))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "the run was over before it was killed"
    finish(start(out))
    assert run_files(out) == whole


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def test_relabeled_rows_equal_labeling_from_scratch(write_config, label, tmp_path):
    pages = tmp_path / "pages"
    pages.mkdir()
    for number in range(4):
        (pages / f"{number}.png").write_bytes(encode(draw_page(f"Invoice {number} of 1994, unpaid", (700, 400))))
    (pages / "bad.png").write_bytes(b"")
    limit = {"pages_per_shard": 2, "max_reject_share": 1.0}
    other = {"model": {"max_pixels": 131072}, "labels": {"max_tokens": 1, "leading_space": True}}
    first = write_config("images", pages, "first.toml", output=limit)
    second = write_config("images", pages, "second.toml", output=limit, **other)
    assert label(first, tmp_path / "first") == 0
    assert label(second, tmp_path / "scratch") == 0
    flags = ["--from", str(tmp_path / "first"), "--config", str(second), "--out", str(tmp_path / "relabeled")]
    assert relabel.main(flags) == 0
    assert run_files(tmp_path / "relabeled") == run_files(tmp_path / "scratch")
    assert run_files(tmp_path / "relabeled") != run_files(tmp_path / "first")
    for shard in (tmp_path / "first").glob("labels/*/*.parquet"):
        as_version_1(shard)
    flags[-1] = str(tmp_path / "of version 1")
    assert relabel.main(flags) == 0
    assert without_ends(tmp_path / "of version 1") == without_ends(tmp_path / "scratch")
    counted = [json.loads((tmp_path / name / "stats.json").read_text()) for name in ("of version 1", "scratch")]
    assert counted[0] == counted[1]


def test_labels_projected_onto_a_model_of_tiles_equal_labeling_for_it_from_scratch(write_config, label, tmp_path):
    """Qwen3-VL to InternVL: rows, metadata, counts and the folder's own processor, to the byte."""
    (tmp_path / "pages").mkdir()
    for number, size in enumerate([(700, 400), (500, 900)]):
        page = draw_page(f"Invoice {number} of 1994, unpaid", size)
        (tmp_path / f"pages/{number}.png").write_bytes(encode(page))
    model = {"model": {"processor": str(internvl_processor(tmp_path / "internvl"))}}
    rules = {"labels": {"rule": "subword", "contested": "set", "min_height": 8.0, "max_height": 4.0}}
    qwen = write_config("images", tmp_path / "pages", "qwen.toml")
    tiled = write_config("images", tmp_path / "pages", "tiled.toml", **model, **rules)
    assert label(qwen, tmp_path / "qwen") == label(tiled, tmp_path / "scratch") == 0
    flags = ["--from", str(tmp_path / "qwen"), "--config", str(tiled), "--out", str(tmp_path / "projected")]
    assert relabel.main(flags) == 0
    assert run_files(tmp_path / "projected") == run_files(tmp_path / "scratch")
    _, metadata = rows.open_shard(next(tmp_path.glob("projected/labels/*/*.parquet")))
    assert metadata.layout.family == "internvl" and metadata.has_sets
    assert {*INTERNVL} < {path.name for path in tmp_path.glob("projected/processor/*")}
    for row in read_all(tmp_path / "projected"):
        layout = metadata.layout.fit(row["width"], row["height"])
        assert (row["rows"], row["cols"], row["visual_tokens"]) == (None, None, layout.visual_tokens)
        assert row["patch_index"] and len(row["words"][0]["ends"]) == len(row["words"][0]["text"])
    (page, _) = previewed(tmp_path / "projected")
    names = [view["name"] for view in page["views"]]
    assert names == ["all 2 tiles", "tile 1, 16 x 16", "tile 2, 16 x 16", "thumbnail, 16 x 16"]
    cells = {cell[0]: cell[1:] for view in page["views"] for cell in view["cells"]}
    for patch, index, *_ in page["labels"]:
        (x0, y0, x1, y1), (left, _, right, bottom) = cells[patch], page["words"][index][1]
        assert left < x1 and x0 < right and y0 < bottom <= y1 + 0.1


def previewed(out):
    document = Path(write_preview(str(out), 5)).read_text()
    (found,) = re.findall(r"const data = (\{.*\});\n", document)
    return json.loads(found)["pages"]


def test_drawn_pages_for_a_model_of_tiles_are_labeled_whole_and_drawn_again_by_relabel(write_config, label, tmp_path):
    lines = [json.dumps({"id": str(n), "text": f"page {n} of a few words, " * (12 * n)}) for n in (1, 3)]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    model = {"model": {"processor": str(internvl_processor(tmp_path / "internvl"))}}
    qwen = write_config("documents", tmp_path / "d.jsonl", "qwen.toml")
    tiled = write_config("documents", tmp_path / "d.jsonl", "tiled.toml", **model)
    assert label(qwen, tmp_path / "qwen") == label(tiled, tmp_path / "scratch") == 0
    flags = ["--from", str(tmp_path / "qwen"), "--config", str(tiled), "--out", str(tmp_path / "projected")]
    assert relabel.main(flags) == 0
    assert run_files(tmp_path / "projected") == run_files(tmp_path / "scratch")
    found = read_all(tmp_path / "projected")
    assert [row["visual_tokens"] for row in found] == [256, 768]
    assert all(sorted(row["label_word"]) == list(range(len(row["words"]))) for row in found)


def without_ends(out):
    """Rows without where characters end, which version 1 did not know."""
    return [{**row, "words": [word | {"ends": None} for word in row["words"]]} for row in read_all(out)]


def test_relabeled_texts_are_drawn_for_the_new_grid(write_config, label, tmp_path):
    first = write_config("squad", SAMPLES / "squad", "first.toml", output=SMALL)
    second = write_config("squad", SAMPLES / "squad", "second.toml", output=SMALL, model={"min_pixels": 600000})
    assert label(first, tmp_path / "first") == label(second, tmp_path / "scratch") == 0
    flags = ["--from", str(tmp_path / "first"), "--config", str(second), "--out", str(tmp_path / "relabeled")]
    assert relabel.main(flags) == 0
    assert run_files(tmp_path / "relabeled") == run_files(tmp_path / "scratch")


def test_an_unfinished_run_is_not_relabeled(squad_config, label, tmp_path, capsys):
    label(squad_config, tmp_path / "first")
    next((tmp_path / "first").glob("labels/*/*.parquet")).unlink()
    flags = ["--from", str(tmp_path / "first"), "--config", str(squad_config), "--out", str(tmp_path / "second")]
    assert command.run(relabel.main, flags) == 2
    assert "lacks 1 of its shards" in capsys.readouterr().err


def test_arguments_that_nobody_knows_are_refused(squad_config, label, tmp_path, capsys):
    assert label(squad_config, tmp_path / "out", "--theads=4") == 2
    assert "--theads=4" in capsys.readouterr().err


def test_labels_without_their_settings_are_not_trusted(squad_config, label, tmp_path, capsys):
    label(squad_config, tmp_path / "out")
    (tmp_path / "out/run.json").unlink()
    assert label(squad_config, tmp_path / "out") == 2
    assert "holds labels but no run.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"model": {"processor": "nowhere"}}, "'nowhere' does not exist; expected a folder or a hub id"),
        ({"model": {"processor": str(SAMPLES)}}, "lacks preprocessor_config.json, tokenizer.json"),
        ({"model": {"max_pixels": 5}}, "min_pixels <= max_pixels"),
        ({"source": {"split": "val"}}, "for split 'val'"),
        ({"source": {"kind": "images", "path": "/nowhere"}}, "found no pages in /nowhere"),
        ({"source": {"path": "data/nowhere"}}, "data/nowhere is no folder or file of the publisher's here"),
        ({"ocr": {"det_model": "/none.onnx"}, "source": {"kind": "images"}}, "cannot load its models"),
    ],
)
def test_a_run_that_cannot_start_says_why_and_makes_nothing(write_config, label, tmp_path, capsys, sections, said):
    assert label(write_config("squad", SAMPLES / "squad", **sections), tmp_path / "out") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_words_add_up_to_labels_and_losses(squad_config, label, tmp_path):
    label(squad_config, tmp_path / "out")
    found = read_all(tmp_path / "out")
    counts = stats.read(str(tmp_path / "out"))["squad-train"]
    assert counts["labels"] == sum(len(row["patch_index"]) for row in found)
    assert counts["words"] == counts["labels"]
    assert counts["dropped.no_glyph"] == 2  # the sample holds a kanji and an emoji
    assert counts["patches"] == sum(row["rows"] * row["cols"] for row in found)
    assert counts["labels_by_sample"] == sum(len(row["patch_index"]) * len(row["qa"]) for row in found)
    tokenizer = Tokenizer.from_file(str(SAMPLES / "processor/tokenizer.json"))
    answers = [qa["answers"][0] for row in found for qa in row["qa"]]
    assert counts["text_labels"] == sum(len(tokenizer.encode(answer).ids) for answer in answers)
    shard = next((tmp_path / "out").glob("labels/*/*.parquet"))
    number, of = shard.stem.split("-of-")
    named = Shard(str(tmp_path / "out"), shard.parent.name, int(number), int(of))
    counted = stats.count_shard(named, tokenizer)
    as_version_1(shard)
    assert Path(named.labels) == shard and counted["patches"] and stats.count_shard(named, tokenizer) == counted


def test_words_that_fall_together_are_counted_and_warned_of(write_config, label, tmp_path, capsys):
    assert stats.count_labels([1, 1, 2, 4, 4, 5], [0, 1, 1, 2, 2, 3]) == Counter(
        labeled_words=4, words_alone=3, labeled_patches=4
    )  # word 0 shares patch 1; word 1 has patch 2 of its own, word 2 labels patch 4 twice
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/0.png").write_bytes(encode(draw_page("to be or not to be it is so", (420, 96))))
    few = {"model": {"min_pixels": 4096, "max_pixels": 8192}}
    dropping = write_config("images", tmp_path / "pages", "drop.toml", **few)
    assert label(dropping, tmp_path / "drop") == 0
    said = capsys.readouterr()
    assert "warning: images-train: only" in said.err and 'labels.contested = "set"' in said.err
    assert "words with a patch of their own" in said.out
    counts = stats.read(str(tmp_path / "drop"))["images-train"]
    assert stats.words_alone(counts) == (counts["words"] - counts["dropped.contested"]) / counts["words"] < 0.5
    keeping = write_config("images", tmp_path / "pages", "set.toml", **few, labels={"contested": "set"})
    flags = ["--from", str(tmp_path / "drop"), "--config", str(keeping), "--out", str(tmp_path / "set")]
    assert relabel.main(flags) == 0
    assert "warning" not in capsys.readouterr().err
    kept = stats.read(str(tmp_path / "set"))["images-train"]
    assert stats.words_alone(kept) == stats.words_alone(counts)
    assert kept["labels"] == kept["labeled_words"] == kept["words"] > kept["labeled_patches"]
    share = kept["labeled_patches"] / kept["patches"]
    assert f"{share:.2%}" in stats.funnel({"images-train": kept})


def test_table_1_stands_beside_the_papers(squad_config, label, tmp_path):
    label(squad_config, tmp_path / "train")
    other = squad_config.read_text().replace("[model]", 'split = "dev"\n[model]')
    squad_config.write_text(other.replace(f"{SAMPLES}/squad", f"{SAMPLES}/squad/train-v1.1.json"))
    label(squad_config, tmp_path / "dev")
    train, dev = (stats.read(str(tmp_path / name)) for name in ("train", "dev"))
    head, ours, paper, other_split = stats.table([train, dev]).splitlines()
    assert head.split("  ")[-1].strip() == "coverage"
    counts = train["squad-train"]
    numbers = [counts[key] for key in ("samples", "pages", "text_labels", "labels_by_sample")]
    share = counts["labels_by_sample"] / counts["patches_by_sample"]
    assert ours.split() == ["squad-train", *(f"{n:,}" for n in numbers), f"{share:.2%}"]
    assert paper.split() == ["paper", "24,929", "13,183", "60,957", "2,607,031", "31.44%"]
    assert other_split.split()[:5] == ["squad-dev", *(f"{n:,}" for n in numbers)]


def test_a_folder_that_holds_no_finished_run_has_no_table(tmp_path):
    with pytest.raises(RunError, match="is no finished run"):
        stats.read(str(tmp_path))
