"""Scorers against hand-made cases, slow obvious versions and real models' published scores."""

import json
import random
import re
import string
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from evaluator_fixtures import predicted

from dvsft.evaluator import benchmarks, evalai, score, scorer_sets, scorers
from dvsft.evaluator.metrics import METRICS

PEERS = json.loads((Path(__file__).parent / "peers.json").read_text())
SCENES_NOT_PUBLISHED = [f"Places365_val_{number:08d}.jpg" for number in (44, 50, 78, 87, 93, 118, 119, 124, 125)]
DATA = Path(__file__).parents[3] / "shared" / "data"
real_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"real data not found at {DATA}")


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_anls_counts_exactly_one_half_and_nothing_below():
    assert scorers.anls("ab", ["axyb"]) == pytest.approx(0.5)
    assert scorers.anls("abc", ["abcdefg"]) == 0.0
    assert scorers.anls("abcd", ["zzz", "abce"]) == pytest.approx(0.75)


def test_anls_measures_length_on_the_raw_strings():
    # distance 1 ("to", "ty") over the raw length 6, not the collapsed length 2
    assert scorers.anls("To", ["  ty  "]) == pytest.approx(1 - 1 / 6)
    # and the server takes the length of the upper-cased string, in which "ß" is two letters
    assert scorers.anls("Straße", ["Strasse"]) == pytest.approx(1 - 2 / 7)


def test_anls_agrees_with_a_textbook_edit_distance_on_random_strings():
    rng = random.Random(0)
    for _ in range(300):
        a, b = ("".join(rng.choices("aB c", k=rng.randint(0, 8))) for _ in range(2))
        x, y = " ".join(a.lower().split()), " ".join(b.lower().split())
        longest = max(len(a), len(b))
        similarity = 1 - (slow_levenshtein(x, y) / longest if longest else 0)
        assert scorers.anls(a, [b]) == pytest.approx(similarity if similarity >= 0.5 else 0)


def slow_levenshtein(x, y):
    if not x or not y:
        return len(x) + len(y)
    change = slow_levenshtein(x[1:], y[1:]) + (x[0] != y[0])
    if x[0] == y[0]:
        return change
    return min(change, slow_levenshtein(x[1:], y) + 1, slow_levenshtein(x, y[1:]) + 1)


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ("105", "100", 1),
        ("105.1", "100", 0),
        ("95", "100", 1),
        ("12%", "0.12", 1),
        ("12%", "12", 0),
        ("0.01", "0", 0),  # no relative error to zero exists: compared as text
        ("0", "0", 1),
        ("-5", "5", 0),
        ("Yes", "yes", 1),
        (" yes", "yes", 0),
        ("1,000", "1000", 0),
        ("nan", "5", 0),
    ],
)
def test_relaxed_accuracy_takes_numbers_within_five_percent_and_text_without_case(prediction, reference, right):
    assert scorers.relaxed_accuracy(prediction, [reference]) == right


def test_vqa_accuracy_is_the_mean_over_leave_one_out():
    references = ["red"] * 2 + ["blue"] * 8
    # left out one of the two "red": 1 match of 9 -> 1/3; left out a "blue": 2 matches -> 2/3
    assert scorers.vqa_accuracy("red", references) == pytest.approx((2 * 1 / 3 + 8 * 2 / 3) / 10)
    assert scorers.vqa_accuracy("blue", references) == 1.0
    assert scorers.vqa_accuracy("green", references) == 0.0


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Dog's bowl", "dog 's bowl"),
        ("two of them", "2 of them"),
        ("none", "0"),
        ("dont", "don't"),
        ("Couldntve", "couldntve"),  # lost two apostrophes: not in the server's table
        ("couldnt've", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("1,000", "1000"),
        ("a-b", "b"),  # the hyphen becomes a space and the article goes
        ("x - y", "x y"),
        ("3.14", "3.14"),
        ("st. 5", "st 5"),
        ("12.", "12"),
        ("a\nb", "b"),
    ],
)
def test_evalai_normalization_keeps_the_servers_rules(text, normal):
    assert evalai.normalize_answer(text) == normal


def test_squad_scores_ignore_case_articles_and_punctuation():
    assert scorers.squad_exact_match("The Eiffel Tower.", ["eiffel tower"]) == 1.0
    assert scorers.squad_f1("the tall Eiffel Tower", ["Eiffel Tower", "Paris"]) == pytest.approx(0.8)
    assert scorers.squad_f1("", ["the"]) == 0.0


