# SPDX-License-Identifier: MIT
#
# Objects go to build/<variant>/, a variant being compiler and sanitizer:
#   make                        build/gcc       (build/dwcp points to it)
#   make CC=clang               build/clang
#   make SANITIZE=asan          build/gcc-asan  (address and undefined)
#   make SANITIZE=tsan          build/gcc-tsan
# Sources are found by wildcard; `make help` lists the targets.

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
.SUFFIXES:

ifeq ($(origin CC),default)
CC := gcc
endif
ifeq ($(origin AR),default)
AR := ar
endif
CLANG    ?= clang
PREFIX   ?= /usr/local
DESTDIR  ?=
SANITIZE ?=
WERROR   ?=
OPT      ?= $(if $(filter asan fuzz,$(SANITIZE)),-O1,-O2)
V        ?=

FUZZ_TIME ?= 60
TEST_JOBS ?= 3

BUILD   := build
VARIANT := $(notdir $(firstword $(CC)))$(if $(SANITIZE),-$(SANITIZE))
B       := $(BUILD)/$(VARIANT)
VERSION := $(shell cat VERSION)
Q       := $(if $(V),,@)

# ---- flags -------------------------------------------------------------------------------------

PKGS       := liburing yaml-0.1 jansson libxxhash libisal libzstd liblz4 snappy zlib
CLI_PKGS   := libmicrohttpd
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) $(CLI_PKGS) 2>/dev/null)
PKG_LIBS   := $(shell pkg-config --libs $(PKGS) 2>/dev/null)
CLI_LIBS   := $(shell pkg-config --libs $(CLI_PKGS) 2>/dev/null)
VERBS_LIBS := $(shell pkg-config --libs librdmacm libibverbs 2>/dev/null)
TEST_LIBS  := $(shell pkg-config --libs cmocka 2>/dev/null || echo -lcmocka)

SAN_asan := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
SAN_tsan := -fsanitize=thread -fno-omit-frame-pointer
SAN_fuzz := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
ifneq ($(SANITIZE),)
ifeq ($(SAN_$(SANITIZE)),)
$(error SANITIZE=$(SANITIZE) is unknown: use asan, tsan or fuzz)
endif
endif

WARN := -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion $(if $(filter 1,$(WERROR)),-Werror)
ALL_CFLAGS := $(OPT) -g -std=gnu11 -D_GNU_SOURCE -I. $(WARN) -pthread $(SAN_$(SANITIZE)) $(PKG_CFLAGS) $(CFLAGS)
ALL_LDFLAGS := -pthread $(SAN_$(SANITIZE)) $(LDFLAGS)
ALL_LIBS := $(PKG_LIBS) -lm -ldl $(LDLIBS)

# ---- sources -----------------------------------------------------------------------------------

TESTS := kmod-free-tests
LIB_DIRS := base transport compress predict migrate

