"""A small OpenAI-compatible server: the right model is asked, refusals are named, failures are asked again."""

import base64
import io
import json
import threading
import time
import urllib.error
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from evaluator_fixtures import picture, write_json
from PIL import Image

from dvsft.evaluator import endpoint, predict, predictions
from dvsft.patchlabels import command, webpage

BASE = {"id": "base", "object": "model", "root": "/models/base", "parent": None, "created": 1}
ADAPTER = {"id": "served-name", "object": "model", "root": "/runs/adapter", "parent": "base", "created": 1}


class Server(ThreadingHTTPServer):
    """Serves a base model and an adapter, in that order as vLLM does, and answers with the picture's size. It refuses
    the word "refuse", says `busy` codes once each, and `always` to every question."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[Any] = []
        self.busy: list[int] = []
        self.always, self.key = 0, ""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: "Server"

    def do_GET(self):
        if self.allowed():
            self.reply(200 if self.path == "/v1/models" else 404, {"data": [BASE, ADAPTER]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.allowed():
            return
        self.server.seen.append(body)
        sent, text = body["messages"][0]["content"]
        if self.server.busy:
            return self.reply(self.server.busy.pop(), {})
        if self.server.always:
            return self.reply(self.server.always, {"error": "the server's own words"})
        if "refuse" in text["text"]:
            return self.reply(400, {"error": "too long"})
        image = Image.open(io.BytesIO(base64.b64decode(sent["image_url"]["url"].split(",")[1])))
        self.reply(200, {"choices": [{"message": {"content": f"{image.width}x{image.height}"}}]})

    def allowed(self):
        right = not self.server.key or self.headers["Authorization"] == f"Bearer {self.server.key}"
        if not right:
            self.reply(401, {"error": "no key"})
        return right

    def reply(self, code, content):
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture
def ask(server, tmp_path):
    """Run `dvsft predict` on three small pages, one question each, against the server; returns the exit code."""
    records = [
        {"questionId": n, "question": question, "image": f"{n}.png", "answers": ["320x224"]}
        for n, question in enumerate(["small?", "large?", "refuse this"])
    ]
    write_json(tmp_path / "docvqa" / "val_v1.0.json", records)
    for n, size in enumerate([(20, 10), (333, 222), (50, 50)]):
        picture(tmp_path / "docvqa" / "documents" / f"{n}.png", size=size)

    def run(*options, model="served-name"):
        known = ["--endpoint", server.url, "--benchmarks", "docvqa", "--data", str(tmp_path)]
        return command.main(["predict", "--model", str(model), *known, "--out", str(tmp_path / "run"), *options])

    return run


def lines_of(run):
    found, skipped = predictions.read(predictions.files_of(run, "docvqa"))
    assert not skipped
    return {prediction.id: prediction for prediction in found}


def test_an_endpoint_answers_greedily_with_pictures_inside_the_limits(server, ask, model_folder, tmp_path):
    server.busy = [503]
    assert ask("--served-name", "served-name", "--max-failed", "0.5", model=model_folder) == 0
    said = lines_of(tmp_path / "run")
    assert said["0"].text == "384x192"  # raised to 64 patches or more
    assert said["1"].text == "320x224"
    assert said["2"].text is None and said["2"].error.startswith("endpoint_400")
    assert "too long" in said["2"].error
    body = server.seen[-1]
    assert body["temperature"] == 0 and body["model"] == "served-name" and body["max_tokens"] == 128


def test_the_model_that_was_asked_for_is_asked_and_recorded_though_another_is_listed_first(server, ask, tmp_path):
    ask()
    assert {body["model"] for body in server.seen} == {"served-name"}
    served = predictions.settings(tmp_path / "run")["served"]
    assert served == {"id": "served-name", "root": "/runs/adapter", "parent": "base"}


def test_a_model_that_is_not_served_is_refused_with_what_is(server, ask, tmp_path, capsys):
    assert ask(model="dv-sft") == 2
    said = capsys.readouterr().err
    assert "serves base, served-name; expected dv-sft" in said and "--served-name" in said
    assert not server.seen and not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", [{"id": "served-name"}, {"root": "/runs/another"}])
def test_another_served_model_may_not_go_on_with_a_run(server, ask, tmp_path, monkeypatch, capsys, change):
    assert ask("--max-failed", "1", model="base") == 0
    count = len(server.seen)
    monkeypatch.setitem(globals(), "BASE", BASE | change)
    options = ["--served-name", "served-name"] if "id" in change else []
    assert ask(*options, "--retry-errors", model="base") == 2
    assert "served: found {'id': 'base', 'root': '/models/base'}, expected" in capsys.readouterr().err
    assert len(server.seen) == count and lines_of(tmp_path / "run")["2"].error


def test_a_key_comes_from_a_variable_and_is_stored_nowhere(server, ask, tmp_path, monkeypatch, capsys):
    server.key = "sk-very-secret"
    assert ask() == 2
    assert "answers 401" in (said := capsys.readouterr().err) and "--api-key-env" in said
    assert ask("--api-key-env", "SOME_KEY") == 2
    assert "SOME_KEY, which is not set" in capsys.readouterr().err
    monkeypatch.setenv("SOME_KEY", server.key)
    assert ask("--api-key-env", "SOME_KEY", "--max-failed", "1") == 0
    assert len(lines_of(tmp_path / "run")) == 3
    for path in (tmp_path / "run").rglob("*.json*"):
        assert "secret" not in path.read_text()
    assert "secret" not in repr(endpoint.connect(server.url, "base", key=server.key))


@pytest.mark.parametrize("code", [401, 403, 404])
def test_a_server_that_refuses_everything_ends_the_run_at_once(server, ask, tmp_path, capsys, code):
    server.always = code
    assert ask("--window", "1") == 2
    assert f"answers {code}" in (said := capsys.readouterr().err) and "the server's own words" in said
    assert len(server.seen) == 1 and lines_of(tmp_path / "run") == {}
    server.always = 0
    assert ask("--max-failed", "1") == 0  # nothing of the refusal is left over
    assert len(lines_of(tmp_path / "run")) == 3


def test_too_many_failures_are_exit_code_3_and_are_asked_again_on_demand(server, ask, tmp_path, capsys):
    server.always = 400
    assert ask() == 3
    said = capsys.readouterr().err
    assert "docvqa: 3 of 3 samples failed (3 endpoint_400), more than --max-failed 0.05" in said
    assert "--retry-errors" in said
    server.always = 0
    assert ask() == 3 and len(server.seen) == 3  # answers that are there are kept, errors too
    assert ask("--retry-errors", "--max-failed", "0.34") == 0
    assert len(server.seen) == 6
    assert [found.text is None for found in lines_of(tmp_path / "run").values()] == [False, False, True]
    assert ask("--retry-errors", "--max-failed", "0.33") == 3
    assert len(server.seen) == 7  # only the one that had failed


def test_an_endpoint_that_is_gone_ends_the_run_with_its_cure():
    with pytest.raises(predict.PredictError, match="start the server"):
        endpoint.connect("http://127.0.0.1:9/v1", "m")


def test_a_key_is_not_handed_on_to_the_host_of_a_redirect(server, monkeypatch):
    seen = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.headers["Authorization"])
            self.send_error(400)

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as other:
        threading.Thread(target=other.serve_forever, args=(0.02,), daemon=True).start()

        def moved(handler):
            handler.send_response(302)
            handler.send_header("Location", f"http://127.0.0.1:{other.server_port}/")
            handler.end_headers()

        monkeypatch.setattr(Handler, "do_GET", moved)
        with pytest.raises(urllib.error.HTTPError):
            endpoint.request(f"{server.url}/models", None, 5.0, "sk-very-secret")
        other.shutdown()
    assert seen == [None]


def test_a_slow_request_holds_up_no_other_and_the_window_is_never_exceeded(server, ask, tmp_path, monkeypatch):
    count, lock, events, rest = 12, threading.Lock(), [], threading.Event()
    records = [
        {"questionId": n, "question": "slow?" if n == 1 else f"{n}?", "image": f"{n % 3}.png", "answers": ["x"]}
        for n in range(count)
    ]
    write_json(tmp_path / "docvqa" / "val_v1.0.json", records)
    plain, encoded, encode = Handler.do_POST, [], webpage.png

    def do_POST(handler):
        with lock:
            events.append(1)
        if handler.headers["Content-Length"] and "slow" in str(handler.rfile.peek()):
            assert rest.wait(30), "requests wait for the slow one"
        with lock:
            events.append(-1)
            if events.count(-1) == count - 1:
                rest.set()
        plain(handler)

    monkeypatch.setattr(Handler, "do_POST", do_POST)
    monkeypatch.setattr(webpage, "png", lambda image: encoded.append(image) or encode(image))
    assert ask("--window", "3") == 0
    under_way = [sum(events[: i + 1]) for i in range(len(events))]
    assert max(under_way) <= 3 and len(server.seen) == count
    assert len(encoded) == 3  # once per page
    found, _ = predictions.read(predictions.files_of(tmp_path / "run", "docvqa"))
    assert [int(line.id) for line in found] == list(range(count))
    assert found[1].text == found[4].text and found[1].text != found[0].text
