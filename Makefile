# make study   runs the series at pocket scale and makes a book of it; PRESET=pocket: with all data sets, in twice the time
# make test    runs the tests; both install what they need into .venv first

PYTHON ?= python3
PRESET ?= short
OUT ?= runs/study
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install study test lab lint notebooks sweeps clean

install: $(STAMP)

$(STAMP): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "clipnotes needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	       "Name another one: make install PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --editable '.[dev,book]' --constraint constraints.txt
	touch $@

study: install
	# a book of what ran, even where a notebook failed
	$(BIN)/clipnotes study --preset $(PRESET) --out $(OUT); ran=$$?; $(BIN)/clipnotes book $(OUT) && exit $$ran
	@echo "Open $(OUT)/book/index.html"

# One process a core, of one thread each (tests/conftest.py).
test: install
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --maxschedchunk 1

lab: install
	$(BIN)/jupyter lab notebooks

lint: install
	$(BIN)/ruff check .

# Runs the pocket preset and writes its outputs back into notebooks/, so that the series reads well unrun.
notebooks: install
	$(BIN)/clipnotes study --preset pocket --out runs --update
	cp runs/13_results/figures/fig1_paper_b.png notebooks/images/results_b.png

# Runs the pocket grids, or goes on with them, and gathers the table that ships; an hour and a half on two cores.
sweeps: install
	for grid in notebooks/grids/*.yaml; do \
	  name=$$(basename $$grid .yaml); \
	  $(BIN)/clipnotes sweep $$(sed -n 's/^notebook: "\(.*\)"/\1/p' $$grid) --grid $$grid --out runs/sweeps/$$name --rerun-stale \
	    || exit 1; \
	done
	$(BIN)/clipnotes gather runs/sweeps --compact --out notebooks/sweeps/pocket.csv

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find clipnotes tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
