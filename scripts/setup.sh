# shellcheck shell=bash
# What quickstart, test and check share: Debian packages, a Python of a sufficient version, a virtual
# environment.
#
# Sourced, with `set -euo pipefail` on. Sets PROJECT (the checkout) at once and VENV when `ensure_venv`
# returns. Everything it says goes to standard error: standard output belongs to the program that is started
# in the end.

PROJECT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

# Debian packages that the running sandbox uses, those that compile pyfuse3, and those of Debian's own Python.
RUNTIME_PACKAGES=(fuse3 uidmap libseccomp2)
BUILD_PACKAGES=(gcc libc6-dev pkg-config libfuse3-dev)
PYTHON_PACKAGES=(python3 python3-venv python3-dev)
# Those without which a test is skipped.
# shellcheck disable=SC2034  # of check and test
TEST_PACKAGES=(git mmdebstrap fuse-overlayfs podman runc busybox-static zsh fish man-db e2fsprogs)
# Those of tests that run with --long only: emulators, the compiler of the trampolines, a suite that changes files, and
# a file system that shares blocks.
# shellcheck disable=SC2034  # of test
LONG_PACKAGES=(qemu-user clang-19 lld-19 llvm-19 stress-ng xfsprogs)

# The tests that scripts/check leaves to scripts/test: failing and killing at every step, long histories, the cost of renames,
# archive bombs, the cost of large files and the longest searches for counterexamples take as long as the rest.
# shellcheck disable=SC2034  # of check and test
UNCHECKED=(tests/unit/unionfs/{test_{atomicity,histories,redirects,skeleton},vfs/test_rename_cost}.py tests/unit/sandbox/{images/test_{tar_compression,tar_properties,unpack_properties,bombs},spec/test_cost}.py
    tests/property/test_{editing,locate,spec_fuzz}.py tests/architecture/test_harness.py)

