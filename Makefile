# Only python3, make and PyPI are assumed: uv is installed into .uv/ if it is missing, and every target syncs the
# packages it needs into an environment of its own below .venvs/. What you add to .venvs/labels by hand, as a GPU build
# of paddlepaddle, stays there.

CONFIG ?= pipelines/configs/sample.toml
OUT ?= out/sample
FROM ?= out/sample
TASKMANAGERS ?= 2
SLOTS ?= 1
PAGES ?= 20
SCALE ?= cpu
ARGS ?=

UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)
FILTER := UV_PROJECT_ENVIRONMENT=.venvs/filter $(UV)
LABELS := UV_PROJECT_ENVIRONMENT=.venvs/labels $(UV)
TRAIN := UV_PROJECT_ENVIRONMENT=.venvs/train $(UV)
EVALUATE := UV_PROJECT_ENVIRONMENT=.venvs/evaluate $(UV)
STUDY := UV_PROJECT_ENVIRONMENT=.venvs/study $(UV)
TEST := UV_PROJECT_ENVIRONMENT=.venvs/test $(UV)
LINT := UV_PROJECT_ENVIRONMENT=.venvs/lint $(UV)

.DEFAULT_GOAL := help
.PHONY: help labels demo study filter relabel stats preview cluster-up cluster-down train evaluate test lint format \
	bench bench-train corners clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

labels: | $(UV)  ## label datasets: CONFIG=file.toml OUT=folder ARGS="--runner=... any Beam option"
	@$(LABELS) sync -q --frozen --inexact --package dvsft-labeler
	@extras=$$($(LABELS) run -q --no-sync python -m dvsft.labeler.config "$(CONFIG)" "$(OUT)") && \
	{ [ -z "$$extras" ] || $(LABELS) sync -q --frozen --inexact --package dvsft-labeler $$extras; }
	@$(LABELS) run -q --no-sync python -m dvsft.labeler.commands.label --config "$(CONFIG)" --out "$(OUT)" $(ARGS)

demo: labels  ## after that, train a tiny model by SFT, BASIC and DV-SFT on a CPU and compare: out/demo
	@$(STUDY) sync -q --frozen --inexact --all-packages
	@rm -rf out/demo
	@CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 PYTHONPATH=pipelines $(STUDY) run -q --no-sync python -m study.demo --out out/demo

study: | $(UV)  ## the experiments of docs/study.md, or what is left of them: SCALE=cpu or gpu ARGS="--jobs 2"
	@$(STUDY) sync -q --frozen --inexact --all-packages
	@OMP_NUM_THREADS=1 PYTHONPATH=pipelines $(STUDY) run -q --no-sync python -m study.run --scale $(SCALE) \
		--out out/study-$(SCALE) $(ARGS)
	@PYTHONPATH=pipelines $(STUDY) run -q --no-sync python -m study.report --name $(SCALE) --study out/study-$(SCALE)

filter: | $(UV)  ## which SQuAD questions need their text: CONFIG=file.toml with [filter]; installs torch
	@$(FILTER) sync -q --frozen --inexact --package dvsft-labeler
	@extras=$$($(FILTER) run -q --no-sync python -m dvsft.labeler.config "$(CONFIG)") && \
	$(FILTER) sync -q --frozen --inexact --package dvsft-labeler --extra filter $$extras
	@$(FILTER) run -q --no-sync python -m dvsft.labeler.commands.filter --config "$(CONFIG)" $(ARGS)

relabel: | $(UV)  ## another tokenizer, grid or policy from existing rows: FROM=folder OUT=folder CONFIG=file.toml
	@$(LABELS) sync -q --frozen --inexact --package dvsft-labeler
	@$(LABELS) run -q --no-sync python -m dvsft.labeler.commands.relabel --from "$(FROM)" --config "$(CONFIG)" --out "$(OUT)" $(ARGS)

stats: | $(UV)  ## Table 1 of finished runs beside the paper's: OUT="folder folder ..."
	@$(LABELS) sync -q --frozen --inexact --package dvsft-labeler
	@$(LABELS) run -q --no-sync python -m dvsft.labeler.runs.stats $(OUT)

preview: | $(UV)  ## one HTML page to look at a run: OUT=folder PAGES=pages a source
	@$(LABELS) sync -q --frozen --inexact --package dvsft-labeler
	@$(LABELS) run -q --no-sync python -m dvsft.labeler.preview.html "$(OUT)" --pages $(PAGES)

cluster-up: | $(UV)  ## a Flink cluster on loopback to try things on: TASKMANAGERS=2 SLOTS=1; see docs/cluster.md
	@$(LABELS) sync -q --frozen --inexact --package dvsft-labeler
	@$(LABELS) run -q --no-sync python pipelines/cluster/flink.py up --taskmanagers $(TASKMANAGERS) --slots $(SLOTS)

cluster-down:  ## end what cluster-up started
	@python3 pipelines/cluster/flink.py down

train: | $(UV)  ## install the trainer and run it in one process: CONFIG=train config; docs/training.md has the rest
	@$(TRAIN) sync -q --frozen --inexact --package dvsft-trainer
	@$(TRAIN) run -q --no-sync python -m dvsft.trainer.train --config "$(CONFIG)" $(ARGS)

evaluate: | $(UV)  ## install the evaluator and run it: ARGS="predict ..." or score, report, lens
	@$(EVALUATE) sync -q --frozen --inexact --package dvsft-evaluator
	@$(EVALUATE) run -q --no-sync evaluate $(ARGS)

test: | $(UV)  ## all tests
	@$(TEST) sync -q --frozen --group test
	@$(TEST) run -q --no-sync pytest $(ARGS)

lint: | $(UV)  ## ruff and mypy
	@$(LINT) sync -q --frozen --group lint --group test
	@$(LINT) run -q --no-sync ruff check .
	@$(LINT) run -q --no-sync ruff format --check .
	@$(LINT) run -q --no-sync mypy

format: | $(UV)  ## let ruff mend what it can
	@$(LINT) sync -q --frozen --group lint
	@$(LINT) run -q --no-sync ruff check --fix .
	@$(LINT) run -q --no-sync ruff format .

bench: | $(UV)  ## time the labelling pipeline against the bare engine, see docs/benchmarks.md
	@$(LABELS) sync -q --frozen --inexact --package dvsft-labeler
	@$(LABELS) run -q --no-sync python benchmarks/labels.py $(ARGS)

bench-train: | $(UV)  ## time and memory of a DV-SFT step against a stock SFT step
	@$(TRAIN) sync -q --frozen --inexact --package dvsft-trainer
	@$(TRAIN) run -q --no-sync python benchmarks/train.py $(ARGS)

corners: | $(UV)  ## measure whether labels sit where words end: ARGS="funsd FOLDER" or ARGS="drawn FOLDER"
	@$(LABELS) sync -q --frozen --inexact --package dvsft-labeler
	@$(LABELS) run -q --no-sync python benchmarks/corners.py $(or $(ARGS),drawn samples/docvqa samples/infographicvqa)

clean:  ## remove environments and outputs, and end the cluster
	@python3 pipelines/cluster/flink.py down
	rm -rf .uv .venvs .flink out

.uv/bin/uv:
	@echo "installing uv into .uv/"
	@python3 -m venv .uv
	@.uv/bin/python -m pip install -q "uv>=0.9"