# What needs rdma-core is opened when it is asked for. What it shares with the library is compiled for both.
verbs_src := $(filter-out transport/verbs_wire.c,$(wildcard transport/verbs_*.c))
verbs_lib := base/err.c base/clock.c transport/addr.c transport/verbs_wire.c
lib_src   := $(filter-out $(verbs_src),$(wildcard $(LIB_DIRS:%=%/*.c))) $(filter-out bench/main_%.c bench/preload_%.c,$(wildcard bench/*.c))
cli_src   := $(wildcard cli/*.c)
bench_src := $(wildcard bench/main_*.c)
shim_src  := $(wildcard bench/preload_*.c)
# Of raw verbs.
verbs_test := $(TESTS)/test_verbs_hostile.c
test_src  := $(filter-out $(if $(VERBS_LIBS),,$(verbs_test)),$(wildcard $(TESTS)/test_*.c))
help_src  := $(filter-out $(test_src),$(wildcard $(TESTS)/*.c))
fuzz_src  := $(wildcard $(TESTS)/fuzz/fuzz_*.c)
headers   := $(wildcard $(LIB_DIRS:%=%/*.h) bench/*.h cli/*.h $(TESTS)/*.h $(TESTS)/fuzz/*.h)
all_src   := $(lib_src) $(verbs_src) $(cli_src) $(bench_src) $(shim_src) $(test_src) $(help_src) $(fuzz_src)

obj = $(patsubst %.c,$(B)/obj/%.o,$(1))

LIB       := $(B)/libdwcp.a
HELPERS   := $(B)/tests/libhelpers.a
DWCP      := $(B)/dwcp
BENCH_BIN := $(patsubst bench/main_%.c,$(B)/bench/%,$(bench_src))
PLUGIN    := $(if $(VERBS_LIBS),$(B)/plugins/rdma.so)
SHIMS     := $(if $(SANITIZE),,$(patsubst bench/preload_%.c,$(B)/bench/%.so,$(shim_src)))
TEST_BIN  := $(patsubst $(TESTS)/%.c,$(B)/tests/%,$(test_src))
FUZZ_BIN  := $(patsubst $(TESTS)/fuzz/%.c,$(B)/fuzz/%,$(fuzz_src))

# ---- build -------------------------------------------------------------------------------------

.PHONY: all lib tests fuzzers
all: lib $(if $(cli_src),$(DWCP)) $(PLUGIN) $(BENCH_BIN) $(SHIMS) ## build the library, dwcp and the benchmark programs (default)
ifeq ($(VARIANT),gcc)
all: $(if $(cli_src),$(BUILD)/dwcp)
endif
lib: $(LIB)
tests: $(TEST_BIN) $(PLUGIN) ## build the test programs
fuzzers: $(FUZZ_BIN)

# What a file was built with. The stamps change only with their content, so that a changed flag rebuilds
# every object, a changed commit one object, and nothing else does.
define stamp
@mkdir -p $(@D)
@printf '%s\n' $(1) >$@.new.$$$$; if cmp -s $@.new.$$$$ $@; then rm -f $@.new.$$$$; else mv -f $@.new.$$$$ $@; fi
endef

quote = '$(subst ','\'',$(1))'
COMMIT = $(shell test -e .git && git --no-optional-locks -c safe.directory='*' describe --always --dirty \
	--abbrev=12 2>/dev/null || echo unknown)

.PHONY: FORCE
FORCE:

$(B)/.flags: FORCE
	@pkg-config --exists $(PKGS) $(CLI_PKGS) || { echo "dwcp: development packages are missing ($(PKGS) $(CLI_PKGS)): run \`make deps'" >&2; exit 1; }
	$(call stamp,"$$($(CC) --version | head -n 1)" $(call quote,$(ALL_CFLAGS)) $(call quote,$(ALL_LDFLAGS) $(ALL_LIBS)))
$(B)/.sources: FORCE
	$(call stamp,$(lib_src) $(verbs_src) $(cli_src) $(help_src))
$(B)/.commit: FORCE
	$(call stamp,$(COMMIT))

$(B)/obj/%_avx2.o: extra += -mavx2
$(B)/obj/base/json.o: extra += -DDWCP_COMMIT='"$(COMMIT)"'
$(B)/obj/base/json.o: $(B)/.commit
$(B)/obj/bench/preload_%.o: extra += -fPIC
$(call obj,$(verbs_lib)): extra += -fPIC
# As one: a message passes through seven of the files, and its latency is what these calls cost. (clang would need lld.)
VERBS_LTO := $(if $(SANITIZE)$(findstring clang,$(VARIANT)),,-flto)
$(call obj,$(verbs_src)): extra += -fPIC -fvisibility=hidden $(VERBS_LTO)
$(B)/obj/transport/verbs.o: extra += -DDWCP_PLUGIN_DIR='"$(LIBDIR)/dwcp"'
$(B)/obj/cli/main.o: extra += -DDWCP_VERSION='"$(VERSION)"'
$(B)/obj/cli/main.o: VERSION

$(B)/obj/%.o: %.c $(B)/.flags
	@mkdir -p $(@D)
	$(if $(Q),@echo '  CC    $(VARIANT) $<')
	$(Q)$(CC) $(ALL_CFLAGS) $(extra) -MMD -MP -c -o $@ $<

# A fresh archive each time: a member of a source that is gone must not stay.
$(LIB): $(call obj,$(lib_src)) $(B)/.sources
	$(if $(Q),@echo '  AR    $@')
	@rm -f $@
	$(Q)$(AR) rcs $@ $(filter %.o,$^)

$(HELPERS): $(call obj,$(help_src)) $(B)/.sources
	@mkdir -p $(@D)
	@rm -f $@
	$(Q)$(AR) rcs $@ $(filter %.o,$^)

define link
@mkdir -p $(@D)
$(if $(Q),@echo '  LINK  $@')
$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(1) $(ALL_LIBS)
endef

$(DWCP): $(call obj,$(cli_src)) $(LIB) $(B)/.sources
	$(call link,$(CLI_LIBS))
$(BUILD)/dwcp: $(DWCP)
	@ln -sfn $(VARIANT)/dwcp $@
$(B)/bench/%: $(B)/obj/bench/main_%.o $(LIB)
	$(call link)
# Nothing of the library: these stand in front of the C library's own functions.
$(B)/bench/%.so: $(B)/obj/bench/preload_%.o
	@mkdir -p $(@D)
	$(if $(Q),@echo '  LINK  $@')
	$(Q)$(CC) -shared $(ALL_LDFLAGS) -o $@ $< -ldl
$(B)/plugins/rdma.so: $(call obj,$(verbs_src) $(verbs_lib)) $(B)/.sources
	@mkdir -p $(@D)
	$(if $(Q),@echo '  LINK  $@')
	$(Q)$(CC) -shared $(if $(VERBS_LTO),$(OPT) -g $(VERBS_LTO)) $(ALL_LDFLAGS) -Wl,--exclude-libs,ALL -o $@ $(filter %.o,$^) $(VERBS_LIBS)
$(B)/tests/%: $(B)/obj/$(TESTS)/%.o $(HELPERS) $(LIB)
	$(call link,$(TEST_LIBS) $(if $(filter $(verbs_test:$(TESTS)/%.c=%),$*),$(VERBS_LIBS)))
$(B)/fuzz/%: $(B)/obj/$(TESTS)/fuzz/%.o $(HELPERS) $(LIB)
	$(call link,-fsanitize=fuzzer)

.SECONDARY: $(call obj,$(all_src))
-include $(patsubst %.o,%.d,$(call obj,$(all_src)))

include mk/check.mk
include mk/install.mk

.PHONY: clean help
clean: ## remove everything that was built
	rm -rf $(BUILD)

help: ## this list
	@echo 'Targets (variables: CC=clang, SANITIZE=asan|tsan, WERROR=1, PREFIX=, DESTDIR=, V=1):'
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
