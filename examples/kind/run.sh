#!/usr/bin/env bash
# Builds the example, puts it into a kind cluster of its own, replaces its pods under load, and says how many requests
# failed (expected: 0). Takes docker, kind and kubectl, and about five minutes at the first time.
#
#     examples/kind/run.sh             ends by removing the cluster
#     examples/kind/run.sh --keep      leaves it, for a look and for the next run
#     examples/kind/run.sh --delete    removes it, and does nothing else
#
# Exit code: 0 no request failed, 1 one did, 2 it could not be tried. No other cluster, context or file is touched.
set -euo pipefail
cd "$(dirname "$0")/../.."

image=prestop-kind:1
cluster=prestop
rollouts=3
here=examples/kind
keep=
touched=

say() { printf '\n== %s\n' "$*"; }
stop() { printf '%s\n' "$*" >&2; exit 2; }

case ${1:-} in
  '') ;;
  --keep) keep=yes ;;
  --delete) ;;
  *) stop "unknown argument: $1. There are --keep and --delete" ;;
esac
for tool in docker kind kubectl; do
  command -v "$tool" >/dev/null || stop "$tool is not installed (or not in PATH). Needed are docker, kind \
(https://kind.sigs.k8s.io, \"go install sigs.k8s.io/kind@latest\") and kubectl. Without a cluster, .ci/image runs the same \
image's file system in namespaces of its own."
done
docker info >/dev/null 2>&1 || stop "docker does not answer. Is its daemon running, and may you use it? \"docker info\" says more."

# Its own kubeconfig, so that nobody's current context changes.
work=$(mktemp -d)
export KUBECONFIG=$work/kubeconfig
finish() {
  local code=$?
  if [ -n "$keep" ] && [ -n "$touched" ]; then
    say "the cluster stays"
    printf '%s\n' "look:   kind export kubeconfig --name $cluster && kubectl --context kind-$cluster get pods" \
      "remove: $here/run.sh --delete"
  elif [ -n "$touched" ]; then
    kind delete cluster --name "$cluster" || true
  fi
  rm -rf "$work"
  exit "$code"
}
trap finish EXIT
if [ "${1:-}" = --delete ]; then
  touched=yes
  exit 0
fi
# What fails from here on could not be tried, until the load says otherwise.
trap 'printf "%s\n" "the line above is what failed" >&2; exit 2' ERR

say "build the image"
# (`kind load` stumbles over an image that is an index with attestations.)
DOCKER_BUILDKIT=1 BUILDX_NO_DEFAULT_ATTESTATIONS=1 docker build --file "$here/Dockerfile" --tag "$image" .

say "the cluster"
touched=yes
if kind get clusters 2>/dev/null | grep -qx "$cluster"; then
  kind export kubeconfig --name "$cluster"
else
  kind create cluster --name "$cluster" --wait 120s
fi
kind load docker-image "$image" --name "$cluster"

say "the service"
kubectl delete job load --ignore-not-found --wait
kubectl apply -f "$here/deployment.yaml" -f "$here/service.yaml" -f "$here/pod-disruption-budget.yaml"
# A cluster that was kept has pods of the image before.
kubectl rollout restart deployment/orders
kubectl rollout status deployment/orders --timeout 180s

say "the load"
kubectl apply -f "$here/load-job.yaml"
kubectl wait job/load --for 'jsonpath={.status.ready}=1' --timeout 60s
for rollout in $(seq "$rollouts"); do
  say "rollout $rollout of $rollouts, under load"
  kubectl rollout restart deployment/orders
  kubectl rollout status deployment/orders --timeout 180s
done

over() { [ -n "$(kubectl get job load --output 'jsonpath={.status.succeeded}{.status.failed}')" ]; }
! over || stop "the load ended before the rollouts did: this machine is too slow for $rollouts rollouts in its two minutes"

say "what the load saw (it goes on to the end of its two minutes)"
for _ in $(seq 90); do
  ! over || break
  sleep 2
done
over || stop "the load did not end. \"kubectl describe job load\" (with --keep) may say why"
kubectl logs job/load
failed=$(kubectl logs job/load | sed -n 's/^failed requests: \([0-9]*\) of .*/\1/p')
trap - ERR
[ -n "$failed" ] || stop "the load ended without its last line"
# Not a failure by itself: a program that ends right behind its hook can take it with it.
hooks=$(kubectl get events --field-selector reason=FailedPreStopHook) || true
[ -z "$hooks" ] || printf 'preStop hooks that failed, by the events:\n%s\n' "$hooks"
say "failed requests: $failed"
[ "$failed" = 0 ] || exit 1
