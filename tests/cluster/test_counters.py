"""What Flink's REST API answered for a job that labeled 400 pages, in plain numbers."""

import json
import sys

import counters
import pytest

JOB = "ba1569d405f3b427878a029cd9017aba"
METRICS = [
    ("labeler", "labels", "gPcC"),
    ("labeler", "milliseconds_per_page", "kAOXPQXuAg=="),
    ("labeler", "pages", "kAM="),
    ("labeler", "rejects_decode_truncated", "fw=="),
    ("other", "pages", "AQ=="),
    (None, None, "xRM="),
]


def answers(path):
    labels = [{"NAMESPACE": space, "NAME": name, "PTRANSFORM": "Label"} for space, name, _ in METRICS]
    attempted = [
        {"payload": payload, "labels": {key: value for key, value in own.items() if value}}
        for own, (*_, payload) in zip(labels, METRICS, strict=True)
    ]
    held = {"name": counters.COUNTED, "value": json.dumps({"metrics": {"attempted": attempted}})}
    return {
        "/jobs/overview": {"jobs": [{"jid": JOB, "state": "FINISHED", "name": "BeamApp"}]},
        f"/jobs/{JOB}/accumulators": {"user-task-accumulators": [held]},
    }[path]


def test_counters_of_a_job_are_printed_with_the_mean_of_a_distribution(monkeypatch, capsys):
    monkeypatch.setattr(counters, "ask", lambda master, path: answers(path))
    monkeypatch.setattr(sys, "argv", ["counters.py", "host:8081"])
    counters.main()
    assert capsys.readouterr().out.splitlines() == [
        f"{JOB} FINISHED BeamApp",
        f"  {'labels':32} 48,000",
        f"  {'milliseconds_per_page':32} 20 mean, 366 most",
        f"  {'pages':32} 400",
        f"  {'rejects_decode_truncated':32} 127",
    ]


def test_a_job_that_has_counted_nothing_yet_has_no_counters(monkeypatch):
    monkeypatch.setattr(counters, "ask", lambda master, path: {"user-task-accumulators": []})
    assert counters.counters("host:8081", JOB) == {}


def test_a_cluster_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["counters.py", "127.0.0.1:9"])
    with pytest.raises(SystemExit, match=r"error: no Flink answers at 127\.0\.0\.1:9 .* HOST:8081"):
        counters.main()
