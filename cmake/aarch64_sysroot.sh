#!/usr/bin/env bash
# Makes a folder to cross-build against and to emulate: the arm64 C++ library, JPEG, PNG and Python of this Debian, and
# the aarch64 wheels of what edgedet needs at run time. Nothing is installed on this machine, and no code of another
# architecture is run. Needs mmdebstrap, the cross compiler and a Python with pip (PYTHON, by default python3).
#
#   cmake/aarch64_sysroot.sh build/aarch64-root
set -euo pipefail
root=${1:?usage: aarch64_sysroot.sh FOLDER}
python=${PYTHON:-python3}
project=$(cd "$(dirname "$0")/.." && pwd)

. /etc/os-release
if [ "${ID:-}" != debian ]; then
  echo "error: expected Debian, whose packages fill the folder, got ${PRETTY_NAME:-another system};" \
    "use a copy of a board's root file system instead" >&2
  exit 2
fi
sources=/etc/apt/sources.list.d/debian.sources
[ -s $sources ] || sources=/etc/apt/sources.list

rm -rf "$root" "$root.partial"
mkdir -p "$root.partial"
compiler=$(aarch64-linux-gnu-g++ -dumpversion)
mmdebstrap --quiet --variant=extract --arch=arm64 \
  --include="libc6-dev,libstdc++-${compiler%%.*}-dev,libjpeg62-turbo-dev,libpng-dev,libpython3-dev,python3-minimal" \
  "$VERSION_CODENAME" "$root.partial" $sources
# Absolute links would lead out of the folder.
find "$root.partial" -lname '/*' | while read -r link; do
  ln -sfn "$(realpath -ms --relative-to="$(dirname "$link")" "$root.partial$(readlink "$link")")" "$link"
done

version=$(basename "$(readlink "$root.partial/usr/bin/python3")" | sed s/python//)
platforms=()
for glibc in 17 27 28 31 35; do # of numpy's, pillow's and openvino's wheels
  platforms+=(--platform "manylinux_2_${glibc}_aarch64")
done
"$python" - "$project/pyproject.toml" > "$root.partial/requirements.txt" << 'DEPENDENCIES'
import sys, tomllib
print(*tomllib.load(open(sys.argv[1], "rb"))["project"]["dependencies"], sep="\n")
DEPENDENCIES
"$python" -m pip install --quiet --disable-pip-version-check --no-compile --only-binary=:all: --implementation cp \
  --python-version "$version" "${platforms[@]}" -c "$project/constraints.txt" -r "$root.partial/requirements.txt" \
  --target "$root.partial/usr/lib/python3/dist-packages"
mv "$root.partial" "$root"
echo "$root: $PRETTY_NAME for arm64, Python $version, $(du -sm "$root" | cut -f1) MB"
