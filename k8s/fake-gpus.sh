#!/usr/bin/env bash
# fake-gpus.sh NODE COUNT [RESOURCE]: lets a node of a test cluster offer COUNT GPUs that are not there; 0 takes them back.
# RESOURCE is nvidia.com/gpu, or nvidia.com/gpu.shared, nvidia.com/mig-1g.10gb, amd.com/gpu ... The node is labelled and tainted as
# GPU nodes are as long as it offers any. Needs the right to patch nodes/status: for test clusters, never for a run.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 NODE COUNT [RESOURCE]" >&2; exit 2; }
node=$1 count=$2 resource=${3:-nvidia.com/gpu} seconds=60
[[ $count =~ ^[0-9]+$ ]] || { echo "$0: '$count' is no number of GPUs" >&2; exit 2; }

offers() { # what the node offers besides the resource itself
  kubectl get node "$node" -o go-template='{{range $name, $count := .status.capacity}}{{$name}}={{$count}}{{"\n"}}{{end}}' |
    grep -v "^$resource=" | grep -E '^[a-z0-9.-]*(nvidia|amd|intel)\.com/[^=]*=[1-9]' || true
}
allocatable() { kubectl get node "$node" -o "jsonpath={.status.allocatable.${resource//./\\.}}"; }

if [ "$count" = 0 ]; then
  nothing="{\"$resource\":null}"
  kubectl patch node "$node" --subresource=status --type=merge -p "{\"status\":{\"capacity\":$nothing,\"allocatable\":$nothing}}"
  if [ -z "$(offers)" ]; then
    kubectl taint node "$node" nvidia.com/gpu- 2>/dev/null || true # there may be none
    kubectl label node "$node" nvidia.com/gpu.present- nvidia.com/gpu.product-
  fi
  exit
fi

numbers="{\"$resource\":\"$count\"}"
kubectl patch node "$node" --subresource=status --type=merge -p "{\"status\":{\"capacity\":$numbers,\"allocatable\":$numbers}}"
kubectl label --overwrite node "$node" nvidia.com/gpu.present=true
product=$(kubectl get node "$node" -o 'jsonpath={.metadata.labels.nvidia\.com/gpu\.product}')
[ -n "$product" ] || kubectl label node "$node" nvidia.com/gpu.product=FAKE-A100
kubectl taint --overwrite node "$node" nvidia.com/gpu=present:NoSchedule
for ((second = 0; second < seconds; second++)); do # the kubelet confirms it with its next status
  [ "$(allocatable)" = "$count" ] && exit
  sleep 1
done
echo "$0: $node offers $(allocatable) $resource, and not $count" >&2
exit 1
