#!/usr/bin/env bash
# Deletes the cluster that kind-up.sh created, and its kubeconfig. Like kind-up.sh, it has never been run.
set -euo pipefail

readonly CLUSTER="${KUBEBALLOON_KIND_CLUSTER:-kubeballoon}"

cd "$(dirname "$0")/.."
readonly KUBECONFIG="${PWD}/build/${CLUSTER}.kubeconfig"
export KUBECONFIG

kind delete cluster --name "${CLUSTER}"
rm -f "${KUBECONFIG}"
