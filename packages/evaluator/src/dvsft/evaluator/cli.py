"""The verbs predict, score, report and lens, joined by files, and probe."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dvsft.evaluator import benchmarks, predict, predictions, score, tasks
from dvsft.evaluator.scorer_sets import SCORER_SETS
from dvsft.patchlabels.errors import DvsftError
from dvsft.patchlabels.layout import LayoutSpec
from dvsft.patchlabels.prompts import TEST_INSTRUCTION

TOO_MANY_FAILED = 3


def parsed(add: Callable[[argparse.ArgumentParser], None], arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add(parser)
    return parser.parse_args(arguments)


def add_predict(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--model", required=True, help="Hugging Face folder (with --endpoint: its processor, or a name)")
    add_endpoint(verb)
    add_vllm(verb)
    verb.add_argument("--benchmarks", help=f"by comma: {', '.join(benchmarks.BENCHMARKS)}")
    add_data(verb)
    add_task(verb)
    verb.add_argument("--out", required=True, type=Path, metavar="RUN", help="run folder, new or to continue")
    verb.add_argument("--batch-size", type=positive, default=8)
    verb.add_argument("--limit", type=not_negative, default=0, help="only the first samples of each benchmark")
    add_errors(verb)
    verb.add_argument("--devices", help="by comma, one process per device; default: every GPU, else cpu")
    add_patches(verb)
    verb.add_argument("--tag", action="append", default=[], metavar="KEY=VALUE", help="for plots, such as epoch=0.2")


def add_endpoint(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--endpoint", metavar="URL", help="ask an OpenAI-compatible server, such as http://host:8000/v1")
    verb.add_argument("--window", type=positive, default=64, help="requests under way at a time, default %(default)s")
    verb.add_argument("--served-name", metavar="NAME", help="the model to ask there; default: what --model says")
    verb.add_argument("--api-key-env", metavar="VARIABLE", help="environment variable that holds the server's API key")


def add_vllm(verb: argparse.ArgumentParser) -> None:
    own = verb.add_argument_group("vLLM in this process, installed into an environment of its own")
    own.add_argument("--engine", choices=("local", "vllm"), default="local", help="default: %(default)s")
    own.add_argument("--tensor-parallel", type=positive, default=1, metavar="N", help="GPUs per copy of the model")
    own.add_argument("--data-parallel", type=positive, default=1, metavar="N", help="copies of the model")
    own.add_argument("--max-model-len", type=positive, default=8192, help="most tokens of a prompt and its answer")


def add_task(verb: argparse.ArgumentParser) -> None:
    own = verb.add_argument_group("your own questions")
    own.add_argument("--task", type=Path, metavar="FILE.jsonl", help=f"lines of {tasks.LINE}".replace("%", "%%"))
    own.add_argument("--scorer", choices=sorted(benchmarks.METRICS), help="how to score them")
    own.add_argument("--instruction", default=TEST_INSTRUCTION, help="what follows each of them; default: %(default)s")
    own.add_argument("--max-new-tokens", type=positive, default=128, help="length of an answer; default %(default)s")


def task_of(options: argparse.Namespace) -> tasks.Task | None:
    """The user's own benchmark, or None."""
    if (options.task is None) != (options.scorer is None):
        raise DvsftError("found one of --task and --scorer, expected both or neither")
    if options.task is None:
        return None
    return tasks.Task(str(options.task.resolve()), options.scorer, options.instruction, options.max_new_tokens)


def add_errors(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--retry-errors", action="store_true", help="ask again where an earlier call got an error")
    verb.add_argument(
        "--max-failed",
        type=share,
        default=0.05,
        metavar="SHARE",
        help=f"exit with code {TOO_MANY_FAILED} if more of a benchmark's answers are errors; default 0.05",
    )


def positive(text: str, least: int = 1) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"found {text}, expected {least} or more")
    return value


not_negative = partial(positive, least=0)


def share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected a share from 0 to 1")
    return value


def add_data(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="DIR | BENCHMARK=DIR | BENCHMARK=hub:[ID]",
        help="folder of all benchmarks, or of one, or a Hugging Face dataset to download; may be repeated",
    )


def add_patches(verb: argparse.ArgumentParser) -> None:
    fewest, most = predict.PATCHES
    which = "of an image, for models that scale it between limits"
    verb.add_argument("--min-patches", type=int, help=f"{which}, default {fewest}")
    verb.add_argument("--max-patches", type=int, help=f"{which}, default {most}")


