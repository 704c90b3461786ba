#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# check: only-guest timeout=600
# The suite of one guest: conformance over real verbs, and the faults that one host can have.
exec kmod-free-tests/guest/suite.sh 1 580
