# pybox: `make` lists what can be done. demo, test and bench install what they need (as root) and ask nothing.

PYTHON ?= /usr/bin/python3
PREFIX ?= /usr/local
VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
C_FILES := $(wildcard csrc/*.[ch]) bench/floor.c
C_WARNINGS := -std=gnu11 -Wall -Wextra -Wshadow -Wconversion -Werror
STORE := $(CURDIR)/.cache/store
LIBRARY = $(abspath $(PREFIX))/lib/pybox
export VENV

# A caller's wish for no .pyc files would make every start compile the whole program; PYTHONPATH could bring in another pybox.
unexport PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME

.PHONY: help dev demo images test test-system test-v2 unit check format build/bench bench bench-explain bench-pull bench-living bench-jobs bench-executor bench-network docs install uninstall reference clean

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

packages-%:
	@.ci/packages $*

# --- set up ------------------------------------------------------------------------------------------------------------------

$(BIN)/pip:
	@.ci/packages build
	$(PYTHON) -m venv $(VENV)

# What the build itself needs is read from pyproject.toml; without isolation a rebuild takes two seconds instead of ten.
$(VENV)/.dev: pyproject.toml setup.py pybox/version.py $(wildcard csrc/*.[ch] csrc/*.py) | $(BIN)/pip
	@.ci/packages build
	$(PYTHON) -c 'import tomllib; print("wheel", *tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		| $(BIN)/pip install --quiet --requirement /dev/stdin
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[dev]'
	@touch $@

dev: $(VENV)/.dev ## the virtualenv .venv with pybox (editable), its C parts and all tools

images: $(VENV)/.dev packages-images ## build the base images busybox, debian, debian-system and python
	for image in busybox debian debian-system python; do PYBOX=$(BIN)/pybox images/$$image/build || exit; done

demo: $(VENV)/.dev ## from an empty machine to a real container: set up, build an image, run a limited job
	@$(BIN)/pybox image inspect busybox >/dev/null 2>&1 || PYBOX=$(BIN)/pybox images/busybox/build
	@.ci/demo $(BIN)/pybox

# --- test --------------------------------------------------------------------------------------------------------------------

# The system tests of this kernel leave a CPU idle most of their time, so the others run beside them, one after the other.
test: $(VENV)/.dev packages-test ## everything: check, system tests on this kernel, and on a pure cgroup v2 one
	@$(MAKE) --no-print-directory -j2 --output-sync=target test-system check test-v2

test-system: $(VENV)/.dev packages-test ## system tests on this machine's kernel
	$(BIN)/pytest tests/system

test-v2: $(STORE) packages-test ## system tests on a pure cgroup v2 kernel (User Mode Linux)
	$(BIN)/python -m compileall -q pybox # nothing is written to the checkout there, and compiling takes ten times as long
	PYBOX_UML_STORE=$(STORE) tests/uml/run

# The store that the other kernel starts with: copying it there takes a second, making it there ten.
$(STORE): images/busybox/build $(wildcard pybox/image/*.py) | $(VENV)/.dev
	rm -rf $@
	PYBOX=$(BIN)/pybox PYBOX_STORE=$@ images/busybox/build
	@touch $@

unit: $(VENV)/.dev ## unit tests: no privileges, no kernel
	$(BIN)/pytest tests/unit

check: $(VENV)/.dev packages-test ## lint, layout, types, C warnings, unit tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict pybox
	clang-format --dry-run -Werror $(C_FILES)
	for file in $(filter %.c,$(C_FILES)); do gcc $(C_WARNINGS) -fsyntax-only -Icsrc $$file || exit; done
	$(BIN)/pytest tests/unit

format: $(VENV)/.dev packages-test ## lay out Python and C
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	clang-format -i $(C_FILES)

# --- measure -----------------------------------------------------------------------------------------------------------------

# An installed wheel is measured, not the checkout.
build/bench: $(BIN)/pip packages-build
	rm -rf $@
	@$(MAKE) --no-print-directory install PREFIX=$(CURDIR)/$@

bench: build/bench packages-bench ## measure an installed wheel against runc, crun, bwrap, lxc, podman and the kernel's floor
	gcc -O2 $(C_WARNINGS) -o build/bench/floor bench/floor.c
	$(PYTHON) bench/bench.py --prefix build/bench $(BENCH)

bench-pull: build/bench packages-bench packages-test ## measure how fast an image comes in, against podman and skopeo with umoci
	$(PYTHON) bench/pull.py --pybox build/bench/bin/pybox $(BENCH)

bench-living: build/bench packages-bench packages-bench-living ## measure containers that live: memory, first answer, exec, hundreds of them
	$(PYTHON) bench/living.py --prefix build/bench $(BENCH)

bench-jobs: build/bench packages-bench ## measure run_many against pools of bwrap and podman commands
	$(PYTHON) bench/jobs.py --prefix build/bench $(BENCH)

bench-executor: build/bench packages-bench ## measure calls of pybox.Executor against those of a ProcessPoolExecutor
	$(PYTHON) bench/executor.py --prefix build/bench $(BENCH)

bench-explain: build/bench ## measure what looking costs: a recorded run, explain, report
	$(PYTHON) bench/explain.py --prefix build/bench $(BENCH)

bench-network: build/bench packages-bench packages-test ## measure what a network costs, against podman's bridge
	$(PYTHON) bench/network.py --prefix build/bench $(BENCH)

# --- documents ---------------------------------------------------------------------------------------------------------------

$(VENV)/.docs: pyproject.toml | $(VENV)/.dev
	$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' \
		| $(BIN)/pip install --quiet --requirement /dev/stdin
	@touch $@

docs: $(VENV)/.docs ## the site of the documents, in build/site; fails for a link or an anchor that leads nowhere
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo build/site/index.html

# --- install -----------------------------------------------------------------------------------------------------------------

# Built aside and then swapped in. compileall runs with the final path, which is what a traceback shows.
install: $(BIN)/pip packages-build ## install a wheel and the fast launcher [PREFIX=/usr/local] [DESTDIR=] [PYTHON=/usr/bin/python3]
	rm -rf build/wheel build/stage build/lib* build/bdist*
	$(BIN)/pip wheel --quiet --wheel-dir build/wheel .
	$(BIN)/pip install --quiet --no-compile --no-index --find-links build/wheel --target build/stage pybox
	$(PYTHON) -m compileall -q -s build/stage -p $(LIBRARY) build/stage
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib
	rm -rf $(DESTDIR)$(LIBRARY) build/stage/bin
	cp -a build/stage $(DESTDIR)$(LIBRARY)
	$(PYTHON) -I -X no_debug_ranges .ci/bundle $(abspath $(DESTDIR)$(LIBRARY)) $(LIBRARY)
	$(PYTHON) -IS .ci/interpreter $(abspath $(DESTDIR)$(LIBRARY)) $(LIBRARY)
	.ci/launcher $(PYTHON) $(LIBRARY) $(abspath $(DESTDIR)$(LIBRARY)) >build/launcher
	install -m 755 build/launcher $(DESTDIR)$(PREFIX)/bin/pybox
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	$(PYTHON) -I -B -c 'import sys; sys.path.insert(0, sys.argv[1]); from pybox.cli.reference import install; install(sys.argv[2])' \
		$(abspath $(DESTDIR)$(LIBRARY)) $(abspath $(DESTDIR)$(PREFIX))/share
	sed 's|@PREFIX@|$(abspath $(PREFIX))|' docs/pybox.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/pybox.service

reference: $(VENV)/.dev ## write docs/commands.md from the tables of commands and options
	$(BIN)/pybox help --markdown >docs/commands.md

uninstall: ## remove what install wrote [PREFIX=/usr/local]
	rm -rf $(DESTDIR)$(LIBRARY)
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/share/,man/man1/pybox.1 man/man1/pybox-*.1 bash-completion/completions/pybox \
		zsh/site-functions/_pybox fish/vendor_completions.d/pybox.fish)
	rm -f $(DESTDIR)$(PREFIX)/bin/pybox $(DESTDIR)$(PREFIX)/lib/systemd/system/pybox.service

clean: ## remove everything that was built here (not the images in the store)
	rm -rf $(VENV) build dist .cache *.egg-info pybox/_native*.so pybox/pybox-init pybox/pybox-monitor .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
