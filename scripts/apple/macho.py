#!/usr/bin/env python3
"""What Mach-O files ask of each other.

usage: macho.py stub LIBDIR             print a text stub of libc++ for the linker
       macho.py check EXECUTABLE LIBDIR check an executable against the libraries shipped with it

The stub declares what the shipped libraries themselves take from the system's libc++, and little
else: whatever links against it runs wherever they run. Needs macholib.
"""

import sys
from pathlib import Path

from macholib import mach_o
from macholib.MachO import MachO
from macholib.SymbolTable import SymbolTable

LIBCXX = "/usr/lib/libc++.1.dylib"
# Part of every macOS since 14.
SYSTEM = {
    "/usr/lib/libSystem.B.dylib",
    LIBCXX,
    "/usr/lib/libobjc.A.dylib",
    "/usr/lib/libiconv.2.dylib",
} | {
    f"/System/Library/Frameworks/{name}.framework/Versions/{version}/{name}"
    for name, version in [
        ("Accelerate", "A"),
        ("CoreFoundation", "A"),
        ("Foundation", "C"),
        ("IOKit", "A"),
        ("Metal", "A"),
        ("QuartzCore", "A"),
        ("Security", "A"),
        ("SystemConfiguration", "A"),
    ]
}
# Symbols that mlx-c and the kernels take from libc++ and MLX does not.
STREAMBUF = "15basic_streambufIcNS_11char_traitsIcEEE"
OSTREAM = "13basic_ostreamIcNS_11char_traitsIcEEE"
KNOWN_LIBCXX = {
    # In every macOS: std::ostream, the members of std::streambuf that a class of one's own inherits.
    *(f"__ZNSt3__1{OSTREAM}{name}" for name in ("D0Ev", "D1Ev")),
    *(f"__ZTv0_n24_NSt3__1{OSTREAM}{name}" for name in ("D0Ev", "D1Ev")),
    f"__ZTINSt3__1{OSTREAM}E",
    f"__ZTINSt3__1{STREAMBUF}E",
    f"__ZNSt3__1{STREAMBUF}5imbueERKNS_6localeE",
    f"__ZNSt3__1{STREAMBUF}5uflowEv",
    f"__ZNSt3__1{STREAMBUF}6setbufEPcl",
    f"__ZNSt3__1{STREAMBUF}6xsgetnEPcl",
    f"__ZNSt3__1{STREAMBUF}7seekoffExNS_8ios_base7seekdirEj",
    f"__ZNSt3__1{STREAMBUF}7seekposENS_4fposI11__mbstate_tEEj",
    f"__ZNSt3__1{STREAMBUF}9pbackfailEi",
    f"__ZNSt3__1{STREAMBUF}9showmanycEv",
    f"__ZNSt3__1{STREAMBUF}9underflowEv",
    "__ZNSt3__16localeaSERKS0_",
    # In every macOS: what a thread that cannot be made throws, std::set_terminate.
    "__ZTINSt3__112system_errorE",
    "__ZSt13set_terminatePFvvE",
    # In every macOS: dynamic_cast; since 10.13 new and delete with an alignment.
    "___dynamic_cast",
    "__ZnwmSt11align_val_t",
    "__ZdlPvSt11align_val_t",
    # Since macOS 13.3: std::to_chars of a float, double and long double, which std::format uses.
    *(
        f"__ZNSt3__18to_charsEPcS0_{number}{style}"
        for number in "fde"
        for style in ("", "NS_12chars_formatE", "NS_12chars_formatEi")
    ),
}
MACOS_MIN = (14, 0)
CPU_TYPE_ARM64 = 0x0100000C


