"""CPU work ahead of the model: questions by page, a page's work once, and answers that are those of the plain way."""

import io
import threading
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
from evaluator_fixtures import engine_of, write_json
from PIL import Image

from dvsft.evaluator import features, flow, generate, pages, predict, predictions
from dvsft.evaluator.records import Sample
from dvsft.patchlabels.image import decode

SETTINGS = {"model": "tiny", "fingerprint": None, "endpoint": None, "patches": [64, 2048], "instruction": "x"}
WAIT = 30  # seconds after which a test that waits for an event has failed


def plan_of(folder, run, **more):
    return predict.Plan(run, ("docvqa",), {"": str(folder)}, **more)


def lines_of(run):
    found, skipped = predictions.read(predictions.files_of(run, "docvqa"))
    assert not skipped
    return [replace(line, seconds=None) for line in found]


@pytest.fixture
def asked(tmp_path):
    """A folder of DocVQA: seven questions on three pages of two sizes in turns, and one on a page that is not there."""
    pages = [0, 1, 2, 1, 0, 1, 3, 0]
    records = [
        {"questionId": n, "question": f"Which is {n * 'very '}{n}?", "image": f"{page}.png", "answers": ["1"]}
        for n, page in enumerate(pages)
    ]
    write_json(tmp_path / "docvqa" / "val_v1.0.json", records)
    folder = tmp_path / "docvqa" / "documents"
    folder.mkdir()
    for page, (size, color) in enumerate([((256, 256), "red"), ((320, 640), "white"), ((256, 256), "blue")]):
        Image.new("RGB", size, color).save(folder / f"{page}.png")
    return tmp_path


@pytest.fixture(scope="module")
def loaded(model_folder):
    found = generate.load(str(model_folder))
    found.model.generation_config.eos_token_id = None  # so that answers are long enough to differ
    return found


def test_predictions_are_those_of_the_plain_way_one_by_one_also_after_a_kill(asked, loaded, tmp_path, monkeypatch):
    one_by_one = engine_of(
        lambda prompts, images, n: [
            answer
            for prompt, image in zip(prompts, images, strict=True)
            for answer in generate.greedy_answers(loaded, generate.inputs(loaded.processor, [prompt], [image]), 6)
        ]
    )
    predict.predict(plan_of(asked, tmp_path / "plain"), SETTINGS, [lambda: one_by_one])
    expected = lines_of(tmp_path / "plain")
    assert [line.id for line in expected] == list("01234567") and len({line.text for line in expected}) > 2
    assert all(line.finish == "length" and line.new_tokens == 6 for line in expected if not line.error)
    assert expected[6].reason == "missing_image"

    engine, calls = loaded.engine(), []

    def dies(batch, max_new_tokens):
        calls.append(batch.prompts)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return engine.answer(batch, 6)

    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        predict.predict(plan_of(asked, run, batch_size=2), SETTINGS, [lambda: replace(engine, answer=dies)])
    path = predictions.path_of(run, "docvqa")
    assert path.read_text().count("\n") == 4
    path.write_text(path.read_text() + '{"id": "torn')
    predict.predict(plan_of(asked, run, batch_size=2), SETTINGS, [lambda: replace(engine, answer=dies)])
    assert lines_of(run) == expected
    assert sum(map(len, calls)) == 7 + len(calls[2])  # only the batch that died is asked twice


def test_a_page_is_decoded_and_processed_once_for_all_its_questions(asked, loaded, tmp_path, monkeypatch):
    decoded, processed = [], []
    alone = features.Call.alone
    monkeypatch.setattr(pages, "decode", lambda data: decoded.append(data) or decode(data))
    monkeypatch.setattr(features.Call, "alone", lambda call, image: processed.append(image) or alone(call, image))
    engine = loaded.engine()
    whole = engine.encode.__self__.images
    tried, probes = whole.last, len(processed)
    predict.predict(plan_of(asked, tmp_path / "run", batch_size=2), SETTINGS, [lambda: engine])
    assert len(decoded) == len(processed) - probes == 3
    assert whole.last is tried  # no batch went to the image processor whole


def test_batches_hold_pages_of_one_size_and_the_questions_of_a_page_stand_together(asked, tmp_path):
    batches = []

    def answer(prompts, images, max_new_tokens):
        batches.append([image.size for image in images])
        return [predict.Answer(prompt) for prompt in prompts]

    predict.predict(plan_of(asked, tmp_path / "run", batch_size=3), SETTINGS, [lambda: engine_of(answer)])
    assert batches == [[(320, 640)] * 3, [(256, 256)] * 3, [(256, 256)]]


def test_pages_are_shared_between_processes_and_no_page_goes_to_two():
    samples = [Sample(str(n), "", (), partial(bytes, n % 5)) for n in range(5)]
    by_page = [replace(samples[n % 5], id=str(n)) for n in range(23)]
    parts = [pages.share(by_page, rank, 3) for rank in range(3)]
    assert sorted(int(sample.id) for part in parts for sample in part) == list(range(23))
    owners = Counter((id(sample.read_image), rank) for rank, part in enumerate(parts) for sample in part)
    assert len(owners) == 5 and {rank for _, rank in owners} == {0, 1, 2}


def test_equal_bytes_are_one_page_wherever_they_come_from():
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG")
    readers = [partial(bytes, buffer.getvalue()) for _ in range(3)]
    samples = [
        Sample(str(n), "", (), reader, scale)
        for n, (reader, scale) in enumerate(zip(readers, (1, 0.5, 1), strict=True))
    ]
    questions = pages.arrange(samples)
    assert [question.sample.id for question in questions] == ["0", "2", "1"]
    assert len({question.page for question in questions}) == 2


def test_a_page_that_several_threads_want_is_made_by_one_and_forgotten_after_its_last_question():
    made, samples = [], [Sample(str(n), "", (), lambda: b"") for n in range(8)]
    questions = [pages.Question(sample, "page") for sample in samples]
    shared, together = pages.Pages(questions, lambda image: made.append(image)), threading.Barrier(8, timeout=WAIT)

    def take(question):
        together.wait()
        return shared.take(question)

    found = list(flow.window(take, questions, 8))
    assert len(found) == 8 and len(set(map(id, found))) == 1 and found[0].error.startswith("empty")
    assert not shared.found


def test_work_ahead_comes_in_order_and_never_runs_further_ahead_than_its_threads():
    begun, taken = [], 0

    def work(n):
        begun.append(n)
        assert len(begun) <= taken + 4
        return n

    for n in flow.ahead(work, range(20), 2):
        assert n == taken
        taken += 1
    assert taken == 20


def test_an_error_of_work_ahead_reaches_the_caller_in_its_turn():
    found: list[float] = []
    with pytest.raises(ZeroDivisionError):
        found += flow.ahead(lambda n: 1 / (3 - n), range(9), 2)
    assert len(found) >= 3


def test_a_window_is_never_wider_than_its_limit_and_a_slow_item_holds_up_no_other():
    lock, under_way, most, rest = threading.Lock(), 0, 0, threading.Event()

    def work(n):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        if n == 0:
            assert rest.wait(WAIT), "the others wait for the slow one"
        with lock:
            under_way -= 1
        return n

    order = []
    for n in flow.window(work, range(30), 3):
        order.append(n)
        if len(order) == 29:
            rest.set()
    assert order[-1] == 0 and sorted(order) == list(range(30)) and most <= 3
