#!/usr/bin/env bash
# Creates a kind cluster with KubeVirt, its VMs emulated in software, and kubeballoon as this checkout has it: to try it
# with kubectl. Run again, it brings what has changed since. Tests and demo make up VMIs, which KubeVirt refuses; they are
# for `python -m hack.testbed.controlplane up`, which needs nothing of the following.
#
# Needs docker, kind, kubectl and helm. It has never been run: there was no container engine where it was written. What it
# does is checked with programs that only say what they are asked (tests/chart/test_kind.py).
#
# KUBEBALLOON_KIND_CLUSTER names the cluster (default: kubeballoon).
set -euo pipefail

readonly KUBEVIRT_VERSION=v1.9.0
readonly RELEASE="https://github.com/kubevirt/kubevirt/releases/download/${KUBEVIRT_VERSION}"
readonly REGISTRY=localhost/kubeballoon # of images that are nowhere but on this machine
readonly CLUSTER="${KUBEBALLOON_KIND_CLUSTER:-kubeballoon}"

cd "$(dirname "$0")/.."
readonly KUBECONFIG="${PWD}/build/${CLUSTER}.kubeconfig" # not the user's own
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

# Never the same twice, so that pods of what was built before are replaced.
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
