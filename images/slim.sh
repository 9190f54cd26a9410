#!/bin/sh
# `slim.sh ENVIRONMENT` removes files that the program never loads from a Python environment, and compiles the rest.
#
# Compiled files contain the hash of their source instead of its time, and Python does not check it when it loads them. So
# two builds are identical.
set -eu
cd "$1"/lib/python3.*/site-packages
# The Kubernetes client's classes of kinds and calls, which it loads by name only: kubeballoon sends and reads plain JSON.
find kubernetes -path '*/client/api/*' ! -name __init__.py -delete
find kubernetes -path '*/client/models/*' ! -name __init__.py -delete
rm -rf numpy/distutils numpy/f2py numpy/*/include
find numpy -type d -name tests -prune -exec rm -rf {} +
find . -name '*.py[ix]' -delete
# The libraries in numpy.libs are left out: they were patched after they were linked, and strip breaks them.
find . -name '*.so' ! -path '*.libs/*' -exec strip --strip-unneeded --remove-section=.note.gnu.build-id {} +
# RECORD has hashes of the files that were changed here; uv_cache.json has the time of the build.
rm -f ./*.dist-info/RECORD ./*.dist-info/uv_cache.json
find . -name __pycache__ -prune -exec rm -rf {} +
"$1"/bin/python -m compileall -q --invalidation-mode unchecked-hash .