def test_squad_drops_punctuation_and_does_not_part_words_by_it():
    assert scorers.squad_exact_match("an-d", ["and"]) == 1.0
    assert scorers.squad_exact_match("an-d", ["d"]) == 0.0
    assert scorers.squad_exact_match("U.S. 1,000", ["us 1000"]) == 1.0
    assert scorers.squad_f1("well-known", ["well known"]) == 0.0


def official_squad_f1(prediction, reference):
    """SQuAD v1.1's definition, written out: precision, recall, harmonic mean."""

    def tokens(text):
        text = "".join(c for c in text.lower() if c not in set(string.punctuation))
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    found, expected = tokens(prediction), tokens(reference)
    same = sum((Counter(found) & Counter(expected)).values())
    if same == 0:
        return 0
    precision, recall = same / len(found), same / len(expected)
    return 2 * precision * recall / (precision + recall)


def test_squad_f1_agrees_with_precision_and_recall_written_out():
    rng = random.Random(1)
    vocabulary = ["the", "a", "Cat", "dog,", "dog", "1999", "!", "an-d"]
    for _ in range(500):
        a, b = (" ".join(rng.choices(vocabulary, k=rng.randint(0, 6))) for _ in range(2))
        assert scorers.squad_f1(a, [b]) == pytest.approx(official_squad_f1(a, b))


def test_contains_ignores_case_and_newlines_but_formulas_only_blanks():
    assert scorers.contains("It says HELLO\nworld.", ["hello world"]) == 1.0
    assert scorers.contains("helo", ["hello"]) == 0.0
    assert scorers.contains_math("x ^ { 2 } = B", ["x^{2} = B\n"]) == 1.0
    assert scorers.contains_math("x^{2} = b", ["x^{2} = B"]) == 0.0
    assert scorers.contains("x^{2}=B", ["x ^ {2} = B"], math=True) == 1.0


def test_mme_reads_the_first_four_letters_only():
    assert [scorers.yes_no(text) for text in ("Yes.", "No", "not", "I think yes", "", "unknown")] == [
        "yes",
        "no",
        "no",
        "other",
        "other",
        "other",
    ]
    assert scorers.mme_answer("Yes, it is", ["Yes"]) == 1.0
    assert scorers.mme_answer("maybe", ["No"]) == 0.0


def test_transcription_errors_are_distances_by_their_denominators():
    assert scorers.normalized_edit_distance("abcd", ["ab"]) == 0.5
    assert scorers.character_error_rate("abcd", ["ab"]) == 1.0
    assert scorers.normalized_edit_distance("a  b\n", ["a b"]) == 0.0
    assert scorers.word_accuracy("the quick fox", ["the quick brown fox"]) == 0.75
    assert scorers.word_accuracy("one two three four", ["five"]) == 0.0
    assert scorers.normalized_edit_distance("", [""]) == 0.0


def test_no_scorer_keeps_state_between_calls():
    names = ["anls", "relaxed_accuracy", "vqa_accuracy", "squad_f1", "contains", "exact_match", "mme_answer"]
    for name in names:
        scorer = getattr(scorers, name)
        first = scorer("Two words", ["two words"])
        scorer("other", ["thing"])
        assert scorer("Two words", ["two words"]) == first


@real_data
def test_textvqa_predictions_of_qwen3_vl_2b_get_their_published_score():
    answers = {int(r["question_id"]): r["answers"] for r in read_jsonl(DATA / "textvqa" / "val.jsonl")}
    found = json.loads((DATA / "predictions" / "textvqa-val-qwen3-vl-2b.json").read_text())
    lines = [
        {"id": str(p["question_id"]), "prediction": p["answer"], "references": answers[p["question_id"]]} for p in found
    ]
    assert len(lines) == 5000
    assert score.score(benchmarks.get("textvqa"), predicted(lines))["score"] == pytest.approx(74.414, abs=1e-9)


@real_data
def test_chartqa_predictions_get_their_published_scores():
    found = json.loads((DATA / "predictions" / "chartqa-test-500-qwen2.5-vl.json").read_text())
    lines = [
        {"id": f"{p['split']}/{p['id']}", "prediction": p["prediction"], "references": [p["label"]]} for p in found
    ]
    result = score.score(benchmarks.get("chartqa"), predicted(lines))
    figures = {group: metrics["relaxed_accuracy"]["score"] for group, metrics in result["groups"].items()}
    assert figures == {"augmented": pytest.approx(91.2), "human": pytest.approx(80.8)}
    assert result["score"] == pytest.approx((91.2 + 80.8) / 2)


