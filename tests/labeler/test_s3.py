"""The pipeline from s3:// to s3://, against a local server."""

import json
import subprocess
import sys

from support import ROOT, SAMPLES


def keys(client) -> dict[str, str]:
    return {entry["Key"]: entry["ETag"] for entry in client.list_objects_v2(Bucket="labels", Prefix="out/")["Contents"]}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_labels_go_from_s3_to_s3_resume_and_can_be_looked_at(bucket, tmp_path):
    texts = "".join(json.dumps({"id": n, "text": f"page number {n}"}) + "\n" for n in range(10))
    bucket.put_object(Bucket="labels", Key="in/documents.jsonl", Body=texts.encode())
    (tmp_path / "run.toml").write_text(
        '[[source]]\nkind = "documents"\npath = "s3://labels/in"\n'
        f'[model]\nprocessor = "{SAMPLES}/processor"\n[output]\npages_per_shard = 4\n'
    )
    command = ("-m", "dvsft.labeler.commands.label", "--config", str(tmp_path / "run.toml"), "--out", "s3://labels/out")
    done = run(*command)
    assert done.returncode == 0, done.stderr
    whole = keys(bucket)
    assert sum(key.endswith(".parquet") and "/labels/" in key for key in whole) == 3
    bucket.delete_object(Bucket="labels", Key="out/labels/documents-train/00001-of-00003.parquet")
    assert run(*command).returncode == 0
    assert keys(bucket) == whole
    shown = run("-m", "dvsft.patchlabels.command", "preview", "s3://labels/out", "--pages", "2")
    assert shown.stdout.strip() == "s3://labels/out/preview.html", shown.stderr
