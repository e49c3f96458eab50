"""What runs on a device to keep our rules there: POSIX sh that dash, bash, mksh (Android), toybox and busybox understand, with the tools they all have."""
from __future__ import annotations

import re
import shlex
from typing import Mapping, Sequence

STORE_DAYS = 30  # stored files that nobody asked for that long are removed: a device's disk is small

# The time when a living process started, empty for a dead one or a zombie: with it a process number cannot be mistaken for an older one's.
# Builtins wherever they do: a program costs milliseconds on a slow board.
_COMMON = """umask 077; set -f
started() { read -r line < "/proc/$1/stat" || return; set -- ${line##*) }; [ "$1" = Z ] || echo "${20}"; } 2>/dev/null
alive() { [ -n "$2" ] && [ "$(started "$1")" = "$2" ]; }
"""

# Take the device: one symlink, made in one step with all that is said about its holder (boot, process, start time, who).
# A dead holder's symlink is replaced under a second one, `taking`; its job is ended, what it left is removed, and so is what the store has kept for long.
_OPEN = """
fail() { printf '\\nEDGEPRESS-FAIL {nonce} %s\\n' "$*"; exit 71; }
{ { [ -d {home}/store ] || mkdir -p {home}/store; } && cd {home}; } || fail "cannot make the folder" {home}
{ read -r boot < /proc/sys/kernel/random/boot_id; read -r emulated < /etc/edgepress-emulated; } 2>/dev/null
mine="${boot:--} $$ $(started $$) "{who}
held() { printf '\\nEDGEPRESS-HELD {nonce} %s\\n' "$*"; exit 75; }
whose() { set -- $(readlink lock); [ $# -gt 3 ] || held "somebody who has just gone"; shift 3; held "$*"; }
take() { ln -sn "$mine" "$1" 2>/dev/null; }
gone() { set -- $(readlink "$1"); [ -n "$1" ] && ! { [ "$1" = "${boot:--}" ] && alive "$2" "$3"; }; }
if ! take lock && { [ -L lock ] || ! take lock; }; then
  [ -L lock ] || fail "cannot make a lock in" "$PWD"
  gone lock || whose
  take taking || { gone taking && rm -f taking && take taking; } || held "somebody who has just come"
  gone lock && rm -f lock
  take lock
  rm -f taking
  [ "$(readlink lock)" = "$mine" ] || whose
fi
if read -r job since < running; then
  if alive "$job" "$since"; then kill -TERM "-$job"; sleep 1; kill -KILL "-$job" "$job"; fi
  : > running
fi 2>/dev/null
set +f
for left in jobs/* store/*/*.part; do [ ! -e "$left" ] || rm -rf "$left"; done
set -f
find store -mindepth 1 -maxdepth 1 -type d -mtime +{days} -exec rm -rf {} + 2>/dev/null
[ -d jobs ] || mkdir jobs || fail "cannot write into" "$PWD"
session=; command -v setsid >/dev/null 2>&1 && session=setsid
limit=; timeout -k 1 9 true >/dev/null 2>&1 && limit=timeout
fact() { printf 'EDGEPRESS-FACT {nonce} %s\\n' "$*"; }
printf '\\n'; fact home "$PWD"; fact session "$session"; fact limit "$limit"; fact emulated "$emulated"
[ "$(readlink lock)" = "$mine" ] || whose
printf 'EDGEPRESS-READY {nonce}\\n'
while read -r line; do :; done
[ "$(readlink lock)" != "$mine" ] || rm -f lock
"""

# Run one command: in a session of its own, stopped when our end of stdin closes; then the digests of what it left in its folders.
_RUN = """
cd {home} || exit 71
exec 3<&0 </dev/null
printf '\\nEDGEPRESS-BEGIN {nonce}\\n'
printf '\\nEDGEPRESS-BEGIN {nonce}\\n' >&2
for folder in {folders}; do [ -d "$folder" ] || mkdir -p "$folder" || exit 73; done
unset PYTHONPATH PYTHONHOME
{command} 3<&- &
job=$!
exec 2>/dev/null
printf '%s %s\\n' "$job" "$(started $job)" > running
( while read -r line <&3; do :; done; kill -TERM "-$job" "$job"; sleep 2; kill -KILL "-$job" "$job" ) >/dev/null &
watch=$!
wait "$job"; code=$?
kill -KILL "$watch"
kill -KILL "-$job"
: > running
set -- {folders}
left=$([ $# = 0 ] || find "$@" -type f -exec sha256sum {} +)
printf '\\nEDGEPRESS-FILES {nonce}\\n%s\\n' "$left"
set -- $([ -z "$left" ] || printf '%s\\n' "$left" | sha256sum) -
printf 'EDGEPRESS-END {nonce} %s %s\\n' "$code" "$1"
"""

