# shellcheck shell=bash
# What scripts/test needs of each run of pytest: a directory that can hold what is tested, a limit of time for
# all runs together, and an end with which nothing stays: no process and no mount. And which tests a folder has.
#
# Sourced after setup.sh.

failed=0 interrupted=false stopped=0 # whether a run failed, a signal came, and the exit status for that signal
limit=1200                           # seconds for all runs
left=0                               # of them, when the next run begins

# Prints the directory of the unit tests of a folder of the code, such as unionfs/copyup; any other argument as it is.
tests_of() { # ARGUMENT
    case $1 in
        sandbox/* | unionfs/*)
            if [ -d "$PROJECT/tests/unit/${1%/}" ]; then printf 'tests/unit/%s' "${1%/}"; return; fi
            ;;
    esac
    printf '%s' "$1"
}

# Prints why DIRECTORY cannot hold what tests make there; nothing if it can. PYTHON may be several words, such
# as those that run it as another account.
why_unfit() { # DIRECTORY PYTHON...
    "${@:2}" -I - "$1" 2>&1 <<'PYTHON_END' | tail -n 1 || true
import errno, os, stat, subprocess, sys, tempfile

ROOM = 2 << 30

def run(path):
    with open(path, "w") as file:
        file.write("#!/bin/sh\n")
    os.chmod(path, 0o700)
    subprocess.run([path], check=True)

def find_room(directory):
    found = os.statvfs(directory)
    if found.f_bavail * found.f_frsize < ROOM:
        raise OSError(errno.ENOSPC, f"less than {ROOM >> 30} GiB are free")

try:
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as top:
        for what, action in {
            "whiteouts (character devices 0:0)": lambda: os.mknod(f"{top}/w", stat.S_IFCHR, os.makedev(0, 0)),
            "attributes (user.*)": lambda: os.setxattr(top, "user.x", b""),
            "programs that run": lambda: run(f"{top}/p"),
            "room for what tests write": lambda: find_room(top),
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
# Makes it in the first place that can hold what is tested. Kernel OverlayFS, the root of most containers, cannot.
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
        say "note: tests are skipped for want of a directory that can hold what they make ($(join_reasons "${reasons[@]}"))"
    elif [ ${#reasons[@]} -gt 0 ]; then
        say "note: tests write below $place ($(join_reasons "${reasons[@]}"))"
    fi
    chmod 1777 -- "$scratch"
}

join_reasons() { printf '%s' "$1"; [ $# -le 1 ] || printf '; %s' "${@:2}"; }

leave_scratch() { # removes it, or names it where a test has failed, which may want to be looked into
    [ -n "$scratch" ] || return 0
    if mountpoint -q -- "$scratch"; then
        umount --lazy -- "$scratch"
    elif [ "$failed" -ne 0 ] && ! $interrupted; then
        say "what the tests wrote is in $scratch"
        scratch=''
        return 0
    fi
    # Files that belong to subordinate ids are for root of the user namespace to remove.
    rm -rf --one-file-system -- "$scratch" 2>/dev/null ||
        unshare --user --map-root-user --map-auto rm -rf --one-file-system -- "$scratch" 2>/dev/null ||
        say "what is left in $scratch cannot be removed"
    scratch=''
}

ends_at=${SANDBOX_TESTS_ENDS_AT:-} # in seconds since 1970, once the first run has begun
# shellcheck disable=SC2034  # left is for scripts/test
seconds_left() {
    [ -n "$ends_at" ] || ends_at=$((EPOCHSECONDS + limit))
    left=$((ends_at > EPOCHSECONDS ? ends_at - EPOCHSECONDS : 1))
}

running='' # the process that is waited for
# shellcheck disable=SC2034  # stopped is for scripts/test
stop() { # SIGNAL STATUS
    interrupted=true stopped=$2
    [ -n "$running" ] || exit "$2"
    # Of a SIGINT pytest has its own: it goes to the group.
    [ "$1" = INT ] || kill -TERM "$running" 2>/dev/null || true
}

# Runs COMMAND with its output in LOG and on standard output. Nothing of it is left afterwards, even if we are killed.
# In the background and waited for, as the shell looks at no signal while a command is in front.
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
    while kill -0 "$running" 2>/dev/null; do # a signal has ended the wait, not the process
        status=0
        wait "$running" || status=$?
    done
    running=''
    wait "$tee" || true
    return $status
}
