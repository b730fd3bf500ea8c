/* test_fabric_shm_deaths.c - processes that are killed in the middle of writing, hundreds of them one after the other: what
 * they had sent whole arrives whole and in order, the others go on, successors join, and nothing grows.
 *
 * Rank 0 is the test, rank 1 a process that lives through all of it, rank 2 the one that is killed again and again. Every frame
 * is full of numbers that follow from who sent it to whom, in which incarnation, and its number. */
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/hash.h"
#include "tests/unit/fabric/board.h"

#include "tests/unit/run.h"

enum { PATIENCE_US = 20000000, FRAME_WORDS = 4096, VICTIM = 2, LIVES = 300, SHORT_US = 20000 };

static uint64_t word_of(uint64_t incarnation, int to, uint64_t number) {
    return hash_u64(incarnation << 40 ^ (uint64_t)to << 32 ^ number);
}

static bool send_numbered(struct fabric *f, uint32_t incarnation, int to, uint64_t number) {
    uint64_t word = word_of(incarnation, to, number);
    size_t words = 2 + word % (FRAME_WORDS - 1);
    uint64_t *room = fabric_reserve(f, to, words * 8);
    if (!room) return false;
    for (size_t i = 0; i < words; i++) room[i] = word + i;
    fabric_commit(f, to, words * 8);
    return true;
}

static bool is_numbered(const uint64_t *frame, size_t bytes, uint32_t incarnation, int to, uint64_t number) {
    uint64_t word = word_of(incarnation, to, number);
    size_t words = 2 + word % (FRAME_WORDS - 1);
    if (bytes != words * 8) return false;
    for (size_t i = 0; i < words; i++)
        if (frame[i] != word + i) return false;
    return true;
}

/* Takes all that is there from one peer. false: a frame is not the next one, or not whole. */
static bool take_all(struct fabric *f, uint32_t incarnation, int from, uint64_t *number) {
    const uint64_t *frame;
    for (size_t bytes; (frame = fabric_take(f, from, &bytes)); fabric_give(f, from, frame))
        if (!is_numbered(frame, bytes, incarnation, f->rank, (*number)++)) return false;
    return true;
}

static struct fabric *open_as(struct board *b, int rank, uint32_t incarnation) {
    struct fabric *f;
    struct why why;
    int rc = fabric_shm_open(rank, 3, &f, &why);
    if (rc >= 0) rc = fabric_prepare(f, FRAME_WORDS * 8 + 64, incarnation, &why);
    if (rc < 0) board_exit(b, rank, why.text);
    board_publish(b, f, incarnation);
    return f;
}

/* ---- the one that is killed ---- */

static _Noreturn void live_until_killed(struct board *b, uint32_t incarnation) {
    struct fabric *f = open_as(b, VICTIM, incarnation);
    struct why why;
    if (board_attach(b, f, 0, PATIENCE_US, &why) < 0 || board_attach(b, f, 1, PATIENCE_US, &why) < 0)
        board_exit(b, VICTIM, why.text);
    for (uint64_t sent[2] = {0};;) {
        bool moved = false;
        for (int to = 0; to < 2; to++) {
            size_t bytes;
            const void *frame = fabric_take(f, to, &bytes);
            if (frame) fabric_give(f, to, frame);
            if (!send_numbered(f, incarnation, to, sent[to])) continue;
            sent[to]++;
            moved = true;
        }
        if (!moved) fabric_wait(f, clk_now_us() + PATIENCE_US);
    }
}

static pid_t give_birth(struct board *b, uint32_t incarnation) {
    atomic_store(&b->rank[VICTIM].incarnation, 0);
    pid_t pid = fork();
    if (pid == 0) live_until_killed(b, incarnation);
    return pid;
}

/* ---- what must not grow ---- */

struct holdings {
    long fds, maps, file_pages, resident_kb;
};

/* Without the link to the victim: what that holds depends on how far its end had come when it was met. */
static struct holdings holdings(struct fabric *f) {
    struct holdings h = {0};
    char path[64], text[512];
    fabric_detach(f, VICTIM);
    DIR *d = opendir("/proc/self/fd");
    for (struct dirent *e; d && (e = readdir(d)); h.fds++) {
        snprintf(path, sizeof path, "/proc/self/fd/%s", e->d_name);
        ssize_t n = readlink(path, text, sizeof text - 1);
        struct stat st;
        if (n > 0 && !strncmp(text, "/memfd:", 7) && stat(path, &st) == 0) h.file_pages += (long)(st.st_blocks / 8);
    }
    if (d) closedir(d);
    FILE *in = fopen("/proc/self/maps", "r");
    while (in && fgets(text, sizeof text, in)) h.maps++;
    if (in) fclose(in);
    in = fopen("/proc/self/status", "r");
    while (in && fgets(text, sizeof text, in)) sscanf(text, "VmRSS: %ld", &h.resident_kb);
    if (in) fclose(in);
    return h;
}

