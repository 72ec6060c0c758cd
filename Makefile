# Every target sets up .venv by itself from a bare python3 (3.11 or newer); PYTHON=... chooses another interpreter.
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/infinitevl-bench
export TOKENIZERS_PARALLELISM = false
# What is imported is compiled once, into .venv, even where an image turns that off: thousands of files a command.
export PYTHONDONTWRITEBYTECODE =
export PYTHONPYCACHEPREFIX = $(CURDIR)/.venv/pycache

.PHONY: demo test fuzz kills lint fix report lock setup clean

setup: .venv/.ready

.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --requirement requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

# The main job on the embedded default: train two mixers, score them and the shipped model through VLMEvalKit, report.
demo: setup
	$(RUN) ablate --mixer gated_deltanet --mixer gla
	$(RUN) eval DocVQA
	$(RUN) report

# A file in one process: what its tests share is made once.
test: setup
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# 100 000 damaged files a reader; FUZZ_INPUTS=... for another number.
fuzz: setup
	FUZZ_INPUTS=$${FUZZ_INPUTS:-100000} $(BIN)/pytest tests/fuzz -n auto --timeout=36000

# Ends `ablate` and `eval` at random moments, so often each, and compares what comes out; KILLS=... for another number.
kills: setup
	$(BIN)/python tests/faults/kills.py --kills $${KILLS:-100}

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p .venv/src && ln -sfn ../.. .venv/src/infinitevl_bench
	MYPYPATH=.venv/src $(BIN)/mypy -p infinitevl_bench
	$(BIN)/lint-imports

fix: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

report: setup
	$(RUN) report

# Names and versions only: the lock holds no address.
lock:
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-annotate --no-header \
		--extra dev --output-file requirements.lock pyproject.toml

clean:
	rm -rf .venv report build *.egg-info
