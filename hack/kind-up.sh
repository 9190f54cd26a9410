#!/usr/bin/env bash
# Creates a kind cluster with KubeVirt, its VMs emulated in software, and kubeballoon's CRDs.
#
# For those who have Docker: needs docker, kind and kubectl. UNTESTED: no container engine was at hand where it was
# written; shellcheck is all it has passed. `python -m hack.controlplane up` needs none of them.
#
# KUBEBALLOON_KIND_CLUSTER names the cluster (default: kubeballoon).
set -euo pipefail

readonly KUBEVIRT_VERSION=v1.9.0
readonly RELEASE="https://github.com/kubevirt/kubevirt/releases/download/${KUBEVIRT_VERSION}"
readonly CLUSTER="${KUBEBALLOON_KIND_CLUSTER:-kubeballoon}"

cd "$(dirname "$0")/.."
readonly KUBECONFIG="${PWD}/build/${CLUSTER}.kubeconfig" # not the user's own
export KUBECONFIG

for program in docker kind kubectl; do
  if ! command -v "${program}" >/dev/null; then
    echo "error: ${program} is not on PATH" >&2
    exit 1
  fi
done

mkdir -p build
if kind get clusters | grep --quiet --line-regexp --fixed-strings "${CLUSTER}"; then
  kind export kubeconfig --name "${CLUSTER}"
else
  kind create cluster --name "${CLUSTER}" --config hack/kind.yaml --wait 5m
fi

kubectl apply --server-side --filename "${RELEASE}/kubevirt-operator.yaml"
kubectl wait crd/kubevirts.kubevirt.io --for=condition=Established --timeout=1m
kubectl apply --server-side --filename - <<'YAML'
apiVersion: kubevirt.io/v1
kind: KubeVirt
metadata:
  name: kubevirt
  namespace: kubevirt
spec:
  configuration:
    developerConfiguration:
      useEmulation: true
YAML
kubectl wait kubevirt/kubevirt --namespace=kubevirt --for=condition=Available --timeout=20m
kubectl apply --server-side --filename crds/

echo "ready; to use it:"
echo "  export KUBECONFIG=${KUBECONFIG}             # for kubectl"
echo "  export KUBEBALLOON_KUBECONFIG=${KUBECONFIG} # for the tests"
