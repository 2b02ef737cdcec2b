"""Loaded by the workers of the tests' cluster when they start: pages named slow take their time, and one named poison
kills its worker at once, as a crash in native code does."""

import os
import signal
import time

import dvsft.labeler.runs.shard

label_text = dvsft.labeler.runs.shard.label_text


def label_slowly_or_die(page, *arguments):
    if page.id.endswith("poison"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if "slow" in page.id:
        time.sleep(3 if "very" in page.id else 0.4)
    return label_text(page, *arguments)


dvsft.labeler.runs.shard.label_text = label_slowly_or_die
