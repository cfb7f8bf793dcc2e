# Two commands, `make demo` and `make test`, and a few more verbs. All of them make .venv first, if it is missing or stale:
# what running needs; `make test` and `make compare` add what only they need.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

# Newest first. One that makes no virtual environment (Debian's without python3-venv, pyenv's name of one not chosen) is passed over.
PYTHONS := python3.13 python3.12 python3.11
PYTHON ?= $(firstword $(foreach python,$(PYTHONS),$(shell $(python) -c 'import ensurepip' 2>/dev/null && echo $(python))))

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DO_NOT_TRACK := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONDONTWRITEBYTECODE :=# in .venv only what is imported is compiled, and once

.PHONY: moved constraints help setup pull demo new fix caption restore serve studio check plan promote rollback prune sbom audit test pocket pocket2 pocket-gpu compare

help: ## show this list
	@sed -nE 's/^([a-z0-9-]+):[^#]*## (.*)/  make \1\t\2/p' Makefile | expand -t 18

setup: .venv/.installed ## make .venv with the exact versions of constraints.txt

# The commands of a .venv name the folder that it was made in: in a tree that was moved or copied none of them starts.
MOVED := $(shell [ ! -e .venv/bin/pip ] || grep -qF "$(CURDIR)/.venv" .venv/bin/pip || echo moved)

