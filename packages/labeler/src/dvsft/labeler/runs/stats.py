"""What a run made, counted from its files: the funnel from pages to labels, beside the paper's Table 1.

`dvsft stats OUT [OUT ...]` prints Table 1 of one run or of several.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from tokenizers import Tokenizer

from dvsft.labeler import files
from dvsft.labeler.runs.folder import Run
from dvsft.labeler.runs.identity import RunError
from dvsft.labeler.runs.plan import Shard
from dvsft.patchlabels.prompts import first_answer
from dvsft.patchlabels.rows import DROP_REASONS, open_shard

COLUMNS = [
    "rows",
    "cols",
    "visual_tokens",
    "words.list.element.confidence",
    "patch_index",
    "label_word",
    "dropped",
    "qa.list.element.answers.list.element",
    "pairs.list.element.pair_id",
]

LABELS = ("patch_index", "label_word")

NOT_ASKED_FOR = ("no_token", "low_confidence", "too_many_tokens", "too_tall")
"""Why a word is dropped for what it is, wherever other words are."""

LEAST_ALONE = 0.5
"""A smaller share of words with a patch of their own is worth a warning."""

PAPER = {
    "docvqa": (39_463, 10_194, 190_895, 5_402_739, 0.0697),
    "infographicvqa": (23_946, 4_406, 61_608, 4_173_608, 0.1194),
    "squad": (24_929, 13_183, 60_957, 2_607_031, 0.3144),
}
"""arXiv 2605.26656, Table 1, train splits: samples (questions), images, text labels, vision labels counted once per
sample, share of visual tokens labeled."""


def count_shard(shard: Shard, tokenizer: Tokenizer) -> Counter[str]:
    """Pages, questions, words, patches, labels and losses of one shard, from its Parquet columns and rejects."""
    counts: Counter[str] = Counter()
    with files.open_binary(shard.labels) as file:
        parquet, _ = open_shard(file)
        for batch in parquet.iter_batches(columns=COLUMNS, batch_size=1024):
            questions, labels = (pc.list_value_length(batch[name]) for name in ("qa", "patch_index"))
            patches = _visual_tokens(batch)
            samples = pc.max_element_wise(questions, 1)
            counts["pages"] += batch.num_rows
            counts["questions"] += _sum(questions)
            counts["samples"] += _sum(samples)
            counts["words"] += _sum(pc.list_value_length(batch["words"]))
            if "pairs" in batch.schema.names and (pairs := _sum(pc.list_value_length(batch["pairs"]))):
                counts["pairs"] += pairs
            counts["patches"] += _sum(patches)
            counts["labels"] += _sum(labels)
            for patch_index, label_word, times in zip(*_columns(batch, *LABELS), samples.to_pylist(), strict=True):
                page = count_labels(patch_index, label_word)
                counts.update(page)
                counts["labeled_patches_by_sample"] += times * page["labeled_patches"]
            counts["text_labels"] += count_answer_tokens(batch["qa"].to_pylist(), tokenizer)
            counts["labels_by_sample"] += _sum(pc.multiply(labels, samples))
            counts["patches_by_sample"] += _sum(pc.multiply(patches, samples))
            for reason in DROP_REASONS:
                if batch["dropped"].type.get_field_index(reason) >= 0:  # later versions have more of them
                    counts[f"dropped.{reason}"] += _sum(pc.struct_field(batch["dropped"], reason))
    counts.update(count_rejects(shard.rejects))
    return counts


def count_labels(patch_index: Sequence[int], label_word: Sequence[int]) -> Counter[str]:
    """Of one page: words with a label, words with a patch of their own, visual tokens with a label."""
    words_of = defaultdict(set)
    for patch, word in zip(patch_index, label_word, strict=True):
        words_of[patch].add(word)
    alone = {word for words in words_of.values() if len(words) == 1 for word in words}
    return Counter(labeled_words=len({*label_word}), words_alone=len(alone), labeled_patches=len(words_of))


def _columns(batch: pa.RecordBatch, *names: str) -> list[list[Any]]:
    return [batch[name].to_pylist() for name in names]


def _visual_tokens(batch: pa.RecordBatch) -> pa.Array:
    """Of each page; version 1 left the product to its readers."""
    names = batch.schema.names
    return batch["visual_tokens"] if "visual_tokens" in names else pc.multiply(batch["rows"], batch["cols"])


def count_answer_tokens(pages: Iterable[list[dict[str, Any]]], tokenizer: Tokenizer) -> int:
    """Tokens of the first answer to every question, as training takes it, without the token that ends a turn: so
    the paper must have counted (docs/reference/labels.md)."""
    answers = [first_answer(qa["answers"]) for page in pages for qa in page if qa["answers"]]
    return sum(len(encoding) for encoding in tokenizer.encode_batch(answers, add_special_tokens=False))


def count_rejects(path: str) -> Counter[str]:
    """Rejects of one file by what, stage and reason; empty if there is none."""
    if not files.exists(path):
        return Counter()
    rejects = [json.loads(line) for line in files.read_bytes(path).splitlines()]
    return Counter(f"rejected.{reject['what']}.{reject['stage']}.{reject['reason']}" for reject in rejects)


def write(run: Run, counts: Mapping[str, Counter[str]]) -> dict[str, Any]:
    """Write stats.json, with the records that the sources rejected added; returns what it holds."""
    stats = {}
    for slug in run.planned:
        source_rejects = count_rejects(files.join(run.out, "rejects", slug, "source.jsonl"))
        total = counts.get(slug, Counter()) + source_rejects
        source = run.source(slug)
        stats[slug] = {"dataset": source.kind, "split": source.split, **dict(sorted(total.items()))}
    files.write_bytes(files.join(run.out, "stats.json"), (json.dumps(stats, indent=2) + "\n").encode())
    return stats


def read(out: str) -> dict[str, Any]:
    """The stats.json of a run. Raises RunError if there is none."""
    path = files.join(out, "stats.json")
    if not files.exists(path):
        raise RunError(f"{out} is no finished run (no stats.json); make labels OUT={out} makes or finishes one")
    made: dict[str, Any] = json.loads(files.read_bytes(path))
    return made


def reject_share(stats: Mapping[str, Any]) -> float:
    """Pages that failed among all pages of a run. Those that nobody asked for, by a filter or a draw, did not fail."""
    rejected: int = sum(
        n
        for counts in stats.values()
        for key, n in counts.items()
        if key.startswith("rejected.page.") and not key.startswith("rejected.page.select.")
    )
    pages: int = sum(counts.get("pages", 0) for counts in stats.values())
    return rejected / max(1, pages + rejected)


def funnel(stats: Mapping[str, Any]) -> str:
    """The funnel as text, a block per source, the paper's figures in a column of their own."""
    lines = []
    for slug, counts in stats.items():
        lines += ["", f"{slug:<36}{'':>12}{'paper':>12}" if _paper_row(counts) else slug]
        lines += [f"  {name:<34}{value:>12}{paper:>12}".rstrip() for name, value, paper in _funnel_rows(counts)]
    return "\n".join(lines[1:])


