"""Compiles CUDA sources with NVRTC, without a GPU, and prints registers and shared memory.

Arguments: the folder of the `nvidia` wheels, the folder of the sources. Ends with 1 if a source does
not compile, spills registers, or takes more registers than its block may have.
"""

import ctypes
import pathlib
import re
import sys

wheels, sources = map(pathlib.Path, sys.argv[1:])
root = wheels / "nvidia" / "cu13"
nvrtc = ctypes.CDLL(str(root / "lib" / "libnvrtc.so.13"))
options = [
    "--gpu-architecture=sm_90a",
    "--std=c++17",
    "--device-as-default-execution-space",
    "--ptxas-options=-v",
    f"--include-path={root / 'include'}",
    f"--include-path={root / 'include' / 'cccl'}",
]


def compile_source(text):
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None)
    arguments = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    status = nvrtc.nvrtcCompileProgram(program, len(options), arguments)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return status, log.value.decode()


failed = 0
print(f"{'kernel':<36} {'threads':>7} {'registers':>9} {'spilled':>7} {'shared':>7}")
for path in sorted(sources.glob("*.cu")):
    text = path.read_text()
    threads, dynamic = map(int, re.match(r"// threads (\d+) dynamic (\d+)", text).groups())
    status, log = compile_source(text)
    used = re.search(r"Used (\d+) registers", log)
    if status or not used:
        failed += 1
        print(f"{path.stem:<36} does not compile:\n{log}")
        continue
    registers = int(used[1])
    spilled = int(re.search(r"(\d+) bytes spill stores", log)[1])
    static = re.search(r"(\d+) bytes smem", log)
    shared = dynamic + (int(static[1]) if static else 0)
    bad = spilled > 0 or registers * threads > 65536
    failed += bad
    mark = "  <-- too many registers" if bad else ""
    print(f"{path.stem:<36} {threads:>7} {registers:>9} {spilled:>7} {shared:>7}{mark}")
sys.exit(f"{failed} kernels are not as they should be" if failed else 0)
