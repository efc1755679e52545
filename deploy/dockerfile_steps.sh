#!/usr/bin/env bash
# Runs each step of the Dockerfile in order, without Docker. Every stage has its own root: an overlay over this machine's,
# which replaces the base image and must have its toolchain. The last stage begins with an empty root. Then starts the
# image's command, as its user, in its root, and runs its HEALTHCHECK. Needs root, and a minute or two for the build.
#
#   deploy/dockerfile_steps.sh [DIRECTORY]      DIRECTORY keeps the roots; by default they are removed
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "it mounts and changes roots: run it as root"; exit 1; }
if [ -z "${IN_NAMESPACE:-}" ]; then
  # Its own mount namespace: the mounts end with it.
  IN_NAMESPACE=1 exec unshare --mount "$0" "$@"
fi
work=${1:-$(mktemp -d)}
mkdir -p "$work"
server=
cleanup() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  [ -n "${1:-}" ] || { umount -R "$work"/*/root 2>/dev/null || true; rm -rf "$work"; }
}
trap 'cleanup "${1:-}"' EXIT

# The build's context: the files in git that .dockerignore does not exclude.
context=$work/context
mkdir -p "$context"
python3 - "$context" <<'PYTHON'
import pathlib, shutil, subprocess, sys
all_of_it, *wanted = [line.strip() for line in open(".dockerignore") if line.strip() and not line.startswith("#")]
assert all_of_it == "*" and all(rule.startswith("!") for rule in wanted), "not what this script can read"
wanted = {pathlib.Path(rule[1:]) for rule in wanted}
known = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], check=True, capture_output=True, text=True).stdout
for name in map(pathlib.Path, known.splitlines()):
    if name.is_file() and wanted & {name, *name.parents}:
        target = pathlib.Path(sys.argv[1], name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(name, target)
PYTHON
echo "context: $(find "$context" -type f | wc -l) files, $(du -sh "$context" | cut -f1)"

# The Dockerfile's instructions, one per line.
sed -e '/^[[:space:]]*#/d' -e '/^[[:space:]]*$/d' Dockerfile | sed -e ':a' -e '/\\$/{N;s/\\\n//;ba}' >"$work/instructions"

stage= root= directory=/ shell=(/bin/sh -c) user= health= entrypoint= command=
while read -r instruction rest; do
  echo "--- $instruction $rest"
  case $instruction in
  FROM)
    read -r base _ stage <<<"$rest"
    stage=${stage:-final} root=$work/${stage:-final}/root directory=/
    mkdir -p "$root"
    if [ "$base" != scratch ]; then
      mkdir -p "$work/$stage/upper" "$work/$stage/work"
      mount -t overlay overlay -o "lowerdir=/,upperdir=$work/$stage/upper,workdir=$work/$stage/work" "$root"
      mount --bind /dev "$root/dev"
      mount -t proc proc "$root/proc"
      echo "in place of $base: $(. /etc/os-release && echo "$PRETTY_NAME"), $(rustc --version)"
    fi
    ;;
  SHELL) mapfile -t shell < <(python3 -c 'import json, sys; print("\n".join(json.loads(sys.argv[1])))' "$rest") ;;
  WORKDIR) directory=$rest && mkdir -p "$root$directory" ;;
  COPY)
    from=$context
    case $rest in --from=*) from=$work/${rest#--from=}; from=${from%% *}/root; rest=${rest#* } ;; esac
    read -ra paths <<<"$rest"
    to=${paths[-1]}
    case $to in /*) to=$root$to ;; *) to=$root$directory/$to ;; esac
    unset 'paths[-1]'
    for path in "${paths[@]}"; do
      if [ -d "$from/$path" ]; then mkdir -p "$to" && cp -a "$from/$path/." "$to"
      else case $to in */) mkdir -p "$to" ;; *) mkdir -p "$(dirname "$to")" ;; esac && cp -a "$from/$path" "$to"; fi
    done
    ;;
  RUN) chroot "$root" /usr/bin/env --chdir="$directory" "${shell[@]}" "$rest" ;;
  USER) user=$rest ;;
  HEALTHCHECK) health=${rest#*CMD } ;;
  ENTRYPOINT) entrypoint=$rest ;;
  CMD) command=$rest ;;
  EXPOSE | STOPSIGNAL) ;;
  *) echo "unknown instruction $instruction" && exit 1 ;;
  esac
done <"$work/instructions"

words() { python3 -c 'import json, sys; print("\n".join(w for a in sys.argv[1:] for w in json.loads(a)))' "$@"; }
echo "--- the image: $(du -sh --apparent-size "$root" | cut -f1), $(find "$root" -type f | wc -l) files"
find "$root" -type f -printf '%10s  /%P\n'
mapfile -t entry < <(words "$entrypoint")
mapfile -t all < <(words "$entrypoint" "$command")
mapfile -t check < <(words "$health")
# The image's configuration needs keys and Redis. This shows that it is read, and that missing files are named.
chroot --userspec="$user" "$root" "${entry[@]}" check-config /etc/nexus-push/nexus-push.toml | head -1
echo "--- ${entry[*]} serve --insecure --listen 127.0.0.1:8000 (in place of: ${all[*]}), as $user"
chroot --userspec="$user" "$root" "${entry[@]}" serve --insecure --listen 127.0.0.1:8000 &
server=$!
for _ in $(seq 100); do
  if said=$(chroot --userspec="$user" "$root" "${check[@]}" 2>&1); then break; fi
  sleep 0.1
done
echo "--- ${check[*]}: $said"
[ "$said" = ok ]
curl -fsS -o "$work/page" http://127.0.0.1:8000/ && grep -q '<script' "$work/page" && echo "the dashboard: $(wc -c <"$work/page") bytes"
kill "$server" && wait "$server" && echo "--- SIGTERM: exit 0"
server=
! chroot --userspec="$user" "$root" "${check[@]}" 2>&1
