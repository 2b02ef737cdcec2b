"""The benchmarks: every file of this folder with a list `BENCHMARKS` adds those in it. `base` says what one is."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from dvsft.evaluator import files, hub, metrics
from dvsft.evaluator.benchmarks.base import Benchmark
from dvsft.evaluator.files import DataError
from dvsft.evaluator.metrics import Metric
from dvsft.evaluator.records import Sample


def find(folders: Iterable[str]) -> list[Benchmark]:
    """The benchmarks in the files of some folders of this package."""
    modules = [importlib.import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(folders)]
    return [entry for module in modules for entry in getattr(module, "BENCHMARKS", [])]


ENTRIES = find(__path__)
BENCHMARKS = {entry.name: entry for entry in ENTRIES}
METRICS: dict[str, Metric] = metrics.METRICS | {
    metric.name: metric for entry in ENTRIES for metric in (*entry.metrics, *entry.group_metrics.values())
}
"""By name; also those that only one benchmark's file declares."""


def get(name: str) -> Benchmark:
    """The benchmark called `name`. Raises DataError with the names there are."""
    if name not in BENCHMARKS:
        raise DataError(f"found benchmark {name!r}, expected one of: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def load(benchmark: Benchmark, data: Mapping[str, str]) -> list[Sample]:
    """All samples of a benchmark.

    data: {"": a folder with a subfolder for each benchmark, NAME: that benchmark's own folder}; a value
    "hub:" or "hub:ID" instead of a folder fetches a Hugging Face dataset. Raises DataError.
    """
    place = data.get(benchmark.name, data.get("", ""))
    try:
        samples = benchmark.subset(list(_source(benchmark, place, named=benchmark.name in data)))
    except DataError as error:
        raise DataError(f"{benchmark.name}: {error}\nIts folder should hold {benchmark.layout}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{benchmark.name}: a record under {place} cannot be read ({type(error).__name__}: {error})\n"
            f"Its folder should hold {benchmark.layout}"
        ) from error
    if len({sample.id for sample in samples}) < len(samples):
        raise DataError(f"{benchmark.name}: found the same id twice under {place}, expected unique ids")
    return samples


def _source(benchmark: Benchmark, place: str, named: bool) -> Iterable[Sample]:
    if place.startswith("hub:"):
        if benchmark.hub is None:
            raise DataError(f"found {place}, but it is not on the hub; expected --data {benchmark.name}=FOLDER")
        return hub.samples(benchmark.hub, place.removeprefix("hub:"))
    root = Path(place)
    if not named:
        root = files.first_of(root, *benchmark.folders)
    if not root.is_dir():
        raise DataError(f"{root} is no folder")
    return benchmark.local(root)
