/* pack_write.c - see pack.h: the writer. Blobs go to weights.pack.part in order; the file gets its name when all is there and
 * on the disk, so whoever finds it has all of it. An interrupted run left whole blobs and perhaps a torn one: what matches its
 * own checksum stays, the first that does not and all behind it are written again. */
#include "model/pack.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { PATH_BYTES = 4096 };
static const off_t MOST_BESIDE = (off_t)256 << 20; /* a larger file beside the weights is none of a tokenizer */

struct writing {
    const struct checkpoint *c;
    const struct pack_wish *wish;
    struct model_config made; /* what the pack's own config.json says */
    const struct pack_progress *progress;
    char path[PATH_BYTES];
    int fd;
    uint64_t at, size, kept; /* where the next blob goes; of the file as it was found; how much of it is kept */
    bool fresh;              /* from here on nothing of an earlier run is trusted */
    size_t largest;
    unsigned char *staging;
    struct pack_header header;
    struct why *why;
};

static uint64_t round_page(uint64_t n) { return (n + PACK_PAGE - 1) / PACK_PAGE * PACK_PAGE; }

static int io_failed(struct writing *w, const char *what) {
    return fail(w->why, ERR_IO, "cannot %s %s: %s", what, w->path, strerror(errno));
}

static int put(struct writing *w, const void *data, size_t n, uint64_t at) {
    for (const char *from = data; n;) {
        ssize_t done = pwrite(w->fd, from, n, (off_t)at);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return io_failed(w, "write");
        from += done;
        n -= (size_t)done;
        at += (uint64_t)done;
    }
    return 0;
}

static bool get(struct writing *w, void *data, size_t n, uint64_t at) {
    for (char *to = data; n;) {
        ssize_t done = pread(w->fd, to, n, (off_t)at);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return false;
        to += done;
        n -= (size_t)done;
        at += (uint64_t)done;
    }
    return true;
}

static size_t describe(const struct writing *w, const struct pack_entry *e, struct blob_header *h) {
    const struct model_config *c = &w->made;
    const enum fmt weights = w->wish->weights;
    struct tensor_want want;
    enum tensor_role role = (enum tensor_role)e->expert;
    if (e->kind != BLOB_TENSOR) return blob_describe(h, c, weights, e->kind, e->layer, e->expert);
    model_tensor(c, role, e->layer, 0, &want);
    enum fmt f = want.cols ? checkpoint_held(w->c, role, e->layer, weights) : FMT_F32;
    if (w->wish->output_too && model_is_output(c, role)) f = weights;
    return blob_describe_tensor(h, c, f, role, e->layer);
}

static int lay_out(void *ctx, const struct pack_entry *e) {
    struct writing *w = ctx;
    struct blob_header h;
    size_t bytes = describe(w, e, &h);
    if (bytes > w->largest) w->largest = bytes;
    w->header.bytes = round_page(w->header.bytes + bytes);
    w->header.blobs++;
    return 0;
}

/* An earlier run wrote this blob, whole. */
static bool is_there(struct writing *w, const struct blob_header *want, size_t bytes) {
    struct blob_header found;
    if (w->fresh || w->size < w->at + bytes || !get(w, w->staging, bytes, w->at)) return false;
    memcpy(&found, w->staging, sizeof found);
    uint64_t sum = found.checksum;
    found.checksum = want->checksum;
    return !memcmp(&found, want, sizeof found) && XXH3_64bits(w->staging + sizeof found, want->payload_bytes) == sum;
}

static int write_blob(void *ctx, const struct pack_entry *e) {
    struct writing *w = ctx;
    struct blob_header h;
    size_t bytes = describe(w, e, &h);
    int rc = 0;
    if (is_there(w, &h, bytes)) {
        w->kept += bytes;
    } else {
        w->fresh = true;
        checkpoint_compose(w->c, &h, w->staging, w->wish->rounding, w->wish->pruning);
        rc = put(w, w->staging, bytes, w->at);
    }
    w->at += round_page(bytes);
    if (w->progress->say) w->progress->say(w->progress->ctx, w->at, w->header.bytes, w->kept);
    return rc;
}

/* ---- the files beside the weights ---- */

