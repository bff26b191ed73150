# make train, make test: each sets up all that it needs on a fresh machine. `make` alone lists the targets.

VENV    ?= .venv
PYTHON  ?=
BACKEND ?= auto
TEXT    ?=
TORCH   ?= torch==2.13.0
JOBS    ?= 2
NVRTC   ?= 12.9 13.0 13.1 13.2 13.3 13.4 13.5
ARGS    ?=

# ops with kernels of their own for 16 bits
SIXTEEN := attention or matmul or linear or norm

export VENV PYTHON
RUN    := $(VENV)/bin/python
DUALML := $(VENV)/bin/dualml
TRAIN  := $(VENV)/.stamp-train
TEST   := $(VENV)/.stamp-test
VULKAN := $(VENV)/.stamp-vulkan
# the extra that brings CuPy, where a driver for NVIDIA cards is there
CUDA   := $(shell nvidia-smi 2>/dev/null | sed -n 's/.*CUDA Version: \(1[23]\).*/,cuda\1/p' | head -1)

.NOTPARALLEL:
.PHONY: help train sample test lint bench docs sanitize nvrtc gpu-check clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

train: $(TRAIN) $(if $(filter webgpu,$(BACKEND)),$(VULKAN))  ## train a GPT on real text (BACKEND=, TEXT=, ARGS=)
	@$(DUALML) train --backend $(BACKEND) $(if $(TEXT),--text "$(TEXT)") $(ARGS)

sample: $(TRAIN)  ## generate text from the last checkpoint (ARGS=)
	@$(DUALML) sample $(ARGS)

test: $(TEST) $(VULKAN)  ## run all tests (JOBS=, ARGS=)
	$(RUN) -m pytest -q -n $(JOBS) --dist loadgroup $(ARGS)

lint: $(TEST)  ## ruff and mypy --strict
	$(RUN) -m ruff check .
	$(RUN) -m mypy

bench: $(TEST) $(VULKAN)  ## measure matmul and the training step (ARGS=)
	$(RUN) benchmarks/matmul.py $(ARGS)
	$(RUN) benchmarks/train_step.py $(ARGS)

docs: $(TEST) $(VULKAN)  ## write docs/parity.md and docs/flags.md from a run of the parity suite
	rm -rf out/parity
	$(RUN) -m pytest -q -n $(JOBS) --dist loadgroup tests/test_parity.py
	$(RUN) scripts/write_docs.py

# `not float16` alone would leave out bfloat16, which has that in its name
sanitize: $(TEST)  ## run every CUDA kernel on the CPU under ASan, under TSan, and in shuffled orders
	$(RUN) -m tests.cuda_on_cpu asan -m pytest -q -n $(JOBS) --dist loadgroup tests/test_parity.py -k cuda_on_cpu
	$(RUN) -m tests.cuda_on_cpu tsan -m pytest -q -n $(JOBS) --dist loadgroup tests/test_parity.py \
	    -k "cuda_on_cpu and (test_kernel and (not float16 or bfloat16) or \
	    test_op and (float32 or bfloat16 and ($(SIXTEEN))))"
	DUALML_CUDA_ON_CPU=shuffled=1,shuffled=2 $(RUN) -m pytest -q -n $(JOBS) --dist loadgroup tests/test_parity.py \
	    -k "cuda_on_cpu and (test_op or test_kernel)"

nvrtc: $(TEST)  ## compile every CUDA kernel by other versions of NVRTC too (NVRTC="12.9 13.5")
	@set -e; for version in $(NVRTC); do echo "NVRTC $$version"; scripts/ensure_nvrtc.sh $$version; \
	    DUALML_TEST_NVRTC=$(VENV)/nvrtc/$$version $(RUN) -m pytest -q -n $(JOBS) --dist loadgroup tests/test_nvrtc.py; done

gpu-check:  ## on a machine with a GPU: real CUDA and Vulkan parity, benchmarks, a table in out/ (offline; ARGS=--help)
	$(if $(wildcard $(RUN)),$(RUN),python3) benchmarks/gpu_check.py $(ARGS)

clean:  ## remove what was built here, the virtual environment too
	rm -rf $(VENV) build dist out .cache .hypothesis .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(TRAIN): pyproject.toml
	@scripts/ensure_venv.sh -e '.[plot$(CUDA)]' && touch $@

$(TEST): pyproject.toml
	@scripts/ensure_venv.sh -e '.[dev,plot$(CUDA)]' $(TORCH) && touch $@ $(TRAIN)

$(VULKAN): | $(if $(wildcard $(TEST)),$(TEST),$(TRAIN))
	@scripts/ensure_vulkan.sh && touch $@
