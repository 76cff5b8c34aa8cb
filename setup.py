"""Build of the two extension modules; everything else is in pyproject.toml."""

from __future__ import annotations

import os
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup

CFLAGS = ["-std=c11", "-O3", "-fvisibility=hidden", "-Icsrc"]
# Generated C is not ours to clean; csrc/ is built with all warnings by tests/c/Makefile.
EXTRA = os.environ.get("VWO_FAST_CFLAGS", "").split()

LANE_UNITS = ["csrc/vf_segment.c", "csrc/vf_fork.c", "csrc/vf_lane.c", "csrc/vf_reader.c", "csrc/vf_drain.c"]
BATCH_UNITS = [
    "csrc/vf_msgpack.c",
    "csrc/vf_number.c",
    "csrc/vf_json.c",
    "csrc/vf_shape.c",
    "csrc/vf_visitor.c",
    "csrc/vf_batch.c",
]


def extension(name: str, units: list[str]) -> Extension:
    return Extension(
        f"vwo_fast.{name}",
        [f"vwo_fast/{name}.pyx", *units],
        extra_compile_args=CFLAGS + EXTRA,
        extra_link_args=EXTRA,
        depends=glob("csrc/*.h") + glob("vwo_fast/*.pxd") + glob("vwo_fast/*.pxi"),
    )


setup(
    ext_modules=cythonize(
        [extension("_lane", LANE_UNITS + BATCH_UNITS), extension("_batch", BATCH_UNITS)],
        language_level=3,
        build_dir="build/cython",
    )
)
