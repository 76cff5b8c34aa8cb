# The worker's side: a lane and the producers that pack into it.

cdef extern from *:
    """
    #include <time.h>

    #ifdef CLOCK_MONOTONIC_COARSE
    #define VF_CLOCK_COARSE CLOCK_MONOTONIC_COARSE
    #else
    #define VF_CLOCK_COARSE CLOCK_MONOTONIC
    #endif

    /* Periods of 16.8 ms since the host started.  At each, one call asks the kernel about the
     * aggregator, which takes some 5 us with the cold caches of a timer interrupt: at 200,000
     * events a second that is one call in 3,000. */
    static inline uint64_t vf_tick(void) {
      struct timespec now;
      clock_gettime(VF_CLOCK_COARSE, &now);
      return ((uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec) >> 24;
    }
    """
    uint64_t vf_tick() noexcept

cdef dict REASON_NAMES = {
    REASON_LANE_FULL: "lane full",
    REASON_TOO_LARGE: "too large",
    REASON_NOT_JSON: "not JSON",
    REASON_TOO_DEEP: "too deep",
    REASON_BAD_IMPRESSION: "bad impression",
    REASON_NO_LANE: "no lane",
    REASON_INTERNAL: "internal",
}


# A dying owner keeps its control file to the end: an event may still be made by a finalizer.
@cython.no_gc_clear
cdef class LaneOwner:
    cdef Control control
    cdef vf_producer lane
    # A lane that nobody reads any more, until what is left in it has moved, and the process that wrote it.
    cdef vf_producer old
    cdef uint64_t old_process
    # The process (vf_fork_id) that opened the lane; 0: there is none.  A child has another id,
    # so what it inherits is never used.
    cdef uint64_t process
    cdef uint64_t tick
    # The descriptor of the lock that an aggregator holds while it lives; -1: ask the hook each time.
    cdef int aggregator_lock
    cdef uint64_t external_limit
    cdef size_t body_limit
    # Who is in hook_attach (process, thread), so that an event made inside the hook is not sent into it again.
    cdef set attaching
    # The same for hook_full.
    cdef set waiting
    # Counts made while there is no lane to keep them in; they move into the next one.
    cdef uint64_t pending[32]
    cdef uint64_t pending_process

    def __init__(self, Control control not None):
        self.control = control
        self.aggregator_lock = -1
        self.external_limit = VF_BATCH_BYTES_MAX * 4
        self.body_limit = VF_BATCH_BYTES_MAX
        self.attaching = set()
        self.waiting = set()

    def __dealloc__(self):
        vf_lane_close(&self.lane)
        vf_lane_close(&self.old)

    @property
    def body_bytes_max(self):
        return self.body_limit

    @body_bytes_max.setter
    def body_bytes_max(self, value):
        if not 16 <= value <= VF_BATCH_BYTES_MAX:
            raise ValueError(f"body_bytes_max={value}: expected 16 to {VF_BATCH_BYTES_MAX}")
        self.body_limit = value

    cdef bint is_open(self) noexcept:
        return self.process == vf_fork_id()

    def open_lane(self, path, lane_id, owner, capacity, wants_reports, predecessor=0, *, keep_old=False):
        cdef vf_lane_header ident
        cdef vf_producer fresh
        cdef bytes temporary = os.fsencode(path) + b".tmp"
        cdef uint64_t size = capacity
        cdef int status, i
        memset(&ident, 0, sizeof(ident))
        ident.lane_id = lane_id
        ident.owner = owner
        ident.predecessor = predecessor
        ident.pid = os.getpid()
        ident.created_ns = time.time_ns()
        vf_flag_store(&ident.wants_reports, 1 if wants_reports else 0)
        status = vf_lane_create(&fresh, temporary, size, &ident)
        if status == VF_INVALID:
            raise ValueError(f"capacity={capacity}: expected a power of two from 64 KiB to 1 GiB")
        check(status, os.fsdecode(temporary), NULL)
        # What a parent mapped is unmapped here at the latest; unmapping writes nothing.
        if keep_old and self.is_open():
            self.set_lane_aside()
        else:
            vf_lane_close(&self.lane)
        self.lane = fresh
        self.process = vf_fork_id()
        self.tick = 0
        if self.pending_process == self.process:
            for i in range(VF_LANE_COUNTERS):
                self.count(i, self.pending[i])
        memset(self.pending, 0, sizeof(self.pending))

    @property
    def lane_id(self):
        return self.lane.lane_id if self.is_open() else 0

    @property
    def capacity(self):
        return self.lane.capacity if self.is_open() else 0

    @property
    def used_bytes(self):
        return self.lane.head - vf_tail_load(&self.lane.header.tail) if self.is_open() else 0

    @property
    def is_abandoned(self):
        return self.is_open() and vf_number_load(&self.lane.header.abandoned) != 0

    def attach_now(self):
        return self.is_open() or self.attach()

    def move_to(self, Control control not None):
        self.set_lane_aside()
        self.control = control

    cdef void set_lane_aside(self) noexcept:
        if self.is_open():
            vf_lane_close(&self.old)
            self.old = self.lane
            self.old_process = self.process
            memset(&self.lane, 0, sizeof(self.lane))
            self.process = 0

    def rescue_old(self, *, is_counted=True):
        cdef vf_producer old = self.old
        cdef vf_reader reader
        cdef vf_view view
        cdef uint64_t moved = 0, lost = 0, size = 0
        cdef bint is_named, kept
        if old.header == NULL or not self.is_open() or self.old_process != self.process:
            return 0, 0
        memset(&self.old, 0, sizeof(self.old))
        is_named = vf_lane_revisit(&old, &reader)
        while vf_reader_peek(&reader, &view) == VF_OK:
            kept = self.adopt(old.lane_id, &view)
            vf_reader_advance(&reader, &view)
            moved += kept
            lost += not kept
            size += view.size if kept else 0
        lost += reader.damaged
        # Of what had been read before, somebody has counted that it was accepted if he could read the header.
        self.count(ACCEPTED, moved + lost if is_named or not is_counted else max(old.seq, moved + lost))
        self.count(ACCEPTED_BYTES, size)
        if lost and self.control.c != NULL:
            vf_number_add(&self.control.c.counters[WITHOUT_LANE + REASON_DAMAGED], lost)
        vf_number_store(&old.header.abandoned, VF_ABANDONED_CLAIMED)
        vf_lane_close(&old)
        return moved, lost

    cdef bint adopt(self, uint64_t old_id, vf_view *view) except -1:
        """Publish a record of the old lane in the present one. False when it cannot be."""
        cdef uint8_t *payload = NULL
        cdef uint64_t seq = vf_lane_take_seq(&self.lane)
        cdef bytes copy = PyBytes_FromStringAndSize(<const char *>view.payload, <Py_ssize_t>view.size)
        if view.kind & VF_KIND_EXTERNAL:
            try:
                if not self.hook_adopted(old_id, view.seq, seq):
                    return False
            except Exception:
                self.count(HOOK_FAILURES, 1)
                return False
        if vf_lane_reserve(&self.lane, view.size, &payload) != VF_OK:
            return False
        memcpy(payload, PyBytes_AS_STRING(copy), view.size)
        vf_lane_publish(&self.lane, view.size, view.route, view.kind, seq)
        return True

    def close_lane(self):
        vf_lane_close(&self.lane)
        self.process = 0

    def lane_counters(self):
        cdef int i
        if self.is_open():
            return [vf_number_load(&self.lane.header.counters[i]) for i in range(VF_LANE_COUNTERS)]
        if self.pending_process == vf_fork_id():
            return [self.pending[i] for i in range(VF_LANE_COUNTERS)]
        return [0] * VF_LANE_COUNTERS

    def watch_aggregator(self, fd):
        self.aggregator_lock = fd

    def set_external_limit(self, external_bytes):
        self.external_limit = external_bytes

    def refuse(self, reason, detail):
        self.refused(reason, detail)

    def hook_attach(self):
        return False

    def hook_ring(self):
        pass

    def hook_tick(self):
        pass

    def hook_full(self, needed_bytes, waited):
        return False

    def hook_external(self, seq, payload):
        return False

    def hook_unused(self, lane_id, seq):
        pass

    def hook_adopted(self, lane_id, seq, new_seq):
        return False

    def hook_refused(self, reason, detail):
        pass

    # ---- what is not usual; all of it may run Python code ----

    cdef void count(self, int index, uint64_t amount) noexcept:
        if self.is_open():
            vf_number_add_own(&self.lane.header.counters[index], amount)
            return
        if 0 < index < FIRST_DROP_REASON and self.control.c != NULL:
            # A process that gets no lane at all must not hide what it refuses.
            vf_number_add(&self.control.c.counters[WITHOUT_LANE + index], amount)
            return
        if self.pending_process != vf_fork_id():
            memset(self.pending, 0, sizeof(self.pending))
            self.pending_process = vf_fork_id()
        self.pending[index] += amount

    cdef bint refused(self, int reason, str detail) except -1:
        self.count(reason, 1)
        try:
            self.hook_refused(reason, detail)
        except Exception:
            self.count(HOOK_FAILURES, 1)
        return False

    cdef bint attach(self) except -1:
        """Have a lane opened for this process; False: there is none."""
        cdef object caller = (vf_fork_id(), PyThread_get_thread_ident())
        cdef bint opened = False
        if caller in self.attaching:
            return False
        self.attaching.add(caller)
        try:
            opened = self.hook_attach()
        except Exception:
            self.count(HOOK_FAILURES, 1)
        finally:
            self.attaching.discard(caller)
        if not opened and self.is_open():
            # The hook failed after it made the file: nobody would ever read it.
            self.close_lane()
        return opened and self.is_open()

    cdef int after_publish(self, uint64_t size) except -1:
        """Count, ring, tick: nothing here can take the event back."""
        cdef uint64_t tick
        cdef bint is_calm
        vf_number_add_own(&self.lane.header.counters[ACCEPTED], 1)
        vf_number_add_own(&self.lane.header.counters[ACCEPTED_BYTES], size)
        if self.control.c != NULL and vf_lane_must_ring(&self.lane, &self.control.c.sleeping):
            self.ring()
        tick = vf_tick()
        if tick != self.tick:
            # While an aggregator lives, that is all there is to know; once a second the hook looks for itself.
            is_calm = (
                tick >> 6 == self.tick >> 6
                and vf_lock_held(self.aggregator_lock)
                and not vf_lock_unlinked(self.aggregator_lock)
                and vf_number_load(&self.lane.header.abandoned) == 0
            )
            self.tick = tick
            if is_calm:
                return 0
            try:
                self.hook_tick()
            except Exception:
                self.count(HOOK_FAILURES, 1)
        return 0

    cdef int ring(self) except -1:
        self.count(DOORBELLS, 1)
        try:
            self.hook_ring()
        except Exception:
            self.count(HOOK_FAILURES, 1)
        return 0

    cdef bint full(self, uint64_t needed, double waited) except -1:
        """Ask whether to try again; an event made inside the hook is not sent into it again."""
        cdef object caller = (vf_fork_id(), PyThread_get_thread_ident())
        cdef bint again = False
        if caller in self.waiting:
            return False
        self.waiting.add(caller)
        try:
            again = self.hook_full(needed, waited)
        except Exception:
            self.count(HOOK_FAILURES, 1)
        finally:
            self.waiting.discard(caller)
        return again

    cdef bint store(self, const uint8_t *data, size_t size, uint64_t route, uint16_t kind, uint64_t seq) except -1:
        """Copy a packed payload into the lane; seq 0: the next one."""
        cdef uint8_t *payload = NULL
        cdef uint64_t lane_id = self.lane.lane_id
        cdef bint again
        cdef double started = -1
        cdef double now
        while vf_lane_reserve(&self.lane, <uint32_t>size, &payload) != VF_OK:
            now = time.monotonic()
            if started < 0:
                started = now
            again = self.full(vf_record_span(size), now - started)
            # The hook may have opened a larger lane; a file beside the lane is named after the old one.
            if not self.is_open() or (seq and self.lane.lane_id != lane_id):
                return self.refused(REASON_NO_LANE, "the lane was closed while it was full")
            if not again:
                return self.refused(REASON_LANE_FULL, f"no room for {size} bytes")
        memcpy(payload, data, size)
        vf_lane_publish(&self.lane, <uint32_t>size, route, kind, seq if seq else vf_lane_take_seq(&self.lane))
        self.after_publish(size)
        return True

    cdef bint store_external(self, Packer packer, uint64_t route, uint16_t kind) except -1:
        cdef uint64_t words[2]
        cdef uint64_t lane_id = self.lane.lane_id
        # Other threads may publish while the hook writes, so the number is taken before it.
        cdef uint64_t seq = vf_lane_take_seq(&self.lane)
        cdef bytes payload = PyBytes_FromStringAndSize(<char *>packer.data, <Py_ssize_t>packer.size)
        cdef bint kept = False
        words[0] = packer.size
        words[1] = vf_check64(0, packer.data, packer.size)
        try:
            kept = self.hook_external(seq, payload)
        except Exception:
            self.count(HOOK_FAILURES, 1)
        if not kept:
            return self.refused(REASON_LANE_FULL, f"no room for an event of {packer.size} bytes outside the lane")
        if not self.is_open() or self.lane.lane_id != lane_id:
            kept = self.refused(REASON_NO_LANE, "the lane was closed while a large event was written")
        else:
            kept = self.store(<uint8_t *>words, sizeof(words), route, kind | VF_KIND_EXTERNAL, seq)
        if not kept:
            try:
                self.hook_unused(lane_id, seq)
            except Exception:
                self.count(HOOK_FAILURES, 1)
        return kept

    cdef bint enqueue_packed(self, Packer packer, uint64_t route, uint16_t kind) except -1:
        # Packing may have run the event's own code, and that may have forked or closed the queue.
        if not self.is_open() and not self.attach():
            return self.refused(REASON_NO_LANE, "this process has no lane")
        if packer.size > min(VF_LANE_PAYLOAD_MAX(self.lane.capacity), self.external_limit):
            return self.store_external(packer, route, kind)
        return self.store(packer.data, packer.size, route, kind, 0)

    cdef bint enqueue_carefully(self, object event, int shape, uint64_t route, uint16_t kind) except -1:
        """Whatever the quick way does not do; only what is no Exception (KeyboardInterrupt, say) passes."""
        cdef Packer packer
        try:
            if not self.is_open() and not self.attach():
                return self.refused(REASON_NO_LANE, "this process has no lane")
            try:
                packer = pack_carefully(event, shape, self.body_limit)
            except _Refused as exc:
                return self.refused(exc.reason, str(exc))
            except MemoryError:
                return self.refused(REASON_INTERNAL, "no memory to pack it")
            return self.enqueue_packed(packer, route, kind)
        except Exception:
            self.count(REASON_INTERNAL, 1)
            return False


