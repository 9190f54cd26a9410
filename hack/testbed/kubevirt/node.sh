#!/usr/bin/env bash
# A node, as process 1 of a pid namespace: containerd, the kubelet and all pods end with this.
#
# usage: node.sh DIRECTORY KUBELET KVM
#   DIRECTORY  the node's files: etc is laid over the machine's /etc, log has the logs; pods and images go there
#   KUBELET    the program
#   KVM        1 where guests can use /dev/kvm: KubeVirt would take one that runs nothing
set -euo pipefail
directory=$1 kubelet=$2 kvm=$3

mount --make-rprivate /

# The machine's own files, and whatever is written over them in memory: the node leaves nothing behind.
root=$directory/root
mkdir -p "$root" "$directory"/{memory,kubelet,containerd,pods,logs}
mount -t tmpfs -o mode=0755 node "$directory/memory"
mkdir "$directory"/memory/{upper,work}
mount -t overlay -o "lowerdir=/,upperdir=$directory/memory/upper,workdir=$directory/memory/work" node "$root"

# Places that must be on a disk, or be found where KubeVirt and the kubelet look.
for pair in kubelet:/var/lib/kubelet containerd:/var/lib/containerd pods:/var/log/pods logs:/var/log/node; do
  mkdir -p "$root${pair#*:}"
  mount --bind "$directory/${pair%%:*}" "$root${pair#*:}"
done
mkdir -p "$root/etc/cni/net.d" "$root/etc/node" "$root/var/log/containers"
cp -r "$directory/etc/." "$root/etc/node"
mv "$root/etc/node/cni.conflist" "$root/etc/cni/net.d/10-cluster.conflist"
touch "$root/usr/local/bin/kubelet"
mount --bind "$kubelet" "$root/usr/local/bin/kubelet"

ln -sfn ../run "$root/var/run" # absolute, it leads out of /proc/1/root, by which pods look at the node
mount -t tmpfs -o mode=0755 run "$root/run"
mkdir -p "$root/run/lock"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --make-rslave "$root/sys"

# Privileged containers get every device of the node.
mount -t tmpfs -o mode=0755,nosuid dev "$root/dev"
mkdir "$root"/dev/{pts,shm,mqueue,net}
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
mount -t mqueue mqueue "$root/dev/mqueue"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
devices=(null zero full random urandom tty kmsg fuse net/tun vhost-net)
[[ $kvm == 1 ]] && devices+=(kvm)
for device in "${devices[@]}"; do
  [[ -e /dev/$device ]] && cp -a "/dev/$device" "$root/dev/$device"
done

cd "$root"
pivot_root . .
umount -l .
cd /
mount --make-rshared / # for mounts that pods make for the node, and get from it

# Runs a program, again whenever it ends.
keep() {
  while :; do
    "$@" </dev/null >>"/var/log/node/${1##*/}.log" 2>&1 || echo "ended with status $?" >>"/var/log/node/${1##*/}.log"
    sleep 1
  done
}

keep containerd --config /etc/node/containerd.toml &
keep kubelet --config /etc/node/kubelet.json --kubeconfig /etc/node/kubeconfig --hostname-override "$(</etc/node/name)" \
  --node-ip "$(</etc/node/address)" --oom-score-adj "$(</proc/self/oom_score_adj)" &
wait
