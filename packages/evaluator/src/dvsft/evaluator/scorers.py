"""Scorers: pure functions `(prediction, references) -> float`, each by its benchmark's official definition.

All give 1.0 for right and 0.0 for wrong, except the two that measure transcription errors
(`normalized_edit_distance`, `character_error_rate`: lower is better). `references` must not be empty. Each docstring
says where lmms-eval and VLMEvalKit differ; `scorer_sets` implements that.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from rapidfuzz.distance import Levenshtein

from dvsft.evaluator import evalai

Scorer = Callable[[str, Sequence[str]], float]


def collapse(text: str) -> str:
    """No white space at the ends, one space inside."""
    return " ".join(text.split())


def anls(prediction: str, references: Sequence[str]) -> float:
    """Average normalized Levenshtein similarity of one question (DocVQA, InfographicVQA).

    1 - min over references of distance / length; below 0.5 it counts 0. The distance is taken between
    lower-cased strings with collapsed white space, the length is that of the longer RAW string. Official: the
    RRC server's script (infographicsvqa_eval.py, challenge 17); metric of Biten et al., arXiv 1905.13648.
    lmms-eval and VLMEvalKit: the same.
    """
    nearest = min(_anls_distance(prediction, reference) for reference in references)
    return 1.0 - nearest if 1.0 - nearest >= 0.5 else 0.0


def _anls_distance(prediction: str, reference: str) -> float:
    longest = max(len(prediction.upper()), len(reference.upper()))  # upper: the server counts "ß" as two
    distance = Levenshtein.distance(collapse(prediction.lower()), collapse(reference.lower()))
    return distance / longest if longest else 0.0


def relaxed_accuracy(prediction: str, references: Sequence[str]) -> float:
    """1 if a number is within 5% of a reference, or if other text equals one, ignoring case (ChartQA).

    "12%" is 0.12. A reference of 0 is compared as text, since no relative error exists.
    Official: Masry et al., arXiv 2203.10244, section 5.1, in the implementation of google-research/pix2struct
    (metrics.py). lmms-eval: the same. VLMEvalKit: strips the prediction, and takes a label that reads as a list
    for that many references.
    """
    return float(any(_relaxed_match(prediction, reference) for reference in references))


def _relaxed_match(prediction: str, reference: str) -> bool:
    found, expected = _number(prediction), _number(reference)
    if found is not None and expected:
        return abs(found - expected) / abs(expected) <= 0.05
    return prediction.lower() == reference.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None


def vqa_accuracy(prediction: str, references: Sequence[str]) -> float:
    """Mean over leave-one-out of min(1, matches among the other references / 3) (TextVQA, ten references).

    Official: EvalAI server, `TextVQAAccuracyEvaluator` of facebookresearch/mmf; Antol et al., arXiv
    1505.00468. lmms-eval: the same. VLMEvalKit: skips lower-casing and the comma and possessive steps before
    punctuation, and keeps periods after digits.
    """
    return _vqa_accuracy(prediction, references, evalai.normalize_answer)


def _vqa_accuracy(prediction: str, references: Sequence[str], normalize: Callable[[str], str]) -> float:
    answer = normalize(prediction)
    matches = [normalize(reference) == answer for reference in references]
    total = sum(matches)
    return sum(min(1.0, (total - match) / 3) for match in matches) / len(matches)


def squad_normalize(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return collapse(re.sub(r"\b(a|an|the)\b", " ", text))


def squad_exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 if the normalized strings are equal. Official: SQuAD v1.1 evaluate-v1.1.py; arXiv 1606.05250."""
    return float(squad_normalize(prediction) in [squad_normalize(reference) for reference in references])


def squad_f1(prediction: str, references: Sequence[str]) -> float:
    """Best token F1 over the references. Official: SQuAD v1.1 evaluate-v1.1.py (no special case for empty)."""
    return max(_token_f1(squad_normalize(prediction).split(), squad_normalize(r).split()) for r in references)


def _token_f1(found: list[str], expected: list[str]) -> float:
    same = (Counter(found) & Counter(expected)).total()
    return 2 * same / (len(found) + len(expected)) if same else 0.0


def contains(prediction: str, references: Sequence[str], *, math: bool = False) -> float:
    """1 if any reference is a substring of the prediction (OCRBench).

    Lower case, newlines to spaces; `math` (handwritten mathematical expressions): all blanks removed, case
    kept. Official: OCRBench/example.py of Yuliang-Liu/MultimodalOCR, arXiv 2305.07895; math is its HME100k
    rule. lmms-eval: makes full-width ASCII plain first, except in formulas. VLMEvalKit: the same as official.
    """
    clean = _clean_math if math else _clean_text
    return float(any(clean(reference) in clean(prediction) for reference in references))


def contains_math(prediction: str, references: Sequence[str]) -> float:
    """`contains` by the rule for handwritten mathematical expressions."""
    return contains(prediction, references, math=True)


def _clean_text(text: str) -> str:
    return text.lower().strip().replace("\n", " ")


def _clean_math(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 if equal, ignoring case and outer white space (OCR-VQA; Mishra et al., ICDAR 2019, report accuracy).

    No official script is published; this is VLMEvalKit's `accuracy`. lmms-eval has no such task.
    """
    return float(prediction.strip().lower() in [reference.strip().lower() for reference in references])


def yes_no(prediction: str) -> str:
    """ "yes", "no" or "other": what an MME answer says, by its first four lower-cased characters.

    Official: `parse_pred_ans` of MME's eval_tool/calculation.py, arXiv 2306.13394. White space is not
    stripped. lmms-eval: strips, drops full stops, accepts "y" and "n". VLMEvalKit: looks for the words
    anywhere; both or neither is other (it may then ask an LLM judge; not done here).
    """
    start = prediction.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def mme_answer(prediction: str, references: Sequence[str]) -> float:
    """1 if the prediction says what the reference ("Yes" or "No") says; "other" is wrong, as in MME's script."""
    return float(yes_no(prediction) == references[0].strip().lower())


def normalized_edit_distance(prediction: str, references: Sequence[str]) -> float:
    """Levenshtein distance / length of the longer string, 0 to 1, LOWER is better; the nearest reference counts.

    White space is collapsed; case matters. Definition: ICDAR 2019 ReCTS / LSVT normalized edit distance.
    """
    return min(_edit_ratio(collapse(prediction), collapse(reference)) for reference in references)


def _edit_ratio(found: str, expected: str) -> float:
    longest = max(len(found), len(expected))
    return Levenshtein.distance(found, expected) / longest if longest else 0.0


def character_error_rate(prediction: str, references: Sequence[str]) -> float:
    """CER: Levenshtein distance / length of the reference; LOWER is better; may exceed 1. White space is collapsed."""
    return min(_error_rate(collapse(prediction), collapse(reference)) for reference in references)


def word_accuracy(prediction: str, references: Sequence[str]) -> float:
    """1 - word error rate, at least 0: the share of words that are read correctly, in order."""
    return max(0.0, 1.0 - min(_error_rate(prediction.split(), r.split()) for r in references))


def _error_rate(found: Sequence[str], expected: Sequence[str]) -> float:
    return Levenshtein.distance(found, expected) / max(1, len(expected))
