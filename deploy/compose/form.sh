#!/bin/sh
# Makes nodes one cluster: the first begins it, the others join, each with a token of its own.
#
#     form.sh ADDRESS...       of nodes that run, as this program reaches them
#
# What is done already stays, so it may be run again, and with further nodes. It ends when the cluster is healthy.
set -eu

first=$1

# 3 says that the node is in no cluster.
is_outside() {
    status=0
    coda-admin cluster health --address "$1" >/dev/null 2>&1 || status=$?
    [ "$status" -eq 3 ]
}

if is_outside "$first"; then
    coda-admin cluster init --address "$first" --groups $#
fi
shift
for node in "$@"; do
    if is_outside "$node"; then
        coda-admin cluster token create --address "$first" |
            coda-admin cluster join --address "$node" --seeds "$first" --token-file -
    fi
done
until coda-admin cluster health; do sleep 1; done