def funnel_table(stats: Mapping[str, Any]) -> dict[str, Any]:
    """The funnel as {sources, rows}; a row is [name, [value, the paper's] of each source]."""
    columns = [{name: values for name, *values in _funnel_rows(counts)} for counts in stats.values()]
    names: list[str] = []
    for column in columns:
        at = 0
        for name in column:  # a loss that only one source has keeps its place among the others
            if name not in names:
                names.insert(at, name)
            at = names.index(name) + 1
    return {
        "sources": list(stats),
        "rows": [[name, *(column.get(name, ["0", ""]) for column in columns)] for name in names],
    }


def rejected(counts: Mapping[str, Any]) -> list[tuple[str, int]]:
    """What a source rejected, as (what, stage and reason; number)."""
    return [(key.removeprefix("rejected."), n) for key, n in counts.items() if key.startswith("rejected.")]


def _funnel_rows(counts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    get = Counter(counts)
    rejected_pages = sum(n for key, n in rejected(counts) if key.startswith("page."))
    unseen = get["dropped.no_glyph"] + get["dropped.misaligned"]
    shown = {
        "pages read": get["pages"] + rejected_pages,
        **{f"- {key}": n for key, n in rejected(counts)},
        "pages labeled": get["pages"],
        "questions": get["questions"],
        **({"preference pairs": get["pairs"]} if get["pairs"] else {}),
        "words found": get["words"] + unseen,
        **{f"- {reason}": n for reason in DROP_REASONS if (n := get[f"dropped.{reason}"])},
        **({"words labeled": n} if (n := get["labeled_words"]) not in (0, get["labels"]) else {}),
        "labels": get["labels"],
        "visual tokens": get["patches"],
    }
    return [(name, f"{n:,}", "") for name, n in shown.items()] + _paper_rows(counts)


def _paper_rows(counts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Ratios, with the paper's where it has this dataset. A sample is a question; a page without any is one."""
    get = Counter(counts)
    pages, samples = max(1, get["pages"]), max(1, get["samples"])
    rows = [
        ("samples per page", get["samples"] / pages, "{:.2f}"),
        ("text labels per sample", get["text_labels"] / samples, "{:.2f}"),
        ("labels per page", get["labels"] / pages, "{:.1f}"),
        ("labels per sample", get["labels_by_sample"] / samples, "{:.1f}"),
        ("visual tokens per sample", get["patches_by_sample"] / samples, "{:.0f}"),
        (
            "share of visual tokens labeled",
            _coverage(get),
            "{:.2%}",
        ),
    ]
    if (alone := words_alone(counts)) is not None:
        rows.append(("words with a patch of their own", alone, "{:.2%}"))
    paper = _paper_figures(counts)
    return [
        (name, shape.format(value), shape.format(paper[name]) if name in paper else "") for name, value, shape in rows
    ]


def _coverage(counts: Counter[str]) -> float:
    """The share of visual tokens with a label, pages counted once per sample."""
    labeled = counts["labeled_patches_by_sample"] or counts["labels_by_sample"]
    return labeled / max(1, counts["patches_by_sample"])


def words_alone(counts: Mapping[str, Any]) -> float | None:
    """The share of words that share none of their visual tokens with another, of those that the rules for words keep;
    None where there are none, or an older version counted."""
    get = Counter(counts)
    kept = get["words"] - sum(get[f"dropped.{reason}"] for reason in NOT_ASKED_FOR)
    return get["words_alone"] / kept if "words_alone" in counts and kept else None


def warnings(stats: Mapping[str, Any]) -> list[str]:
    """A line for each source whose words mostly fall together."""
    shares = {slug: words_alone(counts) for slug, counts in stats.items()}
    return [
        f"{slug}: only {share:.0%} of its words have a visual token of their own, and the others get no label; "
        'take a model or pixel limits with more visual tokens per page, or keep them with labels.contested = "set" '
        "(docs/reference/labels.md)"
        for slug, share in shares.items()
        if share is not None and share < LEAST_ALONE and Counter(stats[slug])["dropped.contested"]
    ]


def _paper_row(counts: Mapping[str, Any]) -> tuple[int, int, int, int, float] | None:
    """The paper's row for the data set of a source, if it trained on it."""
    return PAPER.get(counts["dataset"]) if counts["split"] == "train" else None


def _paper_figures(counts: Mapping[str, Any]) -> dict[str, float]:
    paper = _paper_row(counts)
    if paper is None:
        return {}
    samples, images, texts, labels, share = paper
    return {
        "samples per page": samples / images,
        "text labels per sample": texts / samples,
        "labels per sample": labels / samples,
        "visual tokens per sample": labels / share / samples,
        "share of visual tokens labeled": share,
    }


def _sum(values: Any) -> int:
    return int(pc.sum(values).as_py() or 0)


def table(runs: Iterable[Mapping[str, Any]]) -> str:
    """Table 1 of arXiv 2605.26656 for what some runs made; the paper's row below each data set that it has."""
    lines = [_table_line("", ("samples", "images", "text labels", "vision labels", "coverage"))]
    for stats in runs:
        for slug, counts in stats.items():
            get = Counter(counts)
            figures = [get[key] for key in ("samples", "pages", "text_labels", "labels_by_sample")]
            share = _coverage(get)
            lines.append(_table_line(slug, (*(f"{n:,}" for n in figures), f"{share:.2%}")))
            if paper := _paper_row(counts):
                lines.append(_table_line("  paper", (*(f"{n:,}" for n in paper[:-1]), f"{paper[-1]:.2%}")))
    return "\n".join(lines)


def _table_line(name: str, cells: Iterable[str]) -> str:
    return f"{name:<24}" + "".join(f"{cell:>15}" for cell in cells)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", nargs="+", help="run folders")
    FileSystems.set_options(PipelineOptions())
    print(table([read(out) for out in parser.parse_args(arguments).out]))
