# `make test` and `make demo` set up all they need: a virtual environment in .venv and a native build in build/venv.
# A second run starts at once; it installs again when pyproject.toml or constraints.txt change and compiles again what
# changed in csrc/.

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name))))
VENV := .venv
BIN := $(VENV)/bin
BUILD := build/venv
# One test file a process; more processes than two need gigabytes of memory.
PYTEST_ARGS ?= --numprocesses=2 --dist=loadfile
# Warnings are errors where they are ours to mend, not on a user's machine with a compiler we have not met.
WERROR := $(if $(CI),ON,OFF)
NATIVE := CMakeLists.txt $(shell find csrc cmake tests/cpp -type f 2>/dev/null)
CPP := $(shell find csrc tests/cpp -name '*.h' -o -name '*.cpp' -o -name '*.cu' 2>/dev/null)

say = @printf '\033[1m==> %s\033[0m\n' $(1)

.PHONY: help build test demo docs lint format tidy asan bench bench-edge cross clean

help:
	@echo 'make demo    train, quantise and verify a detector on drawn scenes; report in demo/report.html'
	@echo 'make test    C++ and Python tests'
	@echo 'make docs    the documentation as a site in build/site'
	@echo 'make lint    ruff, mypy --strict, clang-format; make format mends what it can'
	@echo 'make asan    C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer'
	@echo 'make tidy    clang-tidy'
	@echo 'make bench   speed of the runtime on synthetic frames, of the demo bundle'
	@echo 'make bench-edge  size, memory and start-up of the runtime on this machine'
	@echo 'make cross   cross-build for aarch64, compared with this machine in emulation; see docs/edge.md'
	@echo 'make clean   remove .venv, build/ and demo/'

$(VENV)/.created:
	$(call say,'[1/3] virtual environment in $(VENV) ($(PYTHON))')
	@test -n '$(PYTHON)' || { echo 'error: no Python found; install 3.11 or later, or call make PYTHON=/path/to/python'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'error: make needs Python 3.11 or later; call make PYTHON=/path/to/it'; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.dependencies: $(VENV)/.created pyproject.toml constraints.txt .ci/requirements.py
	$(call say,'[2/3] dependencies (about 1 GB, once)')
	@$(BIN)/python .ci/requirements.py test > $(VENV)/requirements.txt
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -r $(VENV)/requirements.txt \
	  cmake ninja clang-format
	@touch $@

$(VENV)/.installed: $(VENV)/.dependencies $(NATIVE)
	$(call say,'[3/3] native build in $(BUILD)')
	@$(BIN)/python -m pip install --disable-pip-version-check --no-build-isolation --no-deps -v \
	  --config-settings=build-dir=$(BUILD) --config-settings=cmake.define.EDGEDET_TESTS=ON \
	  --config-settings=cmake.define.EDGEDET_WERROR=$(WERROR) -e .
	@touch $@

build: $(VENV)/.installed

test: build
	$(call say,'C++ tests')
	@$(BIN)/ctest --test-dir $(BUILD) --output-on-failure
	$(call say,'Python tests')
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

docs: $(VENV)/.dependencies
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo 'build/site/index.html; with search: $(BIN)/python -m http.server --directory build/site'

demo: build
	@$(BIN)/python -m benchmarks.demo

lint: $(VENV)/.dependencies
	$(call say,'ruff')
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	$(call say,'mypy --strict')
	@$(BIN)/mypy
	$(call say,'mypy: edgedet on Python 3.8')
	@test -d build/mypy38 || $(BIN)/python -m pip install --disable-pip-version-check -q --target build/mypy38 mypy==1.14.1
	@MYPYPATH=python PYTHONPATH=build/mypy38 $(BIN)/python -m mypy --config-file= --python-version 3.8 --no-site-packages \
	  --ignore-missing-imports --cache-dir build/mypy38/cache -p edgedet
	$(call say,'clang-format')
	@$(BIN)/clang-format --dry-run --Werror $(CPP)

format: $(VENV)/.dependencies
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/clang-format -i $(CPP)

asan: $(VENV)/.dependencies
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh -c 'cmake --preset asan && cmake --build --preset asan && ctest --preset asan'

tidy: $(VENV)/.dependencies
	@$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt clang-tidy
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh -c 'cmake --preset tidy && cmake --build --preset tidy'

cross: build
	@EDGEDET_REQUIRE=aarch64 $(BIN)/python -m pytest tests/test_cross_build.py

bench: demo
	@$(BIN)/edgedet bench demo/bundle

# Size, memory and start-up; BUNDLE=… measures another bundle.
BUNDLE ?= demo/bundle
bench-edge: build
	@test -e '$(BUNDLE)/model.json' || $(MAKE) demo
	@$(BIN)/python -m benchmarks.edge '$(BUNDLE)' --out build/edge.json

clean:
	rm -rf $(VENV) build demo
