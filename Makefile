# Everything from a fresh clone: `make demo` and `make test` install into .venv first; a second call finds it there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
INSTALLED := $(VENV)/installed
# Tests run in several processes, each file in one of them.
AT_ONCE := --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: demo test test-fast soak lint install clean

demo: $(INSTALLED)  ## A whole life of a small chat model; QUESTIONS=file asks your own questions
	$(BIN)/fledge demo $(if $(QUESTIONS),--questions "$(QUESTIONS)")

test: lint  ## Lint, types, imports and all tests
	$(BIN)/python -m pytest $(AT_ONCE)

test-fast: lint  ## The same without the tests marked slow
	$(BIN)/python -m pytest $(AT_ONCE) -m "not slow and not soak"

soak: $(INSTALLED)  ## What takes long: random kills, faults, peers in environments of their own; reported in docs/
	FLEDGE_TEST_TABLE=docs/reliability.md $(BIN)/python -m pytest -m soak --timeout 7200

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fledge needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "[1/4] creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "[2/4] installing torch (the largest part, up to a few minutes)"
	@$(PIP) torch
	@echo "[3/4] installing MLflow, transformers, OpenVINO and the tools"
	@$(PIP) setuptools
	@$(PIP) --no-build-isolation --editable ".[models,openvino,serve,sign,otlp,bench,dev]"
	@echo "[4/4] fetching SmolLM2-135M-Instruct (93 MB), a small chat model"
	@$(BIN)/python -m fledge.models.smollm2 || true
	@touch $@

clean:  ## Remove what make and the demo created here
	rm -rf $(VENV) .fledge mlflow.db mlartifacts fledge-report.html
