# Only python3, make and PyPI are assumed: uv is installed into .uv/ if it is missing. Labels are made in .venvs/labels,
# which has no torch; everything else runs in .venv, so `uv run --no-sync dvsft --help` works there too. What you add to
# either by hand, as a GPU build of paddlepaddle, stays.

CONFIG ?= pipelines/configs/sample.toml
OUT ?= out/sample
FROM ?= out/sample
TASKMANAGERS ?= 2
SLOTS ?= 1
PAGES ?= 20
SCALE ?= cpu
ARGS ?=
JOBS ?= auto
FORCE ?=

UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)
LABELS := UV_PROJECT_ENVIRONMENT=.venvs/labels $(UV)
DEV := UV_PROJECT_ENVIRONMENT=.venv $(UV)

.DEFAULT_GOAL := help
.PHONY: help dev labels-env labels demo demo-pivot study study-publish filter relabel stats preview cluster-up cluster-down train \
	evaluate schema test test-matrix test-lowest pythons lint docs format \
	bench bench-train gpu-wheels check-trainers corners clean clean-outputs

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

dev: | $(UV)  ## install everything into .venv: every package, test and lint tools
	@$(DEV) sync -q --frozen --inexact --group dev

labels-env: | $(UV)  ## install the labeler alone into .venvs/labels
	@$(LABELS) sync -q --frozen --inexact --package dvsft-labeler

labels: | labels-env  ## label datasets: CONFIG=file.toml OUT=folder ARGS="--runner=... any Beam option"
	@extras=$$($(LABELS) run -q --no-sync python -m dvsft.labeler.config --config "$(CONFIG)" --out "$(OUT)" $(ARGS)) && \
	{ [ -z "$$extras" ] || $(LABELS) sync -q --frozen --inexact --package dvsft-labeler $$extras; }
	@$(LABELS) run -q --no-sync dvsft label --config "$(CONFIG)" --out "$(OUT)" $(ARGS)

demo: labels | dev  ## label the sample, then train a tiny model by SFT, BASIC and DV-SFT and compare: out/demo
	@CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 PYTHONPATH=pipelines $(DEV) run -q --no-sync python -m study.demo --out out/demo

demo-pivot: labels | dev  ## the same on preferences: a reader, pairs of its answers, DPO, the encoder exported and used again
	@CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 PYTHONPATH=pipelines $(DEV) run -q --no-sync python -m study.pivot \
		--out out/demo-pivot

study: | dev  ## run what is missing of the study into out/study-SCALE: SCALE=cpu or gpu ARGS="--jobs 2"
	@OMP_NUM_THREADS=1 PYTHONPATH=pipelines $(DEV) run -q --no-sync python -m study.run --scale $(SCALE) \
		--out out/study-$(SCALE) $(ARGS)
	@PYTHONPATH=pipelines $(DEV) run -q --no-sync python -m study.report --name $(SCALE) --study out/study-$(SCALE)

study-publish: | dev  ## put the results of make study into docs/results/study.md: SCALE=cpu or gpu
	@PYTHONPATH=pipelines $(DEV) run -q --no-sync python -m study.report --publish --name $(SCALE) --study out/study-$(SCALE)

filter: | dev  ## measure which SQuAD questions need their text: CONFIG=file.toml with [filter]
	@$(DEV) run -q --no-sync dvsft filter --config "$(CONFIG)" $(ARGS)

relabel: | labels-env  ## labels for another tokenizer, grid or policy from a finished run: FROM=folder OUT=folder CONFIG=file.toml
	@$(LABELS) run -q --no-sync dvsft relabel --from "$(FROM)" --config "$(CONFIG)" --out "$(OUT)" $(ARGS)

stats: | labels-env  ## print Table 1 of finished runs beside the paper's: OUT="folder folder ..."
	@$(LABELS) run -q --no-sync dvsft stats $(OUT)

preview: | labels-env  ## write one HTML page to look at a run: OUT=folder PAGES=pages per source
	@$(LABELS) run -q --no-sync dvsft preview "$(OUT)" --pages $(PAGES)

cluster-up: | labels-env  ## start a Flink cluster on loopback: TASKMANAGERS=2 SLOTS=1; see docs/how-to/cluster.md
	@$(LABELS) run -q --no-sync python pipelines/cluster/flink.py up --taskmanagers $(TASKMANAGERS) --slots $(SLOTS)

cluster-down:  ## stop what cluster-up started
	@python3 pipelines/cluster/flink.py down

train: | dev  ## train in one process: CONFIG=train config; see docs/how-to/train.md
	@$(DEV) run -q --no-sync dvsft train --config "$(CONFIG)" $(ARGS)

evaluate: | dev  ## run a verb of the evaluator: ARGS="predict ..." or score, report, lens
	@$(DEV) run -q --no-sync dvsft $(ARGS)

schema: | dev  ## write the JSON Schema of the config files, for editors
	@for kind in label train preferences; do \
		$(DEV) run -q --no-sync dvsft schema $$kind > pipelines/configs/schema/$$kind.json || exit 1; done

# in two parts, each with processes of its own: those that had done long files crashed in native code at a later fork
test: | dev  ## run all tests, a file per core at a time: ARGS="-m 'not cluster'" or any pytest option
	@for part in long short; do \
		OMP_NUM_THREADS=1 $(DEV) run -q --no-sync pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder \
			--part $$part $(ARGS) || exit 1; \
	done

