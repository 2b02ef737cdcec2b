"""Pairs that others made: MMPR's layout, the rules of arXiv 2510.16333, and every pair that is left out."""

import json

import pytest
from support import draw_page, encode, read_all, rejects

from dvsft.labeler.config import PairDraw, Source
from dvsft.labeler.page import SourceError
from dvsft.labeler.sources.read import read_source

LONG = "word " * 2000


def pair(image="images/a.png", question="<image>\nWhat?", chosen="four", rejected="five"):
    return {"image": image, "question": question, "chosen": chosen, "rejected": rejected}


GOOD = [pair(), pair("images/b.png"), pair(["images/a.png"], "Why?", "so", "as")]
BAD = {
    "not_one_image": [pair(["images/a.png", "images/b.png"]), pair(None), pair(question="<image> and <image>?")],
    "image_in_answer": [pair(chosen="<image>"), pair(rejected="see <image>")],
    "no_pair": [pair(chosen="same", rejected="same "), pair(question="<image>\n"), pair(chosen=" ")],
    "missing_image": [pair("images/c.png")],
    "bad_record": [{"image": "images/a.png"}, pair(chosen=4), ["a list"], "text"],
}


@pytest.fixture
def mmpr(tmp_path):
    """Two sets as MMPR's meta.json names them, one with paths that begin with its own folder."""
    folder = tmp_path / "MMPR"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for name in "ab":
        (folder / f"images/{name}.png").write_bytes(encode(draw_page(name)))
    lines = [*GOOD, *(record for records in BAD.values() for record in records)]
    short = [record | {"image": "b.png"} for record in (pair(question="How?"), pair(chosen=LONG))]
    meta = {
        "one": {
            "root": "",
            "annotation": "annotations/one.jsonl",
            "data_augment": False,
            "repeat_time": 1,
            "length": 9,
        },
        "two": {"root": "MMPR/images", "annotation": "MMPR/annotations/two.jsonl", "repeat_time": 0.3, "length": 2},
    }
    for name, records in (("one", lines), ("two", short)):
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"annotations/{name}.jsonl").write_text(text + ("not json\n" if name == "one" else ""))
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def test_pairs_become_rows_without_ocr_and_every_other_is_counted(mmpr, write_config, label, tmp_path, capsys):
    assert label(write_config("preferences", mmpr), tmp_path / "out") == 0
    found = {row["id"].rpartition("/")[2]: row for row in read_all(tmp_path / "out")}
    assert list(found) == ["a.png", "b.png"] and not any(row["words"] or row["patch_index"] for row in found.values())
    stored = [{key: one[key] for key in ("pair_id", "prompt", "chosen", "rejected")} for one in found["b.png"]["pairs"]]
    assert [list(one.values()) for one in stored] == [
        ["one:2", "What?", "four", "five"],
        ["two:1", "How?", "four", "five"],
    ]
    assert [one["prompt"] for one in found["a.png"]["pairs"]] == ["What?", "Why?"]
    assert {one["rule"] for row in found.values() for one in row["pairs"]} == {"given"}
    assert found["a.png"]["image"]["bytes"] == (mmpr / "images/a.png").read_bytes()
    counted = json.loads((tmp_path / "out/stats.json").read_text())["preferences-train"]
    expected = {f"rejected.pair.source.{reason}": len(records) for reason, records in BAD.items()}
    expected["rejected.pair.source.bad_record"] += 1
    expected["rejected.pair.select.too_long"] = 1
    assert {key: n for key, n in counted.items() if key.startswith("rejected.")} == expected
    assert counted["pairs"] == 4 and "preference pairs" in capsys.readouterr().out


def test_the_draw_depends_on_its_seed_alone_and_pages_without_a_pair_are_gone(mmpr, write_config, label, tmp_path):
    lines = [pair(f"{n:02d}.png", f"Question {n}?") for n in range(12)]
    folder = tmp_path / "many"
    folder.mkdir()
    for n in range(12):
        (folder / f"{n:02d}.png").write_bytes(encode(draw_page(str(n))))

    def drawn(seed, order, out):
        (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        config = write_config("preferences", folder / "pairs.jsonl", source={"name": f"set{seed}"}, output={})
        text = config.read_text() + f"\n[source.pairs]\ndraw = 5\nseed = {seed}\n"
        config.write_text(text.replace("[output]", ""))
        assert label(config, tmp_path / out) == 0
        assert len([reason for reason in rejects(tmp_path / out).values() if reason == ("select", "not_drawn")]) == 7
        return [one["pair_id"] for row in read_all(tmp_path / out) for one in row["pairs"]]

    first = drawn(777, lines, "first")
    assert len(first) == 5 and first == drawn(777, lines, "again") and first != drawn(778, lines, "other")


def test_a_list_without_its_files_is_refused(tmp_path):
    (tmp_path / "meta.json").write_text(json.dumps({"one": {"root": "x", "annotation": "nowhere.jsonl"}}))
    with pytest.raises(SourceError, match=r"nowhere.jsonl is not below .* put the annotations of one there"):
        list(read_source(Source(kind="preferences", path=str(tmp_path))))
    (tmp_path / "meta.json").write_text("[]")
    with pytest.raises(SourceError, match="found no sets"):
        list(read_source(Source(kind="preferences", path=str(tmp_path))))


def test_by_default_it_takes_what_the_paper_takes():
    assert PairDraw() == PairDraw(draw=20_000, max_tokens=1_500, seed=777)
