/* cgroup.c - from the group of this process up to the root: any of them may have a limit. */
#include "coordinator/cgroup.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { PATH_BYTES = 4096 };

/* The number in a file of a group; false: it is not there, or says "max". */
static bool read_number(const char *folder, const char *name, uint64_t *out) {
    char path[PATH_BYTES + 64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "re");
    bool ok = f && fscanf(f, "%" SCNu64, out) == 1;
    if (f) fclose(f);
    return ok;
}

static uint64_t read_stat(const char *folder, const char *key) {
    char path[PATH_BYTES + 64], word[64];
    uint64_t value, found = 0;
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    FILE *f = fopen(path, "re");
    while (f && fscanf(f, "%63s %" SCNu64, word, &value) == 2)
        if (!strcmp(word, key)) found = value;
    if (f) fclose(f);
    return found;
}

static uint64_t room_of(const char *folder) {
    uint64_t most, used;
    if (!read_number(folder, "memory.max", &most) || !read_number(folder, "memory.current", &used)) return UINT64_MAX;
    const uint64_t files = read_stat(folder, "inactive_file") + read_stat(folder, "active_file");
    used -= files < used ? files : used;
    return most > used ? most - used : 0;
}

/* The path of version 2, "0::/...". */
static bool own_group(const char *self, char path[PATH_BYTES]) {
    char line[PATH_BYTES];
    bool found = false;
    FILE *f = fopen(self, "re");
    while (f && !found && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        if ((found = !strncmp(line, "0::/", 4))) memmove(path, line + 3, strlen(line + 3) + 1);
    }
    if (f) fclose(f);
    return found;
}

uint64_t cgroup_room(const char *self, const char *root) {
    char group[PATH_BYTES], folder[2 * PATH_BYTES];
    uint64_t least = UINT64_MAX;
    if (!own_group(self, group)) return least;
    for (;;) {
        snprintf(folder, PATH_BYTES, "%s%s", root, group);
        const uint64_t room = room_of(folder);
        if (room < least) least = room;
        char *last = strrchr(group, '/');
        if (!last) return least;
        *last = 0; /* the one that holds it; the root has no limit */
    }
}
