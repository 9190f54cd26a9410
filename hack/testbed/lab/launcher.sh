#!/usr/bin/env bash
# Runs a virt-launcher pod without a container engine: a libvirt daemon, and the QEMU that it starts, as a user that is
# not root, in cgroups, a mount namespace and a pid namespace of their own. All of it ends with its standard input.
#
# usage: launcher.sh DIRECTORY IMAGE CACHE LISTEN_FD [CGROUP ...]
#   DIRECTORY  the pod's own files; mounted at /mnt
#   IMAGE      the image that guests boot; mounted at /mnt/image
#   CACHE      QEMU's capabilities as libvirt has found them, shared by all pods; mounted at /mnt/cache
#   LISTEN_FD  the file descriptor of the daemon's listening socket
#   CGROUP     the directory of a cgroup that the pod runs in
set -euo pipefail

user=107 # KubeVirt's user of launchers that are not root

if [[ $1 != --inside ]]; then
  for cgroup in "${@:5}"; do
    echo $$ >"$cgroup/cgroup.procs"
  done
  exec unshare --mount --propagation private --pid --fork --kill-child=KILL --mount-proc -- "$0" --inside "$@"
fi
directory=$2 image=$3 cache=$4 listen_fd=$5

# Mounted at /mnt: the user may not be able to enter the host's paths, and they may be too long for libvirt's sockets.
mount --bind "$image" "$directory/image"
mount --bind "$cache" "$directory/cache"
mount --rbind "$directory" /mnt

# For guests whose memory cannot be discarded: files in a ramfs cannot have holes.
mount -t ramfs -o mode=0700 ramfs /mnt/memory
chown "$user:$user" /mnt/memory

# libvirt refuses to run as a user without a name.
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

# Socket activation needs libvirtd's own process id in LISTEN_PID: sh knows it, and becomes libvirtd by exec.
# shellcheck disable=SC2016
start='LISTEN_PID=$$ exec libvirtd --config /mnt/etc/libvirt/libvirtd.conf --pid-file /mnt/run/libvirtd.pid'

supervise() {
  [[ $listen_fd == 3 ]] || exec 3<&"$listen_fd"- # the descriptor that socket activation uses
  while :; do
    env --ignore-environment PATH="$PATH" HOME=/mnt XDG_RUNTIME_DIR=/mnt/run XDG_CONFIG_HOME=/mnt/etc \
      XDG_DATA_HOME=/mnt/data XDG_CACHE_HOME=/mnt/cache LISTEN_FDS=1 LISTEN_FDNAMES=libvirtd.socket \
      setpriv --reuid="$user" --regid="$user" --groups="$groups" --inh-caps=-all --bounding-set=-all \
      sh -c "$start" </dev/null || echo "libvirtd ended with status $?"
    sleep 0.2 # restarted when it ends, as by KubeVirt's launcher
  done
}

supervise &
exec {listen_fd}<&-
read -r _ || true # this is process 1 of the namespace: the kernel kills all others when it ends
