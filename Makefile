# The two commands: `make demo` and `make test`. Both set themselves up; nothing but Python >= 3.11 is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-engines test-adapters test-serve test-ray lint clean bench-recorded bench-four-way bench-offline bench-kill bench-compat bench-teacher bench-relabel bench-train bench-upgrades bench-mixture bench-diversity bench-multilingual bench-audit bench-mteb bench-jobs bench-export bench-serve bench-scale bench-scale-mining bench-scale-ray test-mteb
setup: $(STAMP)

# Installed from the locked versions; made again only when the project's dependencies change.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked dependencies into $(VENV) (a few minutes the first time)"
	@if command -v uv >/dev/null 2>&1; then \
		uv pip install --quiet --python $(BIN)/python -c constraints.txt torch==2.13.0 -e '.[demo,dev,onnx,serve]'; \
	else \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0 2>/dev/null && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev,onnx,serve]'; \
	fi
	@touch $@

demo: setup
	@$(BIN)/gecko demo --out runs/demo $(if $(TEACHER),--teacher $(TEACHER))

# In two processes, a file of tests in one of them, so that its fixtures are made once; WORKERS=0 is one process.
WORKERS ?= 2
test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered $(ARGS)

# The same model behind each engine. llama.cpp is compiled where no wheel is there, once.
LLAMA := $(VENV)/.installed-llama
# mteb is not part of setup: it brings polars, 170 MB that nothing else here needs.
MTEB := $(VENV)/.installed-mteb
# LangChain and LlamaIndex bring forty packages, for two adapters of thirty lines.
ADAPTERS := $(VENV)/.installed-adapters
# Clients and fuzzer of the server's tests.
SERVE := $(VENV)/.installed-serve-test
# Ray is 250 MB on the disk, and its tests start clusters: two minutes.
RAY := $(VENV)/.installed-ray
$(LLAMA) $(MTEB) $(ADAPTERS) $(SERVE) $(RAY): $(VENV)/.installed-%: $(STAMP)
	@echo "installing gecko[$*] into $(VENV) $(if $(filter llama,$*),(compiled: ten minutes or more the first time))"
	@if command -v uv >/dev/null 2>&1; then \
		uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[$*]'; \
	else \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'; \
	fi || { echo "gecko[$*] cannot be installed on this machine (the reason is above), so its tests were not run"; exit 1; }
	@touch $@

test-engines: $(LLAMA)
	$(BIN)/python -m pytest tests/engines $(ARGS)

# Tasks of MTEB itself.
test-mteb: $(MTEB)
	$(BIN)/python -m pytest tests/evaluate/test_mteb.py $(ARGS)

# gecko's models as embeddings of LangChain and LlamaIndex.
test-adapters: $(ADAPTERS)
	$(BIN)/python -m pytest tests/embedder/test_api.py -k takes_it $(ARGS)

# The server's OpenAPI schema thrown at it by schemathesis: no 5xx; and LangChain against it.
test-serve: $(SERVE)
	$(BIN)/python -m pytest tests/serve $(ARGS)

# The same run on the local engine and on Ray, row for row, while workers and nodes die; in one process, since Ray has
# the cores, and without coverage, which has its threshold over all tests.
test-ray: $(RAY)
	$(BIN)/python -m pytest tests/engine $(ARGS)

lint: setup
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	$(BIN)/mypy

# Whole runs on labelled corpora; each writes its table to docs/results/.
bench-recorded bench-four-way bench-offline: setup
	$(BIN)/python bench/quality.py $(@:bench-%=%)

# Training: speed and memory beside Sentence-Transformers; each switch alone on dev data; both stages on all the
# human-labelled data at hand; kinds of task, format and human data one by one.
bench-train bench-upgrades bench-mixture bench-diversity: setup
	$(BIN)/python bench/$(@:bench-%=%).py $(SEEDS)

bench-teacher: setup
	$(BIN)/python bench/teacher.py

# Planted leaks among a million rows, found again (SCALE=0.1: a tenth of that).
bench-audit: setup
	$(BIN)/python bench/audit.py $(SCALE)

# Real tasks of MTEB, offline, for the base and MODEL (runs/demo/model); DATA is a folder as --mteb-data takes it.
bench-mteb: $(MTEB)
	$(BIN)/python bench/mteb_tasks.py $(or $(MODEL),runs/demo/model) --data $(or $(DATA),../shared/data) $(if $(TASKS),--tasks $(TASKS))

# Themes, similar items, classes and translations on people's labels; MODEL is measured beside the base.
bench-jobs: setup
	$(BIN)/python bench/jobs.py $(MODEL)

# The server beside the bare encoder: 64 clients, overload, memory; MODEL is any, all-MiniLM-L6-v2 by default.
bench-serve: setup
	$(BIN)/python bench/serve_load.py $(MODEL)

# Top 20 of 100,000 queries over a million vectors, beside faiss and Sentence-Transformers (SMALL=1: over 20,000).
bench-scale-mining: setup
	$(BIN)/python bench/scale_mining.py $(if $(SMALL),--small)

# Local engine and Ray on the same recipe; workers killed, a node removed.
bench-scale-ray: $(RAY)
	$(BIN)/python bench/scale_ray.py $(PASSAGES)

bench-kill: setup
	$(BIN)/python bench/kill.py 20

# The oldest Sentence-Transformers a saved model must still load in, in an environment of its own.
OLD := runs/old-sentence-transformers
bench-compat: setup
	@test -x $(OLD)/bin/python || $(PYTHON) -m venv $(OLD)
	@$(OLD)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 'sentence-transformers==5.1.*' 'transformers<5'
	$(BIN)/python bench/compat.py $(or $(MODEL),runs/demo/model) $(OLD)/bin/python

# Exports of MODEL beside it, Sentence-Transformers and fastembed, which has an environment of its own and is left out
# where it cannot be installed. SMALL=1: few texts, prints only.
RIVALS := runs/rivals
bench-export: setup
	@test -x $(RIVALS)/bin/python || $(PYTHON) -m venv $(RIVALS)
	-@$(RIVALS)/bin/python -m pip install --quiet --disable-pip-version-check fastembed==0.9.1 onnxruntime==1.32.0
	$(BIN)/python bench/export.py $(or $(MODEL),runs/demo/model) $(RIVALS)/bin/python $(if $(SMALL),--small)

# Ranks three corpora whole (about half an hour), then asks the rankings again, a score at a time.
bench-relabel: setup
	$(BIN)/python bench/relabel.py

# Stages up to FRet on 10,000, 100,000 and 1,000,000 passages of real text (SIZES), mined by MINER, a model that encodes
# thousands of texts a second: by default the static export that bench-export leaves. SMALL=1: prints only.
bench-scale: setup
	$(BIN)/python bench/scale.py $(SIZES) $(if $(MINER),--miner $(MINER)) $(if $(SMALL),--small)

# The multilingual recipe on what is here, with translations that pip installs (25 minutes a seed on one core).
bench-multilingual: setup
	$(BIN)/python bench/multilingual.py $(SEEDS)

clean:
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache
