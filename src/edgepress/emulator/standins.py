"""Stand-ins in the emulated root for commands that only a real board or phone has. Each says so; tests set what they answer below /run/edgepress-standin."""
from __future__ import annotations

from typing import Dict

_HEADER = """#!/bin/sh
# STAND-IN by edgepress for an emulated device: these are not readings of hardware.
answers=/run/edgepress-standin
"""

VCGENCMD = _HEADER + """say() { if [ -e "$answers/$1" ]; then cat "$answers/$1"; else echo "$2"; fi; }
case "$1" in
get_throttled) say throttled 'throttled=0x0' ;;
measure_temp) say temperature "temp=48.0'C" ;;
measure_clock) say clock 'frequency(0)=1500000000' ;;
measure_volts) say volts 'volt=0.8600V' ;;
version) echo 'edgepress stand-in for an emulated device' ;;
pmic_read_adc)
    if [ "$(cat /etc/edgepress-emulated)" = rpi5 ]; then
        say pmic '  3V3_SYS_A current(1)=0.05000000A
  VDD_CORE_A current(7)=1.00000000A
  3V3_SYS_V volt(9)=3.30000000V
  VDD_CORE_V volt(15)=0.80000000V
     EXT5V_V volt(24)=5.10000000V'
    else echo 'error=1 error_msg="Command not registered"'; exit 255; fi ;;
*) echo 'error=1 error_msg="Command not registered"'; exit 255 ;;
esac
"""

GETPROP = _HEADER + """properties() {
    if [ -e "$answers/getprop" ]; then cat "$answers/getprop"; return; fi
    cat <<'END'
[ro.build.fingerprint]: [edgepress/standin/emulated:14/STANDIN/1:user/test-keys]
[ro.build.version.release]: [14]
[ro.build.version.sdk]: [34]
[ro.product.cpu.abi]: [arm64-v8a]
[ro.product.manufacturer]: [edgepress]
[ro.product.model]: [emulated phone (stand-in)]
[ro.soc.manufacturer]: [edgepress]
[ro.soc.model]: [stand-in]
END
}
if [ $# = 0 ]; then properties; exit; fi
properties | awk -v name="[$1]:" '$1 == name { sub(/^[^ ]* \\[/, ""); sub(/\\]$/, ""); print; found = 1 } END { if (!found) print "" }'
"""

DUMPSYS = _HEADER + """case "$1" in
battery) if [ -e "$answers/battery" ]; then cat "$answers/battery"; else printf 'Current Battery Service state:\\n  AC powered: false\\n  USB powered: true\\n  level: 80\\n  scale: 100\\n  voltage: 4100\\n  temperature: 300\\n'; fi ;;
thermalservice) if [ -e "$answers/thermalservice" ]; then cat "$answers/thermalservice"; else printf 'IsStatusOverride: false\\nThermalEventListeners:\\nThermal Status: 0\\n'; fi ;;
*) echo "Can't find service: $1"; exit 20 ;;
esac
"""

# Where they lie. /system/bin is on the path of adb's shell only, so that a board reached over ssh does not look like a phone.
STANDINS: Dict[str, str] = {"usr/bin/vcgencmd": VCGENCMD, "system/bin/getprop": GETPROP, "system/bin/dumpsys": DUMPSYS}
