# Every target installs what uv.lock says into .venv first. Nothing is written outside this folder, except to caches.

ifneq (,$(findstring :,$(CURDIR)))
$(error this folder, $(CURDIR), has a colon in its path, which PATH cannot hold; accepted: a checkout in a folder without)
endif

PRESET ?= demo
UV_VERSION := 0.13.9

PRIVATE_UV := .uv/bin/uv
UV := $(or $(shell command -v uv 2>/dev/null),$(PRIVATE_UV))
PROFILE := workflow/profiles/local

export UV_PYTHON_INSTALL_DIR := $(CURDIR)/.uv/python
export UV_COMPILE_BYTECODE := 1
export UV_PROJECT_ENVIRONMENT := $(CURDIR)/.venv
export PATH := $(CURDIR)/.venv/bin:$(PATH)
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME

SNAKEFILES := Snakefile workflow/rules

# In a clone the small results are there and the networks are not: Snakemake may take that for finished.
FROM_THE_IMAGES = $(if $(wildcard results/$(PRESET)/pretrain),,--forcerun prepare_images)

.PHONY: help install demo page report verify plan gpu-check test test-integration test-report test-slurm check bench crate dvc-commit dvc-checkout schema docs site format clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@echo "make TARGET [PRESET=demo]"
	@sed -n 's/^\([a-z][a-z-]*\):.*## /  \1\t/p' Makefile | expand -t 16

install: .venv/installed  ## install what uv.lock says into .venv

demo: .venv/installed  ## every table and figure of PRESET (demo: minutes, without a GPU)
	@echo "Progress of a training: tail -F logs/$(PRESET)/pretrain/pixelcnn_pp/seed~0.log"
	snakemake all $(FROM_THE_IMAGES) --profile $(PROFILE) --config preset=$(PRESET)
	@echo
	@echo "Done. Open in a browser"
	@echo "  results/$(PRESET)/page/index.html       the paper, reproduced: all of this in one page, which needs no network"
	@echo "or look at"
	@echo "  results/$(PRESET)/figures/figure4.png   the KL and the total fall as the KL weight grows"
	@echo "  results/$(PRESET)/figures/              the other figures, as PDF and PNG, with the data behind each"
	@echo "  results/$(PRESET)/tables/table1.md      Table 1 with our rows"
	@echo "  results/$(PRESET)/claims/claims.md      what these results say about each claim of the paper"

page: .venv/installed  ## results/PRESET/page/index.html again, from the small results that are in git: figures, tables, verdicts in one file
	agave page --preset $(PRESET) --results results/$(PRESET)

verify: .venv/installed  ## check the results of PRESET that are in git: hashes, redrawn tables and figures, claims; minutes
	agave verify --preset $(PRESET)

report: .venv/installed  ## reports/PRESET.html: figures, tables, claims and provenance of a finished PRESET in one file
	@plan=$$(snakemake all --dry-run --profile $(PROFILE) --config preset=$(PRESET) 2>&1) || { echo "$$plan" >&2; exit 1; }; \
	echo "$$plan" | grep "Nothing to be done" >/dev/null || { \
	  echo "error: no report, because results of the preset $(PRESET) are missing or out of date; make them with: make demo PRESET=$(PRESET)" >&2; \
	  exit 1; }
	@mkdir -p reports
	snakemake report --quiet progress rules host reason --profile $(PROFILE) --config preset=$(PRESET)
	snakemake all report --report reports/$(PRESET).html --quiet progress rules host reason --profile $(PROFILE) --config preset=$(PRESET)
	@echo "Done. Open reports/$(PRESET).html in a browser; it needs no network."

plan: .venv/installed  ## what PRESET will cost: jobs, arithmetic, memory, hours; ARGS="--calibrate" measures this machine
	agave plan --preset $(PRESET) $(ARGS)

gpu-check: .venv/installed  ## check a GPU: right, fast, learning, what the paper costs there; 20 minutes; ARGS="--device cpu --size tiny" without
	agave gpu-check $(ARGS)

test: .venv/installed  ## run the tests (without the other targets of this name)
	pytest -n auto --dist loadfile

test-integration: .venv/installed  ## what takes long: DVC over the workflow, commands of the documents, odd surroundings, mistakes, torch.compile
	pytest -n auto --dist loadscope -m integration tests

test-slurm: .venv/installed  ## run the slurm profile on a throw-away Slurm, with faults (root; Debian: slurm-wlm slurmctld slurmd munge)
	python tests/slurm/cluster.py pytest -s -m slurm tests/slurm

test-report: .venv/installed  ## look at the page and the report of the preset tiny in a headless Chromium (Debian: chromium)
	@command -v chromium >/dev/null || { \
	  echo "error: the report is not tested, because there is no command chromium; on Debian: apt-get install chromium" >&2; exit 1; }
	snakemake all --quiet all --profile $(PROFILE) --config preset=tiny
	$(MAKE) report PRESET=tiny
	pytest -m browser tests/test_page.py tests/test_report.py

check: .venv/installed  ## format, lint, types, workflow, links of docs/
	ruff format --check .
	ruff check .
	mypy
	lint-imports --no-cache
	snakefmt --check --line-length 140 $(SNAKEFILES)
	snakemake --lint
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

bench: .venv/installed  ## time and largest job of each step, from the logs of PRESET
	python benchmarks/workflow.py --preset $(PRESET)

crate: .venv/installed  ## the small results of PRESET with their provenance in crates/PRESET, an RO-Crate for deposit
	agave crate --preset $(PRESET) --results results/$(PRESET) --output crates/$(PRESET)

dvc-commit: .venv/installed  ## after a run by hand: record the results of the preset that params.yaml names in dvc.lock
	@snakemake all --dry-run --profile $(PROFILE) 2>&1 | grep "Nothing to be done" >/dev/null || { \
	  echo "error: not recorded, because results are missing or out of date; finish them first: snakemake all --profile $(PROFILE)" >&2; \
	  exit 1; }
	dvc commit --force --quiet
	dvc status

dvc-checkout: .venv/installed  ## after dvc pull or git checkout: the results that dvc.lock names count as finished
	dvc checkout
	dvc status --quiet || { dvc status; \
	  echo "error: this differs from dvc.lock, so the results do not count as finished; see docs/dvc.md" >&2; exit 1; }
	snakemake all --touch --forceall --cores 1 --quiet all --profile $(PROFILE)

schema: .venv/installed  ## write what follows from agave/config.py: the JSON schema, the preset paper in params.yaml, docs/configuration.md
	agave config --schema > workflow/schemas/params.schema.json
	python docs/configuration.py

docs: .venv/installed  ## write the generated pages of docs/ and the picture of the workflow
	python docs/deviations.py
	python docs/configuration.py
	python docs/costs.py
	python docs/dataflow.py

site: .venv/installed  ## build docs/ as a site into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

format: .venv/installed  ## format the code
	ruff check --fix .
	ruff format .
	snakefmt --line-length 140 $(SNAKEFILES)

clean:  ## delete the environment and caches; results, logs and saved training states stay
	rm -rf .venv .uv .pytest_cache .hypothesis .mypy_cache .ruff_cache

.venv/installed: pyproject.toml uv.lock | $(UV)
	$(UV) sync --locked
	@touch $@

$(PRIVATE_UV):
	@python3 -m venv .uv || { rm -rf .uv; \
	  echo "error: python3 cannot make a virtual environment; on Debian: apt-get install python3-venv, or install uv $(UV_VERSION) yourself" >&2; \
	  exit 1; }
	.uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