@real_data
def test_docvqa_predictions_get_their_known_anls():
    found = json.loads((DATA / "predictions" / "docvqa-val-1000-qwen2-vl-2b.json").read_text())
    lines = [
        {"id": str(p["questionId"]), "prediction": p["predicted_answer"], "references": p["ground_truth"]}
        for p in found
    ]
    assert score.score(benchmarks.get("docvqa"), predicted(lines))["score"] == pytest.approx(67.4260, abs=5e-5)


def mme_lines(model="llava-v1.5-7b"):
    """A model's answers joined to the questions; LLaVA-1.5-7B has none to three images, which are left out."""
    said = {}
    for answer in read_jsonl(DATA / "mme" / f"answers-{model}.jsonl"):
        question = answer["prompt"].removesuffix("\nAnswer the question using a single word or phrase.")
        said[answer["question_id"].replace("/images/", "/"), question.strip()] = answer["text"]
    nth: defaultdict[Any, int] = defaultdict(int)
    for path in sorted((DATA / "mme" / "questions").glob("*.txt")):
        for row in path.read_text().splitlines():
            image, question, answer = row.split("\t")
            key = f"{path.stem}/{image}", question.replace("Please answer yes or no.", "").strip()
            if key in said:
                nth[key[0]] += 1
                yield {"id": f"{key[0]}#{nth[key[0]]}", "prediction": said[key], "references": [answer]}


def official_mme_score(pairs):
    """eval_tool/calculation.py's steps on one task: lines in pairs, the first four letters, acc +
    acc_plus.
    """
    right = []
    for said, true in pairs:
        prefix = said.lower()[:4]
        label = "yes" if "yes" in prefix else "no" if "no" in prefix else "other"
        right.append(label == true.lower())
    both = [right[i] and right[i + 1] for i in range(0, len(right), 2)]
    return 100 * sum(right) / len(right) + 100 * sum(both) / len(both)


@real_data
def test_mme_answers_of_llava_get_the_scores_of_the_official_script():
    lines = list(mme_lines())
    result = score.score(benchmarks.get("mme"), predicted(lines))["mme"]
    tasks = defaultdict(list)
    for line in lines:
        tasks[line["id"].split("/")[0]].append((line["prediction"], line["references"][0]))
    slow = {task: official_mme_score(pairs) for task, pairs in tasks.items()}
    assert {task: figures["score"] for task, figures in result["tasks"].items()} == pytest.approx(slow)
    assert result["cognition"] == pytest.approx(355.7143, abs=5e-5)
    assert result["perception"] == pytest.approx(1507.4821, abs=5e-5)


@real_data
def test_mme_answers_of_llava_get_the_published_score_without_the_nine_scenes_its_authors_dropped():
    """Their join of answers and questions loses the answers whose ground truth it does not find."""
    lines = list(mme_lines())
    kept = [line for line in lines if line["id"].partition("/")[2].partition("#")[0] not in SCENES_NOT_PUBLISHED]
    assert (len(lines), len(kept)) == (2368, 2350)
    result = score.score(benchmarks.get("mme"), predicted(kept))["mme"]
    assert result["perception"] == pytest.approx(1508.6726, abs=5e-5)
    assert result["cognition"] == pytest.approx(355.7143, abs=5e-5)


# LLaVA-1.5-13B's own answers (github.com/haotian-liu/LLaVA at 32cebc38, playground/data/eval/MME/answers): images of a
# task with both questions right, with one, with none.
LLAVA_13B = {
    "OCR": (10, 10, 0),
    "artwork": (94, 95, 11),
    "celebrity": (118, 48, 4),
    "code_reasoning": (1, 15, 4),
    "color": (24, 6, 0),
    "commonsense_reasoning": (38, 27, 5),
    "count": (21, 9, 0),
    "existence": (27, 3, 0),
    "landmark": (161, 38, 1),
    "numerical_calculation": (1, 13, 6),
    "position": (17, 12, 1),
    "posters": (109, 36, 2),
    "scene": (149, 49, 2),
    "text_translation": (4, 15, 1),
}


