# Two commands for a fresh clone: `make demo` and `make test`. Both set up .venv at their first run and reuse it afterwards.
# Needs Python 3.10 to 3.13; name another interpreter with `make PYTHON=python3.12 demo`, after `make clean` if there is
# an environment already.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SAMPLE := Resources/Sample
# What compiles, measures or waits for other processes runs alone: beside busy tests it would measure the machine.
ALONE := $(addprefix Testing/test_,api.py worker.py slicer_worker.py slicer_robustness.py)

.PHONY: demo test screenshots benchmarks setup clean help

help:
	@echo "make demo   segment the sample phantom: output/segmentation.seg.nrrd, output/overlay.png, DSC against the truth"
	@echo "make test   style, types and all tests"
	@echo "make screenshots  the pictures of README and tutorial, rendered anew"
	@echo "make benchmarks  time everything anew and write docs/benchmarks.md; leave the machine alone meanwhile"
	@echo "make setup  only the environment in $(VENV)"
	@echo "make clean  remove $(VENV) and output/"

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "$(PYTHON) is not Python 3.10 to 3.13: name one with 'make PYTHON=python3.12 ...'" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[train,cluster,test,slicer-test]'
	@touch $@

demo: $(STAMP)
	$(BIN)/dbsam segment $(SAMPLE)/phantom_ct.nrrd --roi $(SAMPLE)/phantom_roi.mrk.json \
	  --output output/segmentation.seg.nrrd --overlay output/overlay.png
	$(BIN)/python benchmarks/score.py output/segmentation.seg.nrrd $(SAMPLE)/phantom_truth.nrrd

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ALONE:%=--ignore=%)
	$(BIN)/python -m pytest $(ALONE)

screenshots: $(STAMP)
	$(BIN)/python Testing/render_screenshots.py

benchmarks: $(STAMP)
	$(BIN)/python benchmarks/run_all.py

clean:
	rm -rf $(VENV) output
