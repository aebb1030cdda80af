# shellcheck shell=bash
# What the scripts share: where things are, and how they speak.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV="$ROOT/.venv"

say() { printf '%s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# The first Python of at least 3.11 that can make a venv: what PYTHON names, then the distribution's own, and only then
# what the PATH holds, which may be a version manager's slow shim.
find_python() {
    local candidate
    for candidate in ${PYTHON:-} /usr/bin/python3 /usr/bin/python3.{13,12,11} python3.{13,12,11} python3; do
        if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}
