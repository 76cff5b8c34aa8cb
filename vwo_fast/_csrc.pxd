# Every C declaration that the bindings use; the meaning of each is in its header.

from libc.stdint cimport uint8_t, uint32_t, uint64_t


# --- status codes, msgpack, JSON, batch (bound by _batch.pyx) ---

cdef extern from "vf_common.h" nogil:
    int VF_OK
    int VF_FULL
    int VF_TOO_LARGE
    int VF_EMPTY
    int VF_OTHER
    int VF_INVALID
    int VF_DEPTH
    int VF_NOMEM
    int VF_VERSION
    int VF_SYSTEM
    int VF_DEPTH_MAX
    int VF_EXT_BIGINT
    uint32_t VF_BATCH_EVENTS_MAX
    uint32_t VF_BATCH_BYTES_MAX

cdef extern from "vf_json.h" nogil:
    size_t VF_JSON_STEP
    int vf_json_write_to(uint8_t *json, size_t room, const uint8_t *payload, size_t size,
                         size_t *json_size) noexcept
    int vf_json_size(const uint8_t *payload, size_t size, size_t *json_size) noexcept

cdef extern from "vf_batch.h" nogil:
    uint32_t VF_VISITOR_BITS
    uint32_t VF_BATCH_BYTES_MIN
    ctypedef struct vf_batch "struct vf_batch":
        uint8_t *body
        size_t size
        uint32_t *offsets
        uint32_t count
        uint32_t events_max
        uint32_t bytes_max
        uint8_t *visitors
    ctypedef uint8_t *vf_body_memory(uint8_t *body, size_t kept, size_t room) noexcept

    int vf_batch_init_in(vf_batch *batch, uint32_t events_max, uint32_t bytes_max,
                         vf_body_memory *body_memory) noexcept
    void vf_batch_free(vf_batch *batch) noexcept
    void vf_batch_clear(vf_batch *batch) noexcept
    int vf_batch_seal(vf_batch *batch, uint8_t **body) noexcept
    int vf_batch_append(vf_batch *batch, const uint8_t *payload, size_t size) noexcept
    int vf_batch_append_json(vf_batch *batch, const uint8_t *json, size_t size,
                             uint64_t visitor) noexcept
    size_t vf_batch_body_size(const vf_batch *batch) noexcept
    uint64_t vf_event_visitor(const uint8_t *payload, size_t size) noexcept
    void vf_visitors_add(uint8_t *visitors, uint64_t visitor) noexcept
    bint vf_visitors_meet(const uint8_t *first, const uint8_t *second) noexcept
    void vf_visitors_join(uint8_t *visitors, const uint8_t *others) noexcept