PYTHONS ?= 3.11 3.12 3.13
LOWEST ?= 3.11
MATRIX = pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not cluster" $(ARGS)
test-matrix: pythons $(PYTHONS:%=test-%) test-lowest  ## run the tests on every Python, then with the lowest versions of dependencies: PYTHONS="3.11 3.12 3.13"

pythons: | $(UV)  ## say which Pythons of the matrix uv does not find
	@for python in $(sort $(PYTHONS) $(LOWEST)); do \
		$(UV) python find -q --no-project --no-python-downloads $$python >/dev/null 2>&1 || missing="$$missing $$python"; \
	done; [ -z "$$missing" ] || { echo "error: uv finds no Python$$missing; uv python install$$missing," \
		"or put the bin/ of an installed one first on PATH" >&2; exit 2; }

$(PYTHONS:%=test-%): test-%: | $(UV)
	@echo "Python $*"
	@UV_PROJECT_ENVIRONMENT=.venvs/test-$* $(UV) sync -q --frozen --no-python-downloads --python $* --group dev
	@OMP_NUM_THREADS=1 .venvs/test-$*/bin/python -m $(MATRIX)

test-lowest: | $(UV)  ## run the tests with the lowest versions of the dependencies
	@echo "Python $(LOWEST), lowest versions"
	@$(UV) venv -q --clear --no-python-downloads --python $(LOWEST) .venvs/test-lowest
	@$(UV) pip install -q --python .venvs/test-lowest --resolution lowest-direct --group dev -e . \
		$(patsubst %/,-e %,$(wildcard packages/*/))
	@OMP_NUM_THREADS=1 .venvs/test-lowest/bin/python -m $(MATRIX)

lint: | dev  ## run ruff and mypy
	@$(DEV) run -q --no-sync ruff check .
	@$(DEV) run -q --no-sync ruff format --check .
	@$(DEV) run -q --no-sync mypy

docs: | $(UV)  ## build the documentation into site/, strictly
	@$(DEV) sync -q --frozen --inexact --group docs
	@NO_MKDOCS_2_WARNING=1 $(DEV) run -q --no-sync mkdocs build --strict --quiet

format: | dev  ## let ruff format and fix what it can
	@$(DEV) run -q --no-sync ruff check --fix .
	@$(DEV) run -q --no-sync ruff format .

bench: | dev  ## measure labeling: OCR backends, open shards, runs, filter; ARGS="--funsd DIR --docvqa DIR --publish"
	@OMP_NUM_THREADS=1 $(DEV) run -q --no-sync python benchmarks/labels.py $(ARGS)

bench-train: | dev  ## measure training steps against a stock SFT step, and the whole loop against TRL: ARGS="--docs docs/results/benchmarks.md"
	@$(DEV) run -q --no-sync python benchmarks/train.py $(ARGS)

WHEELS := pydantic|pydantic-core|annotated-types|typing-inspection|rapidfuzz|hjson
gpu-wheels: | dev  ## put what a GPU machine without a network lacks into .wheels/ (docs/how-to/gpu.md)
	@mkdir -p .wheels
	@$(UV) pip freeze -q --python .venv/bin/python | grep -E "^($(WHEELS))==" > .wheels/versions.txt
	@$(DEV) run -q --no-sync --with pip python -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 \
		--platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
		-d .wheels -r .wheels/versions.txt liger-kernel
	@DS_BUILD_OPS=0 DS_ACCELERATOR=cpu $(DEV) run -q --no-sync --with pip --with setuptools --with wheel \
		python -m pip wheel -q --no-deps --no-build-isolation -w .wheels \
		$$($(UV) pip freeze -q --python .venv/bin/python | grep -E "^deepspeed==")

check-trainers: | dev  ## compare the vision loss in TRL, ms-swift and LLaMA-Factory: installs each (12 GB) into out/trainers
	@CUDA_VISIBLE_DEVICES= $(DEV) run -q --no-sync python benchmarks/trainers.py $(ARGS)

corners: | labels-env  ## measure how many labels are where words end: ARGS="funsd FOLDER" or ARGS="drawn FOLDER"
	@$(LABELS) run -q --no-sync python benchmarks/corners.py $(or $(ARGS),drawn samples/docvqa samples/infographicvqa)

clean:  ## remove environments and stop the cluster; out/ stays
	@python3 pipelines/cluster/flink.py down
	rm -rf .uv .venv .venvs .flink

clean-outputs:  ## remove out/ with all labels and checkpoints, after asking; FORCE=1 does not ask
	@if [ ! -e out ]; then echo "there is no out/"; exit 0; fi; \
	if [ "$(FORCE)" != 1 ]; then \
		[ -t 0 ] || { echo "error: out/ holds $$(du -sh out | cut -f1) and nobody can be asked; make clean-outputs FORCE=1" >&2; exit 2; }; \
		printf "remove out/, %s? [y/N] " "$$(du -sh out | cut -f1)"; read answer; \
		[ "$$answer" = y ] || { echo "out/ stays"; exit 1; }; \
	fi; rm -rf out

.uv/bin/uv:
	@echo "installing uv into .uv/"
	@python3 -m venv .uv
	@.uv/bin/python -m pip install -q "uv>=0.9"
