# The control file, seen by every process of a queue.

cdef class Control:
    cdef vf_control *c
    cdef readonly str path

    def __init__(self):
        raise TypeError("use Control.create or Control.attach")

    def __dealloc__(self):
        vf_segment_unmap(self.c, VF_CONTROL_SIZE)

    @classmethod
    def create(cls, path):
        cdef Control control = Control.__new__(Control)
        cdef str temporary = f"{path}.tmp"
        control.path = os.fspath(path)
        # The caller holds the queue's lock, so what lies here is of a process that died.
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        check(vf_control_create(os.fsencode(temporary), time.time_ns(), &control.c), temporary, NULL)
        # A link, unlike a rename, never takes the place of a file that others have mapped.
        try:
            os.link(temporary, control.path)
        finally:
            os.unlink(temporary)
        return control

    @classmethod
    def attach(cls, path):
        cdef Control control = Control.__new__(Control)
        cdef vf_fault fault
        fault.text[0] = 0
        control.path = os.fspath(path)
        check(vf_control_attach(os.fsencode(path), &control.c, &fault), control.path, &fault)
        return control

    cdef vf_control *mapped(self) except NULL:
        if self.c == NULL:
            raise ValueError("the control file has been closed")
        return self.c

    cdef atomic_u64 *counter_at(self, index) except NULL:
        if not 0 <= index < VF_CONTROL_COUNTERS:
            raise IndexError(f"counter {index}: 0 to {VF_CONTROL_COUNTERS - 1} exist")
        return &self.mapped().counters[<int>index]

    @property
    def sleeping(self):
        return bool(vf_sleeping_load(&self.mapped().sleeping))

    def set_sleeping(self):
        vf_sleeping_set(&self.mapped().sleeping)

    def set_dozing(self):
        vf_dozing_set(&self.mapped().sleeping)

    def set_awake(self):
        vf_sleeping_clear(&self.mapped().sleeping)

    def take_doorbell(self):
        return bool(vf_sleeping_take(&self.mapped().sleeping))

    @property
    def generation(self):
        return vf_generation_load(&self.mapped().generation)

    def bump_generation(self):
        vf_generation_bump(&self.mapped().generation)

    def claim_launch(self, now_ns, interval_ns):
        return bool(vf_control_claim_launch(self.mapped(), now_ns, interval_ns))

    def clear_launch(self):
        vf_number_store(&self.mapped().launch_ns, 0)

    @property
    def aggregator_pid(self):
        return vf_number_load(&self.mapped().aggregator_pid)

    @aggregator_pid.setter
    def aggregator_pid(self, value):
        vf_number_store(&self.mapped().aggregator_pid, value)

    @property
    def heartbeat_ns(self):
        return vf_number_load(&self.mapped().heartbeat_ns)

    @heartbeat_ns.setter
    def heartbeat_ns(self, value):
        vf_number_store(&self.mapped().heartbeat_ns, value)

    def counter(self, index):
        return vf_number_load(self.counter_at(index))

    def add(self, index, amount):
        vf_number_add(self.counter_at(index), amount)

    def set(self, index, value):
        vf_number_store(self.counter_at(index), value)

    def counters(self):
        cdef vf_control *c = self.mapped()
        return [vf_number_load(&c.counters[i]) for i in range(VF_CONTROL_COUNTERS)]

    def close(self):
        vf_segment_unmap(self.c, VF_CONTROL_SIZE)
        self.c = NULL
