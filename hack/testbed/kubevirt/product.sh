#!/usr/bin/env bash
# Makes what kubeballoon's images consist of as images/Containerfile does, in a root file system with what builds it.
#
# usage: product.sh CHECKOUT ROOT CACHE SCRATCH
#   ROOT     a tar archive of the root file system
#   CACHE    a directory that uv keeps downloads in
#   SCRATCH  an empty directory; in the end it has controller.tar and agent.tar, the environments, and controller-root.tar
#            and agent-root.tar, the systems that they run in
set -euo pipefail

if [[ $1 != --inside ]]; then
  exec unshare --mount --propagation private --pid --fork --kill-child=KILL -- "$0" --inside "$@"
fi
checkout=$2 archive=$3 cache=$4 scratch=$5 root=$5/root

mkdir "$root"
tar --extract --file "$archive" --directory "$root"
mkdir "$root/src" "$root/cache"
mount --bind "$cache" "$root/cache"
mount -t proc proc "$root/proc"
for device in null urandom; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
# The machine's ways to the package registries.
bundle=/etc/ssl/certs/ca-certificates.crt
cp --dereference /etc/resolv.conf /etc/hosts "$root/etc"
cp --dereference "${SSL_CERT_FILE:-$bundle}" "$root$bundle"
cd "$checkout"
cp -r pyproject.toml uv.lock README.md LICENSE operator "$root/src"
cp images/slim.sh images/root.sh "$root/"
version=$(sed -n 's/^ARG UV_VERSION=//p' images/Containerfile)

inside() {
  env --ignore-environment PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
    ${https_proxy:+https_proxy="$https_proxy"} ${http_proxy:+http_proxy="$http_proxy"} \
    SSL_CERT_FILE="$bundle" PIP_CERT="$bundle" PIP_CACHE_DIR=/cache/pip UV_CACHE_DIR=/cache/uv UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=/opt/kubeballoon \
    chroot "$root" sh -c "cd /src && $*"
}

inside python3 -m venv /uv
inside /uv/bin/pip install --quiet --disable-pip-version-check "uv==$version"
for part in controller agent; do
  extra=
  [[ $part == agent ]] && extra='--extra agent'
  rm -rf "$root/opt/kubeballoon" "$root/root-fs"
  inside /uv/bin/uv sync --quiet --frozen --no-editable "$extra" --python /usr/bin/python3
  inside /slim.sh /opt/kubeballoon
  inside /root.sh /opt/kubeballoon /root-fs
  tar --create --sort=name --numeric-owner --file "$scratch/$part-root.tar" --directory "$root/root-fs" .
  tar --create --sort=name --numeric-owner --file "$scratch/$part.tar" --directory "$root" opt/kubeballoon
done
