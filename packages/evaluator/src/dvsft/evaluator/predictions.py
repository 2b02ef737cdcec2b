"""The files between the verbs: a run folder with run.json and one JSONL line per prediction.

RUN/run.json                        what made the predictions (see `predict.run_settings`), samples per benchmark
RUN/predictions/BENCHMARK.R.jsonl   the lines that process R wrote (see `records.Prediction`)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from dvsft.evaluator.records import BadLine, Lens, Prediction
from dvsft.patchlabels.errors import DvsftError


class RunError(DvsftError):
    """A run folder or predictions file that cannot be used; the message says what to do."""


def settings(run: Path) -> dict[str, Any]:
    """What run.json holds. Raises RunError."""
    try:
        content: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
        return content
    except (OSError, json.JSONDecodeError) as error:
        raise RunError(f"{run} is no run folder ({error}); make one with: dvsft predict --out {run}") from error


def lens_of(run: Path) -> Lens | None:
    """What lens.json holds; None where there is none. Raises RunError."""
    path = run / "lens.json"
    try:
        return Lens.model_validate_json(path.read_text(encoding="utf-8")) if path.exists() else None
    except ValidationError as error:
        found = f"{error.error_count()} of its values, such as {'.'.join(map(str, error.errors()[0]['loc']))}"
        raise RunError(
            f"{path}: {found}, are not what this version writes; run dvsft lens --out {run} again"
        ) from error


def write_json(path: Path, content: Any) -> None:
    """Write the file whole or not at all: under another name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def path_of(run: Path, benchmark: str, rank: int = 0) -> Path:
    return run / "predictions" / f"{benchmark}.{rank}.jsonl"


def files_of(run: Path, benchmark: str) -> list[Path]:
    """The files of a benchmark, one per process that ever worked on it."""
    return sorted((run / "predictions").glob(f"{benchmark}.[0-9]*.jsonl"))


def benchmarks_of(run: Path) -> list[str]:
    """The benchmarks with predictions in a run folder."""
    return sorted({path.name.split(".")[0] for path in (run / "predictions").glob("*.jsonl")})


def drop_torn_line(path: Path) -> None:
    """Cut off an unfinished last line, which a killed process leaves behind."""
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with path.open("r+b") as file:
                file.truncate(whole)


def drop_failed(path: Path) -> None:
    """Remove the lines without an answer from a file, so that these samples are asked again."""
    with path.open(encoding="utf-8") as file:  # splitlines() would also split at U+2028 inside an answer
        texts = list(file)
    kept = [text for text in texts if (found := parse(text)[0]) and found.text is not None]
    if len(kept) < len(texts):
        replace(path, kept)


def sort(path: Path, ids: Sequence[str]) -> None:
    """Put the lines into the order of `ids`, whatever order the answers came in; lines of other samples stay last."""
    places = {name: i for i, name in enumerate(ids)}
    with path.open(encoding="utf-8") as file:
        texts = list(file)
    found = [parse(text)[0] for text in texts]
    keys = [places.get(line.id, len(ids)) if line else len(ids) for line in found]
    if keys != sorted(keys):
        replace(path, [texts[i] for i in sorted(range(len(texts)), key=keys.__getitem__)])


def replace(path: Path, texts: Sequence[str]) -> None:
    """Give a file other lines, whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text("".join(texts), encoding="utf-8")
    part.replace(path)


def append(file: IO[str], predictions: Sequence[Prediction]) -> None:
    """Write whole lines at once, so that a kill tears at most the last one."""
    file.write("".join(json.dumps(found.to_line(), ensure_ascii=False) + "\n" for found in predictions))
    file.flush()


def read(paths: Iterable[Path]) -> tuple[list[Prediction], Counter[str]]:
    """(the predictions, the number of other lines by reason). The first line of an id counts."""
    kept: dict[str, Prediction] = {}
    skipped: Counter[str] = Counter()
    for text in _text_lines(paths):
        found, reason = parse(text)
        if found is None:
            skipped[reason] += 1
        elif found.id in kept:
            skipped["duplicate_id"] += 1
        else:
            kept[found.id] = found
    return list(kept.values()), skipped


def _text_lines(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                yield from (text for text in file if text.strip())
        except OSError as error:
            raise RunError(f"{path} cannot be read: {error}") from error


def parse(text: str) -> tuple[Prediction | None, str]:
    """(prediction, "") or (None, reason)."""
    try:
        return Prediction.from_line(json.loads(text)), ""
    except json.JSONDecodeError:
        return None, "not_json"
    except BadLine as error:
        return None, str(error)
