"""Compiled batch building; the stub beside this file is its documentation."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from vwo_fast._csrc cimport (
    VF_BATCH_BYTES_MAX,
    VF_BATCH_BYTES_MIN,
    VF_BATCH_EVENTS_MAX,
    VF_DEPTH,
    VF_DEPTH_MAX,
    VF_EMPTY,
    VF_FULL,
    VF_INVALID,
    VF_JSON_STEP,
    VF_NOMEM,
    VF_OK,
    VF_OTHER,
    VF_TOO_LARGE,
    VF_VISITOR_BITS,
    vf_batch_append,
    vf_batch_append_json,
    vf_batch_body_size,
    vf_batch_clear,
    vf_batch_free,
    vf_batch_init_in,
    vf_batch_seal,
    vf_event_visitor,
    vf_json_size,
    vf_json_write_to,
    vf_visitors_add,
    vf_visitors_join,
    vf_visitors_meet,
)

cdef extern from *:
    """
    #ifdef __GLIBC__
    #include <malloc.h>
    #endif

    /* Above a size of its own choosing glibc asks the kernel for each block and gives it back at
     * once; clearing the pages of each new body took more time than writing the JSON into it. */
    static void vf_memory_keep(void) {
    #ifdef __GLIBC__
      mallopt(M_MMAP_THRESHOLD, 32 << 20);
      mallopt(M_TRIM_THRESHOLD, 16 << 20);
    #endif
    }

    static void vf_memory_return(void) {
    #ifdef __GLIBC__
      malloc_trim(0);
    #endif
    }

    #define VF_BYTES_OF(body) ((PyObject *)((body) - offsetof(PyBytesObject, ob_sval)))

    /* Bodies are the contents of bytes objects from the start: to copy a sealed body into one took
     * as long as to send it.  Called with and without the GIL. */
    static uint8_t *vf_bytes_memory(uint8_t *body, size_t kept, size_t room) {
      PyGILState_STATE state = PyGILState_Ensure();
      uint8_t *made = NULL;
      if (room > 0) {
        PyObject *fresh = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)room);
        if (fresh == NULL) {
          PyErr_Clear();
        } else {
          made = (uint8_t *)PyBytes_AS_STRING(fresh);
          if (kept > 0) {
            memcpy(made, body, kept);
          }
        }
      }
      if (body != NULL && (made != NULL || room == 0)) {
        Py_DECREF(VF_BYTES_OF(body));
      }
      PyGILState_Release(state);
      return made;
    }

    /* The object around a sealed body: nobody else knows it yet, so its size may still be set. */
    static PyObject *vf_bytes_finish(uint8_t *body, size_t size) {
      body[size] = 0;
      Py_SET_SIZE((PyVarObject *)VF_BYTES_OF(body), (Py_ssize_t)size);
      return VF_BYTES_OF(body);
    }
    """
    uint8_t *vf_bytes_memory(uint8_t *body, size_t kept, size_t room) noexcept nogil
    object vf_bytes_finish(uint8_t *body, size_t size)
    void vf_memory_keep() noexcept
    void vf_memory_return() noexcept nogil

OK = VF_OK
FULL = VF_FULL
TOO_LARGE = VF_TOO_LARGE
EMPTY = VF_EMPTY
OTHER = VF_OTHER
INVALID = VF_INVALID
DEPTH = VF_DEPTH
EVENTS_MAX = VF_BATCH_EVENTS_MAX
BYTES_MAX = VF_BATCH_BYTES_MAX

cdef Py_ssize_t VISITORS_SIZE = VF_VISITOR_BITS // 8


@cython.freelist(8)
cdef class View:
    """The bytes of an argument, held for as long as this object lives."""

    cdef Py_buffer buffer

    def __cinit__(self, source):
        PyObject_GetBuffer(source, &self.buffer, PyBUF_SIMPLE)

    def __dealloc__(self):
        PyBuffer_Release(&self.buffer)

    cdef const uint8_t *data(self) noexcept:
        return <const uint8_t *>self.buffer.buf

    cdef size_t size(self) noexcept:
        return <size_t>self.buffer.len


cdef int check(int rc) except -1:
    """The one place where a status becomes an exception."""
    if rc == VF_OK:
        return 0
    if rc == VF_NOMEM:
        raise MemoryError()
    if rc == VF_DEPTH:
        raise ValueError(f"nested deeper than {VF_DEPTH_MAX}")
    if rc == VF_INVALID:
        raise ValueError("not exactly one msgpack value that JSON can carry")
    raise ValueError(f"unexpected status {rc}")


cdef bytes native_offsets(const uint32_t *offsets, uint32_t first, uint32_t last):
    """offsets[first .. last], counted from the beginning of event ``first``."""
    cdef Py_ssize_t count = <Py_ssize_t>last - first + 1
    cdef bytes packed = PyBytes_FromStringAndSize(NULL, count * sizeof(uint32_t))
    cdef uint32_t *target = <uint32_t *>PyBytes_AS_STRING(packed)
    cdef Py_ssize_t i
    for i in range(count):
        target[i] = offsets[first + i] - offsets[first]
    return packed


cdef class Batch:
    def __cinit__(self, events_max=VF_BATCH_EVENTS_MAX, bytes_max=VF_BATCH_BYTES_MAX):
        memset(&self.c, 0, sizeof(self.c))
        if not 1 <= events_max <= VF_BATCH_EVENTS_MAX:
            raise ValueError(f"events_max={events_max!r}: allowed are 1 to {VF_BATCH_EVENTS_MAX}")
        if not VF_BATCH_BYTES_MIN <= bytes_max <= VF_BATCH_BYTES_MAX:
            raise ValueError(
                f"bytes_max={bytes_max!r}: allowed are {VF_BATCH_BYTES_MIN} to {VF_BATCH_BYTES_MAX}"
            )
        check(vf_batch_init_in(&self.c, events_max, bytes_max, vf_bytes_memory))

    def __dealloc__(self):
        vf_batch_free(&self.c)

    @property
    def count(self):
        return self.c.count

    @property
    def size(self):
        return vf_batch_body_size(&self.c)

    @property
    def events_max(self):
        return self.c.events_max

    @property
    def bytes_max(self):
        return self.c.bytes_max

    def append(self, payload):
        cdef View view = View(payload)
        cdef int rc = vf_batch_append(&self.c, view.data(), view.size())
        if rc == VF_NOMEM:
            check(rc)
        return rc

    def append_json(self, bytes event not None, uint64_t visitor=0):
        cdef int rc = vf_batch_append_json(
            &self.c, <const uint8_t *>PyBytes_AS_STRING(event), <size_t>len(event), visitor
        )
        if rc == VF_NOMEM:
            check(rc)
        return rc

    def snapshot(self, uint32_t start=0):
        cdef uint32_t count = self.c.count
        if start >= count:
            return b"", native_offsets(self.c.offsets, count, count)
        cdef uint32_t begin = self.c.offsets[start]
        return (
            PyBytes_FromStringAndSize(<char *>self.c.body + begin, <Py_ssize_t>(self.c.size - begin)),
            native_offsets(self.c.offsets, start, count),
        )

    def seal(self):
        cdef size_t size = vf_batch_body_size(&self.c)
        cdef uint8_t *body = NULL
        cdef bytes offsets = PyBytes_FromStringAndSize(
            <char *>self.c.offsets, (<Py_ssize_t>self.c.count + 1) * sizeof(uint32_t)
        )
        cdef bytes visitors = PyBytes_FromStringAndSize(<char *>self.c.visitors, VISITORS_SIZE)
        check(vf_batch_seal(&self.c, &body))
        return vf_bytes_finish(body, size), offsets, visitors

    def clear(self):
        vf_batch_clear(&self.c)


def to_json(payload):
    cdef View view = View(payload)
    cdef size_t size = 0
    check(vf_json_size(view.data(), view.size(), &size))
    cdef bytes room = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(size + VF_JSON_STEP))
    cdef uint8_t *target = <uint8_t *>PyBytes_AS_STRING(room)
    check(vf_json_write_to(target, size + VF_JSON_STEP, view.data(), view.size(), &size))
    return room[:size]


def json_size(payload):
    cdef View view = View(payload)
    cdef size_t size = 0
    check(vf_json_size(view.data(), view.size(), &size))
    return size


def visitor(payload):
    cdef View view = View(payload)
    return vf_event_visitor(view.data(), view.size())


def visitor_filter(list visitors not None):
    cdef bytes filter = PyBytes_FromStringAndSize(NULL, VISITORS_SIZE)
    cdef uint8_t *bits = <uint8_t *>PyBytes_AS_STRING(filter)
    cdef uint64_t each
    memset(bits, 0, VISITORS_SIZE)
    for each in visitors:
        vf_visitors_add(bits, each)
    return filter


cdef bint is_filter(Py_ssize_t size) except -1:
    """Whether it is a whole filter, not the empty one of nobody."""
    if size != 0 and size != VISITORS_SIZE:
        raise ValueError(f"a filter of visitors has {VISITORS_SIZE} bytes or none, not {size}")
    return size != 0


def visitors_meet(bytes first not None, bytearray second not None):
    if not is_filter(len(first)) or not is_filter(len(second)):
        return False
    return vf_visitors_meet(
        <const uint8_t *>PyBytes_AS_STRING(first), <const uint8_t *>PyByteArray_AS_STRING(second)
    )


def visitors_join(bytearray visitors not None, bytes others not None):
    if not is_filter(len(others)):
        return
    if is_filter(len(visitors)):
        vf_visitors_join(<uint8_t *>PyByteArray_AS_STRING(visitors), <const uint8_t *>PyBytes_AS_STRING(others))
    else:
        visitors += others


def keep_memory():
    vf_memory_keep()


def return_memory():
    with nogil:
        vf_memory_return()
