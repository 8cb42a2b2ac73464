#!/bin/sh
# Judges a kernel's page tables by a file of expectations, in CI and at the desk.
#
#     page-tables.sh FILE.expect --kernel FILE [OPTION…]    a Linux kernel, booted in the emulator
#     page-tables.sh FILE.expect SOURCE [OPTION…]           a dump, a live guest (gdb:HOST:PORT), a case
#
# Writes page-tables.xml, a JUnit report. Exit status: 0 all holds; 1 something is broken; 2 something
# can't be said. On GitHub each that doesn't hold is an annotation at its line of FILE.expect.
set -eu

expectations=$1
shift
case $1 in
    --kernel) set -- run "$@" --check-at "console:Run /init as init process" ;;
    *) set -- walk "$@" ;;
esac
exec crosswalk "$@" --expect "$expectations" --junit page-tables.xml ${GITHUB_ACTIONS:+--github}