static bool ends(const char *name, const char *tail) {
    size_t n = strlen(name), m = strlen(tail);
    return n >= m && !strcmp(name + n - m, tail);
}

static bool is_beside(const char *name, const struct stat *st) {
    static const char *const weights[] = {
        ".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".gguf", ".onnx", ".pack",
        ".part"};
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++)
        if (ends(name, weights[i])) return false;
    return name[0] != '.' && S_ISREG(st->st_mode) && st->st_size <= MOST_BESIDE;
}

static int copy_bytes(int from, struct writing *to) {
    char buf[65536];
    uint64_t at = 0;
    for (ssize_t n; (n = read(from, buf, sizeof buf)) != 0; at += (uint64_t)n) {
        if (n < 0) return io_failed(to, "copy to");
        int rc = put(to, buf, (size_t)n, at);
        if (rc < 0) return rc;
    }
    return fsync(to->fd) < 0 ? io_failed(to, "sync") : 0;
}

static int copy_file(int from_dir, int to_dir, const char *name, struct why *why) {
    struct writing to = {.why = why};
    snprintf(to.path, sizeof to.path, "%s", name);
    int from = openat(from_dir, name, O_RDONLY | O_CLOEXEC);
    to.fd = openat(to_dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    int rc = from < 0 || to.fd < 0 ? io_failed(&to, "copy") : copy_bytes(from, &to);
    if (from >= 0) close(from);
    if (to.fd >= 0) close(to.fd);
    return rc;
}

/* The number of experts under whichever names it has, that of neurons beside what every model with experts must say. */
static void put_sizes(json_t *config, const struct pruning *p) {
    static const char *const keys[] = {"num_experts", "num_local_experts", "n_routed_experts"};
    for (int i = 0; p->kept && i < 3; i++)
        if (json_is_integer(json_object_get(config, keys[i]))) json_object_set_new(config, keys[i], json_integer(p->experts));
    if (p->kept_neurons && json_object_get(config, "num_experts_per_tok"))
        json_object_set_new(config, CONFIG_KEPT_NEURONS, json_integer(p->neurons));
}

/* config.json with other sizes. */
static int copy_config(const char *from, int to_dir, const struct pruning *p, struct why *why) {
    char path[PATH_BYTES];
    json_error_t error;
    snprintf(path, sizeof path, "%s/config.json", from);
    json_t *root = json_load_file(path, 0, &error);
    put_sizes(root, p);
    put_sizes(json_object_get(root, "text_config"), p);
    char *text = json_dumps(root, JSON_INDENT(2));
    json_decref(root);
    struct writing to = {.why = why};
    snprintf(to.path, sizeof to.path, "config.json");
    to.fd = text ? openat(to_dir, to.path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644) : -1;
    int rc = to.fd < 0 ? io_failed(&to, "write") : put(&to, text, strlen(text), 0);
    if (rc >= 0 && fsync(to.fd) < 0) rc = io_failed(&to, "sync");
    if (to.fd >= 0) close(to.fd);
    free(text);
    return rc;
}

static int copy_beside(const char *from, int to_dir, const struct pruning *p, struct why *why) {
    DIR *d = opendir(from);
    if (!d) return fail(why, ERR_IO, "cannot read %s: %s", from, strerror(errno));
    int rc = 0;
    for (struct dirent *e; rc >= 0 && (e = readdir(d));) {
        struct stat st;
        if (fstatat(dirfd(d), e->d_name, &st, 0) < 0 || !is_beside(e->d_name, &st)) continue;
        rc = p && !strcmp(e->d_name, "config.json") ? copy_config(from, to_dir, p, why)
                                                    : copy_file(dirfd(d), to_dir, e->d_name, why);
    }
    closedir(d);
    return rc;
}

/* The files beside the weights replace those of their names, so a folder where a pack is begun has none of them: it may be
 * another model, or this one itself. Before anything is written. */
static int check_begin(const char *from, const char *dir, int dir_fd, struct why *why) {
    DIR *d = opendir(from);
    if (!d) return fail(why, ERR_IO, "cannot read %s: %s", from, strerror(errno));
    int rc = 0;
    for (struct dirent *e; rc >= 0 && (e = readdir(d));) {
        struct stat st;
        if (fstatat(dirfd(d), e->d_name, &st, 0) < 0 || !is_beside(e->d_name, &st)) continue;
        if (!fstatat(dir_fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW))
            rc = fail(why, ERR_EXISTS, "%s/%s would be overwritten: the folder is not empty; take another", dir, e->d_name);
    }
    closedir(d);
    return rc;
}

/* Also where a pack has been begun. */
static int check_not_itself(const char *from, const char *dir, int dir_fd, struct why *why) {
    struct stat a, b;
    if (stat(from, &a) < 0 || fstat(dir_fd, &b) < 0) return fail(why, ERR_IO, "cannot look at %s: %s", dir, strerror(errno));
    if (a.st_dev != b.st_dev || a.st_ino != b.st_ino) return 0;
    return fail(why, ERR_INVALID, "%s is the model itself; a pack is a folder of its own: take another", dir);
}

/* ---- whether it may be begun ---- */

static int not_ours(const char *dir, const char *name, struct why *why) {
    return fail(why, ERR_EXISTS, "%s/%s is there, %s another model or in another format; %stake another folder", dir, name,
                strcmp(name, PACK_PART_FILE) ? "of" : "begun of", strcmp(name, PACK_PART_FILE) ? "" : "remove it, or ");
}

/* 1: there is such a file; found: its header, zero where it ends before that. */
static int header_of(int dir_fd, const char *name, struct pack_header *found) {
    *found = (struct pack_header){0};
    const int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    if (pread(fd, found, sizeof *found, 0) != (ssize_t)sizeof *found) *found = (struct pack_header){0};
    close(fd);
    return 1;
}

/* A pack that is there, or begun there, is of this model in this format, as far as that is known before anything is fitted. */
static int check_folder(const struct checkpoint *c, const char *from, const char *dir, int dir_fd, enum fmt weights,
                        struct why *why) {
    static const char *const names[] = {PACK_FILE, PACK_PART_FILE};
    struct pack_header found;
    for (int i = 0; i < 2; i++) {
        if (!header_of(dir_fd, names[i], &found)) continue;
        if (!found.version && i) return 0; /* not even the header is whole */
        const bool ours = found.version == PACK_VERSION && found.roles == T_ROLE_COUNT && found.source == c->fingerprint &&
                          found.weights == pack_number(weights);
        return ours ? 0 : not_ours(dir, names[i], why);
    }
    return check_begin(from, dir, dir_fd, why);
}

int pack_may_begin(const struct checkpoint *c, const char *from, const char *dir, enum fmt weights, struct why *why) {
    if (c->pack) return fail(why, ERR_INVALID, "%s is a pack itself; give the model it was made of", from);
    const int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0 && errno == ENOENT) return 0;
    if (dir_fd < 0) return fail(why, ERR_IO, "cannot open %s: %s", dir, strerror(errno));
    int rc = check_not_itself(from, dir, dir_fd, why);
    if (rc >= 0) rc = check_folder(c, from, dir, dir_fd, weights, why);
    close(dir_fd);
    return rc;
}

