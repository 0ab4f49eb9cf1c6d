#!/usr/bin/env bash
# release.sh TAG OUT [WORK]: what a release hands out, in the folder OUT. TAG is v and the version of settings.ini; WORK (default .) has a finished demo, the bills of materials lie at the root.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
tag=${1:?usage: release.sh TAG OUT [WORK]}; out=${2:?usage: release.sh TAG OUT [WORK]}; work=$(realpath "${3:-.}")
out=$(realpath -m "$out"); cd "$root"
refuse() { echo "release: found $1, wanted $2" >&2; exit 3; }
version=$(sed -n 's/^version *= *//p' settings.ini)
[ "$tag" = "v$version" ] || refuse "the tag $tag" "v$version, the version of settings.ini"
[ ! -e "$out" ] || refuse "$out there already" "a folder of its own"
for file in sbom.cdx.json sbom.spdx.json; do [ -f "$file" ] || refuse "no $file" "the bills of materials (make sbom)"; done
page=$work/artifacts/reports/diagnostics_dashboard.html
[ -f "$page" ] || refuse "no dashboard in $work" "a finished demo (make demo)"
notes=$(awk -v want="## $version" 'index($0, want) == 1 {on = 1; next} /^## /{on = 0} on' CHANGELOG.md)
[ -n "${notes//[[:space:]]/}" ] || refuse "no section '## $version' in CHANGELOG.md" "what this release changes, in words"
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
mkdir "$tmp/src" "$tmp/out"
git ls-files -z --cached --others --exclude-standard -- spectramind configs schemas nbs/runs setup.py settings.ini pyproject.toml README.md LICENSE | xargs -0 cp --parents -t "$tmp/src"
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
SOURCE_DATE_EPOCH=$epoch python -m pip wheel -q --disable-pip-version-check --no-deps --no-build-isolation --no-index -w "$tmp/out" "$tmp/src"
cp requirements.lock requirements-runtime.lock sbom.cdx.json sbom.spdx.json CITATION.cff "$tmp/out"
cp "$page" "$tmp/out/sample_dashboard.html"
(cd "$work" && find artifacts/runs dist -name '*manifest.json' | LC_ALL=C sort | tar --no-recursion --mtime="@$epoch" --owner=0 --group=0 --numeric-owner -cf - -T -) | gzip -9n > "$tmp/out/manifests.tar.gz"
printf '%s\n' "$notes" > "$tmp/out/NOTES.md"
(cd "$tmp/out" && LC_ALL=C sha256sum -- * > "$tmp/SHA256SUMS" && mv "$tmp/SHA256SUMS" .)
mkdir -p "$(dirname "$out")" && mv "$tmp/out" "$out"
ls "$out"
