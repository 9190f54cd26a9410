#!/usr/bin/env bash
# A virt-launcher pod without a container engine: one libvirt daemon, and the QEMU it starts, in cgroups, a mount
# namespace and a pid namespace of their own, as a user that is not root. It ends, whole, with its standard input.
#
# usage: launcher.sh DIRECTORY IMAGE CACHE LISTEN_FD [CGROUP ...]
#   DIRECTORY  the pod's own files; the pod sees it at /mnt
#   IMAGE      what guests boot; the pod sees it at /mnt/image
#   CACHE      what libvirt learns about QEMU, shared by all pods; the pod sees it at /mnt/cache
#   LISTEN_FD  the daemon's listening socket, open
#   CGROUP     a directory of a cgroup to be in
set -euo pipefail

user=107 # KubeVirt's, for launchers that are not root

if [[ $1 != --inside ]]; then
  for cgroup in "${@:5}"; do
    echo $$ >"$cgroup/cgroup.procs"
  done
  exec unshare --mount --propagation private --pid --fork --kill-child=KILL --mount-proc -- "$0" --inside "$@"
fi
directory=$2 image=$3 cache=$4 listen_fd=$5

# The host's paths may be closed to the user, and too long for the sockets that libvirt makes.
mount --bind "$image" "$directory/image"
mount --bind "$cache" "$directory/cache"
mount --rbind "$directory" /mnt

# For guests whose memory cannot be discarded: files in here cannot have holes.
mount -t ramfs -o mode=0700 ramfs /mnt/memory
chown "$user:$user" /mnt/memory

# libvirt refuses a user without a name.
for names in passwd group; do
  cp "/etc/$names" "/mnt/$names"
done
echo "qemu:x:$user:$user::/mnt:/usr/sbin/nologin" >>/mnt/passwd
echo "qemu:x:$user:" >>/mnt/group
for names in passwd group; do
  mount --bind "/mnt/$names" "/etc/$names"
done

groups=$user
[[ -e /dev/kvm ]] && groups=$(stat --format=%g /dev/kvm)

# libvirt wants the number of its own process: sh has it when it becomes libvirtd.
# shellcheck disable=SC2016
start='LISTEN_PID=$$ exec libvirtd --config /mnt/etc/libvirt/libvirtd.conf --pid-file /mnt/run/libvirtd.pid'

supervise() {
  [[ $listen_fd == 3 ]] || exec 3<&"$listen_fd"- # where socket activation has it
  while :; do
    env --ignore-environment PATH="$PATH" HOME=/mnt XDG_RUNTIME_DIR=/mnt/run XDG_CONFIG_HOME=/mnt/etc \
      XDG_DATA_HOME=/mnt/data XDG_CACHE_HOME=/mnt/cache LISTEN_FDS=1 LISTEN_FDNAMES=libvirtd.socket \
      setpriv --reuid="$user" --regid="$user" --groups="$groups" --inh-caps=-all --bounding-set=-all \
      sh -c "$start" </dev/null || echo "libvirtd ended with status $?"
    sleep 0.2 # as KubeVirt's launcher, which restarts its daemon
  done
}

supervise &
exec {listen_fd}<&-
read -r _ || true # this is process 1 of the namespace: all others are killed when it ends
