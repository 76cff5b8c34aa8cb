/*
 * vf_segment.h - files that processes map: making, checking, unmapping.
 *
 * Idea: a file is made whole under a temporary name - allocated, mapped, its
 * ident written - and gets its real name last, so that whoever finds the real
 * name finds a complete file.
 *
 * Key invariant: a mapping is never larger than the file, and the pages of the
 * file exist before it is mapped.  A file that grows page by page on a full
 * tmpfs kills its writer with SIGBUS; allocation first gives ENOSPC instead.
 * A mapped file is never truncated.
 *
 * Hard case: what lies in the folder may be a link, a pipe, someone else's, or
 * of another version.  attach believes nothing: no link is followed, nothing
 * blocks, and owner, type, size, magic and version are checked before use.
 */
#ifndef VF_SEGMENT_H
#define VF_SEGMENT_H

#include "vf_common.h"
#include "vf_layout.h"

/* Why a file was refused, for people. */
struct vf_fault {
  char text[160];
};

/*
 * Makes and maps a file of `size` bytes, all zero, mode 0600.  VF_SYSTEM with
 * errno (EEXIST: the name is taken; ENOSPC: no room); nothing is left behind.
 * @caller any
 */
int vf_segment_create(const char *path, size_t size, void **base);

/*
 * Maps an existing file whose size must lie within size_min and size_max.
 * VF_SYSTEM with errno, or VF_INVALID with a fault.  @caller any
 */
int vf_segment_attach(const char *path, size_t size_min, size_t size_max, void **base, size_t *size,
                      struct vf_fault *fault);

/* Unmaps; writes nothing, so a child may do it to what its parent mapped. @caller any */
void vf_segment_unmap(void *base, size_t size);

/* VF_OK, VF_VERSION or VF_INVALID, and then the fault names what was found and expected. */
int vf_segment_identify(uint64_t magic, uint64_t magic_wanted, uint32_t version,
                        struct vf_fault *fault);

/* The control file.  create leaves it under `path`; the caller renames.  @caller any */
int vf_control_create(const char *path, uint64_t created_ns, struct vf_control **control);
int vf_control_attach(const char *path, struct vf_control **control, struct vf_fault *fault);

/* True for one caller per interval over all processes. @caller any */
bool vf_control_claim_launch(struct vf_control *control, uint64_t now_ns, uint64_t interval_ns);

#endif /* VF_SEGMENT_H */
