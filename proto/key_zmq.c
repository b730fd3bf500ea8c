/* key_zmq.c - see key.h. */
#include "proto/key.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

enum { LINE_BYTES = 256, LINES = 100 };

static const struct field {
    const char *name;
    size_t at;
    bool for_clients;
} fields[] = {
    {"coordinator-public", offsetof(struct key, coordinator.open), true},
    {"coordinator-secret", offsetof(struct key, coordinator.secret), false},
    {"worker-public", offsetof(struct key, worker.open), false},
    {"worker-secret", offsetof(struct key, worker.secret), false},
    {"operator-public", offsetof(struct key, operators.open), false},
    {"operator-secret", offsetof(struct key, operators.secret), false},
    {"client-public", offsetof(struct key, client.open), true},
    {"client-secret", offsetof(struct key, client.secret), true},
};
enum { FIELDS = sizeof fields / sizeof *fields };

static char *text_of(struct key *k, const struct field *f) { return (char *)k + f->at; }

int key_make(struct key *out, struct why *why) {
    struct key_pair *pair[] = {&out->coordinator, &out->worker, &out->operators, &out->client};
    for (size_t i = 0; i < sizeof pair / sizeof *pair; i++)
        if (zmq_curve_keypair(pair[i]->open, pair[i]->secret) < 0)
            return fail(why, ERR_UNSUPPORTED, "cannot make keys: %s", zmq_strerror(errno));
    return 0;
}

static int write_text(int fd, const struct key *k, bool for_clients) {
    FILE *f = fdopen(fd, "w");
    if (!f) return close(fd), -1;
    fprintf(f, "cadre-key 1\n# %s\n",
            for_clients ? "For clients of a Cadre cluster: whoever reads this may send requests."
                        : "Of a Cadre cluster: whoever reads this may join it as a worker, change it, and pretend to be it.");
    for (int i = 0; i < FIELDS; i++)
        if (!for_clients || fields[i].for_clients) fprintf(f, "%s %s\n", fields[i].name, text_of((struct key *)k, &fields[i]));
    int bad = fflush(f) != 0 || fsync(fd) != 0;
    return fclose(f) != 0 || bad ? -1 : 0;
}

int key_write(const struct key *k, bool for_clients, const char *path, struct why *why) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 && errno == EEXIST)
        return fail(why, ERR_EXISTS, "%s is there already; a key that is in use is not overwritten: move it away first", path);
    if (fd < 0) return fail(why, ERR_IO, "cannot create %s: %s", path, strerror(errno));
    if (write_text(fd, k, for_clients) == 0) return 0;
    int e = errno;
    unlink(path);
    return fail(why, ERR_IO, "cannot write %s: %s", path, strerror(e));
}

static bool is_z85(const char *text) {
    uint8_t raw[KEY_BYTES];
    return strlen(text) == KEY_TEXT - 1 && zmq_z85_decode(raw, text) != NULL;
}

static int take_line(struct key *k, char *line, struct why *why, const char *path, int number) {
    char *value = strchr(line, ' ');
    if (value) *value++ = 0;
    for (int i = 0; i < FIELDS; i++) {
        if (strcmp(line, fields[i].name)) continue;
        char *to = text_of(k, &fields[i]);
        if (to[0]) return fail(why, ERR_INVALID, "%s:%d: a second %s", path, number, fields[i].name);
        if (!value || !is_z85(value))
            return fail(why, ERR_INVALID, "%s:%d: %s wants 40 characters of Z85", path, number, fields[i].name);
        memcpy(to, value, KEY_TEXT);
        return 0;
    }
    return fail(why, ERR_INVALID, "%s:%d: not a line of a key file", path, number);
}

static int read_lines(FILE *f, const char *path, struct key *out, struct why *why) {
    char line[LINE_BYTES];
    bool first = true;
    for (int number = 1; fgets(line, sizeof line, f); number++) {
        size_t len = strcspn(line, "\r\n");
        if (number > LINES || !line[len])
            return fail(why, ERR_INVALID, "%s:%d: not a key file (`cadre keygen` makes one)", path, number);
        line[len] = 0;
        if (first && strcmp(line, "cadre-key 1"))
            return fail(why, ERR_INVALID, "%s: not a key file: its first line is not 'cadre-key 1'", path);
        bool says = !first && line[0] && line[0] != '#';
        first = false;
        int rc = says ? take_line(out, line, why, path, number) : 0;
        if (rc < 0) return rc;
    }
    for (int i = 0; i < FIELDS; i++)
        if (fields[i].for_clients && !text_of(out, &fields[i])[0])
            return fail(why, ERR_INVALID, "%s: there is no %s in it", path, fields[i].name);
    return 0;
}

int key_read(const char *path, struct key *out, struct why *why) {
    *out = (struct key){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO is not waited for */
    FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
    struct stat st;
    if (!f || fstat(fd, &st) < 0) {
        int e = errno;
        if (f) fclose(f);
        return fail(why, e == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot read the key %s: %s", path, strerror(e));
    }
    int rc = 0;
    if (!S_ISREG(st.st_mode)) rc = fail(why, ERR_INVALID, "the key %s is not a file", path);
    else if (st.st_mode & 077)
        rc = fail(why, ERR_DENIED, "others may read the key %s; make it private: chmod 600 %s", path, path);
    if (rc == 0) rc = read_lines(f, path, out, why);
    fclose(f);
    if (rc < 0) *out = (struct key){0};
    return rc;
}

int key_worker_secret(const struct key *k, uint8_t *out, struct why *why) {
    if (!k->worker.secret[0])
        return fail(why, ERR_DENIED, "this key is a client's: a worker needs the cluster's own");
    zmq_z85_decode(out, k->worker.secret);
    return 0;
}
