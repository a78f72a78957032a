#!/usr/bin/env bash
# Run the stages one after the other, each with its own i-PI and client; exit status 1 if one of them fails.
#   ./run.sh          as melt.xml and quench.xml say
#   ./run.sh 20       only 20 steps each
set -u
[ $# -le 1 ] || { echo "run.sh: $2? to go on with a stage, see README.md" >&2; exit 1; }
cd "$(dirname "$0")" || exit 1
sockets=$(mktemp -d) # private, so that several runs never share a socket and no stale file is in the way
trap 'kill $(jobs -p) 2> /dev/null; wait; rm -rf "$sockets"' EXIT

for stage in melt quench; do
    input=$stage.xml
    if [ $# -gt 0 ]; then
        sed "s|<total_steps>.*</total_steps>|<total_steps>$1</total_steps>|" $stage.xml > run.xml || exit 1
        input=run.xml
    fi
    i-pi -S "$sockets/" "$input" > $stage.log 2>&1 &
    mlh-driver ipi --unix "$sockets/asio2" --template init.xyz --model asio2-minimal &
    for _ in 1 2; do
        wait -n || { echo "run.sh: $stage failed, see also $PWD/$stage.log" >&2; exit 1; }
    done
    [ $stage = quench ] || cp RESTART melt.restart # from the last step, at whichever step the checkpoints are
done
