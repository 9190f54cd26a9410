#!/bin/sh
# Takes out of an environment what the program never loads, and compiles the rest: slim.sh ENVIRONMENT
#
# Compiled files carry the hash of their source, not its time, and are not checked when they are loaded: what is built
# twice is the same.
set -eu
cd "$1"/lib/python3.*/site-packages
# The Kubernetes client's class for each kind and call: the program speaks JSON, and they are loaded by name only.
find kubernetes -path '*/client/api/*' ! -name __init__.py -delete
find kubernetes -path '*/client/models/*' ! -name __init__.py -delete
rm -rf numpy/distutils numpy/f2py numpy/*/include
find numpy -type d -name tests -prune -exec rm -rf {} +
find . -name '*.py[ix]' -delete
# Not what numpy brings along in numpy.libs: it was patched after it was linked, and strip spoils that.
find . -name '*.so' ! -path '*.libs/*' -exec strip --strip-unneeded --remove-section=.note.gnu.build-id {} +
# What tells of the time or the folder of the build, as build IDs do, and hashes of what was changed here.
rm -f ./*.dist-info/RECORD ./*.dist-info/uv_cache.json
find . -name __pycache__ -prune -exec rm -rf {} +
"$1"/bin/python -m compileall -q --invalidation-mode unchecked-hash .
