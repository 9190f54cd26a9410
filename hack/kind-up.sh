#!/usr/bin/env bash
# Creates a kind cluster with KubeVirt, which emulates VMs in software, and with kubeballoon as built from this checkout, to
# try kubeballoon with kubectl. Another run upgrades the cluster to the checkout's state. Tests and demo do not run on this
# cluster: they create VMIs without VMs, and KubeVirt refuses those. `python -m hack.testbed.controlplane up` is for them.
#
# The script needs docker, kind, kubectl and helm. It has never been run with them: there was no container engine where it
# was written. tests/chart/test_kind.py runs it with fakes of these programs, which only record their arguments.
#
# KUBEBALLOON_KIND_CLUSTER names the cluster (default: kubeballoon).
set -euo pipefail

readonly KUBEVIRT_VERSION=v1.9.0
readonly RELEASE="https://github.com/kubevirt/kubevirt/releases/download/${KUBEVIRT_VERSION}"
readonly REGISTRY=localhost/kubeballoon # no registry: the images are loaded into the cluster's nodes
readonly CLUSTER="${KUBEBALLOON_KIND_CLUSTER:-kubeballoon}"

cd "$(dirname "$0")/.."
readonly KUBECONFIG="${PWD}/build/${CLUSTER}.kubeconfig" # the user's own kubeconfig is not changed
export KUBECONFIG

for program in docker kind kubectl helm; do
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

# A new tag for each build, so that pods of earlier builds are replaced.
tag="dev-$(date +%s)"
for part in controller agent; do
  image="${REGISTRY}/${part}:${tag}"
  docker build --quiet --file images/Containerfile --target "${part}" --tag "${image}" .
  kind load docker-image "${image}" --name "${CLUSTER}"
done
helm upgrade --install kubeballoon charts/kubeballoon --namespace kubeballoon-system --create-namespace --wait \
  --set "image.registry=${REGISTRY},image.tag=${tag},image.pullPolicy=Never"

echo "ready; for kubectl and helm:"
echo "  export KUBECONFIG=${KUBECONFIG}"
