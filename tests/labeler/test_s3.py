"""The pipeline from s3:// to s3://, against a local server."""

import json

from support import SAMPLES, draw_page, encode, read_all, rejects

from dvsft.patchlabels import command


def keys(client) -> dict[str, str]:
    return {entry["Key"]: entry["ETag"] for entry in client.list_objects_v2(Bucket="labels", Prefix="out/")["Contents"]}


def test_labels_go_from_s3_to_s3_resume_and_can_be_looked_at(bucket, label, tmp_path, capsys):
    texts = "".join(json.dumps({"id": n, "text": f"page number {n}"}) + "\n" for n in range(10))
    bucket.put_object(Bucket="labels", Key="in/documents.jsonl", Body=texts.encode())
    (tmp_path / "run.toml").write_text(
        '[[source]]\nkind = "documents"\npath = "s3://labels/in"\n'
        f'[model]\nprocessor = "{SAMPLES}/processor"\n[output]\npages_per_shard = 4\n'
    )
    config, out = tmp_path / "run.toml", "s3://labels/out"
    assert label(config, out) == 0
    whole = keys(bucket)
    assert sum(key.endswith(".parquet") and "/labels/" in key for key in whole) == 3
    bucket.delete_object(Bucket="labels", Key="out/labels/documents-train/00001-of-00003.parquet")
    assert label(config, out) == 0
    assert keys(bucket) == whole
    capsys.readouterr()
    assert not command.main(["preview", out, "--pages", "2"])
    assert capsys.readouterr().out.strip() == "s3://labels/out/preview.html"


def test_scans_and_their_words_are_read_from_s3_by_a_glob(bucket, label, write_config, tmp_path):
    """Pages, the words of a folder of their own, and what is no page: all are listed and read where they are."""
    first, second = draw_page("Total"), draw_page("42")
    word = json.dumps({"text": "Total", "box": [24, 36, 95, 58]})
    contents = {
        "in/2023/a.tif": encode(first, "TIFF", save_all=True, append_images=[second]),
        "in/2023/a.txt": b"no page",
        "in/2024/deep/b.png": encode(first),
        "in/other.png": encode(first),
        "ocr/2023/a.jsonl": f"{word}\n{json.dumps({'page': 2})}".encode(),
        "ocr/2024/deep/b.jsonl": word.encode(),
        "ocr/2023/c.jsonl": word.encode(),
    }
    for key, data in contents.items():
        bucket.put_object(Bucket="labels", Key=f"scans/{key}", Body=data)
    source = {"words": "s3://labels/scans/ocr", "format": "jsonl"}
    config = write_config("words", "s3://labels/scans/in/20*/**", source=source, output={"max_reject_share": 1.0})
    assert label(config, tmp_path / "out") == 0
    found = {row["id"].removeprefix("words/train/"): len(row["words"]) for row in read_all(tmp_path / "out")}
    assert found == {"2023/a.tif": 1, "2023/a.tif#2": 0, "2024/deep/b.png": 1}
    assert rejects(tmp_path / "out") == {"a.txt": ("source", "no_picture"), "c.jsonl": ("source", "no_page")}
