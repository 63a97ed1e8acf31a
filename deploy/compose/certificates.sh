#!/bin/sh
# Makes an authority, and for each node its certificate and node.toml; for operators a client's certificate.
#
#     certificates.sh FOLDER NODE...       nodes by their numbers
#
# What is there stays, so it may be run again, and with further nodes. OWNER, as for chown, gets what nodes and operators
# read. With CODA_HOST, nodes tell clients that address, and port 4740 and their number.
set -eu

folder=$1
shift

[ -e "$folder/ca/ca.pem" ] || coda-admin cert ca --cluster-name compose --out "$folder/ca"
[ -e "$folder/ops/client.pem" ] || coda-admin cert client --ca "$folder/ca" --name ops --out "$folder/ops"

for node in "$@"; do
    to=$folder/node-$node
    [ -e "$to/certs/node.pem" ] || coda-admin cert node --ca "$folder/ca" --id "$node" --host "node-$node" --out "$to/certs"
    if [ ! -e "$to/node.toml" ]; then
        client=node-$node:4747
        [ -z "${CODA_HOST:-}" ] || client=$CODA_HOST:$((4740 + node))
        cat >"$to/node.toml.new" <<TOML
# Written once by certificates.sh; yours to change.
[node]
id = $node
data_dir = "/var/lib/coda"

[listen]
client = "0.0.0.0:4747"
advertise_client = "$client"
peer = "0.0.0.0:4748"
advertise_peer = "node-$node:4748"

[client]
require_certificate = true
TOML
        # Whole or not at all.
        mv "$to/node.toml.new" "$to/node.toml"
    fi
    coda-admin config check "$to/node.toml" >/dev/null
done

if [ -n "${OWNER:-}" ]; then
    chown -R "$OWNER" "$folder/ops"
    for node in "$@"; do chown -R "$OWNER" "$folder/node-$node"; done
fi
