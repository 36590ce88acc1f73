#!/usr/bin/env bash
# Boots a Debian: its systemd becomes process 1 of namespaces of its own. The network is the host's.
# Ends when the machine is powered off or rebooted.
# Usage: boot.sh FOLDER LAYERS CGROUP
# Its files are those of the folders LAYERS, separated by ':', with FOLDER/changes on top.
set -euo pipefail
folder=$1 layers=$2 cgroup=$3

if [[ ${4-} != inside ]]; then
    mkdir "$cgroup"
    echo $$ >"$cgroup/cgroup.procs"
    exec unshare --mount --pid --uts --ipc --cgroup --fork --kill-child \
        "$0" "$folder" "$layers" "$cgroup" inside
fi

# What systemd expects of whoever starts it: https://systemd.io/CONTAINER_INTERFACE
mount -t overlay -o "lowerdir=$layers,upperdir=$folder/changes,workdir=$folder/work" \
    overlay "$folder/root"
cd "$folder/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
cp --archive /dev/{null,zero,full,random,urandom,tty} dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
pivot_root . mnt
umount --lazy /mnt
# Credentials of services are mounted elsewhere and moved here.
mount --make-rshared /
exec env -i container=unshare PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
