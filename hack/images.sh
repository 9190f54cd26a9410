#!/usr/bin/env bash
# Builds the images without a daemon, and without pulling a base: Debian's own packages are the base.
#
#   hack/images.sh [--pull]
#
# --pull takes the Containerfile's own base from its registry instead, as a release does. Needs buildah and, for the base,
# mmdebstrap (both Debian packages). KUBEBALLOON_CA names a file of certificates to trust while building, for networks
# that see into TLS. KUBEBALLOON_ISOLATION is buildah's; chroot works where namespaces do not.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'images: %s\n' "$*" >&2; }
for program in buildah mmdebstrap; do
    command -v "$program" >/dev/null || { say "no $program: apt-get install buildah mmdebstrap"; exit 1; }
done
export STORAGE_DRIVER="${STORAGE_DRIVER:-vfs}" BUILDAH_ISOLATION="${KUBEBALLOON_ISOLATION:-chroot}"

# Makes the base, and prints its name.
make_base() {
    local container scratch
    scratch="$(mktemp -d)"
    say "making a base from Debian packages"
    # As Debian's own slim images are: without what is only recommended, what merges /usr (Perl), documentation and
    # translations.
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
    # All of it is there, libvirt's library too where it is needed.
    say "$part runs as user $(buildah run "$container" -- /opt/kubeballoon/bin/python -c \
        "import os, kubeballoon.$part.main; print(os.getuid())")"
    buildah rm "$container" >/dev/null
done
buildah images --filter reference='localhost/kubeballoon/*'