.venv/.installed: pyproject.toml constraints.txt $(MOVED)
	@[[ -z "$(MOVED)" ]] || echo "this tree was moved or copied: .venv is made again"
	$(if $(MOVED)$(NO_PYTHON),$(MAKE_VENV))
	$(INSTALL) .
	rm -rf .venv/lib/python3.*/site-packages/torch/{test,bin/*[Tt]est*}  # 120 MB of test programs that no run starts
	.venv/bin/python -c '$(COMPILED)'
	touch $@

.venv/.installed-dev: .venv/.installed
	$(INSTALL) '.[dev]'
	$(INSTALL_STUDIO)
	touch $@ .venv/.installed-studio

.venv/.installed-studio: .venv/.installed
	$(INSTALL_STUDIO)
	touch $@
# Gradio asks for pillow below 13 and tomlkit below 0.15, which would change how pictures are read, and it works with ours
# (findings/gradio_bounds.sh): so what the extra `studio` brings is installed at our pins without asking what else it wants.
INSTALL_STUDIO = $(INSTALL_PINNED) --no-deps $(STUDIO)
STUDIO := gradio gradio-client groovy hf-gradio brotli pydub safehttpx semantic-version python-multipart 'audioop-lts; python_full_version >= "3.13"'

# One that is there keeps its Python: `rm -r .venv` to have another.
NO_PYTHON := $(shell [ -x .venv/bin/python ] || echo none)
define MAKE_VENV
@found="$(PYTHON)"; [[ -n "$$found" ]] || { echo "no Python that can make a virtual environment: looked for $(PYTHONS); install one" \
    "(and python3-venv on Debian), or make PYTHON=/path/to/it" >&2; exit 1; }; \
command -v $$found >/dev/null || { echo "no $$found here: looked for it on PATH" >&2; exit 1; }; \
echo "$$found makes .venv"; $$found -m venv --clear .venv
endef

# The same pins either way. uv reads none of pip's settings: the folder of wheels that pip was told of is handed on.
UV := $(shell command -v uv)
INSTALL = $(INSTALL_PINNED) --editable
INSTALL_PINNED = $(if $(UV),UV_FIND_LINKS="$${UV_FIND_LINKS-$${PIP_FIND_LINKS-}}" uv pip install --python .venv/bin/python,.venv/bin/pip install --no-compile) \
    --quiet --constraint constraints.txt
# Compiling all that is installed takes longer and 530 MB; this is what the stages import.
COMPILED := import dvc.commands.repro, mlflow.pyfunc, tasks.cache_prompts, tasks.evaluate.stage, tasks.register.stage, tasks.train.stage

# Today's pins are kept, but with UPGRADE=1. A build of torch for CUDA pins CUDA's packages itself; setuptools and pip come with .venv.
# Gradio's bounds on pillow and tomlkit are passed over: see INSTALL_STUDIO.
constraints: ## resolve constraints.txt anew, once for every Python (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra studio --no-annotate --no-header \
	    --override <(grep -oE 'pillow[<>=0-9,]+' pyproject.toml; echo tomlkit) $(if $(UPGRADE),--upgrade) \
	    --no-emit-package setuptools --no-emit-package pip --output-file constraints.txt pyproject.toml
	sed -i -e '/^\(cuda-\|nvidia-\|triton==\)/d' -e '1i # Exact versions that this product was tested with, for Python 3.11, 3.12 and 3.13: every run and development dependency.' \
	    -e '1i # Written by `make constraints` from the ranges in pyproject.toml.' constraints.txt

pull: setup ## the shipped models, and the data: shipped too, or from your team's DVC remote
	@python -m tasks.pull

# make demo DATA=rock: photographs from a Debian package in the shipped ones' place (docs/rock.md)
demo: pull ## from the shipped photographs to a registered adapter; again: nothing but register runs
	$(if $(DATA),python -m tasks.demo_data --data "$(DATA)")
	dvc repro

# make new DATA=~/bricks TRIGGER=matbrk [NAME=bricks] [REPLACE=1]
new: setup ## start with your own pictures: DATA=folder TRIGGER=word
	python -m tasks.new --data "$(DATA)" --trigger "$(TRIGGER)" $(if $(NAME),--name "$(NAME)") $(if $(REPLACE),--replace)

fix: setup ## put right in data/ what needs no judgement; the originals are kept under .state/replaced
	python -m tasks.validate --fix --data data/images --concept concept.yaml \
	    --manifest artifacts/manifest --report reports/validate && dvc add data

# make caption MODEL=models/florence, or MODEL=florence-community/Florence-2-base REVISION=commit [TEMPLATE="{trigger}, {caption}"];  make caption WRITE=1
caption: setup ## let a vision-language model propose captions, to be read; WRITE=1 writes them
	python -m tasks.caption $(if $(MODEL),--model "$(MODEL)") $(if $(REVISION),--revision "$(REVISION)") $(if $(TEMPLATE),--template "$(TEMPLATE)") $(if $(WRITE),--write)

# make restore VERSION=champion, or DIGEST=... of an earlier data.dvc
restore: setup ## put data/ back to what a version was trained on: VERSION=champion
	python -m tasks.restore_data $(if $(DIGEST),--digest "$(DIGEST)",--version "$(VERSION)")

# make serve [PREFECT_PORT=4200] [MLFLOW_PORT=5000] [STORE=s3 [S3_PORT=8333]]
serve: pull $(if $(STORE),.venv/.installed-dev) ## Prefect with its workers, and MLflow, on this machine, until Ctrl-C
	python -m flows.serve $(if $(PREFECT_PORT),--prefect-port $(PREFECT_PORT)) $(if $(MLFLOW_PORT),--mlflow-port $(MLFLOW_PORT)) \
	    $(if $(STORE),--store $(STORE)) $(if $(S3_PORT),--s3-port $(S3_PORT))

# make studio [PORT=7860]; TLORA_STUDIO_LOGIN=name:password asks who comes
studio: pull .venv/.installed-studio ## the page where a person starts, watches, tries, compares and decides, until Ctrl-C
	python -m studio $(if $(PORT),--port $(PORT))

check: setup ## whether what is served does its work: scheduler, workers, automations, MLflow, DVC remote
	python -m flows.check

plan: setup ## what dvc repro would run, why, and for about how long
	python -m flows.plan

# make promote [VERSION=7] [APPROVED_BY=ann] [WHY="..."] [AGAIN=1];  make rollback [WHY="..."] [BY=ann]
promote: setup ## make the challenger champion, if it is no worse
	python -m flows.promote $(if $(VERSION),--version "$(VERSION)") $(if $(APPROVED_BY),--approved-by "$(APPROVED_BY)") $(if $(WHY),--why "$(WHY)") $(if $(AGAIN),--again)

rollback: setup ## make the version that was champion before champion again
	python -m flows.promote --rollback $(if $(WHY),--why "$(WHY)") $(if $(BY),--by "$(BY)")

prune: setup ## show what is old and nothing points at; YES=1 removes it
	python -m flows.prune $(if $(YES),--yes) $(if $(DAYS),--days $(DAYS))

# make sbom [VERSION=3]
sbom: setup ## what is inside, as CycloneDX: of what is installed, and of a version with its licences: VERSION=champion
	@python -c 'import cyclonedx_py' 2>/dev/null || $(INSTALL) '.[sbom]'
	python -m tasks.sbom $(if $(VERSION),--version "$(VERSION)")

audit: setup ## what is known against the installed packages, where an advisory service is reached
	@python -c 'import pip_audit' 2>/dev/null || $(INSTALL) '.[sbom]'
	python -m tasks.audit

test: export OMP_NUM_THREADS := 1# each of its processes has a core
test: .venv/.installed-dev ## format, lint, types, import rules, unit tests with doctests, the slow tests
	ruff format --check .
	ruff check .
	mypy
	lint-imports
	pytest --numprocesses logical --maxprocesses 4 --no-loadscope-reorder

# The build makes and frees millions of small tensors: with glibc's own thresholds a VAE step took a tenth longer here.
pocket pocket2: export MALLOC_MMAP_THRESHOLD_ := 4294967296
pocket pocket2: export MALLOC_TRIM_THRESHOLD_ := 8589934592
pocket pocket2: export MALLOC_TOP_PAD_ := 268435456
pocket: setup ## build the embedded base model and its evaluators anew, in hours; again: goes on where it was
	python -m pocket

pocket2: pull ## build the pocket FLUX.2 anew from the pocket FLUX's VAE and judge, in hours; again: goes on where it was
	python -m pocket --base flux2

pocket-gpu: setup ## the same on a GPU, with more pictures and steps
	python -m pocket --device cuda --work .state/pocket-gpu

compare: pull .venv/.installed-dev ## LoRA against T-LoRA at equal fidelity: about an hour on two cores, resumable; writes docs/comparison.md
	python -m benchmarks.comparison
