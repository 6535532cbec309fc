#!/bin/sh
# Installs what Wherry's build, run and tests need on Debian and its children.
#
#	tools/setup.sh run     to build the OS and run it in a virtual machine
#	tools/setup.sh test    all of that, and what the tests use as judges and peers
#
# Does nothing (in about 0.1 s) when everything is there. Uses sudo when it is
# not root. On other systems it says what is missing and ends with 1.
set -eu

run='qemu-system-x86 qemu-utils squashfs-tools zstd gcc libc6-dev libseccomp-dev libzstd-dev pkg-config ca-certificates curl'
test="$run xz-utils bsdiff xfsprogs cryptsetup-bin gdisk e2fsprogs util-linux nftables docker-registry redis-tools debootstrap cpio libarchive-tools protobuf-compiler libprotobuf-dev openssl openssh-client dnsmasq-base iproute2 ovmf swtpm tpm2-tools dosfstools mtools sbsigntool osslsigncode binutils efibootmgr xorriso genisoimage ipxe-qemu seabios"

case ${1:-} in
run) packages=$run commands='go curl qemu-system-x86_64 qemu-img mksquashfs zstd gcc pkg-config' ;;
test) packages=$test commands='go curl qemu-system-x86_64 qemu-img mksquashfs zstd xz bsdiff gcc pkg-config mkfs.xfs veritysetup sgdisk mkfs.ext4 mkswap nft swtpm tpm2_eventlog tpm2_checkquote docker-registry redis-benchmark debootstrap cpio bsdtar protoc ssh-keygen ssh-agent dnsmasq ip fsck.fat mcopy sbverify osslsigncode objdump efibootmgr xorriso isoinfo' ;;
*)
	echo "usage: $0 run|test" >&2
	exit 2
	;;
esac
PATH=$PATH:/usr/sbin:/sbin

say() { echo "setup: $*" >&2; }

if ! command -v go >/dev/null; then
	say "Go is missing: install Go 1.26 or newer (go.dev/dl) and put its bin folder on your PATH"
	exit 1
fi
# Debian's own Go is older, and what it says of go.mod does not help. From 1.21
# on Go fetches the right toolchain itself, unless it was told not to.
goversion=$(cd / && go env GOVERSION)
case $goversion in
go1.[0-9] | go1.[0-9].* | go1.1[0-9] | go1.1[0-9].* | go1.20*)
	say "$goversion at $(command -v go) is too old: install Go 1.26 or newer (go.dev/dl)"
	exit 1
	;;
go1.2[1-5]*)
	if [ "$(cd / && go env GOTOOLCHAIN)" = local ]; then
		say "$goversion at $(command -v go) is too old: install Go 1.26 or newer (go.dev/dl), or let Go fetch it with GOTOOLCHAIN=auto"
		exit 1
	fi
	;;
esac

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
	missing=
	for c in $commands; do
		command -v "$c" >/dev/null || missing="$missing $c"
	done
	[ -n "$missing" ] || exit 0
	say "this system has no apt-get, so please install yourself the programs:$missing"
	say "(on Debian they come with the packages: $packages)"
	say "and build with: wherry build --kernel FILE --modules DIR --certificates FILE"
	exit 1
fi

# Which packages are not installed: one call for all of them.
# shellcheck disable=SC2086
installed=$(dpkg-query -W -f='${db:Status-Abbrev}${Package}\n' $packages 2>/dev/null | sed -n 's/^ii //p') || true
missing=
for p in $packages; do
	printf '%s\n' "$installed" | grep -qx "$p" || missing="$missing $p"
done

root=
if [ "$(id -u)" != 0 ]; then
	root=sudo
fi

# lists says whether apt knows the kernel and all missing packages.
lists() {
	# shellcheck disable=SC2086
	for p in linux-image-6.12-cloud-amd64 $missing; do
		apt-cache show --no-all-versions "$p" >/dev/null 2>&1 || return 1
	done
}

# A kernel in the cache needs no lists; without one the build asks apt.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/wherry
if [ -z "$missing" ] && [ -d "$cache/kernel" ] && ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1; then
	exit 0
fi
if [ -n "$root" ] && ! command -v sudo >/dev/null; then
	if [ -z "$missing" ] && lists; then
		exit 0
	fi
	say "not root, and there is no sudo; as root, run:"
	say "apt-get update && apt-get install --no-install-recommends${missing:- ca-certificates}"
	exit 1
fi
if ! lists; then
	say "apt-get update"
	$root apt-get -qq update
fi
[ -n "$missing" ] || exit 0

# Packages that bring a service (docker-registry) must not start it: a
# policy-rc.d that forbids it, unless the system has one of its own.
policy=/usr/sbin/policy-rc.d
made=
cleanup() {
	if [ -n "$made" ]; then
		$root rm -f "$policy"
	fi
}
trap cleanup EXIT
trap 'exit 1' INT TERM
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' | $root tee "$policy" >/dev/null
	$root chmod 755 "$policy"
	made=yes
fi
say "installing:$missing"
# shellcheck disable=SC2086
$root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends $missing >/dev/null
# A service that is not started now would be at the next boot of this computer.
case $missing in
*docker-registry*)
	if command -v systemctl >/dev/null; then
		$root systemctl disable docker-registry >/dev/null 2>&1 || true
	fi
	;;
esac
say "done"
