# The two commands: `make run` and `make test`. Both set up .venv first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SOURCE ?=
RECIPE ?=
ARGS ?=
# of the command line alone: some shells have a variable HOST in the environment
HOST_OPTION := $(if $(filter command,$(origin HOST)),--host '$(HOST)')
OUT ?= $(if $(SOURCE),runs/$(notdir $(patsubst %/,%,$(SOURCE))),runs/demo)

.PHONY: setup run browser test test-long test-slow stack stack-run stack-down test-stack check bench docs clean help

help:            ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

setup: $(READY)  ## make .venv with the pinned packages

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON); install Python 3.11 (apt-get install python3.11 python3.11-venv) or say PYTHON=<path>" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,flows,listen,lm,onnx,s3,train]'
	@# What these three declare (torchaudio, librosa, webrtcvad, typing) is not used, or does not load beside
	@# this torch: `pip check` complains of it, and of nothing else.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps distillmos xls-r-sqa Resemblyzer
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pesq \
	|| echo "note: pesq did not build, so evaluate has no PESQ; apt-get install build-essential python3.11-dev, then make -B setup" >&2
	@touch $@

run: $(READY)    ## the whole pipeline on the demo speech, or on SOURCE=<folder or URI>; OUT=, RECIPE=, ARGS='--set a.b=c'
	@$(BIN)/syllabary run $(if $(SOURCE),'$(SOURCE)') --out '$(OUT)' $(if $(RECIPE),--recipe '$(RECIPE)') $(ARGS)

browser:         ## Debian's Chromium for the tests of the pages, where root may install it
	@bash infra/install_browser.sh

# A worker that dies ends the run and is named: xdist 3.8 replaces it and then waits for ever (pytest-xdist issue 1323).
XDIST := -n 2 --dist loadgroup --max-worker-restart 0

# One thread for this process's linear algebra, as Ray's actors have: the last bit of a STOI follows their number on some CPUs.
test test-long test-slow: export OPENBLAS_NUM_THREADS := 1

test: $(READY) browser ## the tests (those marked long or slow excepted)
	$(BIN)/python -m pytest $(XDIST)

test-long: $(READY) ## whole trainings and tokenizations, compared and killed: ten minutes more
	$(BIN)/python -m pytest $(XDIST) -m 'long and not slow'

test-slow: $(READY) ## the tests that need minutes or root
	$(BIN)/python -m pytest -m slow

stack: $(READY)  ## the real stack on loopback: S3, Prefect, Ray with dashboards; HOST=<address> opens it, keys asked for
	@$(BIN)/python -m infra.stack.local_stack up $(HOST_OPTION)

stack-run: $(READY) ## the pipeline on the stack, on the demo speech or SOURCE=<folder>; RECIPE=, ARGS=
	@$(BIN)/python -m infra.stack.local_stack run $(if $(SOURCE),'$(SOURCE)') $(if $(RECIPE),--recipe '$(RECIPE)') $(ARGS)

stack-down: $(READY) ## end exactly what `make stack` started; its data stays in runs/stack
	@$(BIN)/python -m infra.stack.local_stack down

test-stack: $(READY) ## the stack for real: schedules, kills, cancelling, down to the last process
	$(BIN)/python -m pytest -m slow tests/flows/test_stack.py

check: $(READY)  ## lint, types, import contracts, dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python infra/audit_dependencies.py

# By hand: bench_jepa_ablation takes hours, bench_data_wait wants shards, bench_audit speech. See infra/benchmarks/README.md.
BENCHES := archive_scale archive_size codec decode_stream gpu listing object_store manifest packing peers scoring tokenize training stack
SPEECH ?=

bench: $(READY)  ## the benchmarks; each prints ratios from interleaved runs; SPEECH=<folder of audio> for those of ingest
	@if [ -n '$(SPEECH)' ] && [ ! -d '$(SPEECH)' ]; then echo "error: no such folder: '$(SPEECH)'; expected SPEECH=<folder of audio>" >&2; exit 2; fi
	@failed=; $(if $(SPEECH),,echo "left out: ingest, which needs SPEECH=<folder of audio>";) \
	for name in $(BENCHES) $(if $(SPEECH),ingest); do \
	  echo "== $$name"; started=$$(date +%s); [ $$name = ingest ] && speech='$(SPEECH)' || speech=; \
	  $(BIN)/python infra/benchmarks/bench_$$name.py $${speech:+"$$speech"} || failed="$$failed $$name"; \
	  echo "== $$name took $$(($$(date +%s) - started)) s"; \
	done; \
	if [ -n "$$failed" ]; then echo "error: failed:$$failed" >&2; exit 1; fi

docs: $(READY)   ## the pages that are made of the code: docs/commands.md, docs/api.md
	$(BIN)/python -m infra.generate_pages

clean:           ## remove what setup and run made (asks nothing; runs/ stays)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
