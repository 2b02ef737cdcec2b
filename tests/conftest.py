"""Fixtures that several test files share."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks the hub; before anything imports its client

import hub
import pytest
import s3
from support import ROOT, SAMPLES

# The tests start some forty processes, most of which import torch; compiled modules save each more than half of that.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

LONG_FILES = (
    "cluster/test_flink",
    "trainer/test_train",
    "labeler/test_attempts",
    "labeler/test_run",
    "preferences/test_preferences",
    "pipelines/test_study",
    "trainer/test_resume",
    "test_end_to_end",
    "trainer/test_attach",
    "labeler/test_real_data",
    "trainer/test_oracle",
    "trainer/test_dpo",
)
SLOW_FILES = (
    *LONG_FILES,
    "labeler/test_ocr",
    "labeler/test_s3",
    "labeler/test_perplexity",
    "evaluator/test_predict",
    "test_packaging",
    "labeler/test_ink",
    "labeler/test_bad_input",
    "trainer/test_examples",
)
"""The longest first: a worker that begins one of them last works on it alone, while the others have nothing to do."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", choices=("long", "short"), help="run the longest files alone, or all others")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    order = {f"tests/{name}.py": place for place, name in enumerate(SLOW_FILES)}
    place = {item: order.get(item.nodeid.partition("::")[0], len(order)) for item in items}
    if part := config.getoption("part"):
        items[:] = [item for item in items if (place[item] < len(LONG_FILES)) == (part == "long")]
    items.sort(key=place.__getitem__)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and session.config.getoption("part"):
        session.exitstatus = pytest.ExitCode.OK  # what was asked for is in the other part


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real pages and tokenizers, whose licenses keep them out of this repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data is not on this machine (looked for {folder})")
    return folder


@pytest.fixture
def label() -> Callable[..., int]:
    """Run the labeling pipeline in this process: label(config, out, *flags) -> exit code."""
    from dvsft.labeler.commands import label as pipeline
    from dvsft.patchlabels import command

    def run(config: Path, out: Path, *flags: str) -> int:
        return command.run(pipeline.main, ["--config", str(config), "--out", str(out), *flags])

    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    return run


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    """Write a TOML file with one source and the sample's processor; sections override or add keys."""

    def write(kind: str, path: Path | str, name: str = "run.toml", **sections: dict[str, Any]) -> Path:
        tables: dict[str, dict[str, Any]] = {"model": {"processor": str(SAMPLES / "processor")}}
        for section, keys in sections.items():
            tables.setdefault(section, {}).update(keys)
        source = {"kind": kind, "path": str(path), **tables.pop("source", {})}
        lines = ["[[source]]", *_toml(source)]
        for section, keys in tables.items():
            lines += [f"[{section}]", *_toml(keys)]
        target = tmp_path / name
        target.write_text("\n".join(lines))
        return target

    return write


@pytest.fixture(scope="session")
def s3_server() -> Iterator[s3.Bucket]:
    with s3.served() as served:
        yield served


@pytest.fixture
def bucket(s3_server: s3.Bucket, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the bucket "labels" on a server on loopback, and the environment that leads there."""
    from botocore import session

    # Beam makes a client for every look at a file, and each reads megabytes of JSON about AWS: most of a test's time.
    monkeypatch.setattr(session, "create_loader", lru_cache(session.create_loader))
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return s3_server.client


@pytest.fixture
def serve_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], list[tuple[str, str]]]]:
    """serve_hub(folder): hf://datasets/owner/name is that folder; returns the ranges that are read of it."""
    from huggingface_hub import constants

    with ExitStack() as stack:

        def serve(folder: Path) -> list[tuple[str, str]]:
            url, ranges = stack.enter_context(hub.served(folder))
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
            monkeypatch.setattr(constants, "ENDPOINT", url)
            template = url + "/{repo_id}/resolve/{revision}/{filename}"
            monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            return ranges

        yield serve


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Headless Chromium, as Debian packages it."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("chromium or chromedriver is not installed (apt-get install chromium chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1300,1600"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture
def phone(chromium: Any) -> Iterator[Any]:
    """The same, 390 px wide."""
    screen = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    yield chromium
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def _toml(table: dict[str, Any]) -> list[str]:
    return [f"{key} = {json.dumps(value)}" for key, value in table.items()]