def patches_of(options: argparse.Namespace) -> tuple[int, int]:
    """Fewest and most patches of an image. Raises DvsftError where they were given for a model that knows no such."""
    given = {"--min-patches": options.min_patches, "--max-patches": options.max_patches}
    named = [name for name, value in given.items() if value is not None]
    if named and Path(options.model).is_dir():
        spec = LayoutSpec.from_folder(options.model)
        if "max_pixels" not in spec.fields:
            raise DvsftError(f"found {' and '.join(named)}, but {spec.family} has no such limit; remove it")
    fewest, most = (
        default if value is None else value for value, default in zip(given.values(), predict.PATCHES, strict=True)
    )
    return fewest, most


def data_places(values: Sequence[str]) -> dict[str, str]:
    """--data values -> {"": folder of all, BENCHMARK: its own place}. Folders become absolute, so that a report finds
    them later."""
    places = {}
    for value in values:
        name, separator, place = value.partition("=")
        if not separator or name not in benchmarks.BENCHMARKS:
            name, place = "", value
        places[name] = place if place.startswith("hub:") else str(Path(place).resolve())
    return places


def predict_verb(arguments: Sequence[str]) -> int:
    """`dvsft predict`: a model's answers to benchmarks -> a run folder. Returns 0, or TOO_MANY_FAILED when more answers
    than --max-failed are errors."""
    options = parsed(add_predict, arguments)
    patches, tags = patches_of(options), dict(map(tag_of, options.tag))
    if not options.benchmarks and not options.task:
        raise DvsftError("found nothing to predict, expected --benchmarks NAMES or --task FILE.jsonl --scorer NAME")
    names = tuple(benchmarks.get(name).name for name in (options.benchmarks or "").split(",") if name)
    plan = predict.Plan(
        options.out,
        names,
        data_places(options.data),
        options.batch_size,
        options.limit,
        options.retry_errors,
        task_of(options),
    )
    plan.samples  # noqa: B018  data that is missing is named before a model is loaded or a server asked
    served, makers = answerers(options, patches)
    settings = predict.run_settings(options.model, options.endpoint, patches, tags, served, options.engine)
    predict.predict(plan, settings, makers)
    failed = predict.failures(options.out, plan.benchmarks, options.max_failed)
    for sentence in failed:
        print(
            f"error: {sentence}, more than --max-failed {options.max_failed:g}; mend the cause and run the same "
            "command with --retry-errors",
            file=sys.stderr,
        )
    return TOO_MANY_FAILED if failed else 0