/* ---- the whole ---- */

/* What is there already: nothing, a part of ours, or what is not ours to touch. 1: all is done. */
static int look(struct writing *w, const char *dir, int dir_fd) {
    struct pack_header found;
    struct stat st;
    if (header_of(dir_fd, PACK_FILE, &found)) {
        if (memcmp(&found, &w->header, sizeof found)) return not_ours(dir, PACK_FILE, w->why);
        if (!fstatat(dir_fd, PACK_FILE, &st, 0) && (uint64_t)st.st_size == w->header.bytes) return 1;
        return fail(w->why, ERR_EXISTS, "%s/%s is damaged: not %llu bytes long; remove it, or take another folder", dir,
                    PACK_FILE, (unsigned long long)w->header.bytes);
    }
    w->fd = openat(dir_fd, PACK_PART_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (w->fd < 0 || fstat(w->fd, &st) < 0) return io_failed(w, "open");
    if (flock(w->fd, LOCK_EX | LOCK_NB) < 0) return fail(w->why, ERR_EXISTS, "%s: another process writes it", w->path);
    w->size = (uint64_t)st.st_size;
    w->fresh = w->size < PACK_PAGE; /* not even the header is whole */
    if (w->fresh || (get(w, &found, sizeof found, 0) && !memcmp(&found, &w->header, sizeof found))) return 0;
    return not_ours(dir, PACK_PART_FILE, w->why);
}

static int write_all(struct writing *w) {
    unsigned char page[PACK_PAGE] = {0};
    memcpy(page, &w->header, sizeof w->header);
    w->at = PACK_PAGE;
    int rc = put(w, page, sizeof page, 0);
    if (rc >= 0) rc = pack_walk(&w->made, write_blob, w);
    if (rc >= 0 && ftruncate(w->fd, (off_t)w->header.bytes) < 0) rc = io_failed(w, "write");
    if (rc >= 0 && fsync(w->fd) < 0) rc = io_failed(w, "sync");
    return rc;
}

static int give_name(struct writing *w, int dir_fd) {
    if (renameat(dir_fd, PACK_PART_FILE, dir_fd, PACK_FILE) < 0) return io_failed(w, "rename");
    return fsync(dir_fd) < 0 ? io_failed(w, "sync the folder of") : 0;
}

static uint64_t identity(const struct writing *w) {
    const struct pruning *p = w->wish->pruning;
    const size_t layers = (size_t)w->made.moe_layers;
    uint64_t sum = w->wish->rounding ? w->wish->rounding->identity : 0;
    if (w->wish->output_too) sum ^= XXH3_64bits("output", 6);
    if (p && p->kept) sum ^= XXH3_64bits(p->kept, sizeof *p->kept * layers * (size_t)p->experts);
    if (p && p->kept_neurons)
        sum ^= XXH3_64bits_withSeed(
            p->kept_neurons, sizeof *p->kept_neurons * layers * (size_t)w->c->config.gate.experts * (size_t)p->neurons, 1);
    return sum;
}

static void make_header(struct writing *w) {
    w->header = (struct pack_header){.version = PACK_VERSION,
                                     .weights = pack_number(w->wish->weights),
                                     .stored = pack_number(w->c->config.stored),
                                     .roles = T_ROLE_COUNT,
                                     .source = w->c->fingerprint,
                                     .wish = identity(w),
                                     .bytes = PACK_PAGE};
    memcpy(w->header.magic, "CADREPAK", sizeof w->header.magic);
    pack_walk(&w->made, lay_out, w);
    w->header.checksum = XXH3_64bits(&w->header, offsetof(struct pack_header, checksum));
}

static int write_into(struct writing *w, const char *from, const char *dir) {
    if (mkdir(dir, 0755) < 0 && errno != EEXIST) return fail(w->why, ERR_IO, "cannot make %s: %s", dir, strerror(errno));
    int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0) return fail(w->why, ERR_IO, "cannot open %s: %s", dir, strerror(errno));
    make_header(w);
    w->staging = malloc(w->largest);
    int rc = w->staging ? look(w, dir, dir_fd) : fail(w->why, ERR_NOMEM, "out of memory for a blob of %zu bytes", w->largest);
    if (rc == 0) rc = write_all(w);
    if (rc == 0) rc = copy_beside(from, dir_fd, w->wish->pruning, w->why);
    if (rc == 0) rc = give_name(w, dir_fd);
    if (w->fd >= 0) close(w->fd);
    free(w->staging);
    close(dir_fd);
    return rc;
}

int pack_write(const char *from, const char *dir, const struct pack_wish *wish, const struct pack_progress *progress,
               struct why *why) {
    struct checkpoint c;
    int rc = checkpoint_open(from, &c, why);
    if (rc < 0) return rc;
    struct writing w = {.c = &c, .wish = wish, .made = c.config, .progress = progress, .fd = -1, .why = why};
    snprintf(w.path, sizeof w.path, "%s/%s", dir, PACK_PART_FILE);
    rc = pack_may_begin(&c, from, dir, wish->weights, why);
    if (rc >= 0 && wish->pruning) rc = pruning_apply(&c.config, wish->weights, wish->pruning, &w.made, why);
    if (rc >= 0) rc = write_into(&w, from, dir);
    checkpoint_close(&c);
    return rc;
}
