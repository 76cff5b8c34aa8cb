# The C declarations of segment, lane, fork and packing; the meaning of each is in its header.

from libc.stdint cimport int8_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from vwo_fast._csrc cimport vf_batch

cdef extern from "vf_layout.h" nogil:
    ctypedef uint32_t atomic_u32 "_Atomic uint32_t"
    ctypedef uint64_t atomic_u64 "_Atomic uint64_t"
    uint32_t VF_LAYOUT_VERSION
    int VF_LANE_COUNTERS
    int VF_CONTROL_COUNTERS
    int VF_KIND_PADDING
    int VF_KIND_EVENT
    int VF_KIND_IMPRESSION
    int VF_KIND_REQUEST
    int VF_KIND_EXTERNAL
    uint64_t VF_ABANDONED_CLAIMED
    ctypedef struct vf_lane_header "struct vf_lane_header":
        uint64_t lane_id
        uint64_t owner
        uint64_t pid
        uint64_t created_ns
        uint64_t predecessor
        atomic_u32 wants_reports
        atomic_u64 tail
        atomic_u64 abandoned
        atomic_u64 counters[32]
    ctypedef struct vf_control "struct vf_control":
        atomic_u32 sleeping
        atomic_u64 generation
        atomic_u64 aggregator_pid
        atomic_u64 heartbeat_ns
        atomic_u64 launch_ns
        atomic_u64 counters[128]

cdef extern from "vf_atomic.h" nogil:
    void vf_sleeping_set(atomic_u32 *sleeping) noexcept
    void vf_sleeping_clear(atomic_u32 *sleeping) noexcept
    bint vf_sleeping_take(atomic_u32 *sleeping) noexcept
    bint vf_sleeping_load(atomic_u32 *sleeping) noexcept
    void vf_dozing_set(atomic_u32 *sleeping) noexcept
    void vf_generation_bump(atomic_u64 *generation) noexcept
    uint64_t vf_generation_load(atomic_u64 *generation) noexcept
    uint64_t vf_tail_load(atomic_u64 *tail) noexcept
    uint64_t vf_number_load(atomic_u64 *number) noexcept
    void vf_number_store(atomic_u64 *number, uint64_t value) noexcept
    void vf_number_add(atomic_u64 *number, uint64_t amount) noexcept
    void vf_number_add_own(atomic_u64 *number, uint64_t amount) noexcept
    uint32_t vf_flag_load(atomic_u32 *flag) noexcept
    void vf_flag_store(atomic_u32 *flag, uint32_t value) noexcept

cdef extern from "vf_segment.h" nogil:
    ctypedef struct vf_fault "struct vf_fault":
        char text[160]
    int vf_control_create(const char *path, uint64_t created_ns, vf_control **control) noexcept
    int vf_control_attach(const char *path, vf_control **control, vf_fault *fault) noexcept
    bint vf_control_claim_launch(vf_control *control, uint64_t now_ns, uint64_t interval_ns) noexcept
    void vf_segment_unmap(void *base, size_t size) noexcept
    size_t VF_CONTROL_SIZE

cdef extern from "vf_lock.h" nogil:
    bint vf_lock_held(int fd) noexcept
    bint vf_lock_unlinked(int fd) noexcept

cdef extern from "vf_fork.h" nogil:
    void vf_fork_init() noexcept
    uint64_t vf_fork_id() noexcept

cdef extern from "vf_check.h" nogil:
    uint64_t vf_check64(uint64_t seed, const uint8_t *data, size_t size) noexcept

