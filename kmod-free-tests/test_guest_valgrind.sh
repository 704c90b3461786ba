#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# check: only-guest timeout=420
# The programs of one guest that run under valgrind as well.
exec kmod-free-tests/guest/suite.sh valgrind 400
