# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Passive waiting: on few, shared cores spinning threads cost ten times what they save.
export OMP_WAIT_POLICY ?= PASSIVE
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: demo test equality check browser clean
demo: $(STAMP) ## train and attack the demo world, write runs/demo/report.html
	$(BIN)/derta demo --out runs/demo

test: $(STAMP) ## the whole suite
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not browser" $(ARGS)

equality: $(STAMP) ## the tests of numerical equality with the instructions of other processors
	ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m equality tests
	ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=AVX2 OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m equality tests

check: $(STAMP) ## lint, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

browser: $(STAMP) ## the report in headless Chromium (Debian: chromium, chromium-driver)
	$(BIN)/pytest -m browser

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) runs
