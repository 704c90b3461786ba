# SPDX-License-Identifier: MIT
# One line per test of a cmocka program's output: `P name`, `F name`, `S name: reason`. A test that began and did not
# end failed.
function close_open(what) { if (open != "") { print what " " open; open = "" } }
/^\[==========\] Running [0-9]+ test/ { close_open("F") }
match($0, /\[ RUN      \] /) { close_open("F"); open = substr($0, RSTART + RLENGTH); why = ""; next }
open != "" && match($0, /\[       OK \] /) && substr($0, RSTART + RLENGTH) == open { close_open("P"); next }
open != "" && match($0, /\[  FAILED  \] /) && substr($0, RSTART + RLENGTH) == open { close_open("F"); next }
open != "" && match($0, /\[  SKIPPED \] /) && substr($0, RSTART + RLENGTH) == open {
	sub(/^SKIP:? *[^:]*: */, "", why)
	open = open ": " (why == "" ? "no reason given" : why)
	close_open("S"); next
}
open != "" && $0 != "" { why = $0 }
END { close_open("F") }
