#!/usr/bin/env bash
# The cluster's control plane, as process 1 of a pid namespace: all of it ends with this.
#
# usage: control.sh DIRECTORY PROGRAMS DNS
#   DIRECTORY  certificates, kubeconfigs and configuration; data and logs go there
#   PROGRAMS   the directory with etcd and Kubernetes' programs
#   DNS        CoreDNS
set -euo pipefail
cd "$1"
programs=$2 dns=$3

mount --make-rprivate /
mount -t proc proc /proc

# Runs a program, again whenever it ends.
keep() {
  while :; do
    "$@" </dev/null >>"${1##*/}.log" 2>&1 || echo "ended with status $?" >>"${1##*/}.log"
    sleep 1
  done
}

keep "$programs/etcd" --data-dir=etcd --listen-client-urls=unix://etcd.sock --listen-peer-urls=unix://peer.sock \
  --advertise-client-urls=http://localhost:2379 --unsafe-no-fsync --log-level=warn &
keep "$programs/kube-apiserver" --secure-port=443 --advertise-address=198.51.100.1 --etcd-servers=unix://etcd.sock \
  --tls-cert-file=server.crt --tls-private-key-file=server.key --client-ca-file=ca.crt \
  --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged \
  --service-account-issuer=https://kubernetes.default.svc --service-account-key-file=tokens.key \
  --service-account-signing-key-file=tokens.key --service-cluster-ip-range=10.96.0.0/16 \
  --kubelet-client-certificate=kubelet-client.crt --kubelet-client-key=kubelet-client.key \
  --kubelet-certificate-authority=ca.crt --kubelet-preferred-address-types=InternalIP \
  --requestheader-client-ca-file=proxy-ca.crt --requestheader-allowed-names=front-proxy-client \
  --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
  --requestheader-extra-headers-prefix=X-Remote-Extra- \
  --proxy-client-cert-file=proxy.crt --proxy-client-key-file=proxy.key --enable-aggregator-routing=true &
keep "$programs/kube-controller-manager" --kubeconfig=controller-manager.kubeconfig --leader-elect=false \
  --secure-port=0 --use-service-account-credentials --service-account-private-key-file=tokens.key \
  --root-ca-file=ca.crt --cluster-signing-cert-file=ca.crt --cluster-signing-key-file=ca.key \
  --service-cluster-ip-range=10.96.0.0/16 &
keep "$programs/kube-scheduler" --kubeconfig=scheduler.kubeconfig --leader-elect=false --secure-port=0 &
keep "$dns" -conf Corefile &
wait