say() { printf '%s\n' "$*" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

missing_packages() { # PACKAGE...: prints those that are not installed, one a line
    local package
    for package in "$@"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || printf '%s\n' "$package"
    done
}

require_packages() { # PACKAGE...: installs what is missing, or says what that is and ends the script
    local missing=() command as_root=() log
    if ! command -v dpkg-query >/dev/null; then
        say "note: no dpkg here, so nothing was checked; on Debian this needs the packages: $*"
        return 0
    fi
    mapfile -t missing < <(missing_packages "$@")
    [ ${#missing[@]} -gt 0 ] || return 0
    command="apt-get update && apt-get install --no-install-recommends -y ${missing[*]}"
    if [ "$(id -u)" -ne 0 ]; then
        if ! sudo -n true 2>/dev/null; then
            say "${0##*/}: these Debian packages are missing: ${missing[*]}"
            say "install them, as root, with:"
            say "    $command"
            exit 1
        fi
        as_root=(sudo -n)
    fi
    say "installing Debian packages: ${missing[*]}"
    log=$(mktemp)
    if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive sh -c "$command" >"$log" 2>&1; then
        cat -- "$log" >&2
        rm -f -- "$log"
        die "apt-get failed (above); run it yourself: $command"
    fi
    rm -f -- "$log"
}

recent_enough() { # PYTHON
    [ "$("$1" -c 'import sys; print(sys.version_info >= (3, 11))' 2>/dev/null)" = True ]
}

choose_python() { # prints the interpreter to use: $PYTHON, else Debian's, else the first on PATH that is recent enough
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        recent_enough "$PYTHON" || die "\$PYTHON is $PYTHON, which is not a Python of at least 3.11"
        command -v -- "$PYTHON"
        return
    fi
    for candidate in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
        if recent_enough "$candidate"; then
            command -v -- "$candidate"
            return
        fi
    done
    die "no Python of at least 3.11 was found; set PYTHON to one"
}

# The directory of the virtual environment: $VENV, else .venv of the checkout, else (the checkout or its .venv
# is someone else's) one in the cache directory whose name tells checkouts apart.
choose_venv() {
    if [ -n "${VENV:-}" ]; then
        printf '%s\n' "$VENV"
    elif [ -w "$PROJECT" ] && { [ ! -e "$PROJECT/.venv" ] || [ -O "$PROJECT/.venv" ]; }; then
        printf '%s\n' "$PROJECT/.venv"
    else
        local cache=${XDG_CACHE_HOME:-${HOME:?is not set: set it, or VENV}/.cache}
        mkdir -p -- "$cache"
        printf '%s/sandbox-venv-%s\n' "$cache" "$(printf '%s' "$PROJECT" | sha256sum | cut -c1-16)"
    fi
}

# What a virtual environment was made from: pyproject.toml, this file, the checkout it leads to, and the
# interpreter.
fingerprint() { # PYTHON
    { cat -- "$PROJECT/pyproject.toml" "$PROJECT/scripts/setup.sh"; printf '%s\n' "$PROJECT"; "$1" -VV; } | sha256sum | cut -c1-64
}

requirements() { # PYTHON EXTRA: prints the dependencies of pyproject.toml, with those of the extra unless it is empty
    "$1" - "$PROJECT/pyproject.toml" "$2" <<'PYTHON_END'
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
extra = sys.argv[2]
print("\n".join(project["dependencies"] + (project["optional-dependencies"][extra] if extra else [])))
PYTHON_END
}

install_requirements() { # VENV_PYTHON EXTRA
    local wanted=()
    mapfile -t wanted < <(requirements "$1" "$2")
    "$1" -m pip install --quiet --disable-pip-version-check --no-warn-script-location "${wanted[@]}" >&2
}

# Leads a virtual environment to this checkout and makes its commands, as an editable installation does, but
# without writing into the checkout (which may be read-only, or shared) and without the import hook that an
# editable installation runs at each start.
link_checkout() { # VENV CHECKOUT [DIRECTORY-OF-DEPENDENCIES]
    "$1/bin/python" - "$@" <<'PYTHON_END'
import os, sys, sysconfig, tomllib

venv, project, *rest = sys.argv[1:]
with open(os.path.join(sysconfig.get_path("purelib"), "sandbox-checkout.pth"), "w") as file:
    file.writelines(f"{directory}\n" for directory in (project, *rest))
with open(os.path.join(project, "pyproject.toml"), "rb") as file:
    scripts = tomllib.load(file)["project"]["scripts"]
python = os.path.join(venv, "bin", "python")
shebang = f"#!{python}"
if " " in python or len(shebang) > 127:  # more than execve(2) takes: a shell starts it, and Python reads the lines as a string
    shebang = f"""#!/bin/sh\n'''exec' "{python}" "$0" "$@"\n' '''"""
for name, target in scripts.items():
    module, function = target.split(":")
    path = os.path.join(venv, "bin", name)
    with open(path + ".new", "w") as file:
        file.write(f"{shebang}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    os.chmod(path + ".new", 0o755)
    os.replace(path + ".new", path)
# Who starts a sandbox later may be unable to keep what was compiled, and would compile it each time.
import compileall
for package in ("sandbox", "unionfs"):
    compileall.compile_dir(os.path.join(project, package), quiet=2)
PYTHON_END
}

build_venv() { # DIRECTORY PYTHON EXTRA STAMP; the caller holds the lock
    local venv=$1 python=$2 extra=$3 stamp=$4
    say "setting up $venv (once)"
    # Kept when only the dependencies changed; made anew when it was never finished, or its interpreter has
    # gone or is another.
    if [ ! -e "$venv/.stamp" ] || [ "$("$venv/bin/python" -VV 2>/dev/null || true)" != "$("$python" -VV)" ]; then
        "$python" -m venv --clear "$venv" || die "$python cannot make a virtual environment in $venv (above)"
    fi
    install_requirements "$venv/bin/python" "$extra" || die "pip could not install the dependencies (above)"
    link_checkout "$venv" "$PROJECT"
    printf '%s\n' "$stamp $extra" >"$venv/.stamp"
}

up_to_date() { # VENV STAMP EXTRA: what is installed is enough
    local have
    have=$(cat -- "$1/.stamp" 2>/dev/null || true)
    [ "$have" = "$2 dev" ] || [ "$have" = "$2 $3" ]
}

# Makes or updates the virtual environment and sets VENV, after installing PACKAGEs and those that this itself
# needs. Several at once wait for each other. A $VENV that was given and made by other means is taken as it
# is.
ensure_venv() { # EXTRA, which may be empty, [PACKAGE...]
    local extra=$1 python='' stamp packages=("${@:2}" "${RUNTIME_PACKAGES[@]}")
    if [ -n "${VENV:-}" ] && [ -x "$VENV/bin/python" ] && [ ! -e "$VENV/.stamp" ]; then
        return 0
    fi
    VENV=$(choose_venv)
    if python=$(choose_python 2>/dev/null) && up_to_date "$VENV" "$(fingerprint "$python")" "$extra"; then
        require_packages "${packages[@]}"
        return 0
    fi
    packages+=("${BUILD_PACKAGES[@]}")
    # Headers for another Python than Debian's come with it.
    case $python in '' | /usr/bin/python3) [ -n "${PYTHON:-}" ] || packages+=("${PYTHON_PACKAGES[@]}") ;; esac
    require_packages "${packages[@]}"
    python=$(choose_python)
    stamp=$(fingerprint "$python")
    (
        flock 9
        case $(cat -- "$VENV/.stamp" 2>/dev/null || true) in *" dev") extra=dev ;; esac
        up_to_date "$VENV" "$stamp" "$extra" || build_venv "$VENV" "$python" "$extra" "$stamp"
    ) 9>"$VENV.lock"
}