cdef class Producer:
    cdef LaneOwner owner
    cdef uint64_t route
    cdef int shape
    cdef uint16_t kind

    def __init__(self, LaneOwner owner not None, route_key, shape, kind):
        if shape not in (SHAPE_PLAIN, SHAPE_FULLSTACK):
            raise ValueError(f"shape={shape}: expected SHAPE_PLAIN or SHAPE_FULLSTACK")
        if kind not in (VF_KIND_EVENT, VF_KIND_IMPRESSION, VF_KIND_REQUEST):
            raise ValueError(f"kind={kind}: expected one of the KIND values")
        self.owner = owner
        self.route = route_key
        self.shape = shape
        self.kind = kind

    def enqueue(self, event, /):
        cdef LaneOwner owner = self.owner
        cdef uint8_t *payload = NULL
        cdef uint8_t *end = NULL
        cdef size_t room, size
        if owner is None:
            return False
        if owner.is_open():
            # From here to publish no Python code runs, so no other thread and no finalizer either.
            room = min(vf_lane_room(&owner.lane, &payload), owner.external_limit)
            if room >= <size_t>VF_PACK_STEP:
                if self.shape == SHAPE_PLAIN:
                    end = put_any(payload, payload + room, <PyObject *>event, VF_DEPTH_MAX)
                else:
                    end = put_impression(payload, payload + room, <PyObject *>event)
            size = <size_t>(end - payload) if end != NULL else 0
            if size > 0 and size * 6 + 16 <= owner.body_limit:
                vf_lane_publish(&owner.lane, <uint32_t>size, self.route, self.kind, vf_lane_take_seq(&owner.lane))
                owner.after_publish(size)
                return True
        return owner.enqueue_carefully(event, self.shape, self.route, self.kind)