cdef extern from "vf_lane.h" nogil:
    ctypedef struct vf_producer "struct vf_producer":
        vf_lane_header *header
        uint64_t capacity
        uint64_t lane_id
        uint64_t head
        uint64_t seq
    ctypedef struct vf_reader "struct vf_reader":
        vf_lane_header *header
        uint64_t capacity
        uint64_t lane_id
        uint64_t owner
        uint64_t pid
        uint64_t predecessor
        uint64_t cursor
        uint64_t tail
        uint64_t damaged
        uint64_t damaged_to
        uint64_t damaged_passed
        bint damaged_known
        uint64_t passed
        bint passed_known
    ctypedef struct vf_view "struct vf_view":
        uint64_t start
        uint64_t end
        uint64_t seq
        uint64_t route
        const uint8_t *payload
        uint32_t size
        uint16_t kind
    ctypedef struct vf_run "struct vf_run":
        uint64_t start
        uint64_t end
        uint64_t first_seq
        uint64_t passed
        uint32_t count
        uint32_t invalid
    uint64_t VF_LANE_PAYLOAD_MAX(uint64_t capacity) noexcept
    uint64_t vf_record_span(uint64_t size) noexcept
    int vf_lane_create(vf_producer *producer, const char *path, uint64_t capacity,
                       const vf_lane_header *ident) noexcept
    void vf_lane_close(vf_producer *producer) noexcept
    size_t vf_lane_room(vf_producer *producer, uint8_t **payload) noexcept
    int vf_lane_reserve(vf_producer *producer, uint32_t size, uint8_t **payload) noexcept
    void vf_lane_publish(vf_producer *producer, uint32_t size, uint64_t route, uint16_t kind,
                         uint64_t seq) noexcept
    bint vf_lane_must_ring(vf_producer *producer, atomic_u32 *sleeping) noexcept
    bint vf_lane_revisit(vf_producer *producer, vf_reader *reader) noexcept
    uint64_t vf_lane_take_seq(vf_producer *producer) noexcept
    int vf_reader_attach(vf_reader *reader, const char *path, vf_fault *fault) noexcept
    int vf_reader_attach_aside(vf_reader *reader, const char *path, vf_fault *fault) noexcept
    void vf_reader_abandon(vf_reader *reader) noexcept
    void vf_reader_close(vf_reader *reader) noexcept
    int vf_reader_head(const vf_reader *reader, uint64_t *head) noexcept
    int vf_reader_peek(vf_reader *reader, vf_view *view) noexcept
    int vf_reader_peek_quick(vf_reader *reader, vf_view *view, uint8_t *copy, size_t room) noexcept
    void vf_reader_advance(vf_reader *reader, const vf_view *view) noexcept
    int vf_reader_drain(vf_reader *reader, vf_batch *batch, uint64_t route, uint64_t until,
                        vf_run *run) noexcept
    int vf_reader_drain_quick(vf_reader *reader, vf_batch *batch, uint64_t route, uint64_t until,
                        vf_run *run) noexcept
    int vf_reader_rewind(vf_reader *reader, uint64_t position) noexcept
    int vf_reader_release(vf_reader *reader, uint64_t position) noexcept
    void vf_reader_note_passed(vf_reader *reader, uint64_t position, uint64_t passed) noexcept
    void vf_reader_note_damage(vf_reader *reader, uint64_t position, uint64_t passed) noexcept
    int64_t vf_reader_mark(vf_reader *reader, uint64_t start, uint64_t end, uint64_t first_seq,
                           uint64_t last_seq) noexcept

cdef extern from "vf_pack.h" nogil:
    int VF_PACK_STEP
    uint8_t *vf_put_uint(uint8_t *at, uint64_t value) noexcept
    uint8_t *vf_put_int(uint8_t *at, int64_t value) noexcept
    uint8_t *vf_put_double(uint8_t *at, double value) noexcept
    uint8_t *vf_put_str_head(uint8_t *at, uint32_t size) noexcept
    uint8_t *vf_put_map_head(uint8_t *at, uint32_t count) noexcept
    uint8_t *vf_put_array_head(uint8_t *at, uint32_t count) noexcept
    uint8_t *vf_put_ext_head(uint8_t *at, int8_t type, uint32_t size) noexcept
    uint32_t vf_char_at(const void *text, int width, size_t index) noexcept
    size_t vf_utf8_size(const void *text, int width, size_t length) noexcept
    uint8_t *vf_put_text(uint8_t *at, const void *text, int width, size_t length) noexcept
    size_t vf_put_decimal(uint8_t *at, int64_t value) noexcept
