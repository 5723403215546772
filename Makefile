# bingo_pl: `make help` lists what can be done.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DATASET ?= mscmr
DATA_ROOT ?=
ARGS ?=
needs_checkpoint = $(if $(CKPT),,$(error name the checkpoint: CKPT=runs/<name>/checkpoints/last.ckpt))
ROOT = $(if $(DATA_ROOT),data.root="$(DATA_ROOT)")

.DEFAULT_GOAL := help
.PHONY: help install model train resume table scalability atlas sweep evaluate screenshots benchmark docs test lint typecheck clean

help: ## List the targets
	@echo "make TARGET [DATASET=mscmr|brats|learn2reg|manifest] [DATA_ROOT=folder] [CKPT=file] [ARGS='key=value ...']"
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

install: $(BIN)/.installed ## Create .venv with pinned dependencies and the command bingo

$(BIN)/.installed: constraints.txt setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

train: install ## Train on DATASET; without DATA_ROOT on its embedded phantom cohort
	$(BIN)/bingo train $(DATASET) $(ROOT) $(ARGS)

resume: install ## Resume CKPT, bit-exact, from its last step
	$(call needs_checkpoint)$(BIN)/bingo resume "$(CKPT)" $(ARGS)

table: install ## Compare METHODS (all) on the test groups of DATASET; interrupted, it resumes with what is missing
	$(BIN)/bingo table $(DATASET) $(ROOT) $(ARGS) $(if $(METHODS),--methods "$(METHODS)")

scalability: install ## Register test groups of DATASET merged to ever larger groups with CKPT: 3 to 1,320 images; MEMORY=1GB
	$(call needs_checkpoint)$(BIN)/bingo scalability $(DATASET) $(ROOT) $(ARGS) --checkpoint "$(CKPT)" $(if $(MEMORY),--memory $(MEMORY))

atlas: install ## Make the template, label prior and coverage of the images in MANIFEST, in OUTPUT; CKPT or the ready model; MEMORY=1GB streams
	$(if $(MANIFEST),,$(error name the images: MANIFEST=population.csv with the columns modality,image[,mask,label,subject]))$(if $(OUTPUT),,$(error name a new folder: OUTPUT=atlas))$(BIN)/bingo atlas "$(MANIFEST)" --output "$(OUTPUT)" $(if $(CKPT),--checkpoint "$(CKPT)") $(if $(MEMORY),--memory $(MEMORY))

sweep: install ## Search settings with the sweep of DATASET's name on W&B; LOCAL=1 without it; AGENTS=n COUNT=n
	$(BIN)/bingo sweep $(DATASET) $(ROOT) $(ARGS) $(if $(LOCAL),--local) $(if $(AGENTS),--agents $(AGENTS)) $(if $(COUNT),--count $(COUNT))

evaluate: install ## Test CKPT on its own test groups, or on those of DATASET and DATA_ROOT
	$(call needs_checkpoint)$(BIN)/bingo evaluate "$(CKPT)" $(if $(DATA_ROOT),data.dataset=$(DATASET)) $(ROOT) $(ARGS)

model: install ## Train the ready models again, which register any modality: the 2D one, and from it the 3D one
	$(BIN)/python -m bingo_pl.training.make_model 2 $(ARGS)
	$(BIN)/python -m bingo_pl.training.make_model 3 $(ARGS)

screenshots: install ## Make the pictures of README and docs: register the scans of bingo example, photograph the pages (Chromium)
	$(BIN)/python docs/screenshots.py

benchmark: install ## Time warps, integration, similarity, training, registration beside MONAI and VoxelMorph; ARGS=EXPERIMENT
	$(BIN)/python -m pip install --quiet --constraint constraints.txt voxelmorph==0.3.4
	$(BIN)/python -m benchmarks.speed $(ARGS) --output runs/speed.csv

docs: install ## Write the documentation as a site to site/, strictly: a broken link is an error
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

test: install ## Run the tests
	$(BIN)/python -m pytest --numprocesses auto

lint: install ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: install ## Check types
	$(BIN)/mypy

clean: ## Remove the environment and the caches of the tools; runs and data stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
