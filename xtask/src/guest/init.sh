#!/bin/busybox sh
# The first process of the guest. It is measured with everything else in the initrd; what it takes
# from outside stands on the kernel's command line, which is measured too.
#
# Should it end for any reason, so does the machine.
set -eu
busybox=/bin/busybox
trap '$busybox poweroff -f' EXIT

# The file system that the kernel has unpacked cannot be left by pivot_root, which every container
# does: so the same files are mounted over it, and become the root.
if [ "${1-}" != entered ]; then
    $busybox mount -o bind / /mnt
    cd /mnt
    $busybox mount -o move . /
    exec $busybox chroot . /init entered
fi

$busybox mount -t proc -o nosuid,nodev,noexec proc /proc
$busybox mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
$busybox mount -t devtmpfs -o nosuid,noexec devtmpfs /dev
$busybox mount -t tmpfs -o nosuid,nodev,mode=0755,size=1m run /run
$busybox mount -t tmpfs -o nosuid,nodev,mode=1777,size=256m tmp /tmp
$busybox mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup
echo "+memory +pids" >/sys/fs/cgroup/cgroup.subtree_control

# The value of a word of the command line.
word() {
    for each in $($busybox cat /proc/cmdline); do
        case "$each" in "$1="*) echo "${each#*=}" ;; esac
    done
}

for module in /lib/modules/*; do
    case "$module" in
        # Where it does not load there are no reports, and the supervisor says so.
        *-sev_guest.ko) $busybox insmod "$module" || true ;;
        *) $busybox insmod "$module" ;;
    esac
done
# Where the kernel hands out attestation reports, if it can.
$busybox mount -t configfs -o nosuid,nodev,noexec configfs /sys/kernel/config 2>/dev/null || true

# toani.net=ADDRESS/LENGTH,ROUTER,NAMESERVER
net="$(word toani.net)"
address="${net%%,*}"
servers="${net#*,}"
$busybox ip link set lo up
$busybox ip addr add "$address" dev eth0
$busybox ip link set eth0 up
$busybox ip route add default via "${servers%%,*}"
echo "nameserver ${servers#*,}" >/run/resolv.conf
$busybox mount -o remount,bind,ro /

case "$(word toani.driver)" in
    gvisor) containers="gvisor /bin/runsc /lib/connector.erofs" ;;
    native) containers="native /bin/toani-connector" ;;
esac
/bin/toani-sandbox guest $containers --report "$(word toani.report)"