def test_mme_images_right_as_the_larger_llava_had_them_get_its_published_scores():
    right = [
        (f"{task}/{number}-{kind}", 2 - kind)
        for task, images in LLAVA_13B.items()
        for kind, count in enumerate(images)
        for number in range(count)
    ]
    lines = [
        {"id": f"{image}#{nth}", "prediction": "Yes" if nth <= count else "No", "references": ["Yes"]}
        for image, count in right
        for nth in (1, 2)
    ]
    assert len(lines) == 2374
    result = score.score(benchmarks.get("mme"), predicted(lines))["mme"]
    assert result["perception"] == pytest.approx(1531.3187, abs=5e-5)
    assert result["cognition"] == pytest.approx(295.3571, abs=5e-5)


def test_mme_answers_of_the_larger_llava_get_their_scores():
    if not (file := DATA / "mme" / "answers-llava-v1.5-13b.jsonl").is_file():
        pytest.skip(f"LLaVA-1.5-13B's answers are not on this machine (looked for {file})")
    lines = list(mme_lines("llava-v1.5-13b"))
    assert len(lines) == 2374
    result = score.score(benchmarks.get("mme"), predicted(lines))["mme"]
    assert result["perception"] == pytest.approx(1531.3187, abs=5e-5)
    assert result["cognition"] == pytest.approx(295.3571, abs=5e-5)


@pytest.mark.parametrize("scorer_set", ["lmms-eval", "vlmevalkit"])
def test_scorer_sets_give_the_scores_that_the_toolkits_own_code_gave(scorer_set):
    assert scorer_sets.COMMITS[scorer_set] == PEERS[scorer_set]
    rows = [row for row in PEERS["scores"] if scorer_set in row]
    assert {row["metric"] for row in rows} >= {"anls", "relaxed_accuracy", "vqa_accuracy", "contains", "mme_answer"}
    for row in rows:
        found = scorer_sets.scorer(METRICS[row["metric"]], scorer_set)(row["prediction"], row["references"])
        assert found == pytest.approx(row[scorer_set]), row


def test_every_difference_that_a_scorer_set_states_is_seen_in_a_score_of_the_toolkit():
    for scorer_set in ("lmms-eval", "vlmevalkit"):
        seen = {
            row["metric"]
            for row in PEERS["scores"]
            if scorer_set in row
            and getattr(scorers, row["metric"])(row["prediction"], row["references"]) != pytest.approx(row[scorer_set])
        }
        assert seen == set(scorer_sets.SCORER_SETS[scorer_set])


def test_scorer_sets_disagree_where_the_toolkits_do_and_say_why():
    cases = {
        "contains": ("lmms-eval", "\uff21\uff22", ["ab"], 0.0, 1.0),
        "mme_answer": ("lmms-eval", "  yes", ["Yes"], 0.0, 1.0),
        "relaxed_accuracy": ("vlmevalkit", "2014", ["[2014, 2018]"], 0.0, 1.0),
        "vqa_accuracy": ("vlmevalkit", "dog's", ["dog 's"] * 10, 1.0, 0.0),
    }
    for metric, (other, prediction, references, official, theirs) in cases.items():
        line = {"id": "1", "prediction": prediction, "references": references}
        (found,) = scorer_sets.disagreements(METRICS[metric], [line], "official", other)
        assert found["scores"] == {"official": pytest.approx(official), other: pytest.approx(theirs)}
        assert found["why"]["official"] == "the official definition" and len(found["why"][other]) > 20


def test_scorer_sets_agree_on_what_they_share():
    line = {"id": "1", "prediction": "x ", "references": ["X"]}
    assert scorer_sets.disagreements(METRICS["anls"], [line], "official", "lmms-eval") == []
    assert scorer_sets.disagreements(METRICS["squad_f1"], [line], "official", "vlmevalkit") == []
    assert scorer_sets.disagreements(METRICS["mme_answer"], [line], "lmms-eval", "lmms-eval") == []


@real_data
def test_the_diff_on_real_mme_answers_lists_only_real_disagreements():
    lines = list(mme_lines())
    assert score.disagreements(benchmarks.get("mme"), predicted(lines), "official", "vlmevalkit") == []
    found = score.disagreements(
        benchmarks.get("mme"), predicted([line | {"prediction": " " * 4 + line["prediction"]} for line in lines]),
        "official", "lmms-eval",
    )  # fmt: skip
    assert len(found) == sum(scorers.mme_answer(line["prediction"], line["references"]) for line in lines)
