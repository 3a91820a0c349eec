# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One thread a process: two that share two cores with the default slow each other ten times.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal
# Passive waiting: on few, shared cores spinning threads cost ten times what they save.
export OMP_WAIT_POLICY ?= PASSIVE
export HF_HUB_DISABLE_TELEMETRY = 1
unexport PYTHONDONTWRITEBYTECODE # many tests start a process: compiled modules save half a minute

.PHONY: demo test extra gpu check browser docs clean
demo: $(STAMP) ## train and attack the demo world, write runs/demo/report.html
	$(BIN)/derta demo --out runs/demo

test: $(STAMP) ## the suite
	$(PYTEST) -m "not browser and not extra" $(ARGS)

extra: $(STAMP) ## what takes too long for every change: more examples, and the instructions of other processors
	$(PYTEST) -m extra
	$(PYTEST) -m hypothesis --hypothesis-profile thorough
	ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE $(PYTEST) -m equality
	ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=AVX2 $(PYTEST) -m equality

gpu: $(STAMP) ## tests, benchmarks and the demo on a GPU, under five minutes (docs/gpu.md); without one at toy size
	$(BIN)/python scripts/gpu_check.py $(ARGS)

check: $(STAMP) ## lint, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

browser: $(STAMP) ## the report in headless Chromium (Debian: chromium, chromium-driver)
	$(BIN)/pytest -m browser

docs: $(STAMP) ## the documentation site in site/; a broken link or anchor is an error
	$(BIN)/pip install --quiet -c constraints.txt -e ".[docs]"
	$(BIN)/python scripts/docs_pages.py
	$(BIN)/zensical build --strict --clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) runs site docs/reference .cache
