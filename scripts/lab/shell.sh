#!/bin/sh
# The shell on ttyS1: evaluates one line after another, without echo or prompt.
exec </dev/ttyS1 >/dev/ttyS1 2>&1
stty raw -echo
# shellcheck source=scripts/lab/truth.sh
. /bin/lab-truth
# shellcheck source=scripts/lab/processes.sh
. /bin/lab-processes
echo "lab-guest: ready"
while read -r line; do eval "$line"; done
