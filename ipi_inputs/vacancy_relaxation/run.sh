#!/usr/bin/env bash
# Run i-PI and its client; exit status 1 if any of them fails.
#   ./run.sh                    as input.xml says
#   ./run.sh 20                 only 20 steps
#   ./run.sh 8000 RESTART       go on from the last checkpoint, up to step 8000
#   ./run.sh ... --dtype float64    any options of mlh-driver ipi, at the end
set -u
steps= input=input.xml
case ${1-} in [0-9]*) steps=$1; shift ;; esac
case ${1-} in ''|-*) ;; *) input=$1; shift ;; esac
cd "$(dirname "$0")" || exit 1
if [ -n "$steps" ]; then
    sed "s|<total_steps>.*</total_steps>|<total_steps>$steps</total_steps>|" "$input" > run.xml || exit 1
    input=run.xml
fi
sockets=$(mktemp -d) # private, so that several runs never share a socket and no stale file is in the way
trap 'kill $(jobs -p) 2> /dev/null; wait; rm -rf "$sockets"' EXIT

i-pi -S "$sockets/" "$input" > i-pi.log 2>&1 &
mlh-driver ipi --unix "$sockets/asio2" --template init.xyz --model asio2-minimal "$@" &
for _ in 1 2; do
    wait -n || { echo "run.sh: failed, see also $PWD/i-pi.log" >&2; exit 1; }
done
