/* host_mem.h - memory of the backends whose device is the host itself. Owner: the backend's thread. */
#pragma once
#include <stddef.h>

#include "kernels/kernels.h"

/* These are the ops of the same names: zeroed, 64-byte aligned, pages of large blocks untouched until first use. */
void *host_alloc(struct backend *b, size_t bytes, enum mem_kind kind);
void  host_release(struct backend *b, void *p);
void  host_upload(struct backend *b, void *dst, const void *src_host, size_t bytes);
void  host_download(struct backend *b, void *dst_host, const void *src, size_t bytes);
void  host_sync(struct backend *b);
const void *host_adopt(struct backend *b, const void *host, size_t bytes); /* as it is */
