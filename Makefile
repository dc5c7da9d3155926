# Thin: each target installs what it needs, then calls one script or program.
#   make demo    build, start a local cluster on the bundled models, hold two conversations
#   make test    everything that CI checks (about 40 minutes on 2 cores from a clean clone)
#   make check   the five-minute loop: build, unit and golden tests
#   make up      the demo cluster in the foreground; Ctrl-C stops it
#   make build   the release binaries under build/release/bin
#   make bench   long benchmarks; results belong in tests/bench/RESULTS.md
#   make gpu     what a machine with a GPU needs to run tests/gpu/run.sh; wants nvcc of CUDA 13 here
#   make soak    what takes long or leans on timing: the gloo communicator, ten times over, and ten
#                minutes of sums of time and money under load
#   make lint    clang-format and clang-tidy over every file
.PHONY: demo test check up build bench gpu lint fuzz soak

build:
	@.ci/install build
	@cmake --preset release >build.log 2>&1 || (cat build.log; rm -f build.log; exit 1)
	@rm -f build.log
	@ninja -C build/release facet facet-router facet-worker

demo: build
	@deploy/demo/run_demo.sh build/release/bin

up: build
	@build/release/bin/facet up

test:
	@.ci/install test
	@.ci/test

check:
	@.ci/install test
	@.ci/test quick

lint:
	@.ci/install test
	@cmake --preset dev >/dev/null
	@ninja -C build/dev facet_messages facet_metrics_header
	@.ci/lint all

bench: build
	@ninja -C build/release
	@tests/bench/run.sh build/release

gpu:
	@.ci/install build
	@tests/gpu/build.sh

fuzz: build
	@cmake --preset asan >/dev/null
	@ninja -C build/asan text_fuzz input_fuzz
	@build/asan/fuzz/text_fuzz 1 100000
	@build/asan/fuzz/input_fuzz 1 100000

soak:
	@.ci/install test
	@cmake --preset dev >/dev/null
	@ninja -C build/dev
	@ctest --test-dir build/dev -L soak --repeat until-fail:10 --output-on-failure
	@cd tests/e2e && FACET_BIN=$(CURDIR)/build/dev/bin FACET_CONSERVATION_SECONDS=600 \
	  $(CURDIR)/build/venv/bin/python conservation_test.py
