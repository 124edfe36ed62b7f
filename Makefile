# `make run` and `make test` on a fresh machine set up everything they need in .venv.
PYTHON ?= python3
TORCH  ?= torch==2.13.0
DEMO   ?= demo-dataset
BIN    := .venv/bin
# A folder of wheels, if pip has been told of one; uv reads another variable and wants it to exist.
LINKS  := $(wildcard $(PIP_FIND_LINKS))
# The tested versions are those of Python 3.11; other Pythons resolve within the ranges of pyproject.toml.
# uv checks what it installs, and what it builds with, against the hashes that stand there.
PINS    = $(shell $(PYTHON) -c 'import sys; print("-c .constraints.txt -b .constraints.txt" if sys.version_info[:2] == (3, 11) else "")')
# Where advisories are asked for: osv or pypi.
ADVISORIES ?= osv

.PHONY: help run test test-all test-cluster test-cosyvoice check lint types format demo evidence bench wheel clean setup pins audit

help:
	@echo "make run       set up, build a small dataset, say how to load, verify and hear it"
	@echo "make test      set up, run the fast tests"
	@echo "make test-all  the slow ones too: real servers, killed processes, whole builds"
	@echo "make test-cluster  schedulers and workers, killed on purpose"
	@echo "make test-cosyvoice  CosyVoice's official code behind the bridge: COSYVOICE_CHECKOUT=DIR"
	@echo "make check     lint and types"
	@echo "make evidence  train small models on the data, score them, write the tables"
	@echo "make bench     measure throughput and memory"
	@echo "make audit     ask for known vulnerabilities of what is pinned"
	@echo "make pins      pin the dependencies of pyproject.toml again; UPGRADE=--upgrade takes the newest"
	@echo "make wheel     build a wheel, install it elsewhere and try it"

setup: .venv/.ready

.venv/.ready: pyproject.toml .constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed: make PYTHON=python3.11 …"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "the venv module is missing: apt-get install python3-venv"; exit 1; }
	sed -n '/^uv==/,/[^\\]$$/p' .constraints.txt > .venv/uv.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r .venv/uv.txt
	UV_FIND_LINKS=$(LINKS) $(BIN)/uv pip install -q --python $(BIN)/python $(PINS) "$(TORCH)" -e '.[dev]'
	@touch $@

run: setup demo
	@echo
	@echo "The dataset is in $(DEMO). Load it:"
	@echo "  $(BIN)/python -c 'from datasets import load_dataset; print(load_dataset(\"./$(DEMO)\", \"sft\"))'"
	@echo "verify it:"
	@echo "  $(BIN)/duplexdata verify $(DEMO)"
	@echo "see and hear a conversation (writes hear.wav: left the assistant, right the user):"
	@echo "  $(BIN)/duplexdata show $(DEMO) back-on-topic --first --wav hear.wav --png hear.png"

demo: setup
	$(BIN)/duplexdata build --conversations 100 --out $(DEMO)

test: setup
	$(BIN)/python -m pytest -q -n 2

test-all: setup
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m 'not network and not gpu and not cluster and not cosyvoice'

test-cluster: setup
	$(BIN)/python -m pytest -q -m 'cluster and not network and not gpu'

# COSYVOICE_CHECKOUT: a checkout of the official code; without it one is cloned, which needs the network.
# COSYVOICE_ENV: its environment; made if it is not there. COSYVOICE_MODEL: a model's folder; else a tiny one is made.
COSYVOICE_ENV      ?= .cosyvoice/env
COSYVOICE_CHECKOUT ?= .cosyvoice/checkout
COSYVOICE_COMMIT   := ace7c47f41bbd303aa6bf1ea80e6f9fbd595cd40
COSYVOICE_CODE     := https://github.com/FunAudioLLM/CosyVoice
test-cosyvoice: setup
	@test -d $(COSYVOICE_CHECKOUT)/cosyvoice \
	  || { git clone -q $(COSYVOICE_CODE) $(COSYVOICE_CHECKOUT) && git -C $(COSYVOICE_CHECKOUT) checkout -q $(COSYVOICE_COMMIT); } \
	  || echo "the official code cannot be fetched; COSYVOICE_CHECKOUT=DIR make test-cosyvoice takes yours"
	@test ! -d $(COSYVOICE_CHECKOUT)/cosyvoice || test -x $(COSYVOICE_ENV)/bin/python \
	  || $(BIN)/duplexdata cosyvoice-env $(COSYVOICE_ENV)
	COSYVOICE_CHECKOUT=$(COSYVOICE_CHECKOUT) COSYVOICE_ENV=$(COSYVOICE_ENV) \
	  $(BIN)/python -m pytest -q -m cosyvoice --timeout 900 tests/speech/test_cosyvoice.py

audit: setup
	.ci/audit $(ADVISORIES) "$(TORCH)"

pins: setup
	.ci/pin "$(TORCH)" $(UPGRADE)

check: lint types

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Trains small models on a dataset and scores them: what the data teaches. An hour on two quiet cores; resumable.
evidence: setup
	$(BIN)/python -m duplexdata.evidence --out runs/evidence

bench: setup
	$(BIN)/python -m tests.benchmarks.bench_build
	$(BIN)/python -m tests.benchmarks.bench_emit
	$(BIN)/python -m tests.benchmarks.bench_memory
	$(BIN)/python -m tests.benchmarks.bench_speech_http

wheel: setup
	rm -rf build dist
	$(BIN)/python -m build -q --wheel --installer uv
	.ci/try-wheel dist/*.whl

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis $(DEMO) .$(DEMO).work
