# SPDX-License-Identifier: MIT
# Installation and generated documents.

BINDIR  ?= $(PREFIX)/bin
LIBDIR  ?= $(PREFIX)/lib
INCDIR  ?= $(PREFIX)/include
MANDIR  ?= $(PREFIX)/share/man
BASHDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHDIR  ?= $(PREFIX)/share/zsh/site-functions
# What a program needs to be a client, a server or a backend of its own; the other headers are the library's own.
public  := $(wildcard base/*.h) $(patsubst %,transport/%.h,amst backend client mem mode multi server service source \
	store tune tune_meter uring verbs wire)

$(B)/dwcp.1: cli/dwcp.1.in $(DWCP)
	@$(DWCP) --dump-options-man >$@.options
	@sed -e 's/@VERSION@/$(VERSION)/g' -e '/^@OPTIONS@$$/{r $@.options' -e 'd}' $< >$@
	@rm -f $@.options
$(B)/dwcp.pc: dwcp.pc.in VERSION FORCE
	@mkdir -p $(@D)
	@sed -e 's|@PREFIX@|$(PREFIX)|g' -e 's|@LIBDIR@|$(LIBDIR)|g' -e 's|@INCDIR@|$(INCDIR)|g' \
		-e 's|@VERSION@|$(VERSION)|g' -e 's|@REQUIRES@|$(PKGS)|g' $< >$@

.PHONY: docs install uninstall
docs: $(DWCP) ## write docs/OPTIONS.md and the man page from the option tables
	@mkdir -p docs
	@$(DWCP) --dump-options-md >docs/OPTIONS.md.new && mv -f docs/OPTIONS.md.new docs/OPTIONS.md
	@$(MAKE) --no-print-directory $(B)/dwcp.1
	@echo 'wrote docs/OPTIONS.md and $(B)/dwcp.1'

install: all $(B)/dwcp.1 $(B)/dwcp.pc ## install to PREFIX (/usr/local) below DESTDIR
	install -D -m 755 $(DWCP) $(DESTDIR)$(BINDIR)/dwcp
	install -D -m 644 $(LIB) $(DESTDIR)$(LIBDIR)/libdwcp.a
	$(if $(PLUGIN),install -D -m 755 $(PLUGIN) $(DESTDIR)$(LIBDIR)/dwcp/rdma.so)
	install -D -m 644 $(B)/dwcp.pc $(DESTDIR)$(LIBDIR)/pkgconfig/dwcp.pc
	install -D -m 644 $(B)/dwcp.1 $(DESTDIR)$(MANDIR)/man1/dwcp.1
	install -D -m 644 cli/completion/dwcp.bash $(DESTDIR)$(BASHDIR)/dwcp
	install -D -m 644 cli/completion/_dwcp $(DESTDIR)$(ZSHDIR)/_dwcp
	for p in $(wildcard configs/links/*); do install -D -m 644 $$p $(DESTDIR)$(PREFIX)/share/dwcp/links/$${p##*/} || exit 1; done
	for h in $(public); do install -D -m 644 $$h $(DESTDIR)$(INCDIR)/dwcp/$$h || exit 1; done

uninstall: ## remove what install put there
	rm -f $(DESTDIR)$(BINDIR)/dwcp $(DESTDIR)$(LIBDIR)/libdwcp.a $(DESTDIR)$(LIBDIR)/pkgconfig/dwcp.pc
	rm -f $(DESTDIR)$(MANDIR)/man1/dwcp.1 $(DESTDIR)$(BASHDIR)/dwcp $(DESTDIR)$(ZSHDIR)/_dwcp
	rm -rf $(DESTDIR)$(INCDIR)/dwcp $(DESTDIR)$(LIBDIR)/dwcp $(DESTDIR)$(PREFIX)/share/dwcp/links
