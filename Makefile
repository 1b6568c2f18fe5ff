# Everything from a fresh clone: `make demo` and `make test` install into .venv first; a second call finds it there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
DEVELOPED := $(VENV)/installed-dev
MUTATED := $(VENV)/installed-mutate
DEMONSTRATION := models,openvino,serve
DEVELOPMENT := $(DEMONSTRATION),gguf,sign,otlp,bench,dev
# Tests run in several processes, each file in one of them.
AT_ONCE := --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: demo test test-fast coverage mutate soak lint install clean

demo: $(INSTALLED)  ## An end-to-end run of a small chat model; QUESTIONS=file asks your own questions
	$(BIN)/fledge demo $(if $(QUESTIONS),--questions "$(QUESTIONS)")

test: lint  ## Lint, types, imports and all tests
	$(BIN)/python -m pytest $(AT_ONCE)

test-fast: lint  ## The same without the tests marked slow
	$(BIN)/python -m pytest $(AT_ONCE) -m "not slow and not soak"

coverage: lint  ## All tests, with the branch coverage of the source
	$(BIN)/python -m pytest $(AT_ONCE) --cov --cov-report term

mutate: $(MUTATED)  ## Mutation tests of the pure functions, about an hour on one core; ONLY='fledge.comparison.power*' for one file
	$(BIN)/mutmut run $(if $(ONLY),'$(ONLY)')
	$(BIN)/mutmut results
	$(BIN)/mutmut results --all true | $(BIN)/python tools/mutation_score.py

soak: $(DEVELOPED)  ## What takes long: random kills, faults, peers in environments of their own; reported in docs/
	FLEDGE_TEST_TABLE=docs/reliability.md $(BIN)/python -m pytest -m soak --timeout 7200

lint: $(DEVELOPED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

install: $(DEVELOPED)  ## With what the tests need

$(INSTALLED): EXTRAS := $(DEMONSTRATION)
$(DEVELOPED): EXTRAS := $(DEVELOPMENT)
$(MUTATED): EXTRAS := $(DEVELOPMENT),mutate

$(INSTALLED) $(DEVELOPED) $(MUTATED): pyproject.toml constraints.txt tools/install.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fledge needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) tools/install.py $(VENV) $(EXTRAS)
	@touch $(if $(filter $(INSTALLED),$@),,$(INSTALLED) $(DEVELOPED)) $@

clean:  ## Remove what make and the demo created here
	rm -rf $(VENV) .fledge mutants mlflow.db mlartifacts fledge-report.html
