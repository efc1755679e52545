"""Runs a program under a system-call filter, as systemd would set it up (without a running systemd):

    seccomp.py [--unit FILE] [--deny CALL]... -- PROGRAM [ARG]...

--unit: allows the calls of the unit's SystemCallFilter= lines; all others fail with EPERM. --deny: these calls fail.
Needs systemd-analyze, which knows the sets, and its libseccomp.
"""
import ctypes
import errno
import functools
import os
import re
import subprocess
import sys

ALLOW = 0x7FFF0000
EPERM = 0x00050000 | errno.EPERM
lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
lib.seccomp_init.restype = ctypes.c_void_p
lib.seccomp_rule_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint]
lib.seccomp_load.argtypes = [ctypes.c_void_p]


@functools.cache
def expand(name):
    """The calls of a set, or the call itself."""
    if not name.startswith("@"):
        return frozenset([name])
    text = subprocess.run(["systemd-analyze", "syscall-filter", name], check=True, capture_output=True, text=True).stdout
    lines = [line.strip() for line in text.splitlines()[1:]]
    return frozenset().union(*(expand(line) for line in lines if line and not line.startswith("#")))


def allowed(unit):
    calls = frozenset()
    for line in re.findall(r"(?m)^SystemCallFilter=(.*)$", open(unit).read()):
        named = frozenset().union(*(expand(name) for name in line.lstrip("~").split()))
        calls = calls - named if line.startswith("~") else calls | named
    assert calls, f"{unit} allows nothing"
    return calls


options, program = sys.argv[1:sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1:]
pairs = list(zip(options[::2], options[1::2]))
units = [value for option, value in pairs if option == "--unit"]
context = lib.seccomp_init(EPERM if units else ALLOW)
rules = [(ALLOW, call) for unit in units for call in sorted(allowed(unit))]
denied = [value for option, value in pairs if option == "--deny"]
rules = [rule for rule in rules if rule[1] not in denied] + ([] if units else [(EPERM, call) for call in denied])
for action, call in rules:
    number = lib.seccomp_syscall_resolve_name(call.encode())
    # Calls of other architectures have none.
    if number >= 0 and lib.seccomp_rule_add(context, action, number, 0) != 0:
        sys.exit(f"no rule for {call}")
if lib.seccomp_load(context) != 0:
    sys.exit("the filter cannot be loaded")
os.execv(program[0], program)
