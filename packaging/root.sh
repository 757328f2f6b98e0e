#!/bin/sh
# Namespaces, rules and queues need root: report that in one line instead of failing half way.
[ "$(id -u)" -eq 0 ] || {
    echo "$1: must be root (it makes network namespaces and netfilter queues): run 'sudo make $1'" >&2
    exit 1
}
