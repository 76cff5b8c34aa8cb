"""Compiled access to shared memory; the stub beside this file is its documentation."""

import os
import time
from itertools import islice

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.object cimport PyObject, PyTypeObject
from cpython.pythread cimport PyThread_get_thread_ident
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memset

from vwo_fast._batch cimport Batch
from vwo_fast._csrc cimport (
    VF_BATCH_BYTES_MAX,
    VF_DEPTH_MAX,
    VF_EMPTY,
    VF_EXT_BIGINT,
    VF_FULL,
    VF_INVALID,
    VF_NOMEM,
    VF_OK,
    VF_OTHER,
    VF_SYSTEM,
    VF_TOO_LARGE,
    vf_json_size,
)
from vwo_fast._csrc_lane cimport *

from vwo_fast.errors import VwoFastError


cdef enum:
    SHAPE_PLAIN = 0
    SHAPE_FULLSTACK = 1

# The same numbers as Reason and LaneCounter in counters.py; a test compares them.
cdef enum:
    ACCEPTED = 0
    REASON_LANE_FULL = 1
    REASON_TOO_LARGE = 2
    REASON_NOT_JSON = 3
    REASON_TOO_DEEP = 4
    REASON_BAD_IMPRESSION = 5
    REASON_NO_LANE = 6
    REASON_INTERNAL = 7
    REASON_DAMAGED = 16
    ACCEPTED_BYTES = 16
    DOORBELLS = 17
    HOOK_FAILURES = 18
    FIRST_DROP_REASON = 16
    WITHOUT_LANE = 96

globals().update(
    LAYOUT_VERSION=VF_LAYOUT_VERSION,
    KIND_EVENT=VF_KIND_EVENT,
    KIND_IMPRESSION=VF_KIND_IMPRESSION,
    KIND_REQUEST=VF_KIND_REQUEST,
    KIND_EXTERNAL=VF_KIND_EXTERNAL,
    SHAPE_PLAIN=SHAPE_PLAIN,
    SHAPE_FULLSTACK=SHAPE_FULLSTACK,
    REASON_LANE_FULL=REASON_LANE_FULL,
    REASON_TOO_LARGE=REASON_TOO_LARGE,
    REASON_NOT_JSON=REASON_NOT_JSON,
    REASON_TOO_DEEP=REASON_TOO_DEEP,
    REASON_BAD_IMPRESSION=REASON_BAD_IMPRESSION,
    REASON_NO_LANE=REASON_NO_LANE,
    REASON_INTERNAL=REASON_INTERNAL,
)

vf_fork_init()


class SegmentError(VwoFastError):
    """A mapped file is not what it should be."""


cdef int check(int status, object path, vf_fault *fault) except -1:
    """Turn the status of a call on a file into an exception; the one place that does."""
    if status == VF_OK:
        return 0
    if status == VF_SYSTEM:
        raise OSError(errno, os.strerror(errno), path)
    if fault != NULL and fault.text[0] != 0:
        raise SegmentError(f"{path}: {fault.text.decode('ascii', 'replace')}")
    raise SegmentError(f"{path}: cannot be used (status {status})")


include "_pack.pxi"
include "_impression.pxi"
include "_control.pxi"
include "_producer.pxi"
include "_reader.pxi"


def pack(event):
    return packed(event, SHAPE_PLAIN)


def pack_fullstack(impression):
    return packed(impression, SHAPE_FULLSTACK)


cdef bytes packed(object event, int shape):
    cdef uint8_t quick[2048]
    cdef uint8_t *at
    cdef Packer packer
    if shape == SHAPE_PLAIN:
        at = put_any(quick, quick + sizeof(quick), <PyObject *>event, VF_DEPTH_MAX)
    else:
        at = put_impression(quick, quick + sizeof(quick), <PyObject *>event)
    if at != NULL:
        return PyBytes_FromStringAndSize(<char *>quick, at - quick)
    try:
        packer = pack_carefully(event, shape, VF_BATCH_BYTES_MAX)
    except _Refused as exc:
        raise ValueError(f"{REASON_NAMES[exc.reason]}: {exc}") from None
    return PyBytes_FromStringAndSize(<char *>packer.data, <Py_ssize_t>packer.size)


def check_value(const uint8_t[::1] data):
    return vf_check64(0, &data[0] if data.shape[0] > 0 else NULL, <size_t>data.shape[0])
