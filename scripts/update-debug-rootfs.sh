#!/usr/bin/env bash
# Puts a freshly built envd, and the wrenn-init of this checkout, into an existing root file system image. The image is
# not mounted, and it is replaced by one rename: sandboxes that run from it keep the old one.
set -euo pipefail

usage() {
	cat <<'END'
usage: scripts/update-debug-rootfs.sh [IMAGE]

IMAGE is the path of an ext4 image, or the name of a template in the data directory. Default: minimal.

  WRENN_DATA_DIR  the data directory (default: /var/lib/wrenn)
  ENVD            the envd program to put in (default: builds/envd, made by `make build-envd` if it is missing)
END
}

die() {
	echo "update-debug-rootfs: $*" >&2
	exit 1
}

case ${1:-} in
-h | --help)
	usage
	exit 0
	;;
-*)
	usage >&2
	exit 2
	;;
esac
[ $# -le 1 ] || {
	usage >&2
	exit 2
}

PATH=$PATH:/usr/sbin:/sbin
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
image=${1:-minimal}
[[ -f $image || $image == */* ]] || image=${WRENN_DATA_DIR:-/var/lib/wrenn}/images/$image.ext4
envd=${ENVD:-$repository/builds/envd}
init=$repository/images/init/wrenn-init

for tool in debugfs e2fsck; do
	command -v "$tool" >/dev/null || die "$tool is missing: apt-get install e2fsprogs"
done
[ -e "$image" ] || die "there is no image $image: \`wrenn up\` builds it, or name another one"
[ -f "$image" ] || die "$image is not a file"
# The magic number of ext2, 3 and 4, at byte 56 of the superblock, which starts at byte 1024.
[ "$(od -An -tx2 --endian=little -j1080 -N2 -- "$image" 2>/dev/null | tr -d ' ')" = ef53 ] || die "$image is not an ext4 image"

if [ ! -e "$envd" ]; then
	[ -z "${ENVD:-}" ] || die "there is no envd at $envd"
	make -C "$repository" build-envd
fi
[ -f "$envd" ] || die "$envd is not a file"

# The copy lies beside the image, so that the last step is a rename. debugfs reads the programs by these plain names,
# whatever characters their own paths have.
image=$(realpath -- "$image")
work=$(mktemp -d "$(dirname "$image")/.update-XXXXXX")
trap 'rm -rf -- "$work"' EXIT
trap 'exit 130' INT TERM
cp --reflink=auto --sparse=always --preserve=mode,ownership -- "$image" "$work/image"
chmod u+w "$work/image"
cp -- "$envd" "$work/envd"
cp -- "$init" "$work/wrenn-init"

# /sbin may be a symbolic link, which debugfs follows in the middle of a path only.
put() {
	local name=$1 folder=$2 field
	printf 'cd %s/.\nrm %s\nwrite %s %s\n' "$folder" "$name" "$name" "$name"
	for field in 'mode 0100755' 'uid 0' 'gid 0'; do
		printf 'set_inode_field %s %s\n' "$name" "$field"
	done
}
cd "$work"
{
	put envd /usr/local/bin
	put wrenn-init /sbin
} | debugfs -w -f /dev/stdin image >debugfs.log 2>&1

# debugfs says success whatever its commands did: look at the result.
e2fsck -fn image >e2fsck.log 2>&1 || die "the new image is not sound, the old one stays: $(tail -n 5 e2fsck.log)"
for path in /usr/local/bin/envd /sbin/./wrenn-init; do
	debugfs -R "cat $path" image 2>/dev/null | cmp -s - "${path##*/}" ||
		die "$path did not go into the image, the old one stays: $(grep -v '^debugfs' debugfs.log | tail -n 5)"
done

chmod --reference="$image" image
sync image
mv -f -- image "$image"
echo "$image has the envd of $envd now; templates booted from the old image must be prepared again"
