# make demo   draws the synthetic cohort and takes it from raw pairs to the report
# make test   everything that must hold before a change is submitted
# make valis  makes .venv-valis, which register.engine: valis runs in where there is no conda (6.5 GB with PyTorch)
# make peers  makes .venv-peers, in which tests open our files with the readers of SpatialData, LazySlide and others
# make benchmarks  adds to .venv the peers that benchmarks/ compares with
# make docs   makes a site of the pages of docs, in site/; once installed it needs no network
# The first two need Python 3.11 or newer and nothing else: the first call makes .venv with pinned versions.

PYTHON ?= python3
PEERS_PYTHON ?= python3.12
PYTEST ?=
bin := .venv/bin

.PHONY: demo test valis peers benchmarks docs lint format clean
.DELETE_ON_ERROR:

demo: .venv/ready
	$(bin)/snakemake --cores all
	@echo "The report is results/report/index.html: open it in a browser."

test: lint
	$(bin)/pytest $(PYTEST)

valis: .venv-valis/ready

peers: .venv-peers/ready

# cuCIM's own requirements name cupy, which has no use without a GPU.
benchmarks: .venv/ready
	$(bin)/pip install --quiet --constraint envs/constraints.txt ".[benchmarks]"
	$(bin)/pip install --quiet --constraint envs/constraints.txt --no-deps cucim-cu12

docs: .venv/ready
	$(bin)/pip install --quiet --constraint envs/constraints.txt --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build --quiet --strict
	@echo "The pages are in site/index.html."

lint: .venv/ready
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/lint-imports
	$(bin)/codespell
	$(bin)/snakefmt --check Snakefile workflow
	$(bin)/snakemake --lint

format: .venv/ready
	$(bin)/ruff check --fix .
	$(bin)/ruff format .
	$(bin)/snakefmt Snakefile workflow

.venv/ready: pyproject.toml envs/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "expected Python 3.11 or newer, found " + sys.version)'
	$(PYTHON) -m venv .venv
	$(bin)/pip install --quiet --constraint envs/constraints.txt --editable ".[workflow,slurm,distributed,remote,test,onnx,fuzz]"
	touch $@

# numpy below 2, which valis asks for, has no wheels for Python 3.13.
.venv-valis/ready: envs/valis.yaml envs/valis-constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13) and "expected Python 3.11 or 3.12 (make valis PYTHON=…), found " + sys.version)'
	$(PYTHON) -m venv .venv-valis
	.venv-valis/bin/pip install --quiet --constraint envs/valis-constraints.txt $$(sed -n 's/^ *- \(.*==.*\)/\1/p' envs/valis.yaml)
	touch $@

# imagecodecs-zarr and the newest SpatialData need Python 3.12.
.venv-peers/ready: envs/peers.txt
	$(PEERS_PYTHON) -c 'import sys; sys.exit(not (3, 12) <= sys.version_info < (3, 14) and "expected Python 3.12 or 3.13 (make peers PEERS_PYTHON=…), found " + sys.version)'
	$(PEERS_PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --no-deps --requirement envs/peers.txt
	touch $@

clean:
	rm -rf .venv .venv-valis .venv-peers .snakemake results resources logs
