# What kind of device this is, as lines "key=value" between two marks. Reads only; needs nothing beyond a POSIX shell.
# $1: a word that the marks carry, $2: the Python program that is run in each Python found, $3: the folder edgepress would use ("" = ~/.edgepress),
# $4: a Python to ask first, or "".
PATH="$PATH:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin:/data/data/com.termux/files/usr/bin"
export PATH
cd / 2>/dev/null
: "${HOME:=/}"
place="${3:-$HOME/.edgepress}"
echo
echo "EDGEPRESS-PROBE-BEGIN $1"

have() { command -v "$1" >/dev/null 2>&1; }
clean() { tr '\n\t' '  ' | tr -d '\000-\037\177' | cut -c 1-6000; }
say() { [ -n "$2" ] && printf '%s=%s\n' "$1" "$(printf '%s' "$2" | clean)"; }
file() { [ -r "$2" ] && say "$1" "$(tr -d '\000' < "$2" 2>/dev/null | head -n 1)"; }
field() { sed -n "s/^$1[^:]*:[[:space:]]*//p" /proc/cpuinfo 2>/dev/null; }
limit=""
have timeout && limit="timeout 45"

say machine "$(uname -m)"
say system "$(uname -s)"
say release "$(uname -r)"
say long_bit "$(getconf LONG_BIT 2>/dev/null)"
say page_size "$(getconf PAGE_SIZE 2>/dev/null || getconf PAGESIZE 2>/dev/null)"
say glibc "$(getconf GNU_LIBC_VERSION 2>/dev/null)"
say cpus "$(getconf _NPROCESSORS_ONLN 2>/dev/null || nproc 2>/dev/null)"
for release in /etc/os-release /usr/lib/os-release; do
  if [ -r "$release" ]; then
    say os_id "$(. "$release" && echo "$ID")"
    say os_version "$(. "$release" && echo "$VERSION_ID")"
    say os_title "$(. "$release" && echo "$PRETTY_NAME")"
    break
  fi
done
file board /proc/device-tree/model
file emulated /etc/edgepress-emulated
say cpu "$( (field 'model name'; field 'Hardware') | head -n 1)"
say cpu_part "$(field 'CPU part' | sort -u | head -n 4)"
say cpu_flags "$( (field 'Features'; field 'flags') | head -n 1)"
say memory_kb "$(sed -n 's/^MemTotal:[[:space:]]*\([0-9]*\).*/\1/p' /proc/meminfo 2>/dev/null)"
say memory_free_kb "$(sed -n 's/^MemAvailable:[[:space:]]*\([0-9]*\).*/\1/p' /proc/meminfo 2>/dev/null)"
file load_average /proc/loadavg

spot="$place"
while [ ! -d "$spot" ] && [ "$spot" != / ] && [ -n "$spot" ]; do spot="$(dirname "$spot")"; done
say place "$place"
if [ -w "$spot" ]; then say writable yes; else say writable no; fi
df -Pk "$spot" 2>/dev/null | tail -n 1 | {
  read -r device blocks used free share mount
  say free_kb "$free"
  while read -r source at kind options rest; do
    [ "$at" = "$mount" ] && case ",$options," in *,noexec,*) say noexec yes ;; *) say noexec no ;; esac
  done < /proc/mounts
} 2>/dev/null

frequency=/sys/devices/system/cpu/cpu0/cpufreq
file governor $frequency/scaling_governor
file clock_khz $frequency/scaling_cur_freq
file clock_limit_khz $frequency/scaling_max_freq
file clock_max_khz $frequency/cpuinfo_max_freq
for zone in /sys/class/thermal/thermal_zone*/temp; do file temperature "$zone"; done

if have vcgencmd; then
  said="$($limit vcgencmd get_throttled 2>&1)"
  case "$said" in throttled=*) say throttled "${said#throttled=}" ;; *) say vcgencmd_error "$said" ;; esac
  if $limit vcgencmd pmic_read_adc 2>/dev/null | grep -q '_A current'; then say pmic yes; else say pmic no; fi
fi

if have getprop; then
  for key in ro.build.version.sdk ro.build.version.release ro.product.cpu.abi ro.product.cpu.abilist ro.product.manufacturer ro.product.model ro.soc.model ro.build.fingerprint; do
    say "prop.$key" "$(getprop "$key" 2>/dev/null)"
  done
  say battery "$($limit dumpsys battery 2>/dev/null)"
  say thermal_status "$($limit dumpsys thermalservice 2>/dev/null | sed -n 's/^[[:space:]]*Thermal Status:[[:space:]]*\([0-9]*\).*/\1/p' | head -n 1)"
fi

have openssl && say openssl yes
seen=" "
count=0
try() {
  [ -x "$1" ] && [ ! -d "$1" ] && [ "$count" -lt 12 ] || return 0
  case "$seen" in *" $2 "*) return 0 ;; esac
  seen="$seen$2 "
  count=$((count + 1))
  said="$($limit "$1" -c "$probe" 2>/dev/null < /dev/null | sed -n 's/^python=//p' | tail -n 1)"
  if [ -n "$said" ]; then say python "$said"; else say python_broken "$1"; fi
}
probe="$2"
[ -n "$4" ] && try "$4" "$4"
old="$IFS"
IFS=:
for folder in $PATH; do
  IFS="$old"
  for name in "$folder"/python3 "$folder"/python3.[0-9] "$folder"/python3.[0-9][0-9]; do try "$name" "$(readlink -f "$name" 2>/dev/null || echo "$name")"; done
done
IFS="$old"
for name in "$place"/runtimes/*/bin/python "$HOME"/*/bin/python "$HOME"/.*/bin/python "$HOME"/*/*/bin/python; do
  [ -f "${name%/bin/python}/pyvenv.cfg" ] && try "$name" "$name"
done
echo "EDGEPRESS-PROBE-END $1"
