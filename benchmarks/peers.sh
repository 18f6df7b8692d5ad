#!/bin/sh
# Make the environment that benchmarks/peers.py runs Daft and Ray Data in: .venv-peers by default.
#
#     sh benchmarks/peers.sh [FOLDER]
set -eu
here=$(dirname "$0")
folder=${1:-.venv-peers}
if command -v uv >/dev/null; then
    uv venv --quiet --allow-existing --python "${PYTHON:-3.11}" "$folder"
    uv pip install --quiet --python "$folder" --requirement "$here/peers-requirements.txt"
else
    "python${PYTHON:-3.11}" -m venv "$folder"
    "$folder/bin/pip" install --quiet --requirement "$here/peers-requirements.txt"
fi
echo "$folder/bin/python"
