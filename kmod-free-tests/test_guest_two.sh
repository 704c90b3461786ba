#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# check: only-guest timeout=520
# The suite of two guests on one wire: dwcp between two hosts.
exec kmod-free-tests/guest/suite.sh 2 500
