# Everything here makes its own virtual environments under .venvs/, keyed by interpreter and requirements.
# PYTHON is the interpreter to base them on.

PYTHON ?= python3
VENV = $(PYTHON) -m tests.support.venvs

.PHONY: help test test-python test-all test-c sanitize fuzz soak demo bench build lint format wheel clean

help:
	@echo "make demo      vwo_fast beside the unmodified SDK: what is lost, duplicated, sent"
	@echo "make test      all tests: C with sanitizers, then Python"
	@echo "make test-all  the Python tests on each interpreter from 3.10 on that this machine has"
	@echo "make sanitize  the C tests under ASan, UBSan and TSan, and a short fuzz run"
	@echo "make fuzz      each fuzz target for SECONDS=600; new inputs go to tests/c/out/corpus/"
	@echo "make soak      kills and failing system calls for hours: SECONDS=3600 TIMES=25"
	@echo "make bench     every row of docs/benchmarks.md, measured here; ARGS=--quick shows that all works"
	@echo "make lint      style and types alone"
	@echo "make wheel     sdist and wheel into dist/"
	@echo "make clean     remove what was built; .venvs/ stays"

# Python comes last, so that the closing line is pytest's own summary.
test: test-c sanitize test-python

test-python: environments
	@python=$$($(VENV) dev) && $$python -m pytest $(ARGS)

.PHONY: environments
environments: build
	@echo "virtual environments for the servers and the official SDKs (once, some minutes)"
	@$(VENV) --optional

# One interpreter after the other, each to its end; the exit status tells whether all passed.
test-all:
	@status=0; for python in $$($(PYTHON) -m tests.support.interpreters); do \
	  echo "== $$($$python --version) =="; \
	  $(MAKE) --no-print-directory test-python PYTHON=$$python || status=1; \
	done; exit $$status

test-c:
	$(MAKE) -C tests/c run

fuzz:
	$(MAKE) -C tests/c fuzz

sanitize:
	$(MAKE) -C tests/c sanitize-address
	$(MAKE) -C tests/c sanitize-thread
	$(MAKE) -C tests/c fuzz-short

demo: build
	@python=$$($(VENV) fullstack) && $$python examples/demo.py $(ARGS)

# SECONDS: of the storm; TIMES: passages of each named place of the aggregator at which it is killed.
SECONDS ?= 3600
TIMES ?= 25
soak: environments
	@python=$$($(VENV) dev) && $$python -m tests.soak.kill_storm --seconds $(SECONDS) && \
	  VWO_FAST_TEST_SOAK=$(TIMES) $$python -m pytest -s tests/integration/test_fail_points.py \
	  tests/integration/test_system_calls.py tests/integration/test_recycling.py

bench: build
	@python=$$($(VENV) dev) && $$python -m benchmarks $(ARGS)

# The lock is for several builds in one folder: two compilers must not write the same file.
build:
	@python=$$($(VENV) build) && flock=$$(command -v flock); \
	  $${flock:+flock .build.lock} $$python setup.py -q build_ext --inplace

lint: build
	@python=$$($(VENV) dev) && $$python -m pytest -q tests/unit/test_style.py

format:
	@python=$$($(VENV) dev) && $$python -m ruff check -q --fix . ; $$python -m ruff format . && \
	  $$(dirname $$python)/clang-format -i csrc/*.[ch] tests/c/*.[ch]

wheel:
	@python=$$($(VENV) build) && $$python -m pip wheel -q --no-deps -w dist . && ls dist

clean:
	rm -rf build dist *.egg-info vwo_fast/*.so .hypothesis .mypy_cache .pytest_cache .ruff_cache
	-$(MAKE) -s -C tests/c clean
