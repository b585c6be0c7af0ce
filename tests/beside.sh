#!/usr/bin/env bash
# Whether everything of this project resolves beside what people have installed. It asks the package index, installs nothing, and
# needs uv; without an index use none of it.
set -euo pipefail
cd "$(dirname "$0")/.."
found=$(mktemp) failed=0
trap 'rm -f "$found"' EXIT
for other in flwr nvflare monai kfp 'kubeflow>=0.5'; do
  if { echo '.[learning,cluster,export]'; echo "$other"; } \
    | uv pip compile --quiet --python-version "${PYTHON_VERSION:-3.11}" - >"$found"; then
    echo "$other: $(grep -E "^(${other%%[>=]*}|kubernetes|numpy|torch)==" "$found" | tr '\n' ' ')"
  else
    echo "$other: does not resolve beside it" >&2
    failed=1
  fi
done
exit $failed
