# shellcheck shell=bash
# Functions for the pytest runs of scripts/test: a suitable directory for temporary files, a time limit for all runs
# together, the end of remaining processes and mounts, and the tests of a folder.
#
# Source this file after setup.sh.

failed=0 interrupted=false stopped=0 # whether a run failed, whether a signal was received, and its exit status
limit=1200                           # seconds for all runs
left=0                               # remaining seconds at the start of the next run

# Prints the directory of the unit tests of a folder such as unionfs/copyup. Prints any other argument unchanged.
tests_of() { # ARGUMENT
    case $1 in
        sandbox/* | unionfs/*)
            if [ -d "$PROJECT/tests/unit/${1%/}" ]; then printf 'tests/unit/%s' "${1%/}"; return; fi
            ;;
    esac
    printf '%s' "$1"
}

# Prints why DIRECTORY is unsuitable for the files of tests, or nothing. PYTHON may be several words, such as a command
# that runs it as another account.
why_unfit() { # DIRECTORY PYTHON...
    "${@:2}" -I - "$1" 2>&1 <<'PYTHON_END' | tail -n 1 || true
import errno, os, stat, subprocess, sys, tempfile

SPACE = 2 << 30

def run(path):
    with open(path, "w") as file:
        file.write("#!/bin/sh\n")
    os.chmod(path, 0o700)
    subprocess.run([path], check=True)

def check_space(directory):
    found = os.statvfs(directory)
    if found.f_bavail * found.f_frsize < SPACE:
        raise OSError(errno.ENOSPC, f"less than {SPACE >> 30} GiB are free")

try:
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as top:
        for what, action in {
            "whiteouts (character devices 0:0)": lambda: os.mknod(f"{top}/w", stat.S_IFCHR, os.makedev(0, 0)),
            "attributes (user.*)": lambda: os.setxattr(top, "user.x", b""),
            "executable programs": lambda: run(f"{top}/p"),
            "space for the files of tests": lambda: check_space(top),
        }.items():
            try:
                action()
            except OSError as error:
                print(f"no {what}: {error.strerror}")
                break
except OSError as error:
    print(error.strerror)
PYTHON_END
}

scratch='' # the directory for the temporary files of a run
# Makes the directory in the first suitable place. Kernel OverlayFS, the root of most containers, is unsuitable.
make_scratch() {
    local place reason reasons=() tmpfs=false
    for place in "${TMPDIR:-/tmp}" /var/tmp /dev/shm; do
        reason=$(why_unfit "$place" "$VENV/bin/python")
        [ -n "$reason" ] || break
        reasons+=("$place: $reason")
        place=''
    done
    if [ -z "$place" ]; then
        place=${TMPDIR:-/tmp}
        [ "$(id -u)" -ne 0 ] || tmpfs=true
    fi
    scratch=$(mktemp -d -- "$place/sandbox-tests.XXXXXX")
    if $tmpfs && mount -t tmpfs -o size=50% tmpfs "$scratch"; then
        say "note: tests write to a tmpfs on $scratch ($(join_reasons "${reasons[@]}"))"
    elif [ ${#reasons[@]} -eq 3 ]; then
        say "note: some tests are skipped, because no directory has all required features ($(join_reasons "${reasons[@]}"))"
    elif [ ${#reasons[@]} -gt 0 ]; then
        say "note: tests write below $place ($(join_reasons "${reasons[@]}"))"
    fi
    chmod 1777 -- "$scratch"
}

join_reasons() { printf '%s' "$1"; [ $# -le 1 ] || printf '; %s' "${@:2}"; }

leave_scratch() { # removes the directory, or keeps and names it after a failure
    [ -n "$scratch" ] || return 0
    if mountpoint -q -- "$scratch"; then
        umount --lazy -- "$scratch"
    elif [ "$failed" -ne 0 ] && ! $interrupted; then
        say "the files of the tests are in $scratch"
        scratch=''
        return 0
    fi
    # Only root of a user namespace can remove files of subordinate ids.
    rm -rf --one-file-system -- "$scratch" 2>/dev/null ||
        unshare --user --map-root-user --map-auto rm -rf --one-file-system -- "$scratch" 2>/dev/null ||
        say "the files in $scratch cannot be removed"
    scratch=''
}

ends_at=${SANDBOX_TESTS_ENDS_AT:-} # in seconds since 1970; set at the start of the first run
# shellcheck disable=SC2034  # left is for scripts/test
seconds_left() {
    [ -n "$ends_at" ] || ends_at=$((EPOCHSECONDS + limit))
    left=$((ends_at > EPOCHSECONDS ? ends_at - EPOCHSECONDS : 1))
}

running='' # the supervised process
# shellcheck disable=SC2034  # stopped is for scripts/test
stop() { # SIGNAL STATUS
    interrupted=true stopped=$2
    [ -n "$running" ] || exit "$2"
    # The terminal sends SIGINT to the whole group, so pytest has received its own.
    [ "$1" = INT ] || kill -TERM "$running" 2>/dev/null || true
}

# Runs COMMAND with its output in LOG and on standard output, and ends all its processes, even if this script is killed.
# It runs in the background, because the shell handles no signal during a foreground command.
supervise() { # LOG SECONDS DIRECTORY COMMAND...
    local log=$1 out tee status=0
    shift
    exec {out}> >(exec env --ignore-signal=INT,TERM,HUP tee -- "$log")
    tee=$!
    env --default-signal=INT setpriv --pdeathsig TERM "$VENV/bin/python" "$PROJECT/tests/support/supervise.py" "$@" \
        <&0 >&"$out" 2>&1 {out}>&- &
    running=$!
    exec {out}>&-
    wait "$running" || status=$?
    while kill -0 "$running" 2>/dev/null; do # a signal has interrupted the wait, but the process still runs
        status=0
        wait "$running" || status=$?
    done
    running=''
    wait "$tee" || true
    return $status
}
