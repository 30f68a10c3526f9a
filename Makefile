# make train   set up and run the main job: train the embedded policy, write its figures and report
# make test    set up and run every check
# make test-newest   the fast tests of policy, rollout, training and deploy with the newest of what is allowed
# make test-oldest   the same with the oldest that pyproject.toml allows; torch is the tested one in both
# make test-deploy   the same for deploy/, with its extras (and dcmtk, dicom3tools, orthanc, poppler-utils if there)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

TORCH := torch==2.13.0
VERSIONS := $(addprefix tests/,test_ragged_cache.py test_generic_policy.py test_logprobs.py test_rollout.py \
	test_trainer.py test_bundle.py test_main.py \
	test_hostile_checkpoints.py deploy) medeyes_monai/policy medeyes_monai/rollout \
	medeyes_monai/training medeyes_monai/deploy
TEST_VERSIONS := -m pytest -m "not slow and not gpu and not network" $(VERSIONS)

.PHONY: train test test-deploy test-newest test-oldest setup lint clean

train: setup
	$(BIN)/python -m medeyes_monai train

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 -m "not slow and not gpu and not network"

test-deploy: $(VENV)/.installed-dev
	@$(PIP) -e '.[deploy,serve]'
	$(BIN)/pytest tests/deploy medeyes_monai/deploy

test-newest: RESOLUTION := highest
test-oldest: RESOLUTION := lowest-direct
test-newest test-oldest: test-%: .venv-%/bin/uv
	@$< pip install --quiet --python .venv-$*/bin/python --resolution $(RESOLUTION) --upgrade \
		-e '.[dev,deploy,serve]' $(TORCH)
	OMP_NUM_THREADS=1 .venv-$*/bin/python $(TEST_VERSIONS)

.venv-newest/bin/uv .venv-oldest/bin/uv:
	@$(PYTHON) -m venv $(@:bin/uv=)
	@$(@D)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	@$(@D)/python -m pip install --quiet --disable-pip-version-check uv

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
	@$(PIP) $(TORCH)
	@echo "setup 3/3: medeyes-monai and what it needs"
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "setup: tools for the checks"
	@$(PIP) -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-newest .venv-oldest build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage htmlcov
