# SPDX-License-Identifier: MIT
# Dependencies, tests, lint, fuzzing and benchmarks.

.PHONY: deps deps-build deps-check deps-bench deps-guest
deps: ## install the Debian packages that are missing: to build, to check and to measure
	@tools/deps.sh build check bench guest
deps-build: ## … only those that a build and the demo need
	@tools/deps.sh build
deps-check: ## … only those that tests and lint need besides
	@tools/deps.sh build check
deps-bench: ## … only those that the benchmarks need besides
	@tools/deps.sh build bench
deps-guest: ## … only those that the guests are made of besides
	@tools/deps.sh build guest

.PHONY: demo bench images
demo: ## dependencies, build, then a receiver and a sender on loopback
	@tools/deps.sh build
	@$(MAKE) --no-print-directory all
	@B=$(B) bench/demo.sh
bench: ## the figures of docs/RESULTS.md on this machine
	@tools/deps.sh build bench
	@$(MAKE) --no-print-directory all
	@B=$(B) bench/run.sh $(BENCH_ARGS)
bench-guest: ## RDMA against perftest over soft-RoCE in a throw-away guest, about ten minutes
	@tools/deps.sh build guest
	@$(MAKE) --no-print-directory all
	@B=$(B) bench/guest.sh $(BENCH_ARGS)

images: ## memory images of real guests for the benchmarks of HDE (as root; IMAGE_ARGS="--load=redis …")
	@tools/deps.sh images
	@bench/image.sh $(or $(IMAGE_ARGS),--list)

.PHONY: check check-fast check-asan check-tsan check-valgrind check-guest run-tests test
check: ## dependencies, build, every test, sanitizers, valgrind, fuzzers, lint; ends in one line of counts
	@tools/check.sh all
check-fast: ## build, include directions and the tests, without sanitizers and lint
	@tools/check.sh fast
check-asan: ## the tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@tools/check.sh asan
check-tsan: ## the threaded tests under ThreadSanitizer
	@tools/check.sh tsan
check-valgrind: ## the small suite under valgrind
	@tools/check.sh valgrind
check-guest: ## RDMA over soft-RoCE, in throw-away guests: conformance, faults, two hosts
	@tools/check.sh guest

# One sub-run over what this variant has; SET chooses: all, asan, tsan, valgrind, guest.
SET ?= $(or $(SANITIZE),all)
run-tests: all tests
	@B=$(B) TEST_JOBS=$(TEST_JOBS) $(TESTS)/run.sh $(SET)
test: all $(T:%=$(B)/tests/%) ## build and run one test program: make test T=test_opt
	$(B)/tests/$(T)

.PHONY: fuzz fuzz-run
fuzz: ## every fuzzer for FUZZ_TIME seconds (60)
	@$(MAKE) --no-print-directory CC=$(CLANG) SANITIZE=fuzz fuzz-run
fuzz-run: fuzzers
	@B=$(B) FUZZ_TIME=$(FUZZ_TIME) tools/fuzz.sh $(FUZZ_BIN)

# Lint. Formatting knows which clang-format wrote the rules; tidy results are kept per file.
FORMAT  ?= $(firstword $(shell command -v clang-format-14 clang-format 2>/dev/null) clang-format)
TIDY    ?= $(firstword $(shell command -v clang-tidy-14 clang-tidy 2>/dev/null) clang-tidy)
scripts := $(wildcard .ci/run tools/*.sh bench/*.sh $(TESTS)/*.sh $(TESTS)/guest/*.sh $(TESTS)/guest/tests/*.sh)
# TIDY_LESS=1 leaves out the static analyzer, nine tenths of the time: `make check` has cppcheck's, `make lint` has both.
TIDY_OK := $(all_src:%.c=$(BUILD)/lint/%.tidy)

.PHONY: lint lint-format lint-tidy lint-cppcheck lint-deps lint-scripts format
lint: lint-format lint-deps lint-scripts lint-cppcheck lint-tidy ## formatting, include directions, cppcheck, clang-tidy
lint-format:
	@out=$$($(FORMAT) --dry-run -Werror $(all_src) $(headers) tools/lint.h 2>&1) || { \
		echo 'not in the style of .clang-format; run make format:'; \
		printf '%s\n' "$$out" | sed -n 's/^\([^:]*\.[ch]\):[0-9].*/  \1/p;/not found/p' | sort -u | head -n 40; exit 1; } >&2
lint-deps:
	@tools/check-deps.sh
lint-scripts:
	@for s in $(scripts); do bash -n $$s || exit 1; done
	@if command -v shellcheck >/dev/null; then shellcheck -x -S warning $(scripts); fi
lint-cppcheck:
	@mkdir -p $(BUILD)/lint/cppcheck
	@cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
		--cppcheck-build-dir=$(BUILD)/lint/cppcheck -j 2 -D_GNU_SOURCE -I. --suppress=missingIncludeSystem \
		$(filter-out $(TESTS)/%,$(all_src))
lint-tidy: $(TIDY_OK)
$(BUILD)/lint/%.tidy: %.c $(headers) tools/lint.h .clang-tidy
	@mkdir -p $(@D)
	@$(TIDY) --quiet --warnings-as-errors='*' $(if $(TIDY_LESS),--checks='-clang-analyzer-*') $< -- -std=gnu11 -D_GNU_SOURCE -DDWCP_COMMIT='""' -DDWCP_VERSION='""' \
		-I. $(if $(filter-out base/err.c,$<),-include tools/lint.h) $(if $(filter %_avx2.c,$<),-mavx2) $(PKG_CFLAGS) \
		>$@.out 2>$@.err || { cat $@.out $@.err >&2; exit 1; }
	@mv -f $@.out $@

format: ## rewrite every source in the project's style (F="…": those files only)
	@$(FORMAT) -i $(or $(F),$(all_src) $(headers))