def tag_of(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise DvsftError(f"found --tag {text}, expected KEY=VALUE, such as epoch=0.2")
    return key, value


Makers = list[Callable[[], predict.Engine]]


def answerers(options: argparse.Namespace, patches: tuple[int, int]) -> tuple[Mapping[str, Any] | None, Makers]:
    """What an endpoint says about its model, and a maker of an answerer per process. Only a local model needs torch."""
    if options.endpoint and options.engine == "vllm":
        raise DvsftError("found --engine vllm with --endpoint; a served model is asked without --engine")
    if not options.endpoint and (options.served_name or options.api_key_env):
        raise DvsftError("found --served-name or --api-key-env without --endpoint; give --endpoint URL")
    if options.endpoint:
        from dvsft.evaluator import endpoint

        name = options.served_name or options.model
        asked = endpoint.connect(options.endpoint, name, sent_as(options.model, patches), api_key(options))
        return asked.served, [partial(asked.engine, options.window)]
    if options.engine == "vllm":
        from dvsft.evaluator import offline_vllm

        parallel = offline_vllm.Parallel(options.tensor_parallel, options.data_parallel)
        return None, [
            partial(offline_vllm.open_engine, options.model, patches, parallel, copy, options.max_model_len)
            for copy in range(parallel.data)
        ]
    from dvsft.evaluator import generate

    devices = options.devices.split(",") if options.devices else generate.devices()
    return None, [partial(generate.open_engine, options.model, device, patches) for device in devices]


def sent_as(model: str, patches: tuple[int, int]) -> LayoutSpec | None:
    """The layout that images are resized for before they are sent; None if `model` is not a folder that tells it."""
    return predict.layout_of(model, patches) if Path(model).is_dir() else None


def api_key(options: argparse.Namespace) -> str:
    """The key of --api-key-env, "" without it."""
    if not options.api_key_env:
        return ""
    key = os.environ.get(options.api_key_env, "")
    if not key:
        raise predict.PredictError(f"--api-key-env names {options.api_key_env}, which is not set; export it first")
    return key


def add_score(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("run", nargs="?", type=Path, metavar="RUN", help="run folder; or --benchmark and --predictions")
    verb.add_argument("--benchmark", help="benchmark of --predictions")
    verb.add_argument("--predictions", type=Path, metavar="FILE.jsonl", help="lines of id, prediction, references")
    verb.add_argument("--scorer-set", choices=SCORER_SETS, default="official")
    verb.add_argument("--diff", choices=SCORER_SETS, help="list the items that this set scores differently, and why")


def score_verb(arguments: Sequence[str]) -> None:
    """`dvsft score`: predictions -> scores, as JSON."""
    options = parsed(add_score, arguments)
    one_file = options.benchmark is not None and options.predictions is not None
    if one_file == (options.run is not None):
        raise DvsftError("give a run folder, or --benchmark NAME with --predictions FILE.jsonl")
    if options.diff:
        result: Any = differences(options)
    elif one_file:
        result = score.score_file(options.benchmark, options.predictions, options.scorer_set)
    else:
        result = score.score_run(options.run, options.scorer_set)
        predictions.write_json(options.run / "scores.json", result)
    print(json.dumps(result, indent=2, ensure_ascii=False))


def differences(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """The predictions that --scorer-set and --diff score differently, by benchmark."""
    files, settings = {options.benchmark: [options.predictions]}, {}
    if options.run:
        names, settings = predictions.benchmarks_of(options.run), predictions.settings(options.run)
        files = {name: predictions.files_of(options.run, name) for name in names}
    return {
        name: score.disagreements(
            tasks.benchmark_of(settings, name), predictions.read(paths)[0], options.scorer_set, options.diff
        )
        for name, paths in files.items()
    }


def add_report(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders; the first is compared against")
    verb.add_argument("--out", required=True, type=Path, metavar="DIR")
    add_data(verb)
    verb.add_argument("--samples", type=int, default=40, help="samples per benchmark in the browser")
    verb.add_argument("--scorer-set", choices=SCORER_SETS, default="official")


def report_verb(arguments: Sequence[str]) -> None:
    """`dvsft report`: run folders -> Markdown, JSON and an HTML page."""
    options = parsed(add_report, arguments)
    from dvsft.evaluator import report

    report.write(options.runs, options.out, data_places(options.data), options.samples, options.scorer_set)


def add_lens(verb: argparse.ArgumentParser) -> None:
    verb.description = (
        "Show which word the language model reads at each visual token of labeled pages, and how often it is the "
        "label's. What the vision encoder alone knows is measured by dvsft probe-encoder."
    )
    verb.add_argument("--model", required=True, help="Hugging Face folder")
    verb.add_argument("--base", help="the same model before training, for numbers side by side")
    verb.add_argument("--labels", required=True, metavar="DIR", help="folder of label shards, or s3://, gs://, hf://")
    verb.add_argument("--out", required=True, type=Path, metavar="DIR")
    verb.add_argument("--pages", type=int, default=200, help="pages measured")
    verb.add_argument("--pictures", type=int, default=6, help="pages shown")
    verb.add_argument("--device", help="default: the first GPU, else cpu")


def lens_verb(arguments: Sequence[str]) -> None:
    """`dvsft lens`: what a model reads at each patch of labeled pages."""
    options = parsed(add_lens, arguments)
    from dvsft.evaluator import generate, lens

    models = {"model": options.model} | ({"base": options.base} if options.base else {})
    device = options.device or generate.devices()[0]
    lens.write(models, options.labels, options.out, device, options.pages, options.pictures)


def add_probe(verb: argparse.ArgumentParser) -> None:
    verb.description = (
        "Paint pages with the binary codes of token numbers and check that every visual token sees its own cell, with "
        "the real processor and vision tower and random weights. Exit code 1 if one does not. What a trained encoder "
        "knows is measured by dvsft probe-encoder."
    )
    verb.add_argument("checkpoint", nargs="?", type=Path, help="folder with config.json and the processor's files")
    verb.add_argument("--all", action="store_true", help="a tiny model of every family instead")
    verb.add_argument("--counts", type=not_negative, default=2000, help="with --all: page sizes to compare counts on")
    verb.add_argument("--out", type=Path, metavar="FILE.md", help="with --all: write the page there, not to stdout")


def probe_verb(arguments: Sequence[str]) -> int:
    """`dvsft probe`: do visual tokens look where their layout says?"""
    options = parsed(add_probe, arguments)
    if options.all == bool(options.checkpoint):
        raise DvsftError("expected a checkpoint folder or --all: dvsft probe CHECKPOINT")
    from dvsft.evaluator.probe import checkpoint, table

    if options.all:
        rows = list(table.run_all(options.counts))
        text = table.page(rows, options.counts)
        if options.out:
            options.out.write_text(text)
        else:
            print(text)
        return 0 if all(row.passed for row in rows) else 1
    probes = []
    for probe in checkpoint.run(options.checkpoint):
        print(probe.line(), flush=True)
        probes.append(probe)
    return 0 if all(probe.passed for probe in probes) else 1
