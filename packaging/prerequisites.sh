#!/usr/bin/env bash
# Install the Debian packages that `make setup` needs, only where they are absent.
# No service is started or enabled: the lab runs sshd and the others in its own namespaces.
set -euo pipefail

python=${1:-python3}

command -v "$python" >/dev/null || [ "$python" = python3 ] || {
    echo "setup: $python not found: run 'make setup PYTHON=/path/to/python3.11' or later" >&2
    exit 1
}

missing=()
need() { # need PACKAGE PROBE…: add the package when the probe fails
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}
have() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1"; }
header() { echo "#include <$1>" | cc -E -x c - -o /dev/null; }
python_header() {
    "$python" -c 'import pathlib, sysconfig, sys; sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())'
}
postgresql_server() { have initdb || ls /usr/lib/postgresql/*/bin/initdb; }

# To build NetfilterQueue, the one dependency without wheels.
need python3-venv "$python" -c 'import venv, ensurepip'
need python3-dev python_header
need gcc have cc
need libc6-dev header stdio.h
need libnetfilter-queue-dev header libnetfilter_queue/libnetfilter_queue.h
# Tools of the gateway.
need iptables have iptables-restore
need iproute2 have ip
need procps have sysctl
# Tools that the demo, the tests and the bench run inside their namespaces.
need iputils-ping have ping
need curl have curl
need openssh-client have ssh
need openssh-server have sshd
need iperf3 have iperf3
need tcpdump have tcpdump
need dnsmasq-base have dnsmasq
need openssl have openssl
need tshark have tshark
# The tests start a private server of this; in production the operator has one.
need postgresql postgresql_server

[ ${#missing[@]} -eq 0 ] && exit 0

command -v apt-get >/dev/null || {
    echo "setup: missing ${missing[*]} (Debian's names): install them, then run make setup again" >&2
    exit 1
}
[ "$(id -u)" -eq 0 ] || {
    echo "setup: missing ${missing[*]}: run 'make setup' as root, or install them first" >&2
    exit 1
}

# Debian starts the services it installs unless policy-rc.d forbids it (invoke-rc.d(8)): forbid it meanwhile.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
for package in "${missing[@]}"; do # nor start at the next boot
    if [ "$package" = openssh-server ] && command -v systemctl >/dev/null; then
        systemctl disable ssh.service ssh.socket >/dev/null 2>&1 || true
    elif [ "$package" = iperf3 ] && command -v systemctl >/dev/null; then
        systemctl disable iperf3.service >/dev/null 2>&1 || true
    elif [ "$package" = postgresql ] && command -v systemctl >/dev/null; then
        systemctl disable postgresql.service >/dev/null 2>&1 || true
    fi
done
