"""Publish a finished run: a folder that `datasets` loads, on this machine or on the hub."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from dvsft.labeler import files
from dvsft.labeler.publish.card import config_name, dataset_card, split_name
from dvsft.labeler.runs.folder import Run, is_whole, load
from dvsft.labeler.runs.identity import RunError
from dvsft.patchlabels.errors import DvsftError

CARD = "README.md"


class PushError(DvsftError):
    """A folder or a repository that does not take the dataset."""


def published(run: Run) -> Iterator[tuple[str, str]]:
    """Every shard of a run, and its path in the dataset."""
    for shard in run.shards():
        source = run.source(shard.slug)
        yield shard.labels, f"data/{config_name(source)}/{split_name(source)}-{shard.name}.parquet"


def open_finished(out: str) -> Run:
    """Raises RunError for a run that is not finished, or whose sources would fall together."""
    run = load(out)
    if not is_whole(out):
        raise RunError(f"{out} lacks some of its shards; finish it first: make labels OUT={out}")
    paths = [path for _, path in published(run)]
    if len(set(paths)) < len(paths):
        raise RunError(f"{out} has sources whose names differ only in signs that datasets does not take; rename one")
    return run


def write_folder(run: Run, folder: Path, name: str, link: bool = False) -> None:
    """The dataset as a folder. A card that is there is kept, since people fill it in. link: local shards are links.
    Raises PushError where the folder holds other shards, which datasets would load too."""
    shards = {path: shard for shard, path in published(run)}
    there = [str(path.relative_to(folder)) for path in folder.glob("data/**/*.parquet")]
    if others := sorted(set(there) - shards.keys()):
        raise PushError(
            f"{folder} holds {others[0]}, which is not of this run; delete {folder / 'data'} or choose another"
        )
    for path, shard in shards.items():
        _place(shard, folder / path, link and "://" not in shard)
    if (folder / CARD).exists():
        print(f"kept {folder / CARD}; delete it to have it written anew")
    else:
        (folder / CARD).write_text(dataset_card(run, name), encoding="utf-8")


def _place(shard: str, path: Path, link: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    if link:
        partial.symlink_to(Path(shard).resolve())
    else:
        with files.open_binary(shard) as source, partial.open("wb") as target:
            shutil.copyfileobj(source, target)
    os.replace(partial, path)


def upload(folder: Path, name: str, private: bool, own_card: bool) -> str:
    """Upload a dataset folder to the hub; returns its address. Shards of an earlier push are deleted there; its card
    is kept unless this one is the user's own. Raises PushError."""
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
        keep = not own_card and api.file_exists(name, CARD, repo_type="dataset")
        api.upload_folder(
            repo_id=name,
            repo_type="dataset",
            folder_path=folder,
            commit_message="Label shards",
            ignore_patterns=[CARD] if keep else None,
            delete_patterns=["data/*"],
        )
    except Exception as error:  # the client raises its own, its transport's and OS errors
        raise PushError(
            f"the hub did not take {name}: {error}; log in with: hf auth login, and check that you may write there"
        ) from error
    if keep:
        print(f"kept the {CARD} of {name}; push with --to FOLDER to upload yours")
    return f"https://huggingface.co/datasets/{name}"


def push(out: str, name: str | None, to: Path | None, private: bool = False) -> list[str]:
    """Where the run can be loaded from now."""
    run = open_finished(out)
    if to:
        write_folder(run, to, name or to.name)
    if not name:
        return [str(to)]
    if to:
        return [str(to), upload(to, name, private, own_card=True)]
    with tempfile.TemporaryDirectory() as folder:
        write_folder(run, Path(folder), name, link=True)
        return [upload(Path(folder), name, private, own_card=False)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", help="the folder of a finished run")
    parser.add_argument("name", nargs="?", metavar="OWNER/NAME", help="a dataset on the hub, new or to replace")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="a folder on this machine, instead or before")
    parser.add_argument("--private", action="store_true", help="a new dataset on the hub is private")
    options = parser.parse_args(arguments)
    if not options.name and not options.to:
        parser.error("expected OWNER/NAME, or --to FOLDER, or both")
    FileSystems.set_options(PipelineOptions())
    print("\n".join(push(options.out, options.name, options.to, options.private)))