static const char *grown(const struct holdings *before, const struct holdings *after, char *text, size_t room) {
    long stream_pages = FABRIC_DEPTH * (FRAME_WORDS * 8 + 64) / 4096 + 2; /* when every slot was used */
    if (after->fds <= before->fds && after->maps <= before->maps + 4 && after->file_pages <= 8 * stream_pages &&
        after->resident_kb <= before->resident_kb + 16384)
        return NULL;
    snprintf(text, room, "%ld fds, %ld maps, %ld pages, %ld KiB became %ld, %ld, %ld, %ld", before->fds, before->maps,
             before->file_pages, before->resident_kb, after->fds, after->maps, after->file_pages, after->resident_kb);
    return text;
}

/* ---- the one that lives through it ---- */

static _Noreturn void live_on(struct board *b) {
    struct fabric *f = open_as(b, 1, 1);
    struct why why;
    struct holdings early = {0}, late;
    uint32_t met = 0;
    uint64_t sent = 0, from_victim = 0, from_parent = 0, lives = 0;
    char text[256];
    if (board_attach(b, f, 0, PATIENCE_US, &why) < 0) board_exit(b, 1, why.text);
    while (!atomic_load(&b->stop)) {
        uint32_t now = atomic_load(&b->rank[VICTIM].incarnation);
        if (now && now != met) {
            if (++lives == 20) early = holdings(f);
            if (board_attach(b, f, VICTIM, 0, &why) < 0) board_exit(b, 1, why.text);
            met = now;
            from_victim = 0;
            atomic_store(&b->rank[1].value[0], (long)met);
        }
        if (!take_all(f, met, VICTIM, &from_victim)) board_exit(b, 1, "a frame of the victim is not whole");
        if (!take_all(f, 9, 0, &from_parent)) board_exit(b, 1, "a frame of the parent is not whole");
        if (send_numbered(f, 1, 0, sent)) sent++;
        else fabric_wait(f, clk_now_us() + SHORT_US); /* looks for another incarnation, and for the end, now and then */
    }
    late = holdings(f);
    fabric_close(f);
    board_exit(b, 1, lives > 20 ? grown(&early, &late, text, sizeof text) : NULL);
}

/* ---- the test ---- */

struct watcher {
    struct board *b;
    struct fabric *f;
    uint64_t from_steady, to_steady;
};

/* Exchanges with the one that lives on until `more` of its frames have come. */
static void go_on(struct watcher *w, uint64_t more) {
    int64_t deadline_us = clk_now_us() + PATIENCE_US;
    for (uint64_t until = w->from_steady + more; w->from_steady < until;) {
        ck_assert_msg(take_all(w->f, 1, 1, &w->from_steady), "frame %d of rank 1 is not whole", (int)w->from_steady);
        if (send_numbered(w->f, 9, 1, w->to_steady)) w->to_steady++;
        if (w->from_steady < until) ck_assert_msg(fabric_wait(w->f, deadline_us) == 0, "rank 1: %s", w->b->rank[1].text);
    }
}

/* One life of the victim. keep: one of its frames is held beyond its successor's birth. Returns that frame. */
static const uint64_t *one_life(struct watcher *w, uint32_t incarnation, uint64_t frames, bool keep, size_t *bytes) {
    struct why why;
    uint64_t got = 0;
    const uint64_t *kept = NULL;
    pid_t pid = give_birth(w->b, incarnation);
    ck_assert_msg(board_attach(w->b, w->f, VICTIM, PATIENCE_US, &why) == 0, "%s", why.text);
    int64_t deadline_us = clk_now_us() + PATIENCE_US;
    while (keep && !(kept = fabric_take(w->f, VICTIM, bytes))) ck_assert_int_eq(fabric_wait(w->f, deadline_us), 0);
    if (kept) ck_assert(is_numbered(kept, *bytes, incarnation, 0, got++));
    for (; got < frames; send_numbered(w->f, 9, VICTIM, 0)) {
        ck_assert(take_all(w->f, incarnation, VICTIM, &got));
        if (got < frames) ck_assert_int_eq(fabric_wait(w->f, deadline_us), 0);
    }
    go_on(w, frames % 7);
    ck_assert_int_eq(kill(pid, SIGKILL), 0);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    ck_assert_msg(w->b->rank[VICTIM].text[0] == 0, "%s", w->b->rank[VICTIM].text);
    ck_assert(take_all(w->f, incarnation, VICTIM, &got)); /* what it had sent whole */
    if (frames % 3 == 0) fabric_detach(w->f, VICTIM);
    while (atomic_load(&w->b->rank[1].value[0]) != (long)incarnation) go_on(w, 1); /* nobody misses a life */
    go_on(w, 3);
    return kept;
}

