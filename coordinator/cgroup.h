/* cgroup.h - how much memory the control groups of this process leave it (version 2, the kernel's admin-guide/cgroup-v2):
 * in a container or a batch job that is less than the machine has. Pure but for the files it reads. */
#pragma once
#include <stdint.h>

/* Bytes: the least, over its group and those that hold it, of memory.max - memory.current, where pages of files that can be
 * dropped count as left. UINT64_MAX: no group says a limit. self: /proc/self/cgroup; root: /sys/fs/cgroup. */
uint64_t cgroup_room(const char *self, const char *root);
