# The consumer's side of one lane.
#
# The interpreter's lock is given up for what may take long.  For what takes less than to get it
# back from a thread that waits for it, it is kept.

cdef enum:
    QUICK_BYTES = 131072
    QUICK_EVENTS = 256

cdef class LaneReader:
    cdef vf_reader c
    cdef readonly str path
    cdef readonly uint64_t run_passed

    def __init__(self):
        raise TypeError("use LaneReader.attach")

    def __dealloc__(self):
        vf_reader_close(&self.c)

    @classmethod
    def attach(cls, path):
        cdef LaneReader reader = LaneReader.__new__(LaneReader)
        cdef vf_fault fault
        fault.text[0] = 0
        reader.path = os.fspath(path)
        check(vf_reader_attach(&reader.c, os.fsencode(path), &fault), reader.path, &fault)
        return reader

    @classmethod
    def attach_aside(cls, path):
        cdef LaneReader reader = LaneReader.__new__(LaneReader)
        cdef vf_fault fault
        fault.text[0] = 0
        reader.path = os.fspath(path)
        check(vf_reader_attach_aside(&reader.c, os.fsencode(path), &fault), reader.path, &fault)
        return reader

    cdef vf_reader *mapped(self) except NULL:
        if self.c.header == NULL:
            raise ValueError("the lane has been closed")
        return &self.c

    cdef object impossible(self):
        return SegmentError(f"{self.path}: its head cannot be true (tail {self.c.tail}, cursor {self.c.cursor})")

    @property
    def lane_id(self):
        return self.mapped().lane_id

    @property
    def owner(self):
        return self.mapped().owner

    @property
    def pid(self):
        return self.mapped().pid

    @property
    def predecessor(self):
        return self.mapped().predecessor

    @property
    def wants_reports(self):
        return vf_flag_load(&self.mapped().header.wants_reports) != 0

    @property
    def capacity(self):
        return self.mapped().capacity

    @property
    def head(self):
        cdef uint64_t head = 0
        if vf_reader_head(self.mapped(), &head) != VF_OK:
            raise self.impossible()
        return head

    @property
    def cursor(self):
        return self.mapped().cursor

    @property
    def tail(self):
        return self.mapped().tail

    @property
    def damaged(self):
        return self.mapped().damaged

    @property
    def damage_end(self):
        cdef vf_reader *c = self.mapped()
        return c.damaged_to, c.damaged_passed if c.damaged_known else None

    def note_damage(self, position, passed=None):
        vf_reader_note_damage(self.mapped(), position, <uint64_t>-1 if passed is None else passed)

    @property
    def passed(self):
        return self.mapped().passed if self.c.passed_known else None

    def peek(self):
        cdef vf_view view
        cdef vf_reader *c = self.mapped()
        cdef int status = vf_reader_peek_quick(c, &view, NULL, 0)
        if status == VF_OTHER:
            with nogil:
                status = vf_reader_peek(c, &view)
        if status == VF_INVALID:
            raise self.impossible()
        return (view.kind, view.route) if status == VF_OK else None

    def drain(self, Batch batch not None, route, until):
        cdef vf_run run
        cdef vf_reader *c = self.mapped()
        cdef uint64_t route_key = route, limit = until
        cdef uint64_t near = c.cursor + QUICK_BYTES
        cdef bint is_near = <int64_t>(limit - near) <= 0
        cdef int status = VF_OTHER
        run.count = run.invalid = 0
        if is_near or batch.c.events_max - batch.c.count <= QUICK_EVENTS:
            status = vf_reader_drain_quick(c, &batch.c, route_key, limit if is_near else near, &run)
            if status == VF_EMPTY and not is_near:
                # What is left is for the next call.
                status = VF_OTHER
        if status == VF_OTHER and run.count + run.invalid == 0:
            with nogil:
                status = vf_reader_drain(c, &batch.c, route_key, limit, &run)
        self.run_passed = run.passed
        if run.count + run.invalid == 0:
            if status == VF_INVALID:
                raise self.impossible()
            if status == VF_NOMEM:
                raise MemoryError
        # What was moved has to be told; the next call meets the same obstacle first.
        elif status == VF_INVALID:
            status = VF_EMPTY
        elif status == VF_NOMEM:
            status = VF_FULL
        return status, run.count, run.start, run.end, run.first_seq, run.invalid

    def take(self):
        cdef vf_view view
        cdef vf_reader *c = self.mapped()
        cdef int status
        cdef bytes payload
        with nogil:
            status = vf_reader_peek(c, &view)
        if status == VF_INVALID:
            raise self.impossible()
        if status != VF_OK:
            return None
        payload = PyBytes_FromStringAndSize(<const char *>view.payload, <Py_ssize_t>view.size)
        self.run_passed = c.passed
        vf_reader_advance(c, &view)
        return view.kind, view.route, view.seq, view.start, view.end, payload

    def rewind(self, position, passed=None):
        cdef bint known = self.mapped().passed_known and passed is not None
        if vf_reader_rewind(self.mapped(), position) != VF_OK:
            raise ValueError(f"{position} does not lie between tail {self.c.tail} and cursor {self.c.cursor}")
        if known:
            self.c.passed = passed
            self.c.passed_known = True

    cdef int64_t mark(self, uint64_t start, uint64_t end, uint64_t first_seq, uint64_t last_seq) except -1:
        cdef vf_reader *c = self.mapped()
        cdef int64_t marked
        with nogil:
            marked = vf_reader_mark(c, start, end, first_seq, last_seq)
        if marked < 0:
            raise ValueError(f"{start} to {end} does not lie between tail {c.tail} and the lane's head")
        return marked

    def mark_done(self, start, end):
        return self.mark(start, end, 1, <uint64_t>-1)

    def mark_done_seq(self, first_seq, last_seq):
        return self.mark(self.mapped().tail, self.head, first_seq, last_seq)

    def release(self, position, passed=None):
        if passed is not None and self.mapped().passed_known:
            vf_reader_note_passed(&self.c, position, passed)
        if vf_reader_release(self.mapped(), position) != VF_OK:
            raise ValueError(f"{position} does not lie between tail {self.c.tail} and cursor {self.c.cursor}")

    def abandon(self):
        vf_reader_abandon(self.mapped())

    @property
    def is_abandoned(self):
        return vf_number_load(&self.mapped().header.abandoned) != 0

    @property
    def is_claimed(self):
        return vf_number_load(&self.mapped().header.abandoned) == VF_ABANDONED_CLAIMED

    def counters(self):
        cdef vf_reader *c = self.mapped()
        return [vf_number_load(&c.header.counters[i]) for i in range(VF_LANE_COUNTERS)]

    def close(self):
        vf_reader_close(&self.c)
