# make demo   draws the synthetic cohort and takes it from raw pairs to the report
# make test   everything that must hold before a change is submitted
# Both need Python 3.11 or newer and nothing else: the first call makes .venv with pinned versions.

PYTHON ?= python3
PYTEST ?=
bin := .venv/bin

.PHONY: demo test lint format clean
.DELETE_ON_ERROR:

demo: .venv/ready
	$(bin)/snakemake --cores all
	@echo "The report is results/report/index.html: open it in a browser."

test: lint
	$(bin)/pytest $(PYTEST)

lint: .venv/ready
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/snakefmt --check Snakefile workflow
	$(bin)/snakemake --lint

format: .venv/ready
	$(bin)/ruff check --fix .
	$(bin)/ruff format .
	$(bin)/snakefmt Snakefile workflow

.venv/ready: pyproject.toml envs/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "expected Python 3.11 or newer, found " + sys.version)'
	$(PYTHON) -m venv .venv
	$(bin)/pip install --quiet --constraint envs/constraints.txt --editable ".[workflow,slurm,test,onnx]"
	touch $@

clean:
	rm -rf .venv .snakemake results resources logs
