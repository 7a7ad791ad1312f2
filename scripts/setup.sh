# shellcheck shell=bash
# Functions for quickstart, test and check: Debian packages, a Python of a sufficient version, a virtual environment.
#
# Source this file with `set -euo pipefail`. It sets PROJECT (the checkout), and `ensure_venv` sets VENV. All messages go to
# standard error, because standard output belongs to the program that is started at the end.

PROJECT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

# Debian packages that sandboxes need, those that compile pyfuse3, and those of Debian's own Python.
RUNTIME_PACKAGES=(fuse3 uidmap libseccomp2)
BUILD_PACKAGES=(gcc libc6-dev pkg-config libfuse3-dev)
PYTHON_PACKAGES=(python3 python3-venv python3-dev)
# Packages without which a test is skipped.
# shellcheck disable=SC2034  # of check and test
TEST_PACKAGES=(git mmdebstrap fuse-overlayfs podman runc crun umoci skopeo buildah docker-registry openssl busybox-static zsh fish man-db e2fsprogs passt slirp4netns iproute2 nftables)
# Packages for tests with --long: emulators, the compiler of the trampolines, stress-ng, and a file system with reflinks.
# shellcheck disable=SC2034  # of test
LONG_PACKAGES=(qemu-user clang-19 lld-19 llvm-19 stress-ng xfsprogs)

# Tests that scripts/check leaves to scripts/test, because they take as long as all others: failures and kills at every
# step, long histories, the cost of renames and of large files, archive bombs, and the longest searches for counterexamples.
# shellcheck disable=SC2034  # of check and test
UNCHECKED=(
    tests/unit/unionfs/{test_{atomicity,histories,archive_histories,freezing_histories,redirects,skeleton},vfs/test_{rename_cost,freezing_failures}}.py
    tests/unit/unionfs/changes/test_{comparison_histories,layer_histories,layer,stream,umoci}.py
    tests/unit/unionfs/changes/test_{discard_kills,discard_histories,earlier_histories,earlier_discard_histories}.py
    tests/unit/sandbox/images/{test_{tar_compression,tar_properties,unpack_properties,bombs,layer_stream},build/test_buildah}.py
    tests/unit/sandbox/images/{registry/test_{authorization,docker_registry,download,upload},oci/test_{json_documents,layer_writer}}.py
    tests/unit/sandbox/{spec/test_cost,changes/test_{apply_histories,apply_earlier_histories,apply_kill,extract,apply_conflicts,host_tree,render}}.py
    tests/unit/sandbox/{doctor/test_probes,cli/test_progress,plan/test_volumes}.py
    tests/property/test_{editing,locate,spec_fuzz}.py tests/architecture/test_harness.py
)

say() { printf '%s\n' "$*" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

missing_packages() { # PACKAGE...: prints the packages that are not installed, one a line
    local package
    for package in "$@"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || printf '%s\n' "$package"
    done
}

require_packages() { # PACKAGE...: installs the missing packages, or names them and ends the script
    local missing=() command as_root=() log
    if ! command -v dpkg-query >/dev/null; then
        say "note: dpkg is not installed, so packages were not checked; on Debian this needs: $*"
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
    # The package's service would listen on port 5000; the tests start a registry of their own.
    [[ " ${missing[*]} " != *" docker-registry "* ]] || "${as_root[@]}" systemctl mask docker-registry.service >/dev/null 2>&1 || true
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

choose_python() { # prints the interpreter: $PYTHON, otherwise Debian's, otherwise the first on PATH of a sufficient version
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

# Prints the directory of the virtual environment: $VENV, otherwise .venv of the checkout. If another user owns the checkout
# or its .venv, it is a directory in the cache, with a name that is different for each checkout.
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

# Prints a digest of the inputs of a virtual environment: pyproject.toml, this file, the checkout, and the interpreter.
fingerprint() { # PYTHON
    { cat -- "$PROJECT/pyproject.toml" "$PROJECT/scripts/setup.sh"; printf '%s\n' "$PROJECT"; "$1" -VV; } | sha256sum | cut -c1-64
}

requirements() { # PYTHON EXTRA: prints the dependencies in pyproject.toml, and those of EXTRA unless that is empty
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

# Adds this checkout and its commands to a virtual environment, like an editable installation. It does not write to the
# checkout, which may be read-only or shared, and needs no import hook at each start.
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
if " " in python or len(shebang) > 127:  # more than execve(2) allows: a shell runs the second line, which Python reads as a string
    shebang = f"""#!/bin/sh\n'''exec' "{python}" "$0" "$@"\n' '''"""
for name, target in scripts.items():
    module, function = target.split(":")
    path = os.path.join(venv, "bin", name)
    with open(path + ".new", "w") as file:
        file.write(f"{shebang}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    os.chmod(path + ".new", 0o755)
    os.replace(path + ".new", path)
# Compile now, because a later user may be unable to write the compiled files and would compile at each start.
import compileall
for package in ("sandbox", "unionfs"):
    compileall.compile_dir(os.path.join(project, package), quiet=2)
PYTHON_END
}

build_venv() { # DIRECTORY PYTHON EXTRA STAMP; the caller must have the lock
    local venv=$1 python=$2 extra=$3 stamp=$4
    say "setting up $venv (once)"
    # Update it if only the dependencies have changed. Make it anew if it is incomplete, or if its interpreter is missing
    # or another one.
    if [ ! -e "$venv/.stamp" ] || [ "$("$venv/bin/python" -VV 2>/dev/null || true)" != "$("$python" -VV)" ]; then
        "$python" -m venv --clear "$venv" || die "$python cannot make a virtual environment in $venv (above)"
    fi
    install_requirements "$venv/bin/python" "$extra" || die "pip could not install the dependencies (above)"
    link_checkout "$venv" "$PROJECT"
    printf '%s\n' "$stamp $extra" >"$venv/.stamp"
}

up_to_date() { # VENV STAMP EXTRA: succeeds if VENV has the requirements
    local have
    have=$(cat -- "$1/.stamp" 2>/dev/null || true)
    [ "$have" = "$2 dev" ] || [ "$have" = "$2 $3" ]
}

# Installs PACKAGEs and its own requirements, makes or updates the virtual environment, and sets VENV. A lock serializes
# several calls. A given $VENV that was not made by this function is used unchanged.
ensure_venv() { # EXTRA [PACKAGE...]; EXTRA may be empty
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
    # Another Python than Debian's comes with its own headers.
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
