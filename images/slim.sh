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
# Parts of numpy that it loads on demand only; the division of memory needs arrays and no more.
rm -rf numpy/core numpy/ctypeslib numpy/distutils numpy/f2py numpy/fft numpy/ma numpy/polynomial numpy/random \
    numpy/testing numpy/*/include
rm -f numpy/_core/_simd*.so numpy/_core/_*tests*.so # its own tests' parts
find numpy -type d -name tests -prune -exec rm -rf {} +
# What activates the environment in a shell, and the commands of libraries; `helm test` runs kubectl-balloon.
find "$1/bin" -mindepth 1 ! -name 'python*' ! -name kubeballoon ! -name kubectl-balloon -delete
find . -name '*.py[ix]' -delete
# The libraries in numpy.libs are left out: they were patched after they were linked, and strip breaks them.
find . -name '*.so' ! -path '*.libs/*' -exec strip --strip-unneeded --remove-section=.note.gnu.build-id {} +
# RECORD has hashes of the files that were changed here; uv_cache.json has the time of the build.
rm -f ./*.dist-info/RECORD ./*.dist-info/uv_cache.json
find . -name __pycache__ -prune -exec rm -rf {} +
"$1"/bin/python -m compileall -q --invalidation-mode unchecked-hash .
