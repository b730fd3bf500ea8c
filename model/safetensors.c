/* safetensors.c - maps the files of a checkpoint and keeps their tensors in one list sorted by name.
 *
 * A directory has either model.safetensors or model.safetensors.index.json, whose weight_map says which shard holds which
 * tensor. Shard names must be plain file names: an index cannot reach outside its directory. Each shard is mapped once and
 * checked whole (st_header.c); then every tensor the index promises must be in the shard it promises. */
#include "model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/json_read.h"
#include "model/st_header.h"

enum { MAX_INDEX_BYTES = 64 << 20, MAX_SHARDS = 4096, MAX_PATH = 4096 };

struct mapped {
    const char *path;
    void *data;      /* NULL for borrowed memory */
    size_t bytes;
    struct st_tensor *tensors;
    int n;
};
struct st_set {
    struct arena arena;           /* names, paths, lists: lives as long as the set */
    struct mapped *files;
    int n_files;
    struct st_tensor *tensors;    /* of all files, by name */
    int n;
    uint64_t total_bytes;
};

const char *st_shape_text(const struct st_tensor *t, char *buf, size_t cap) {
    size_t n = (size_t)snprintf(buf, cap, "[");
    for (int i = 0; i < t->dims && n < cap; i++)
        n += (size_t)snprintf(buf + n, cap - n, "%s%lld", i ? ", " : "", (long long)t->shape[i]);
    if (n < cap) snprintf(buf + n, cap - n, "]");
    return buf;
}

static int map_fd(int fd, const char *path, struct mapped *m, struct why *why) {
    struct stat st;
    if (fstat(fd, &st) < 0) return fail(why, ERR_IO, "cannot look at %s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode)) return fail(why, ERR_IO, "%s is not a regular file", path);
    if (st.st_size < 8)
        return fail(why, ERR_CORRUPT, "%s: %lld bytes long; wanted at least the 8 of the header's length", path,
                    (long long)st.st_size);
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) return fail(why, ERR_IO, "cannot map %s: %s", path, strerror(errno));
    *m = (struct mapped){.path = path, .data = p, .bytes = (size_t)st.st_size};
    return 0;
}

static int map_file(struct st_set *s, const char *dir, const char *name, struct mapped *m, struct why *why) {
    char path[MAX_PATH];
    int len = snprintf(path, sizeof path, "%s/%s", dir, name);
    if (len >= (int)sizeof path) return fail(why, ERR_TOO_LARGE, "a path of %d bytes; wanted fewer than %d", len, MAX_PATH);
    char *kept = arena_strdup(&s->arena, path, (size_t)len);
    if (!kept) return fail(why, ERR_NOMEM, "out of memory for a path");
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail(why, errno == ENOENT || errno == ENOTDIR ? ERR_NOT_FOUND : ERR_IO, "cannot open %s: %s", path,
                    strerror(errno));
    int rc = map_fd(fd, kept, m, why);
    close(fd);
    if (rc < 0) return rc;
    return st_header_parse(kept, m->data, m->bytes, &s->arena, &m->tensors, &m->n, why);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct st_tensor *)a)->name, ((const struct st_tensor *)b)->name);
}

/* The files' lists into one, sorted; a name may occur once. */
static int collect(struct st_set *s, struct why *why) {
    size_t n = 0;
    for (int i = 0; i < s->n_files; i++) n += (size_t)s->files[i].n;
    s->tensors = arena_array(&s->arena, struct st_tensor, n + 1);
    if (!s->tensors) return fail(why, ERR_NOMEM, "out of memory for %zu tensors", n);
    for (int i = 0; i < s->n_files; i++) {
        if (s->files[i].n) memcpy(s->tensors + s->n, s->files[i].tensors, sizeof *s->tensors * (size_t)s->files[i].n);
        s->n += s->files[i].n;
    }
    qsort(s->tensors, (size_t)s->n, sizeof *s->tensors, by_name);
    for (int i = 0; i < s->n; i++) {
        s->total_bytes += s->tensors[i].bytes;
        if (i && !by_name(&s->tensors[i - 1], &s->tensors[i]))
            return fail(why, ERR_CORRUPT, "tensor %s is in %s and in %s; wanted it once", s->tensors[i].name,
                        s->tensors[i - 1].file, s->tensors[i].file);
    }
    return 0;
}

static bool plain_file_name(const char *s) { return s && *s && *s != '.' && !strchr(s, '/') && strlen(s) <= 255; }

static int by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* The distinct shard names of a weight_map, sorted. *names is malloc'ed; its strings are the map's. */
static int shard_names(json_t *map, const char ***names, int *n, struct why *why) {
    const char *tensor;
    json_t *v;
    size_t count = 0;
    const char **list = malloc(sizeof *list * (json_object_size(map) + 1));
    if (!list) return fail(why, ERR_NOMEM, "out of memory for %zu tensors", json_object_size(map));
    *names = list;
    json_object_foreach(map, tensor, v) {
        struct json_shown shown, shown_tensor;
        if (!plain_file_name(json_string_value(v)))
            return fail(why, ERR_CORRUPT, "weight_map sends tensor %s to %s; wanted a file name in the same directory",
                        json_show_text(tensor, &shown_tensor), json_show(v, &shown));
        list[count++] = json_string_value(v);
    }
    if (!count) return fail(why, ERR_CORRUPT, "weight_map names no tensor");
    qsort(list, count, sizeof *list, by_text);
    *n = 1;
    for (size_t i = 1; i < count; i++)
        if (strcmp(list[i], list[*n - 1])) list[(*n)++] = list[i];
    if (*n > MAX_SHARDS) return fail(why, ERR_TOO_LARGE, "weight_map names %d files; wanted at most %d", *n, MAX_SHARDS);
    return 0;
}

