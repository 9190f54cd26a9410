#!/usr/bin/env bash
# Builds the images without a daemon and without a registry: what they are built in is made from Debian's packages.
#
#   hack/images.sh [--pull]
#
# --pull pulls what the Containerfile names instead, as a release does. The script needs buildah and mmdebstrap,
# which are Debian packages.
#
# KUBEBALLOON_CA         a file of certificates to trust during the build, for networks that intercept TLS
# KUBEBALLOON_ISOLATION  buildah's isolation (default: chroot, which works where namespaces do not)
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'images: %s\n' "$*" >&2; }
for program in buildah mmdebstrap; do
    command -v "$program" >/dev/null || { say "no $program: apt-get install buildah mmdebstrap"; exit 1; }
done
export STORAGE_DRIVER="${STORAGE_DRIVER:-vfs}" BUILDAH_ISOLATION="${KUBEBALLOON_ISOLATION:-chroot}"

# Makes the image that the others are built in, and prints its name.
make_base() {
    local container scratch
    scratch="$(mktemp -d)"
    say "making a base from Debian packages"
    # Like Debian's slim images: without recommended packages, documentation and translations. /usr is merged by a hook,
    # because the package that merges it needs Perl.
    SOURCE_DATE_EPOCH="$epoch" mmdebstrap --quiet --variant=minbase \
        --include=usr-is-merged,python3,python3-venv,ca-certificates \
        --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
        --aptopt='APT::Install-Recommends "false"' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-include=/usr/share/doc/*/copyright' bookworm "$scratch/base.tar"
    container="$(buildah from scratch)"
    buildah add --quiet "$container" "$scratch/base.tar" / >/dev/null
    if [ -n "${KUBEBALLOON_CA:-}" ]; then
        buildah add --quiet "$container" "$KUBEBALLOON_CA" /etc/ssl/certs/ca-certificates.crt >/dev/null
        for variable in PIP_CERT SSL_CERT_FILE; do
            buildah config --env "$variable=/etc/ssl/certs/ca-certificates.crt" "$container"
        done
    fi
    buildah commit --quiet --rm --timestamp "$epoch" "$container" localhost/kubeballoon-base >/dev/null
    rm -r "$scratch"
    printf 'localhost/kubeballoon-base\n'
}

epoch="$(git log -1 --format=%ct)"
options=()
if [ "${1:-}" != --pull ]; then
    options+=(--pull-never --build-arg "PYTHON_IMAGE=$(make_base)")
fi
for part in controller agent; do
    say "building $part"
    buildah build --quiet "${options[@]}" --timestamp "$epoch" --build-arg "SOURCE_DATE_EPOCH=$epoch" \
        --build-arg "REVISION=$(git rev-parse HEAD)" --target "$part" --tag "localhost/kubeballoon/$part" \
        --file images/Containerfile . >/dev/null
    container="$(buildah from --pull-never "localhost/kubeballoon/$part")"
    say "$part says: $(buildah run "$container" -- /opt/kubeballoon/bin/kubeballoon --version)"
    # Importing the module shows that all libraries are there, such as libvirt's for the agent.
    say "$part runs as user $(buildah run "$container" -- /opt/kubeballoon/bin/python -c \
        "import os, kubeballoon.$part.main; print(os.getuid())")"
    buildah rm "$container" >/dev/null
done
buildah images --filter reference='localhost/kubeballoon/*'
