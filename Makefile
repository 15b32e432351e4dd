# The daily words.  Each sets up what it needs, in a virtual environment of its own
# for every Python: `make test`, or `make PYTHON=python3.12 test` for another one.

PYTHON  ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
VENV    ?= .venv-$(VERSION)
RUN     := $(VENV)/bin/python
PIP     := $(RUN) -m pip install --quiet --disable-pip-version-check
ARGS    ?=
# For the WebSocket testsuite alone.
PYTHON2  ?= python2.7
AUTOBAHN := .venv-autobahn

# What drives the compiled modules hardest, without processes of their own.
SANITIZED := tests/test_parser.py tests/test_fuzz.py tests/test_connection.py \
  tests/test_native.py tests/test_wsgi.py tests/test_conformance.py tests/test_observer.py \
  tests/test_mounting.py tests/test_overload.py tests/test_health.py tests/test_round_robin.py \
  -k "not split_at"

SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
CTEST_CFLAGS := -std=c11 -g -O1 -Wall -Wextra -Wshadow -Wconversion -Werror $(SANITIZERS) -Icsrc
CTEST_OBJECTS := $(patsubst csrc/%.c,build/ctest/%.o,$(wildcard csrc/*.c))
CTESTS := $(patsubst tests/c/%.c,build/ctest/%,$(wildcard tests/c/test_*.c))
C_FILES = $(wildcard csrc/*.[ch] tests/c/*.[ch] benchmarks/reference/*.[ch] benchmarks/generators/*.[ch] benchmarks/parts/*.[ch])

.PHONY: build test ctest package sanitize autobahn bench guard annotate lint format clean

build: $(VENV)/.ready  ## compiles in place whatever has changed
	$(RUN) setup.py --quiet build_ext --inplace

test: build ctest  ## everything but `package`, through both parser doors
	FASTCLUSTER_PARSER=llhttp $(RUN) -m pytest $(ARGS)
	FASTCLUSTER_PARSER=httptools $(RUN) -m pytest $(ARGS)

ctest: $(VENV)/.ready $(CTESTS)  ## csrc/ alone, under sanitizers
	@for program in $(CTESTS); do echo $$program; $$program || exit 1; done

package: build $(VENV)/.ready-package  ## builds, mends, installs and runs the sdist and the wheel
	$(RUN) -m pytest -m package tests/test_package.py $(ARGS)

# Built apart, so that the modules in place stay what they are; -P and the check keep
# those from being tested in the place of the sanitized ones.
SANITIZED_LIB = $(CURDIR)/build/sanitize/lib-$(VERSION)

sanitize: $(VENV)/.ready  ## pytest over compiled modules with sanitizers in them
	FASTCLUSTER_SANITIZE=1 $(RUN) setup.py --quiet build --build-lib $(SANITIZED_LIB)
	export PYTHONPATH=$(SANITIZED_LIB) PYTHONSAFEPATH=1 PYTHONMALLOC=malloc \
	  LD_PRELOAD=$$($(CC) -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 \
	  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1; \
	$(RUN) -c 'import fastcluster; assert fastcluster.__file__.startswith("$(SANITIZED_LIB)")' && \
	$(RUN) -m pytest $(or $(ARGS),$(SANITIZED))

autobahn: build $(AUTOBAHN)/.ready  ## every case of the Autobahn testsuite; a quarter of an hour
	$(RUN) tests/autobahn/run.py $(ARGS)

bench: build  ## see `python -m benchmarks --help`
	$(RUN) -m benchmarks $(or $(ARGS),compare)

guard: build  ## instructions per request against benchmarks/guard.json; a minute
	$(RUN) -m benchmarks guard $(ARGS)

annotate: $(VENV)/.ready  ## Cython's yellow pages, in build/cython/fastcluster/*.html
	FASTCLUSTER_ANNOTATE=1 $(RUN) setup.py --quiet build_ext --inplace

lint: $(VENV)/.ready-lint
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/clang-format --dry-run -Werror $(C_FILES)

format: $(VENV)/.ready-lint
	$(RUN) -m ruff format .
	$(VENV)/bin/clang-format -i $(C_FILES)

clean:
	rm -rf build dist wheelhouse *.egg-info fastcluster/*.so
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

# The build's own tools come first and isolation is off, so that pip's editable build
# and `make build` share their work.
$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "fastcluster needs Python 3.11 or newer; $(PYTHON) is not: make PYTHON=/path/to/one $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip "setuptools>=77" "Cython>=3.1"
	$(PIP) --no-build-isolation --editable ".[test]"
	touch $@

$(VENV)/.ready-%: $(VENV)/.ready
	$(PIP) --no-build-isolation --editable ".[$*]"
	touch $@

# Autobahn's testsuite runs on Python 2.7 only, for which virtualenv made environments
# until 20.21.
$(AUTOBAHN)/.ready:
	@$(PYTHON2) -c '' 2>/dev/null || \
	  { echo "Autobahn's testsuite needs Python 2.7; $(PYTHON2) is not there: make PYTHON2=/path/to/python2.7 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(AUTOBAHN)/maker
	$(AUTOBAHN)/maker/bin/pip install --quiet --disable-pip-version-check "virtualenv<20.22"
	$(AUTOBAHN)/maker/bin/virtualenv --quiet --no-periodic-update --python $(PYTHON2) $(AUTOBAHN)
	$(AUTOBAHN)/bin/pip install --quiet --disable-pip-version-check autobahntestsuite==25.10.1
	touch $@

build/ctest/%.o: csrc/%.c
	@mkdir -p $(@D)
	$(CC) $(CTEST_CFLAGS) -MMD -c -o $@ $<

build/ctest/libfc.a: $(CTEST_OBJECTS)
	$(AR) rcs $@ $^

build/ctest/test_%: tests/c/test_%.c build/ctest/libfc.a
	$(CC) $(CTEST_CFLAGS) -MMD -o $@ $< build/ctest/libfc.a -ldl -lpthread

-include $(wildcard build/ctest/*.d)