class Binary:
    """One arm64 Mach-O file: what it needs, from where, and what it offers."""

    def __init__(self, path):
        self.path = Path(path)
        [header] = MachO(str(path)).headers
        self.header = header.header
        self.needed, self.rpaths, self.minos, self.signed = [], [], None, False
        for load, command, data in header.commands:
            if load.cmd in (mach_o.LC_LOAD_DYLIB, mach_o.LC_LOAD_WEAK_DYLIB, mach_o.LC_REEXPORT_DYLIB):
                self.needed.append(data.rstrip(b"\0").decode())
            elif load.cmd == mach_o.LC_RPATH:
                self.rpaths.append(data.rstrip(b"\0").decode())
            elif load.cmd == mach_o.LC_BUILD_VERSION:
                self.minos = (command.minos >> 16, command.minos >> 8 & 0xFF)
            elif load.cmd == mach_o.LC_CODE_SIGNATURE:
                self.signed = True
        symbols = SymbolTable(MachO(str(path)))
        self.exports = {name.decode() for _, name in symbols.extdefsyms}
        self.imports = {}  # library name -> symbols; the two-level namespace is in n_desc
        for symbol, name in symbols.undefsyms:
            ordinal = symbol.n_desc >> 8 & 0xFF
            source = self.needed[ordinal - 1] if 0 < ordinal <= len(self.needed) else None
            self.imports.setdefault(source, set()).add(name.decode())


def stub(libdir):
    symbols = set()
    for path in sorted(Path(libdir).glob("*.dylib")):
        symbols |= Binary(path).imports.get(LIBCXX, set())
    if not symbols:
        sys.exit(f"{libdir} has no library that uses libc++")
    listed = ", ".join(f"'{name}'" for name in sorted(symbols | KNOWN_LIBCXX))
    print(f"--- !tapi-tbd\ntbd-version: 4\ntargets: [ arm64-macos ]\ninstall-name: '{LIBCXX}'")
    print(f"exports:\n  - targets: [ arm64-macos ]\n    symbols: [ {listed} ]\n...")


def check(executable, libdir):
    libraries = {f"@rpath/{path.name}": Binary(path) for path in Path(libdir).glob("*.dylib")}
    known_libcxx = KNOWN_LIBCXX.union(*(library.imports.get(LIBCXX, set()) for library in libraries.values()))
    problems = []
    binary = Binary(executable)
    if binary.header.cputype != CPU_TYPE_ARM64 or binary.header.filetype != mach_o.MH_EXECUTE:
        problems.append("not an executable for arm64")
    if binary.minos is None or binary.minos > MACOS_MIN:
        problems.append(f"needs macOS {binary.minos}, not {MACOS_MIN}")
    if not binary.signed:
        problems.append("not signed: Apple silicon runs nothing unsigned")
    if "@loader_path/../lib" not in binary.rpaths:
        problems.append(f"rpaths are {binary.rpaths}, without @loader_path/../lib")
    if "@rpath/libmlx.dylib" not in binary.needed:
        problems.append("does not need @rpath/libmlx.dylib: MLX was not linked")

    for user in [binary, *libraries.values()]:
        name = user.path.name
        for library in user.needed:
            if library not in libraries and library not in SYSTEM:
                problems.append(f"{name} needs {library}, which is neither shipped nor on the list of system libraries")
        for library, symbols in user.imports.items():
            if library is None:
                problems += [f"{name} takes {symbol} from no library in particular" for symbol in sorted(symbols)]
            elif library in libraries:
                missing = symbols - libraries[library].exports
                problems += [f"{name} takes {symbol} from {library}, which has none" for symbol in sorted(missing)]
    strangers = binary.imports.get(LIBCXX, set()) - known_libcxx
    problems += [f"{symbol} may be missing from macOS 14's libc++" for symbol in sorted(strangers)]

    for problem in problems:
        print(f"{executable}: {problem}", file=sys.stderr)
    counts = ", ".join(
        f"{len(symbols)} from {Path(library or '?').name}" for library, symbols in binary.imports.items()
    )
    print(f"{executable}: Mach-O arm64, macOS {'.'.join(map(str, binary.minos or ()))}; imports {counts}")
    return 1 if problems else 0


if __name__ == "__main__":
    command, *paths = sys.argv[1:] or [""]
    if command == "stub" and len(paths) == 1:
        stub(*paths)
    elif command == "check" and len(paths) == 2:
        sys.exit(check(*paths))
    else:
        sys.exit(__doc__)