_QUICK = """
printf '\\nEDGEPRESS-BEGIN {nonce}\\n'
( {script} ); code=$?
printf '\\nEDGEPRESS-END {nonce} %s -\\n' "$code"
"""

# Store stdin: never under the final name before its sha256 is right.
_PUT = """mkdir -p {folder} && cat > {part} || { rm -f {part}; exit 73; }
set -- $(sha256sum < {part})
[ "$1" = {digest} ] || { rm -f {part}; exit 65; }
mv -f {part} {path}"""

_GET = """
printf '\\nEDGEPRESS-BEGIN {nonce}\\n'
if [ ! -f {path} ]; then code=66; elif [ "$(wc -c < {path})" -gt {most} ]; then code=69; else cat {path}; code=$?; fi
set -- $(sha256sum < {path} 2>/dev/null) -
printf '\\nEDGEPRESS-END {nonce} %s %s\\n' "$code" "$1"
"""

_HAS = '[ -f {path} ] && set -- $(sha256sum < {path}) && [ "$1" = {digest} ] && { touch {folder} 2>/dev/null; true; }'

# Every Python that may have a runtime: our own environments first, then each python3 on PATH.
_PYTHONS = """for python in runtimes/*/bin/python $(IFS=:; for d in $PATH; do echo "$d/python3"; done); do
  [ -x "$python" ] && printf '%s %s\\n' "$python" "$("$python" -c {code} {modules} 2>/dev/null)"
done; true"""
_FIND = "import sys, importlib.util as u; print(*[n for n in sys.argv[1:] if u.find_spec(n)])"

_FACTS = """say() { printf '%s=%s\\n' "$1" "$(shift; "$@" 2>/dev/null | tr -d '\\000' | head -c 4000 | head -n 1)"; }
say machine uname -m; say system uname -s; say release uname -r; say bits getconf LONG_BIT; say cpus nproc
say memory sed -n 's/^MemTotal: *//p' /proc/meminfo; say board cat /proc/device-tree/model; say governor cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor
say cpu sed -n -e 's/^model name[[:space:]]*: //p' -e 's/^Model[[:space:]]*: //p' /proc/cpuinfo
say flags sed -n -e 's/^flags[[:space:]]*: //p' -e 's/^Features[[:space:]]*: //p' /proc/cpuinfo
say python python3 -V; true"""


def opening(*, home: str, nonce: str, who: str) -> str:
    """Take the device and hold it until stdin ends."""
    return _COMMON + _fill(_OPEN, home=_home(home), nonce=nonce, who=shlex.quote(who), days=str(STORE_DAYS))


def running(command: Sequence[str], environment: Mapping[str, str], *, home: str, nonce: str, prefix: Sequence[str], folders: Sequence[str]) -> str:
    """Run a command with its environment; `prefix` puts it into a session of its own and limits its time."""
    values = " ".join(f"{name}={shlex.quote(value)}" for name, value in {"PYTHONUTF8": "1", **environment}.items())
    return _COMMON + _fill(_RUN, home=shlex.quote(home), nonce=nonce, command=f"{values} {shlex.join([*prefix, *command])}", folders=shlex.join(folders))


def quick(script: str, *, home: str, nonce: str) -> str:
    """A short script in our folder there."""
    return f"umask 077; cd {shlex.quote(home)} || exit 71" + _fill(_QUICK, script=script, nonce=nonce)


def putting(path: str, *, digest: str, part: str, home: str, nonce: str) -> str:
    """Store stdin at a path."""
    return quick(_fill(_PUT, path=shlex.quote(path), folder=shlex.quote(path.rpartition("/")[0]), part=shlex.quote(part), digest=digest), home=home, nonce=nonce)


def getting(path: str, *, most: int, nonce: str) -> str:
    """The bytes of a file, unless they are too many."""
    return _fill(_GET, path=shlex.quote(path), most=str(most), nonce=nonce)


def has(path: str, *, digest: str) -> str:
    """Whether a file has these bytes, now; it then counts as used."""
    return _fill(_HAS, path=shlex.quote(path), folder=shlex.quote(path.rpartition("/")[0]), digest=digest)


def pythons(modules: Sequence[str]) -> str:
    """Each Python there and which of the modules it has."""
    return _fill(_PYTHONS, code=shlex.quote(_FIND), modules=shlex.join(modules))


def facts() -> str:
    """What machine it is, as lines `name=value`."""
    return _FACTS


def _home(home: str) -> str:
    return '"$HOME"/' + shlex.quote(home[2:]) if home.startswith("~/") else shlex.quote(home)


def _fill(template: str, **values: str) -> str:
    return re.sub(r"\{([a-z]+)\}", lambda match: values[match[1]], template)
