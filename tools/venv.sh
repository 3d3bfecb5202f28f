# shellcheck shell=bash
# Makes the repository's .venv and keeps it up to date. Sourced, then: prepare_venv ROOT EXTRAS
#
# A stamp inside .venv, one for each set of extras, holds the hash of what that set was installed
# from: a call that finds it right starts pip not at all. It is written last, so an interrupted
# install is taken up again by the next call. All chatter goes to stderr.

readonly VENV_ASK_VERSION='import sys; sys.version_info < (3, 11) and sys.exit(1)'
# The venv module imports without ensurepip (Debian ships them apart), so both are asked for.
readonly VENV_ASK_MODULES='import venv, ensurepip'

venv_say() { printf '%s\n' "$*" >&2; }

# Prints the python to make the venv with. $PYTHON wins, and is then not passed over silently.
venv_find_python() {
    local candidate lacking=
    local -a candidates=(python3 python3.14 python3.13 python3.12 python3.11)
    if [[ -n ${PYTHON:-} ]]; then
        candidates=("$PYTHON")
    fi
    for candidate in "${candidates[@]}"; do
        "$candidate" -c "$VENV_ASK_VERSION" >/dev/null 2>&1 || continue
        if "$candidate" -c "$VENV_ASK_MODULES" >/dev/null 2>&1; then
            command -v -- "$candidate"
            return
        fi
        lacking=${lacking:-$candidate}
    done
    if [[ -n $lacking ]]; then
        venv_say "$lacking lacks the modules venv and ensurepip. On Debian and Ubuntu:" \
            "sudo apt install python3-venv"
        if [[ $lacking == *python3.* ]]; then
            venv_say "(for $lacking: sudo apt install ${lacking##*/}-venv)"
        fi
    elif [[ -n ${PYTHON:-} ]]; then
        venv_say "PYTHON=$PYTHON is not a Python >= 3.11."
    else
        venv_say "No Python >= 3.11 found (tried ${candidates[*]})." \
            "Install one, or name it: PYTHON=/path/to/python3 $0"
    fi
    return 1
}

# What an install depends on; fails where .venv has no python that runs.
venv_fingerprint() {
    local root=$1 version
    version=$("$root/.venv/bin/python" -c "$VENV_ASK_VERSION; print(sys.version)" 2>/dev/null) ||
        return 1
    # The root counts: the editable install and the scripts in bin/ name it.
    { printf '%s\n%s\n' "$version" "$root" && cat "$root/pyproject.toml"; } | sha256sum
}

# Whether these extras (sorted, comma-separated) are in, by themselves or within a larger set.
venv_has() {
    local root=$1 extras=$2 fingerprint=$3 stamp extra set missing
    for stamp in "$root"/.venv/.installed-*; do
        [[ -f $stamp && $(<"$stamp") == "$fingerprint" ]] || continue
        set=,${stamp##*/.installed-},
        missing=
        for extra in ${extras//,/ }; do
            [[ $set == *",$extra,"* ]] || missing=$extra
        done
        if [[ -z $missing ]]; then
            return 0
        fi
    done
    return 1
}

venv_pip() {
    local root=$1
    shift
    local -a quiet=(--quiet)
    if [[ -t 2 ]]; then
        quiet=()
    fi
    PIP_DISABLE_PIP_VERSION_CHECK=1 "$root/.venv/bin/python" -m pip "$@" "${quiet[@]}" >&2
}

venv_install() {
    local root=$1 extras=$2 fingerprint python
    local -a resume=()
    # pip itself is tried, not just python: an OS upgrade leaves a python that runs beside packages
    # of the old version, and a killed run leaves a pip by half.
    if ! { venv_fingerprint "$root" && "$root/.venv/bin/python" -m pip --version; } \
        >/dev/null 2>&1; then
        python=$(venv_find_python)
        venv_say "Making .venv with $python"
        rm -rf -- "$root/.venv"
        "$python" -m venv "$root/.venv" >&2
    fi
    fingerprint=$(venv_fingerprint "$root")
    venv_say "Installing orchd[$extras] into .venv"
    # The pip that Python brings is often years old; without a network the next line tells why.
    venv_pip "$root" install --upgrade pip || venv_say "pip could not be brought up to date; going on."
    if [[ $("$root/.venv/bin/python" -m pip download --help) == *--resume-retries* ]]; then
        resume=(--resume-retries 10)
    fi
    venv_pip "$root" install "${resume[@]}" --editable "${root}[$extras]"
    printf '%s\n' "$fingerprint" >"$root/.venv/.installed-$extras"
}

# prepare_venv ROOT EXTRAS: afterwards ROOT/.venv has orchd with (at least) these extras.
prepare_venv() {
    local root=$1 extras fingerprint
    extras=$(tr ',' '\n' <<<"$2" | sort -u | paste -sd,)
    if fingerprint=$(venv_fingerprint "$root") && venv_has "$root" "$extras" "$fingerprint"; then
        return
    fi
    # Or bash would wait for a pip that was interrupted, and go on.
    trap 'exit 130' INT
    # The lock is on the folder itself, which leaves no file behind. The one who had to wait looks
    # again: the other may have installed the same.
    (
        trap 'exit 130' INT
        exec 9<"$root"
        flock 9
        fingerprint=$(venv_fingerprint "$root") || fingerprint=
        venv_has "$root" "$extras" "$fingerprint" || venv_install "$root" "$extras"
    )
    trap - INT
}
