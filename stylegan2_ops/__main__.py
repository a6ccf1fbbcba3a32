"""Command line of the operators' build: `python -m stylegan2_ops --status|--compile|--check|--forget`."""

import argparse
import sys
from collections.abc import Sequence

from stylegan2_ops import build


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 1 with the cause on stderr."""
    parser = argparse.ArgumentParser(prog="python -m stylegan2_ops", description="The CUDA kernels of stylegan2_ops.")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--status", action="store_true", help="say in what state the kernels are (default)")
    action.add_argument("--compile", action="store_true", help="compile them now for the GPUs of this machine")
    action.add_argument("--check", action="store_true", help="only see whether they compile; needs nvcc but no GPU")
    action.add_argument("--forget", action="store_true", help="remove compiled kernels and remembered failures")
    parser.add_argument("--arch", action="append", metavar="sm_NN", help="GPU for --check; may be repeated")
    options = parser.parse_args(arguments)
    try:
        if options.check:
            print(build.check(options.arch or build.CHECKED_ARCHITECTURES))
        elif options.forget:
            print(f"removed {build.forget()} builds from {build.cache_root()}")
        else:
            if options.compile:
                build.compile_now()
            status = build.status()
            print(f"{status.state}: {status.detail}")
    except build.BuildError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