START_TEST(killed_while_writing) {
    struct watcher w = {.b = board_new()};
    struct holdings early = {0}, late;
    struct kept {
        const uint64_t *frame;
        size_t bytes;
        uint32_t incarnation;
    } kept = {0};
    char text[256];
    int status;
    w.f = open_as(w.b, 0, 9);
    pid_t steady = fork();
    if (steady == 0) live_on(w.b);
    struct why why;
    ck_assert_msg(board_attach(w.b, w.f, 1, PATIENCE_US, &why) == 0, "%s", why.text);
    for (uint32_t life = 0; life < LIVES; life++) {
        struct kept before = kept;
        bool keep = life % 2;
        kept = (struct kept){.incarnation = 100 + life};
        kept.frame = one_life(&w, kept.incarnation, hash_u64(life) % 40, keep, &kept.bytes);
        if (before.frame) { /* its writer has a successor by now */
            ck_assert(is_numbered(before.frame, before.bytes, before.incarnation, 0, 0));
            fabric_give(w.f, VICTIM, before.frame);
        }
        if (life == 20) early = holdings(w.f);
    }
    if (kept.frame) fabric_give(w.f, VICTIM, kept.frame);
    late = holdings(w.f);
    ck_assert_msg(!grown(&early, &late, text, sizeof text), "%s", text);
    atomic_store(&w.b->stop, 1);
    ck_assert_int_eq(waitpid(steady, &status, 0), steady);
    ck_assert_msg(status == 0, "rank 1 ended with %x: %s", (unsigned)status, w.b->rank[1].text);
    fabric_close(w.f);
    board_free(w.b);
}
END_TEST

/* A stopped process is silence; when it goes on, so do its streams. */
START_TEST(stopped_and_continued) {
    struct watcher w = {.b = board_new()};
    struct why why;
    uint64_t got = 0;
    w.f = open_as(w.b, 0, 9);
    pid_t steady = fork();
    if (steady == 0) live_on(w.b);
    ck_assert_msg(board_attach(w.b, w.f, 1, PATIENCE_US, &why) == 0, "%s", why.text);
    pid_t pid = give_birth(w.b, 100);
    ck_assert_msg(board_attach(w.b, w.f, VICTIM, PATIENCE_US, &why) == 0, "%s", why.text);
    for (int round = 0; round < 20; round++) {
        int64_t deadline_us = clk_now_us() + PATIENCE_US;
        for (uint64_t until = got + 20; got < until;) {
            ck_assert(take_all(w.f, 100, VICTIM, &got));
            if (got < until) ck_assert_int_eq(fabric_wait(w.f, deadline_us), 0);
        }
        ck_assert_int_eq(kill(pid, SIGSTOP), 0);
        ck_assert_int_eq(waitpid(pid, NULL, WUNTRACED), pid);
        ck_assert(take_all(w.f, 100, VICTIM, &got));
        uint64_t before = got;
        go_on(&w, 20);
        ck_assert(take_all(w.f, 100, VICTIM, &got));
        ck_assert_uint_eq(got, before);
        ck_assert_int_eq(kill(pid, SIGCONT), 0);
    }
    ck_assert_int_eq(kill(pid, SIGKILL), 0);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    atomic_store(&w.b->stop, 1);
    ck_assert_int_eq(waitpid(steady, NULL, 0), steady);
    fabric_close(w.f);
    board_free(w.b);
}
END_TEST

int main(void) {
    Suite *s = suite_create("fabric_shm_deaths");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 100);
    tcase_add_test(t, killed_while_writing);
    tcase_add_test(t, stopped_and_continued);
    suite_add_tcase(s, t);
    return run_suite(s);
}
