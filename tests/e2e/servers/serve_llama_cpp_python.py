"""Runs the server of llama-cpp-python on shared libraries whose ggml has its backends apart.

A script, started as a subprocess with both packages on PYTHONPATH. The package itself loads no
backend: its own build has the CPU's compiled in.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import sys
from pathlib import Path


def main() -> None:
    folder = Path(os.environ["LLAMA_CPP_LIB_PATH"])
    ggml = ctypes.CDLL(str(folder / "libggml.so"))
    ggml.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
    ggml.ggml_backend_load_all_from_path(os.fsencode(folder))
    sys.argv[0] = "llama_cpp.server"
    runpy.run_module("llama_cpp.server", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
