from vwo_fast._csrc cimport vf_batch


cdef class Batch:
    cdef vf_batch c