static int open_files(struct st_set *s, const char *dir, const char *const *names, int n, struct why *why) {
    s->files = arena_array(&s->arena, struct mapped, n);
    if (!s->files) return fail(why, ERR_NOMEM, "out of memory for %d files", n);
    for (int i = 0; i < n; i++) {
        s->n_files = i + 1; /* counted before it is opened: st_close skips what was not mapped */
        int rc = map_file(s, dir, names[i], &s->files[i], why);
        if (rc < 0) return rc;
    }
    return collect(s, why);
}

static int check_promises(const struct st_set *s, json_t *map, struct why *why) {
    const char *tensor;
    json_t *v;
    json_object_foreach(map, tensor, v) {
        struct json_shown shown;
        const struct st_tensor *t = st_find(s, tensor);
        const char *shard = json_string_value(v), *base = t ? strrchr(t->file, '/') : NULL;
        if (!t)
            return fail(why, ERR_NOT_FOUND, "tensor %s is not in %s, where weight_map puts it", json_show_text(tensor, &shown),
                        shard);
        if (!base || strcmp(base + 1, shard))
            return fail(why, ERR_CORRUPT, "tensor %s is in %s; weight_map puts it in %s", json_show_text(tensor, &shown),
                        t->file, shard);
    }
    return 0;
}

static int open_map(struct st_set *s, const char *dir, json_t *map, struct why *why) {
    const char **names = NULL;
    int n = 0, rc = shard_names(map, &names, &n, why);
    if (rc >= 0) rc = open_files(s, dir, names, n, why);
    if (rc >= 0) rc = check_promises(s, map, why);
    free(names);
    return rc;
}

static int open_index(struct st_set *s, const char *dir, struct why *why) {
    char path[MAX_PATH], *text = NULL;
    size_t len = 0;
    json_t *root = NULL;
    if (snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir) >= (int)sizeof path)
        return fail(why, ERR_TOO_LARGE, "the directory's path is too long; wanted fewer than %d bytes", MAX_PATH);
    int rc = json_read_bytes(path, MAX_INDEX_BYTES, &text, &len, why);
    if (rc == ERR_NOT_FOUND)
        return fail(why, rc, "%s has neither model.safetensors nor model.safetensors.index.json", dir);
    if (rc >= 0) rc = json_read_object(path, text, len, &root, why);
    free(text);
    if (rc < 0) return rc;
    json_t *map = json_object_get(root, "weight_map");
    rc = json_is_object(map) ? open_map(s, dir, map, why)
                             : fail(why, ERR_CORRUPT, "weight_map is missing; wanted {tensor: file}");
    json_decref(root);
    return rc < 0 ? fail_in(why, rc, "%s", path) : 0;
}

static int open_dir(struct st_set *s, const char *dir, struct why *why) {
    static const char *const single = "model.safetensors";
    char path[MAX_PATH];
    if (snprintf(path, sizeof path, "%s/%s", dir, single) < (int)sizeof path && access(path, F_OK) == 0)
        return open_files(s, dir, &single, 1, why);
    return open_index(s, dir, why);
}

static struct st_set *set_new(void) {
    struct st_set *s = calloc(1, sizeof *s);
    if (s) arena_init(&s->arena, 1 << 16);
    return s;
}

static int finish(struct st_set *s, int rc, struct st_set **out) {
    if (rc < 0) st_close(s);
    else *out = s;
    return rc < 0 ? rc : 0;
}

int st_open(const char *dir, struct st_set **out, struct why *why) {
    struct st_set *s = set_new();
    if (!s) return fail(why, ERR_NOMEM, "out of memory");
    return finish(s, open_dir(s, dir, why), out);
}

static int open_memory(struct st_set *s, const void *file, size_t bytes, struct why *why) {
    s->files = arena_array(&s->arena, struct mapped, 1);
    if (!s->files) return fail(why, ERR_NOMEM, "out of memory");
    s->n_files = 1;
    s->files[0] = (struct mapped){.path = "memory", .bytes = bytes};
    int rc = st_header_parse("memory", file, bytes, &s->arena, &s->files[0].tensors, &s->files[0].n, why);
    return rc < 0 ? rc : collect(s, why);
}

int st_open_memory(const void *file, size_t bytes, struct st_set **out, struct why *why) {
    struct st_set *s = set_new();
    if (!s) return fail(why, ERR_NOMEM, "out of memory");
    return finish(s, open_memory(s, file, bytes, why), out);
}

void st_close(struct st_set *s) {
    if (!s) return;
    for (int i = 0; i < s->n_files; i++)
        if (s->files[i].data) munmap(s->files[i].data, s->files[i].bytes);
    arena_clear(&s->arena);
    free(s);
}

const struct st_tensor *st_find(const struct st_set *s, const char *name) {
    struct st_tensor key = {.name = name};
    return s && s->n ? bsearch(&key, s->tensors, (size_t)s->n, sizeof key, by_name) : NULL;
}

void st_forget(const struct st_set *s) {
    for (int i = 0; s && i < s->n_files; i++)
        if (s->files[i].data) madvise(s->files[i].data, s->files[i].bytes, MADV_DONTNEED); /* clean pages of a shared mapping */
}

int st_count(const struct st_set *s) { return s ? s->n : 0; }
const struct st_tensor *st_at(const struct st_set *s, int i) { return &s->tensors[i]; }
uint64_t st_total_bytes(const struct st_set *s) { return s ? s->total_bytes : 0; }
int st_file_count(const struct st_set *s) { return s ? s->n_files : 0; }
uint64_t st_file_bytes(const struct st_set *s, int i) { return s->files[i].bytes; }
