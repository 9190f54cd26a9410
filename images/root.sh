#!/bin/sh
# `root.sh ENVIRONMENT ROOT` makes a root file system in which a Python environment can run, from the system that built it.
#
# ROOT gets the Python interpreter, its standard library, and the shared libraries that these and the environment are
# linked with: no shell, no package manager, and nothing else that could be run. The environment itself is not copied.
# For programs that list what an image consists of, ROOT/var/lib/dpkg/status.d describes each Debian package of which a file
# was copied, as in Google's distroless images.
set -eu
environment=$1 root=$2
python="$environment/bin/python"
library="$("$python" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"

# Copies a file to where it is without symbolic links in its directory's path, so that /lib and /usr/lib are one.
add() {
    mkdir -p "$root$(dirname "$2")"
    cp "$1" "$2" "$root$(dirname "$2")"
}
real() { printf '%s/%s' "$(realpath "$(dirname "$1")")" "$(basename "$1")"; }

mkdir -p "$root/usr/lib" "$root/usr/bin" "$root/etc/ssl/certs" "$root/var/lib/dpkg/status.d"
for name in lib lib64 bin; do
    mkdir -p "$root/usr/$name"
    ln -s "usr/$name" "$root/$name"
done
mkdir -m 1777 "$root/tmp"

# The interpreter, by each symbolic link on the way to it.
link="$python"
while [ -L "$link" ]; do
    target="$(readlink "$link")"
    case "$target" in /*) link="$target" ;; *) link="$(dirname "$link")/$target" ;; esac
    add -P "$(real "$link")"
done

# The standard library, without what a server does not use.
mkdir -p "$root$library"
tar --create --directory "$library" \
    --exclude='./config-*' --exclude='*/__pycache__' --exclude=./dist-packages --exclude=./distutils \
    --exclude=./ensurepip --exclude=./idlelib --exclude=./lib2to3 --exclude=./pydoc_data --exclude=./site-packages --exclude=./test --exclude=./tkinter \
    --exclude=./turtledemo --exclude='*/_test*.so' --exclude='*/xx*.so' --exclude='*/_tkinter*.so' \
    --exclude='*/_curses*.so' --exclude='*/_dbm*.so' --exclude='*/_gdbm*.so' --exclude='*/readline*.so' \
    --exclude='*/nis*.so' --exclude='*/_sqlite3*.so' . | tar --extract --directory "$root$library"
"$python" -m compileall -q --invalidation-mode unchecked-hash -s "$root" "$root$library"

# libgcc_s is loaded by name when a thread ends.
libgcc="$(ldconfig -p | sed -n 's/.*libgcc_s\.so\.1 .*=> //p' | head -n 1)"
linked="$(find "$(realpath "$python")" "$libgcc" "$root$library" "$environment" -type f \
    \( -name '*.so*' -o -path "$(realpath "$python")" \) -exec ldd {} + 2>/dev/null)"
if missing="$(printf '%s\n' "$linked" | grep 'not found')"; then
    printf 'root: libraries are missing:\n%s\n' "$missing" >&2
    exit 1
fi
for file in "$libgcc" $(printf '%s\n' "$linked" | sed -n 's/^\t\(.* => \)\{0,1\}\(\/[^ ]*\) (0x.*/\2/p' | sort -u); do
    case "$file" in "$environment"/*) continue ;; esac
    add -L "$(real "$file")"
done

cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
cp -L /etc/os-release /etc/nsswitch.conf "$root/etc/"
cp -r /etc/ld.so.conf /etc/ld.so.conf.d "$root/etc/"
printf 'root:x:0:0:root:/:/sbin/nologin\nkubeballoon:x:65532:65532::/:/sbin/nologin\n' >"$root/etc/passwd"
printf 'root:x:0:\nkubeballoon:x:65532:\n' >"$root/etc/group"
ldconfig -r "$root"

# Which packages the files are of, and their licences. dpkg lists files where packages have them, which may be /lib.
find "$root" -type f | sed "s|^$root||; p; s|^/usr/lib|/lib|" >"$root/tmp/files"
grep --files-with-matches --line-regexp --fixed-strings --file="$root/tmp/files" /var/lib/dpkg/info/*.list |
    sed 's|.*/||; s|\.list$||; s|:.*||' | while read -r package; do
    dpkg-query --status "$package" >"$root/var/lib/dpkg/status.d/$package"
    if [ -e "/usr/share/doc/$package/copyright" ]; then add -L "/usr/share/doc/$package/copyright"; fi
done
rm "$root/tmp/files"
