#!/usr/bin/env bash
# Writes launch/locks/: exact packages with hashes, of the versions that
# constraints.txt has, for the Dockerfile's Python on Linux, x86-64. Needs uv.
#   launch/lock.sh
# none.txt is for all images; tpu.txt and the like have only what they add.
set -eu
cd "$(dirname "$0")/.."
compile() {
  uv pip compile pyproject.toml --extra gcs --extra wandb --extra quantized \
    --quiet \
    --python-version 3.13 --python-platform x86_64-manylinux_2_31 \
    --generate-hashes --no-annotate --no-header "$@"
}
compile --constraints constraints.txt --upgrade \
  --output-file launch/locks/none.txt
common=()
while read -r package; do
  common+=(--no-emit-package "$package")
done < <(sed -n 's/^\([a-z0-9._-]*\)==.*/\1/p' launch/locks/none.txt)
for extra in tpu cuda12 cuda13; do
  compile --constraints launch/locks/none.txt --extra "$extra" --upgrade \
    "${common[@]}" --output-file "launch/locks/$extra.txt"
done
