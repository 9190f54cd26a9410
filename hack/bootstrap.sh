#!/usr/bin/env bash
# Makes .venv with everything that development, tests and the demo need, and installs Debian packages that are missing.
# Files that are named are further lists of packages, such as hack/dashboard/packages.txt.
# With --quick only what .venv itself needs: a C compiler and libvirt's headers, from whatever distribution.
# Needs the package registries and, where packages are missing, Debian (or a relative) and root or sudo.
# PYTHON names the Python to use; without it the first on PATH that is new enough is used.
set -euo pipefail
cd "$(dirname "$0")/.."

UV_VERSION=0.13.9
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/kubeballoon"

say() { printf 'bootstrap: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

install_packages() {
    local wanted package
    if [ "${1:-}" = --quick ]; then
        has_headers && command -v cc >/dev/null && pkg-config --exists libvirt 2>/dev/null && return
        command -v dpkg-query >/dev/null \
            || die "this is not Debian: install Python 3.11 or newer, a C compiler, pkg-config and libvirt's headers yourself"
        wanted=(gcc libc6-dev pkg-config libvirt-dev)
    else
        command -v dpkg-query >/dev/null || die "this is not Debian: install what hack/testbed/lab/packages.txt lists yourself"
        mapfile -t wanted < <(sed 's/#.*//; s/[[:space:]]*$//; /^$/d' hack/testbed/lab/packages.txt "$@")
    fi
    find_python >/dev/null || wanted+=(python3 python3-venv)
    has_headers || wanted+=(python3-dev)
    missing=()
    for package in "${wanted[@]}"; do
        # Some are also had from elsewhere, as npm is from Node's own package.
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] \
            || command -v "$package" >/dev/null || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null && sudo -n true 2>/dev/null \
            || die "root is needed, once: apt-get install ${missing[*]}"
        as_root=(sudo -n)
    fi
    say "installing ${missing[*]}"
    local log
    log="$(mktemp)"
    if ! { "${as_root[@]}" apt-get update && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        tail -n 5 "$log" >&2
        die "apt-get failed; all of its output is in $log"
    fi
    rm -f "$log"
}

# The first Python that is new enough and can make virtual environments.
find_python() {
    local python
    for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$python"
            return
        fi
    done
    return 1
}

# Whether what is written in C can be compiled for that Python.
has_headers() {
    "$(find_python)" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' 2>/dev/null
}

find_uv() {
    if command -v uv >/dev/null && uv --version >/dev/null 2>&1; then
        command -v uv
        return
    fi
    local home="$CACHE/uv-$UV_VERSION"
    if [ ! -x "$home/bin/uv" ]; then
        say "installing uv"
        "$1" -m venv "$home"
        "$home/bin/pip" --quiet --disable-pip-version-check install "uv==$UV_VERSION" || die "uv could not be installed"
    fi
    printf '%s\n' "$home/bin/uv"
}

install_packages "$@"
python="$(find_python)" || die "Python 3.11 or newer with venv is needed"
uv="$(find_uv "$python")"
say "preparing .venv"
"$uv" sync --quiet --frozen --all-extras --python "$("$python" -c 'import sys; print(sys.executable)')"
