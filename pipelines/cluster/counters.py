"""What the jobs of a Flink cluster have counted: pages, labels, rejects by reason, milliseconds per page.

    python3 pipelines/cluster/counters.py HOST:8081

Flink's page shows them too, but as one accumulator of a job with encoded values.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from base64 import b64decode
from typing import Any

COUNTED = "__metricscontainers"
"""The accumulator in which Beam's runner puts all counters of a job."""


def ask(master: str, path: str) -> Any:
    """Flink's REST API. Raises OSError."""
    with urllib.request.urlopen(f"http://{master}{path}", timeout=30) as answer:
        return json.load(answer)


def counters(master: str, job: str) -> dict[str, list[int]]:
    """The labeler's counters of a job by name: [sum], or of a distribution [count, sum, least, most]."""
    accumulators = {
        each["name"]: each["value"] for each in ask(master, f"/jobs/{job}/accumulators")["user-task-accumulators"]
    }
    metrics = json.loads(accumulators.get(COUNTED, "{}")).get("metrics", {}).get("attempted", [])
    ours = [metric for metric in metrics if metric["labels"].get("NAMESPACE") == "labeler"]
    return {metric["labels"]["NAME"]: varints(b64decode(metric["payload"])) for metric in ours}


def varints(encoded: bytes) -> list[int]:
    """Beam writes numbers with seven bits per byte, the lowest first; the eighth says that more follow."""
    numbers, number, shift = [], 0, 0
    for byte in encoded:
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(number)
            number = shift = 0
    return numbers


def main() -> None:
    master = sys.argv[1] if len(sys.argv) == 2 else sys.exit(__doc__)
    try:
        for job in ask(master, "/jobs/overview")["jobs"]:
            print(job["jid"], job["state"], job["name"])
            for name, (first, *rest) in sorted(counters(master, job["jid"]).items()):
                print(f"  {name:32}", f"{rest[0] / first:,.0f} mean, {rest[2]:,} most" if rest else f"{first:,}")
    except OSError as error:
        sys.exit(f"error: no Flink answers at {master} ({error}); name its JobManager as HOST:8081")


if __name__ == "__main__":
    main()
