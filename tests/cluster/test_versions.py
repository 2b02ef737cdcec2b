"""The versions that the cluster's files name are those of the lock file."""

import re
import tomllib

import jars
import pytest
from support import ROOT

LOCKED = {
    package["name"]: package["version"]
    for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    if "version" in package
}


def test_the_image_starts_from_the_locked_beam():
    image = (ROOT / "pipelines/cluster/Dockerfile").read_text()
    assert re.search(r"^FROM apache/beam_python3\.11_sdk:(.+)$", image, re.MULTILINE).group(1) == LOCKED["apache-beam"]


def test_every_jar_is_pinned_once():
    pinned = [(name.rpartition(":")[0], sha256) for sha256, name in jars.coordinates()]
    assert len({name for name, _ in pinned}) == len(pinned) > 100
    assert all(re.fullmatch("[0-9a-f]{64}", sha256) for _, sha256 in pinned)


def test_flinks_own_classes_in_the_job_server_are_of_the_clusters_version():
    versions = {
        name.rpartition(":")[2]
        for _, name in jars.coordinates()
        if re.match(r"org\.apache\.flink:flink-(?!shaded)", name)
    }
    assert versions == {jars.FLINK}


def test_a_file_that_is_not_the_one_expected_is_refused_and_not_kept(tmp_path):
    source = tmp_path / "source"
    source.write_text("tampered with")
    with pytest.raises(jars.FetchError, match=r"expected 0{64}"):
        jars.fetch(source.as_uri(), "0" * 64, tmp_path / "jar")
    assert list(tmp_path.iterdir()) == [source]
