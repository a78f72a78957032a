#!/usr/bin/env bash
# Run the stages one after the other, each with its own i-PI and client; exit status 1 if one of them fails.
#   ./run.sh                                      as melt.xml and quench.xml say
#   ./run.sh 20                                   only 20 steps each
#   ./run.sh --electronic-temperature 2000 ...    any options of mlh-driver ipi, after the steps if there are any
set -u
steps=
case ${1-} in [0-9]*) steps=$1; shift ;; esac
cd "$(dirname "$0")" || exit 1
sockets=$(mktemp -d) # private, so that several runs never share a socket and no stale file is in the way
trap 'kill $(jobs -p) 2> /dev/null; wait; rm -rf "$sockets"' EXIT

for stage in melt quench; do
    input=$stage.xml
    if [ -n "$steps" ]; then
        sed "s|<total_steps>.*</total_steps>|<total_steps>$steps</total_steps>|" $stage.xml > run.xml || exit 1
        input=run.xml
    fi
    i-pi -S "$sockets/" "$input" > $stage.log 2>&1 &
    mlh-driver ipi --unix "$sockets/asio2" --template init.xyz "$@" &
    for _ in 1 2; do
        wait -n || { echo "run.sh: $stage failed, see also $PWD/$stage.log" >&2; exit 1; }
    done
    [ $stage = quench ] || cp RESTART melt.restart # from the last step, at whichever step the checkpoints are
done
