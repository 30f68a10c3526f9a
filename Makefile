# make train   set up and run the main job: train the embedded policy, write its figures and report
# make test    set up and run every check
# make test-deploy   the same for deploy/, with its extras (and dcmtk, dicom3tools, orthanc, poppler-utils if there)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: train test test-deploy setup lint clean

train: setup
	$(BIN)/python -m medeyes_monai train

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 -m "not slow and not gpu and not network"

test-deploy: $(VENV)/.installed-dev
	@$(PIP) -e '.[deploy,serve]'
	$(BIN)/pytest tests/deploy medeyes_monai/deploy

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "setup 1/3: virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "setup 2/3: torch (the largest download)"
	@$(PIP) torch==2.13.0
	@echo "setup 3/3: medeyes-monai and what it needs"
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "setup: tools for the checks"
	@$(PIP) -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage htmlcov
