"""The pipeline from s3:// to s3://, against a local server."""

import json

from support import SAMPLES

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
