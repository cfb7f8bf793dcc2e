#!/usr/bin/env bash
# What DVC 3.67.1 does to files of one's own beside an import, and how one old commit stops its garbage collection.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet dvc==3.67.1
export PATH="$tmp/venv/bin:$PATH" DVC_NO_ANALYTICS=1 DVC_SITE_CACHE_DIR="$tmp/site"
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b.example GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b.example

mkdir -p "$tmp/source/data" && cd "$tmp/source" && git init -q && dvc init -q
echo brick > data/brick.txt && dvc add -q data && git add -A && git commit -qm data
mkdir "$tmp/use" && cd "$tmp/use" && git init -q && dvc init -q && dvc import -q "$tmp/source" data && git add -A && git commit -qm import

echo "== dvc update, with a file in the folder that was never added"
echo mine > data/mine.txt
(cd "$tmp/source" && echo stone > data/stone.txt && dvc add -q data && git commit -qam more)
# Expected: a refusal, as 'dvc checkout' refuses to remove what its cache does not hold.
dvc update -q data.dvc < /dev/null
# Seen: exit 0, no word, and the file is gone.
[[ -e data/stone.txt && ! -e data/mine.txt ]] && echo "data/mine.txt is gone"

echo "== dvc gc --all-commits, with one old commit that depends on a .dvc file"
git commit -qam update
printf 'stages:\n  weigh:\n    cmd: "true"\n    deps: [data.dvc]\n' > dvc.yaml
git add dvc.yaml && git commit -qm "cannot be read" && git rm -q dvc.yaml && git commit -qm "can be read again"
# Expected: that commit is skipped with a warning, or what it names is kept; the tree as it stands is fine.
code=0; dvc gc --all-commits --force > "$tmp/said" 2>&1 || code=$?
# Seen: nothing is collected; "DVC file 'data.dvc' cannot be a dependency".
[[ $code -ne 0 ]] && grep -q "cannot be a dependency" "$tmp/said" && echo "stopped by the old commit"
# Expected: with --skip-failed and the source at hand, imported data that a commit names stays in the cache.
dvc gc --all-commits --skip-failed --force > /dev/null 2>&1
# Seen: it is removed, since it can be had again, also where its source will be gone tomorrow.
digest=$(sed -n 's/^- md5: //p' data.dvc)
[[ ! -e .dvc/cache/files/md5/${digest:0:2}/${digest:2} ]] && echo "the imported folder is out of the cache"
